"""An axis of several keys whose values change together: `pair=zip(model=[mlp,cnn],optimizer.lr=[0.1,0.01])`.

Hydra 1.3 does not know it. So each member is passed to Hydra as an axis of its own, `model=mlp,cnn`, and the sweep puts
their values together.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, fields

from antlr4 import InputStream, Token
from hydra.grammar.gen.OverrideLexer import OverrideLexer

from runner.config import schema
from runner.config.keys import GROUPS, PATH_KEYS
from runner.errors import ConfigError, Problem

EXAMPLE = "zip(model=[mlp,cnn],optimizer.lr=[0.1,0.01])"

COLUMNS = ("job", "name", "status", "why", "epoch", "seconds", "samples_per_second", "run_id", "folder")
"""Columns of a sweep's table besides its axes and metrics."""

_START = re.compile(r"\s*([^=\s]*)\s*=\s*zip\s*\(")
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_-]*")
_OPENING = (OverrideLexer.POPEN, OverrideLexer.BRACKET_OPEN, OverrideLexer.BRACE_OPEN)
_CLOSING = (OverrideLexer.PCLOSE, OverrideLexer.BRACKET_CLOSE, OverrideLexer.BRACE_CLOSE)


@dataclass(frozen=True)
class Zip:
    """An axis of several keys.

    Attributes:
        name: of the axis.
        text: the argument as typed.
        members: an argument of an ordinary axis for each key: `model=mlp,cnn`.
    """

    name: str
    text: str
    members: tuple[str, ...]

    @property
    def value(self) -> str:
        """The argument without the name: `zip(...)`."""
        return self.text.partition("=")[2].strip()


def is_zip(argument: str) -> bool:
    """Return whether an argument is such an axis, right or wrong."""
    start = _START.match(argument)
    return start is not None and start[1].lstrip("+") not in PATH_KEYS


def parse_zip(text: str) -> Zip:
    """Parse such an axis.

    Raises:
        ConfigError: its name is a key or a group, it cannot be read, or it has fewer than two members.
    """
    name = text.partition("=")[0].strip()

    def error(what: str, suggestion: str = f"write it as in pair={EXAMPLE}") -> ConfigError:
        return ConfigError(Problem(name.lstrip("+~"), f"{text}: {what}", suggestion, topic="syntax"))

    known = (*GROUPS, *(field.name for field in fields(schema.Config)), "hydra", *COLUMNS)
    if name.lstrip("+") in known or not _NAME.fullmatch(name):
        kind = "a column of the table" if name in COLUMNS else "a key or a group"
        what = f"the name {name} is that of {kind}" if name.lstrip("+") in known else f"{name} is not a name"
        raise error(f"{what}, and an axis of several keys needs one of its own", f"write pair={_value(text)}")
    parts = _split(text.strip())
    if parts is None:
        raise error("its brackets or quotes do not match")
    if parts == [""]:
        raise error("it has no keys")
    members: dict[str, str] = {}
    for part in parts:
        key, equals, value = (word.strip() for word in part.partition("="))
        if not (key and equals):
            raise error(f"{part.strip() or 'an empty member'} is not a key and its values")
        if is_zip(f"{key}={value}"):
            raise error("a zip within a zip", "write all keys in one zip(...)")
        if key.lstrip("+") in (member.lstrip("+") for member in members):
            raise error(f"{key.lstrip('+')} is in it twice", "leave one out")
        if value.replace(" ", "") == "[]":
            raise error(f"{key} has no values", f"write some, such as {key}=[a,b]")
        inside = value[1:-1].strip() if value.startswith("[") and value.endswith("]") else None
        if _split(f"x={value}" if inside is None else f"x=zip({inside})") is None and value[-1] in ")]":
            raise error(f"{part.strip()} is not a key and its values", "put a comma between keys")
        if inside is not None:
            value = inside if _split(f"x=zip({inside})") != [inside] else f"choice({inside})"  # that takes no null
        elif re.match(r"shuffle\s*\(", value):
            raise error(f"the values of {key} keep their order", f"write {key}=[<value>,<value>]")
        elif not re.match(r"\w+\s*\(", value):
            raise error(f"{key} needs a list of values", f"write {key}=[{value or 'a'},<another>]")
        members[key] = f"{key}={value}"
    if len(members) < 2:
        raise error("it needs at least two keys", f"write {next(iter(members.values()))}")
    return Zip(name, text, tuple(members.values()))


def _value(text: str) -> str:
    return text.partition("=")[2].strip()


def _split(text: str) -> list[str] | None:
    """Split what is between the brackets of `zip(...)` at its commas; None if brackets or quotes do not match."""
    lexer = OverrideLexer(InputStream(text))
    lexer.removeErrorListeners()
    depth, start, end, parts = 0, 0, -1, list[str]()
    tokens: list[Token] = lexer.getAllTokens()
    for token in tokens:
        if end >= 0:  # something follows the last bracket
            return None
        if token.type in _OPENING:
            depth += 1
            start = token.stop + 1 if depth == 1 else start
        elif token.type in _CLOSING:
            depth -= 1
            end = token.start if depth == 0 else end
        elif token.type == OverrideLexer.COMMA and depth == 1:
            parts.append(text[start : token.start])
            start = token.stop + 1
    if end < 0 or text[end:].strip() != ")":
        return None
    return [*parts, text[start:end]]


def with_members(arguments: Sequence[str]) -> tuple[list[str], list[Problem]]:
    """Replace each such axis by those of its members, which Hydra knows.

    Returns:
        The arguments, without those that cannot be read, and the problems of these.
    """
    known, problems = list[str](), list[Problem]()
    for text in arguments:
        if not is_zip(text):
            known.append(text)
            continue
        try:
            known += parse_zip(text).members
        except ConfigError as error:
            problems += error.problems
    return known, problems


def outside_a_sweep(text: str) -> Problem:
    """Return the problem of such an axis in a single run."""
    name = text.partition("=")[0].strip()
    return Problem(name.lstrip("+~"), f"{text} is an axis of a sweep", "add --multirun", topic="conflict")
