"""Pretrained weights: whether they are wanted, and from the Hugging Face hub, whose cache is looked into first."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TypeVar

from runner.errors import ConfigError, Problem, first_line
from runner.util.hub import probe

T = TypeVar("T")

_wanted: ContextVar[bool] = ContextVar("wanted", default=True)


@contextmanager
def weights_unwanted(unwanted: bool = True) -> Iterator[None]:
    """Let models be made without pretrained weights within this context: others replace them, as in a resumed run."""
    token = _wanted.set(_wanted.get() and not unwanted)
    try:
        yield
    finally:
        _wanted.reset(token)


def weights_wanted() -> bool:
    """Return whether a model is to load its pretrained weights."""
    return _wanted.get()


def from_hub(name: str, load: Callable[[bool], T], revision: str | None, instead: str) -> T:
    """Load something of the hub, from its cache if it is there.

    Args:
        name: of the repository on the hub.
        load: loads it; True: from the cache alone.
        revision: a branch, a tag or a commit.
        instead: what to write where the hub cannot be reached, such as `model.name=<folder>`.

    Raises:
        ConfigError: the hub has no such repository, or cannot be reached.
    """
    try:
        return load(True)
    except (OSError, ValueError) as error:  # also what huggingface_hub raises for a file that is not in the cache
        missing = error
    if unreachable := probe(name, revision, "model.name"):
        text = f"{name} is not in the cache of the Hugging Face hub, which cannot be reached: {unreachable}"
        suggestion = f"where there is a network, run: hf download {name}; here, write {instead}"
        raise ConfigError(Problem("model.name", text, suggestion, topic="unavailable")) from missing
    try:
        return load(False)
    except (OSError, ValueError) as error:
        text = f"{name} cannot be loaded from the hub: {first_line(error)}"
        raise ConfigError(Problem("model.name", text, f"write another name, or {instead}", topic="file")) from error
