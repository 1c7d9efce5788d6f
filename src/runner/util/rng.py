"""Every random generator that a model or a data set may draw from: seeded, kept in checkpoints, drawn from apart."""

import random
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import blake2b
from typing import Any

import numpy
import torch


def derive_seed(purpose: str, *numbers: int) -> int:
    """A seed (63 bits) that depends on the purpose and the numbers, such as (seed, epoch), alone."""
    digest = blake2b(repr((purpose, *numbers)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


def make_generator(purpose: str, *numbers: int) -> torch.Generator:
    """A generator of such a seed."""
    return torch.Generator().manual_seed(derive_seed(purpose, *numbers))


def seed_all(seed: int) -> None:
    """Let every generator begin anew: torch's, of all devices, Python's and NumPy's."""
    torch.manual_seed(seed)
    random.seed(seed)
    numpy.random.seed(seed % 2**32)


@contextmanager
def isolated_rng(seed: int) -> Iterator[None]:
    """Let what is drawn on the CPU within depend on the seed alone, and what is drawn afterwards not on it."""
    before = rng_state(torch.device("cpu"))
    torch.default_generator.manual_seed(seed)  # `torch.manual_seed` seeds those of GPUs as well
    random.seed(seed)
    numpy.random.seed(seed % 2**32)
    try:
        yield
    finally:
        set_rng_state(before, torch.device("cpu"))


def rng_state(device: torch.device) -> dict[str, Any]:
    """The state of the generators, that of the device among them, as tensors and primitives."""
    version, internal, gauss = random.getstate()
    of_numpy: Any = numpy.random.get_state()
    name, keys, position, has_gauss, cached = of_numpy
    state: dict[str, Any] = {
        "torch": torch.get_rng_state(),
        "python": [version, list(internal), gauss],
        "numpy": [name, keys.tolist(), int(position), int(has_gauss), float(cached)],
    }
    if device.type == "cuda":
        state["cuda"] = torch.cuda.get_rng_state(device)
    if device.type == "mps":
        state["mps"] = torch.mps.get_rng_state()
    return state


def set_rng_state(state: dict[str, Any], device: torch.device) -> None:
    """Go on with the state of `rng_state`."""
    torch.set_rng_state(state["torch"])
    version, internal, gauss = state["python"]
    random.setstate((version, tuple(internal), gauss))
    numpy.random.set_state(tuple(state["numpy"]))
    if device.type == "cuda" and "cuda" in state:
        torch.cuda.set_rng_state(state["cuda"], device)
    if device.type == "mps" and "mps" in state:
        torch.mps.set_rng_state(state["mps"])


GENERATORS = (
    torch.Generator,
    numpy.random.Generator,
    numpy.random.RandomState,
    numpy.random.BitGenerator,
    random.Random,
)
"""What a model, a loss, an optimizer or a data set may hold to draw from, beside the generators of all."""


def is_generator(value: Any) -> bool:
    """Whether it is such a generator; one that the system draws for has no state."""
    return isinstance(value, GENERATORS) and not isinstance(value, random.SystemRandom)


def generator_state(held: Any) -> dict[str, Any]:
    """The state of a generator that an object holds, and what kind it is."""
    if isinstance(held, torch.Generator):
        return {"kind": "torch", "device": str(held.device), "state": held.get_state()}
    if isinstance(held, random.Random):
        version, internal, gauss = held.getstate()
        return {"kind": "python", "state": [version, list(internal), gauss]}
    if isinstance(held, numpy.random.RandomState):
        return {"kind": "RandomState", "state": held.get_state(legacy=False)}
    bits = held.bit_generator if isinstance(held, numpy.random.Generator) else held
    return {"kind": type(held).__name__, "state": bits.state}


def set_generator_state(held: Any, state: dict[str, Any]) -> None:
    """Let a generator go on where another of its kind was."""
    if isinstance(held, torch.Generator):
        held.set_state(state["state"])
    elif isinstance(held, random.Random):
        version, internal, gauss = state["state"]
        held.setstate((version, tuple(internal), gauss))
    elif isinstance(held, numpy.random.RandomState):
        held.set_state(state["state"])
    else:
        bits = held.bit_generator if isinstance(held, numpy.random.Generator) else held
        bits.state = state["state"]


def restore_generator(state: dict[str, Any]) -> Any:
    """A generator of that kind and state."""
    kind = state["kind"]
    made: Any
    if kind == "torch":
        made = torch.Generator(state["device"])
    elif kind == "python":
        made = random.Random()
    else:
        name = state["state"]["bit_generator"]
        bits = getattr(numpy.random, name)()
        made = bits if kind == name else getattr(numpy.random, kind)(bits)
    set_generator_state(made, state)
    return made
