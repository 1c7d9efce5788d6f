"""The key `tracking.notify`: addresses that are secrets, so that a config only names the variables which hold them."""

import importlib.util
import os
import re
from typing import TYPE_CHECKING, Any

from runner.errors import ConfigError, Problem
from runner.util.redaction import hide_variable

if TYPE_CHECKING:
    from omegaconf import DictConfig

KEY = "tracking.notify"
EXAMPLE = f"'{KEY}=[${{oc.env:NAME}}]'"
_REFERENCE = re.compile(r"\$\{\s*oc\.env\s*:\s*(\w+)\s*\}")
_LIST = re.compile(rf"""\[\s*(?:(['"]?){_REFERENCE.pattern}\1\s*(?:,\s*(?!\])|(?=\])))*\]""")


def _typed_address() -> Problem:
    text = f"{KEY}: an address is a secret, and what is written here is recorded"
    instead = f"write {EXAMPLE}, and set the variable NAME to the address"
    return Problem(KEY, text, instead, topic="conflict")


def refuse_typed_address(argument: str) -> None:
    """Refuse an argument with an address before anything reads it, which might repeat it in an error.

    Raises:
        ConfigError: the argument sets the key to something else than a list of references.
    """
    name, equals, value = argument.partition("=")
    if name.lstrip("+~") == KEY and equals and _LIST.fullmatch(value.strip()) is None:
        raise ConfigError(_typed_address())


def check_notify(cfg: "DictConfig") -> list[Problem]:
    """Check that the key refers to variables that are set, and that the package which sends is installed.

    Their values are secrets from now on. A wrong value becomes the empty list, so that the rest can be checked.

    Args:
        cfg: the composed config, not resolved.
    """
    items = _written(cfg)
    problems = _check_items(items) if isinstance(items, list) else [_typed_address()]
    if problems:
        cfg.tracking.notify = []
    return problems


def names_of(cfg: "DictConfig") -> list[str]:
    """Return the names of the variables that hold the addresses, of a config that has been checked."""
    return list(dict.fromkeys(_REFERENCE.findall(" ".join(_written(cfg)))))


def _written(cfg: "DictConfig") -> Any:
    from omegaconf import OmegaConf  # late: training imports this module, and needs no config

    tracking = OmegaConf.to_container(cfg.tracking, resolve=False)
    assert isinstance(tracking, dict)
    return tracking["notify"]


def _check_items(items: list[object]) -> list[Problem]:
    references = [_REFERENCE.fullmatch(item.strip()) if isinstance(item, str) else None for item in items]
    names = list(dict.fromkeys(reference[1] for reference in references if reference))
    problems = [_typed_address()] if None in references else []
    for name in names:
        hide_variable(name)
        if not os.environ.get(name, "").strip():
            text = f"{KEY}: the environment variable {name} is not set"
            instead = f"set it to an address, such as json://<host>/<path>, or write {KEY}=[]"
            problems.append(Problem(KEY, text, instead, topic="missing"))
    if names and not problems and importlib.util.find_spec("apprise") is None:
        text, instead = f"{KEY} needs apprise", "install it with: pip install apprise"
        problems.append(Problem(KEY, text, instead, topic="unavailable"))
    return problems
