"""Random generators: seeds, the state for checkpoints, and isolated drawing."""

import random
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import blake2b
from typing import Any

import numpy
import torch


def derive_seed(purpose: str, *numbers: int) -> int:
    """Derive a seed (63 bits) that depends only on the purpose and the numbers, such as (seed, epoch)."""
    digest = blake2b(repr((purpose, *numbers)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


def make_generator(purpose: str, *numbers: int) -> torch.Generator:
    """Make a generator with a seed of `derive_seed`."""
    return torch.Generator().manual_seed(derive_seed(purpose, *numbers))


def seed_all(seed: int) -> None:
    """Seed the global generators of torch (all devices), Python and NumPy."""
    torch.manual_seed(seed)
    random.seed(seed)
    numpy.random.seed(seed % 2**32)


def seed_cpu(seed: int) -> None:
    """Seed the global generators of the CPU: `torch.manual_seed` would seed those of GPUs too."""
    torch.default_generator.manual_seed(seed)
    random.seed(seed)
    numpy.random.seed(seed % 2**32)


@contextmanager
def isolated_rng(seed: int, device: torch.device | None = None) -> Iterator[None]:
    """Seed the global CPU generators, and those of a device, within a block, and restore their states afterwards."""
    device = device or torch.device("cpu")
    before = rng_state(device)
    (seed_cpu if device.type == "cpu" else seed_all)(seed)
    try:
        yield
    finally:
        set_rng_state(before, device)


def rng_state(device: torch.device) -> dict[str, Any]:
    """Return the state of the global generators, including the device's, as tensors and primitives."""
    version, internal, gauss = random.getstate()
    numpy_state: Any = numpy.random.get_state()
    name, keys, position, has_gauss, cached = numpy_state
    state: dict[str, Any] = {
        "torch": torch.get_rng_state(),
        "python": [version, list(internal), gauss],
        "numpy": [name, keys.tolist(), int(position), int(has_gauss), float(cached)],
    }
    if device.type == "cuda":
        state["cuda"] = torch.cuda.get_rng_state(device)
    if device.type == "mps":
        state["mps"] = torch.mps.get_rng_state()
    if device.type not in ("cpu", "cuda", "mps"):
        state[device.type] = torch.accelerator.random.get_rng_state(device)
    return state


def set_rng_state(state: dict[str, Any], device: torch.device) -> None:
    """Restore the result of `rng_state`."""
    torch.set_rng_state(state["torch"])
    version, internal, gauss = state["python"]
    random.setstate((version, tuple(internal), gauss))
    numpy.random.set_state(tuple(state["numpy"]))
    if device.type == "cuda" and "cuda" in state:
        torch.cuda.set_rng_state(state["cuda"], device)
    if device.type == "mps" and "mps" in state:
        torch.mps.set_rng_state(state["mps"])
    if device.type not in ("cpu", "cuda", "mps") and device.type in state:
        torch.get_device_module(device).set_rng_state(state[device.type], device)


GENERATORS = (
    torch.Generator,
    numpy.random.Generator,
    numpy.random.RandomState,
    numpy.random.BitGenerator,
    random.Random,
)
"""Types of generators that a model, a loss, an optimizer or a data set may hold, besides the global ones."""


def is_generator(value: Any) -> bool:
    """Return whether a value is a generator with a state; `random.SystemRandom` has none."""
    return isinstance(value, GENERATORS) and not isinstance(value, random.SystemRandom)


def generator_state(generator: Any) -> dict[str, Any]:
    """Return the kind and the state of a generator."""
    if isinstance(generator, torch.Generator):
        return {"kind": "torch", "device": str(generator.device), "state": generator.get_state()}
    if isinstance(generator, random.Random):
        version, internal, gauss = generator.getstate()
        return {"kind": "python", "state": [version, list(internal), gauss]}
    if isinstance(generator, numpy.random.RandomState):
        return {"kind": "RandomState", "state": generator.get_state(legacy=False)}
    bits = generator.bit_generator if isinstance(generator, numpy.random.Generator) else generator
    return {"kind": type(generator).__name__, "state": bits.state}


def set_generator_state(generator: Any, state: dict[str, Any]) -> None:
    """Restore the result of `generator_state` in a generator of the same kind."""
    if isinstance(generator, torch.Generator):
        generator.set_state(state["state"])
    elif isinstance(generator, random.Random):
        version, internal, gauss = state["state"]
        generator.setstate((version, tuple(internal), gauss))
    elif isinstance(generator, numpy.random.RandomState):
        generator.set_state(state["state"])
    else:
        bits = generator.bit_generator if isinstance(generator, numpy.random.Generator) else generator
        bits.state = state["state"]


def restore_generator(state: dict[str, Any]) -> Any:
    """Make a generator from the result of `generator_state`."""
    kind = state["kind"]
    generator: Any
    if kind == "torch":
        generator = torch.Generator(state["device"])
    elif kind == "python":
        generator = random.Random()
    else:
        name = state["state"]["bit_generator"]
        bits = getattr(numpy.random, name)()
        generator = bits if kind == name else getattr(numpy.random, kind)(bits)
    set_generator_state(generator, state)
    return generator
