"""From Python to the arguments of `python -m runner`: `optimizer={"lr": 0.1}` becomes `optimizer.lr=0.1`."""

import math
import re
from collections.abc import Mapping, Sequence
from pathlib import PurePath
from typing import Any

from runner.api import given
from runner.config.keys import SHARED_KEYS, TARGET_GROUPS, is_open
from runner.errors import ConfigError, Problem

_WORD = re.compile(r"[A-Za-z_][\w./-]*")


def make_arguments(
    words: Sequence[str | Mapping[str, Any]], settings: Mapping[str, Any], sweeping: bool = False
) -> list[str]:
    """Return the arguments of the command line.

    Args:
        words: arguments as they are typed, `optimizer.lr=0.1`, and mappings from keys to values.
        settings: more of the latter.
        sweeping: whether a list means the values of a sweep, and not one value.

    Raises:
        ConfigError: an object is no value of a config.
    """
    arguments = [word for word in words if isinstance(word, str)]
    values: dict[str, Any] = {}
    for mapping in [*(word for word in words if not isinstance(word, str)), settings]:
        values |= _flatten(mapping)
    values |= {key: _with_targets(key, value) for key, value in values.items() if is_open(key) or key == "metrics"}
    chosen = {
        key: given.arguments_of(key, value if sweeping and isinstance(value, list) else [value])
        for key, value in values.items()
        if key in TARGET_GROUPS and (_is_object(value, sweeping) or (key == "data" and given.are_lists(value)))
    }
    custom = {key for key, made in chosen.items() if made[0] == f"{key}={given.CUSTOM}"}
    for key, value in values.items():
        arguments += chosen[key] if key in chosen else [_of_value(key, value, custom, sweeping)]
    return arguments


def _flatten(mapping: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in mapping.items():
        key = f"{prefix}{name}"
        if isinstance(value, Mapping) and value and not is_open(key) and not (key == "data" and given.has_parts(value)):
            flat |= _flatten(value, f"{key}.")
        else:
            flat[key] = value
    return flat


def _with_targets(key: str, value: Any) -> Any:
    """Replace objects in lists and mappings, such as callbacks and metrics, by what names them in a config."""
    if isinstance(value, list | tuple):
        return [_with_targets(key, one) for one in value]
    if isinstance(value, Mapping):
        return {name: _with_targets(f"{key}.{name}", one) for name, one in value.items()}
    if _is_plain(value):
        return value
    target = given.target_of(key, value)
    return target if key.endswith("._target_") else {"_target_": target}


def _is_object(value: Any, sweeping: bool) -> bool:
    if sweeping and isinstance(value, list):
        return any(_is_object(one, sweeping) for one in value)
    return not _is_plain(value)


def _is_plain(value: Any) -> bool:
    """Return whether a value is one of YAML."""
    if isinstance(value, list):
        return all(map(_is_plain, value))
    if isinstance(value, tuple):
        return not any(hasattr(one, "__array__") for one in value) and all(map(_is_plain, value))
    if isinstance(value, Mapping):
        return not given.has_parts(value) and all(map(_is_plain, value.values()))
    return value is None or isinstance(value, bool | int | float | str | PurePath) or _is_number(value)


def _is_number(value: Any) -> bool:
    """Return whether a value is a number of NumPy."""
    return hasattr(value, "item") and getattr(value, "ndim", None) == 0 and not hasattr(value, "requires_grad")


def _of_value(key: str, value: Any, custom: set[str], sweeping: bool) -> str:
    """Return the argument for a key and its value."""
    if not _is_plain(value):
        text = f"{key}: an object of type {type(value).__name__} is not a value of a config"
        instead = f"write a number, a text, a list or a mapping; objects can be given for {', '.join(TARGET_GROUPS)}"
        raise ConfigError(Problem(key, text, instead, topic="type"))
    group, _, name = key.partition(".")
    is_own = group in custom and bool(name) and name.partition(".")[0] not in SHARED_KEYS.get(group, ())
    plus = "+" if is_own else ""  # a parameter of the object, which its group cannot know
    values = value if sweeping and isinstance(value, list) else [value]
    return f"{plus}{key}={','.join(one if isinstance(one, str) else format_value(one) for one in values)}"


def format_value(value: Any) -> str:
    """Format a value in Hydra's grammar; a text within a list or a mapping is quoted if it is not a plain word."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if _is_number(value):
        return format_value(value.item())
    if isinstance(value, float):
        return repr(value) if math.isfinite(value) else str(value)
    if isinstance(value, int):
        return str(value)
    if isinstance(value, list | tuple):
        return f"[{','.join(map(format_value, value))}]"
    if isinstance(value, Mapping):
        return f"{{{','.join(f'{name}:{format_value(one)}' for name, one in value.items())}}}"
    text = str(value)
    if _WORD.fullmatch(text) and text.lower() not in ("true", "false", "null", "nan", "inf"):
        return text
    return "'" + re.sub(r"(\\+)(?='|$)", r"\1\1", text).replace("'", r"\'") + "'"
