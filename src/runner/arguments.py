"""Arguments of the command line, one by one: what was typed, and what Hydra is given for it."""

from collections.abc import Sequence

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Quote, QuotedString
from hydra.errors import HydraException

from . import schema
from .folders import expand_home


def quote(argument: str, sweeping: bool = False) -> str:
    """Quote the value of a path-like key, which Hydra's grammar might not read or take for a number.

    `data.root=~/a b (c)` becomes `data.root='/home/me/a b (c)'`. Left alone are `null`, a value that is
    quoted or refers to another (`${...}`), and the values of a sweep.
    """
    key, equals, value = argument.partition("=")
    if not equals or key.lstrip("+") not in schema.PATH_KEYS or value in ("", "null"):
        return argument
    try:
        parsed = OverridesParser.create().parse_override(argument)
        quoted = isinstance(parsed._value, QuotedString)
        if quoted or "${" in value or (sweeping and parsed.is_sweep_override()):
            return argument
    except HydraException:
        pass
    text = value if key.endswith("run_name") else expand_home(value)
    return f"{key}={QuotedString(text=text, quote=Quote.single).with_quotes()}"


def for_hydra(override: str) -> str:
    """An override as Hydra wants it: the presets' package is the whole config, and null takes one back."""
    key, equals, value = override.partition("=")
    sign = key[: len(key) - len(key.lstrip("+~"))]
    if key.lstrip("+~") not in schema.PRESETS:
        return override
    if value == "null":
        return f"~{key.lstrip('+~')}@_global_"
    return f"{sign.replace('+', '')}{key.lstrip('+~')}@_global_{equals}{value}"


def key_of(argument: str) -> str:
    """The key of an argument, without the signs before it."""
    return argument.partition("=")[0].lstrip("+~")


def typed_value(overrides: Sequence[str], key: str) -> str | None:
    """The text last given for a key on the command line; None if there is none, or null."""
    found = None
    for text in overrides:
        name, equals, value = text.partition("=")
        if equals and name.lstrip("+") == key:
            try:
                found = OverridesParser.create().parse_override(f"{key}={value}").value()
            except HydraException:
                found = value
    return None if found is None else str(found)
