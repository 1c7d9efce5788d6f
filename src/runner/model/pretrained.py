"""Libraries that a model needs, and weights from the Hugging Face hub: looked for in its cache first."""

import importlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, TypeVar

from runner.errors import ConfigError, Problem, first_line

T = TypeVar("T")

PROBE_SECONDS = 5.0
"""Without a network, huggingface_hub 2.4 tries again for 23 s per file, or 46 s."""

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


def library(name: str, extra: str, key: str = "model") -> Any:
    """Import a library that is an extra.

    Args:
        name: of its module.
        extra: of runner's package.
        key: the config key that needs it; of the group `model`, the choice with the name of the extra.

    Raises:
        ConfigError: it is not installed.
    """
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name != name:
            raise
        typed = f"model={extra}" if key == "model" else key
        text, instead = f"{typed} needs {name}", f'install it with: pip install "runner-torch[{extra}]"'
        raise ConfigError(Problem(key, text, instead, topic="unavailable")) from error


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
    _probe(name, revision, instead, missing)
    try:
        return load(False)
    except (OSError, ValueError) as error:
        text = f"{name} cannot be loaded from the hub: {first_line(error)}"
        raise ConfigError(Problem("model.name", text, f"write another name, or {instead}", topic="file")) from error


def _probe(name: str, revision: str | None, instead: str, missing: Exception) -> None:
    """Ask the hub for a repository, once and not for long."""
    hub = importlib.import_module("huggingface_hub")
    errors = importlib.import_module("huggingface_hub.errors")
    try:
        hub.HfApi().model_info(name, revision=revision, timeout=PROBE_SECONDS)
    except (errors.RepositoryNotFoundError, errors.RevisionNotFoundError, errors.HFValidationError) as error:
        at = f" at {revision}" if revision else ""
        text = f"model.name={name}: there is no such model on the hub{at}, nor a folder of that name"
        suggestion = "write a name as on huggingface.co/models"
        raise ConfigError(Problem("model.name", text, suggestion, topic="unknown")) from error
    except Exception as error:  # of the network, or of the hub
        text = f"{name} is not in the cache of the Hugging Face hub, which cannot be reached: {first_line(error)}"
        suggestion = f"where there is a network, run: hf download {name}; here, write {instead}"
        raise ConfigError(Problem("model.name", text, suggestion, topic="unavailable")) from missing
