"""Translate single overrides from what the user types to what is passed to Hydra."""

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

from antlr4 import CommonTokenStream, InputStream
from antlr4.tree.Tree import Tree
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, Quote, QuotedString
from hydra.errors import HydraException
from hydra.grammar.gen.OverrideLexer import OverrideLexer
from hydra.grammar.gen.OverrideParser import OverrideParser

from runner.config import schema
from runner.config.interpolation import escape_references
from runner.config.keys import EXPRESSIONS, PATH_KEYS, PATH_LISTS, PRESETS, may_be_new
from runner.config.nesting import is_too_deep
from runner.errors import ConfigError
from runner.util.options import resolve_variables
from runner.util.store_address import check_address
from runner.util.uri import expand_home

CHOOSING = ("choice", "shuffle")
"""Functions of Hydra's grammar whose arguments are values of the key."""

NUMBERS = (OverrideLexer.INT, OverrideLexer.FLOAT, OverrideLexer.BOOL)
"""Tokens that the grammar reads as a number or a truth value, not as a text."""

_WHOLE = re.compile("0|-?[1-9][0-9]*")
_NONE: Mapping[str, bool] = MappingProxyType({})


def quote_texts(argument: str, sweeping: bool = False, texts: Mapping[str, bool] = _NONE) -> str:
    """Quote the value of a text key if Hydra's grammar might reject it or read it as a number.

    `data.root=~/a b (c)` becomes `data.root='/home/me/a b (c)'`, and `tracking.experiment=1e5` becomes
    `tracking.experiment='1e5'`. The values of a sweep, a list or a mapping are quoted one by one. `null`, quoted values
    and references (`${...}`, unless a file has that name) are not changed.

    Args:
        argument: the override as it was typed.
        sweeping: commas separate values of paths too.
        texts: text keys besides those in the schema, and whether integers may remain numbers.
    """
    name, equals, value = argument.partition("=")
    key = name.lstrip("+")
    is_path = key in PATH_KEYS
    if not equals or value in ("", "null") or not (is_path or key in texts or schema.is_text(key)):
        return argument
    parsed = _parse(argument)
    if key in EXPRESSIONS and not (parsed is not None and isinstance(parsed._value, QuotedString)):
        return f"{name}={QuotedString(text=value, quote=Quote.single).with_quotes()}"
    if parsed is not None:
        if isinstance(parsed._value, QuotedString):
            return argument
        if key in PATH_LISTS and isinstance(parsed._value, list) and not _exists(expand_home(value)):
            return argument
        if not is_path or (sweeping and parsed.is_sweep_override()):
            return _quote_numbers(argument, whole=texts.get(key, False))
    text = expand_home(value) if is_path and key != "tracking.run_name" else value
    if "${" in value:
        if not (is_path and _exists_with_reference(text)):
            return argument
        text = escape_references(text)
    return f"{name}={QuotedString(text=text, quote=Quote.single).with_quotes()}"


def _parse(argument: str) -> Override | None:
    """Parse an argument with Hydra's grammar; None if that is not possible."""
    if is_too_deep(argument):
        return None
    try:
        return OverridesParser.create().parse_override(argument)
    except (HydraException, ValueError):  # ValueError: a number with more digits than Python converts
        return None


def _exists(path: str) -> bool:
    try:
        return Path(path).exists()
    except (OSError, ValueError):
        return False


def _exists_with_reference(path: str) -> bool:
    """Return whether the apparent reference in a path is part of the name of an existing file or folder."""
    try:
        return any("${" in part.name and part.exists() for part in (Path(path), *Path(path).parents))
    except (OSError, ValueError):
        return False


def _quote_numbers(argument: str, whole: bool) -> str:
    """Quote each value of an argument that the grammar reads as a number or a truth value.

    Args:
        argument: an argument that can be parsed.
        whole: do not quote integers, except for forms such as `2024_01`.
    """
    tree = OverrideParser(CommonTokenStream(OverrideLexer(InputStream(argument)))).override()
    for start, stop in reversed(list(_numbers(tree))):
        text = argument[start:stop]
        if not (whole and _WHOLE.fullmatch(text)):
            argument = f"{argument[:start]}'{text}'{argument[stop:]}"
    return argument


def _numbers(node: Tree) -> Iterator[tuple[int, int]]:
    """Find the numbers and truth values below a node of the grammar: the start and end of each, in order."""
    if isinstance(node, OverrideParser.FunctionContext) and node.ID().getText() not in CHOOSING:
        return
    children = [node.getChild(i) for i in range(node.getChildCount())]
    if isinstance(node, OverrideParser.PrimitiveContext):
        if len(children) == 1 and children[0].symbol.type in NUMBERS:
            yield children[0].symbol.start, children[0].symbol.stop + 1
        return
    for child in children:
        yield from _numbers(child)


def force_mappings(override: str) -> str:
    """Add `++` to the override of a key that the config need not have, so that Hydra accepts it."""
    return f"++{override}" if may_be_new(override.partition("=")[0]) else override


def to_hydra(override: str) -> str:
    """Translate the override of a preset: its package is the whole config, and null deletes it."""
    key, equals, value = override.partition("=")
    sign = key[: len(key) - len(key.lstrip("+~"))]
    if key.lstrip("+~") not in PRESETS:
        return override
    if value == "null":
        return f"~{key.lstrip('+~')}@_global_"
    return f"{sign.replace('+', '')}{key.lstrip('+~')}@_global_{equals}{value}"


def key_of(argument: str) -> str:
    """Return the key of an argument, without `+` and `~`."""
    return argument.partition("=")[0].lstrip("+~")


def last_value(overrides: Sequence[str], key: str) -> str | None:
    """Return the last value of a key on the command line; None if there is none, or if it is null."""
    last = None
    for text in overrides:
        name, equals, value = text.partition("=")
        if equals and name.lstrip("+") == key:
            parsed = _parse(quote_texts(f"{key}={value}"))
            last = value if parsed is None else parsed.value()
    return None if last is None else str(last).replace(r"\${", "${")  # undoes `escape_references`


def typed_store(overrides: Sequence[str]) -> str | None:
    """Return the store that is typed beside a saved run or sweep; None if there is none.

    Raises:
        ConfigError: it is not the address of a store, or refers to a variable that is not set.
    """
    key = "tracking.uri"
    if not (uri := last_value(overrides, key)):
        return None
    uri = resolve_variables(key, uri)
    if problem := check_address(key, uri):
        raise ConfigError(problem)
    return uri
