"""Every random generator that a model or a data set may draw from: seeded, kept in checkpoints, drawn from apart."""

import random
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import blake2b
from typing import Any

import numpy
import torch


def derived_seed(purpose: str, *numbers: int) -> int:
    """A seed (63 bits) that depends on the purpose and the numbers, such as (seed, epoch), alone."""
    digest = blake2b(repr((purpose, *numbers)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


def generator(purpose: str, *numbers: int) -> torch.Generator:
    """A generator of such a seed."""
    return torch.Generator().manual_seed(derived_seed(purpose, *numbers))


def seed_all(seed: int) -> None:
    """Let every generator begin anew: torch's, of all devices, Python's and NumPy's."""
    torch.manual_seed(seed)
    random.seed(seed)
    numpy.random.seed(seed % 2**32)


@contextmanager
def drawn_apart(seed: int) -> Iterator[None]:
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
