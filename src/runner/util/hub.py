"""Libraries that are extras, and the Hugging Face hub: whether it has something, and whether it can be reached."""

import importlib
from typing import Any

from runner.errors import ConfigError, Problem, first_line

PROBE_SECONDS = 5.0
"""Without a network, huggingface_hub 2.4 tries again for 23 s per file, or 46 s; so does datasets 5.2 for its cache."""


def library(name: str, choice: str, extra: str) -> Any:
    """Import a library that is an extra.

    Args:
        name: of its module.
        choice: what needs it, such as `model=timm`.
        extra: of runner's package.

    Raises:
        ConfigError: it is not installed.
    """
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name != name:
            raise
        text, instead = f"{choice} needs {name}", f'install it with: pip install "runner-torch[{extra}]"'
        raise ConfigError(Problem(choice.partition("=")[0], text, instead, topic="unavailable")) from error


def probe(name: str, revision: str | None, key: str, kind: str = "model") -> str | None:
    """Ask the hub for a repository, once and not for long.

    Args:
        name: on the hub.
        revision: a branch, a tag or a commit.
        key: the config key of the name.
        kind: `model` or `data set`.

    Returns:
        Why the hub cannot be reached; None if it can.

    Raises:
        ConfigError: the hub has no such repository.
    """
    hub = importlib.import_module("huggingface_hub")
    errors = importlib.import_module("huggingface_hub.errors")
    ask = hub.HfApi().model_info if kind == "model" else hub.HfApi().dataset_info
    try:
        ask(name, revision=revision, timeout=PROBE_SECONDS)
    except (errors.RepositoryNotFoundError, errors.RevisionNotFoundError, errors.HFValidationError) as error:
        at, page = f" at {revision}" if revision else "", f"{kind.replace(' ', '')}s"
        text = f"{key}={name}: there is no such {kind} on the hub{at}, nor a folder of that name"
        raise ConfigError(Problem(key, text, f"write a name as on huggingface.co/{page}", topic="unknown")) from error
    except Exception as error:  # of the network, or of the hub
        return first_line(error).split(". ")[0]
    return None
