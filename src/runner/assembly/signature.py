"""Holding the arguments of a config against the signature of what they are meant for, before calling it."""

import inspect
import types
import typing
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import PurePath
from typing import Any, Literal, Union, get_args, get_origin

from runner.config.keys import format_value
from runner.errors import did_you_mean

MISSING = "???"
SEQUENCES = (list, tuple, Sequence, Collection, Iterable)
EXAMPLES = {int: [64, 32], float: [0.1, 0.2], str: ["a", "b"]}
"""Lists as they are written, by the type of their items."""
SPECIAL = frozenset({"_target_", "_partial_", "_convert_", "_recursive_", "_args_"})


def check(group: str, target: Callable[..., Any], arguments: Mapping[str, Any], supplied: Collection[str]) -> list[str]:
    """Find unknown names, missing ones and values of the wrong type.

    Args:
        group: the config group, for the sentences: `optimizer`.
        target: the class or function that will be called.
        arguments: the group's keys and values.
        supplied: names that runner passes itself.

    Returns:
        One sentence a problem; nothing if the target does not tell its signature.
    """
    try:
        parameters = inspect.signature(target).parameters
    except (TypeError, ValueError):
        return []
    name = getattr(target, "__qualname__", str(target))
    named = {k: p for k, p in parameters.items() if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}
    open_ended = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    hints = _hints(target)
    problems = []
    unknown = [key for key in arguments if key not in SPECIAL and key not in named]
    if unknown and not open_ended:
        problems.append(_unknown(group, name, unknown, [key for key in named if key not in supplied]))
    for key, value in arguments.items():
        if key in SPECIAL or key not in hints or key not in named or value == MISSING:
            continue
        unset = value is None and named[key].default is None  # `width: int = None`, as many write it
        if not fits(value, hints[key]) and not unset:
            shown = f"{group}.{key}={format_value(value)}"
            listed = get_args(hints[key]) if get_origin(hints[key]) in SEQUENCES else ()
            one = listed and fits([value], hints[key])
            any_length = len(listed) == 1 or listed[1:] == (Ellipsis,)
            example = [value] if one else EXAMPLES.get(listed[0]) if any_length else None
            instead = f": write {group}.{key}={format_value(example)}" if example else ""
            problems.append(f"{shown} is not {describe(hints[key])}, which {name} needs{instead}")
    for key, parameter in named.items():
        if parameter.default is parameter.empty and key not in arguments and key not in supplied:
            problems.append(f"{group}.{key} is missing: {name} needs it; write +{group}.{key}=...")
    return problems


def _unknown(group: str, name: str, unknown: list[str], offered: list[str]) -> str:
    if len(unknown) == 1:
        return f"{group}.{unknown[0]}: {name} takes no {unknown[0]}; {did_you_mean(unknown[0], offered)}"
    keys = " and ".join(f"{group}.{key}" for key in unknown)
    drop = " ".join(f"~{group}.{key}" for key in unknown)
    takes = f"only {', '.join(offered)}" if offered else "none at all"
    return f"{keys}: {name} takes no such keys, {takes}; leave them out by {drop}"


def _hints(target: Callable[..., Any]) -> dict[str, Any]:
    function = target.__init__ if inspect.isclass(target) else target
    try:
        return typing.get_type_hints(function)
    except Exception:  # an annotation that cannot be resolved says nothing
        return {}


def fits(value: Any, hint: Any) -> bool:
    """Whether a value out of YAML can be what the annotation says; True wherever that cannot be told."""
    origin, members = get_origin(hint), get_args(hint)
    if hint is Any:
        return True
    if isinstance(value, Mapping) and "_target_" in value:
        return True
    if origin in (Union, types.UnionType):
        return any(fits(value, member) for member in members)
    if origin is Literal:
        return value in members
    if hint is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    if hint in (str, bool):
        return isinstance(value, hint)
    if hint is type(None):
        return value is None
    if origin in SEQUENCES or hint in SEQUENCES:
        if not isinstance(value, list | tuple):
            return False
        if origin is tuple and members and members[-1] is not Ellipsis:
            return len(value) == len(members) and all(map(fits, value, members))
        return not members or all(fits(item, members[0]) for item in value)
    if inspect.isclass(hint) and issubclass(hint, PurePath):
        return isinstance(value, str)
    # A tensor, a module, a callable: nothing a plain value of YAML could be.
    return not (inspect.isclass(hint) and isinstance(value, str | int | float | bool | None))


def describe(hint: Any) -> str:
    """An annotation in words."""
    origin, members = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        plain = [member for member in members if member in (int, float, str, bool) or get_origin(member)]
        words = " or ".join(describe(member) for member in plain or members)
        return f"{words} or null" if type(None) in members and plain else words
    if origin is Literal:
        return "one of " + ", ".join(map(format_value, members))
    if origin is tuple and members and members[-1] is not Ellipsis:
        return f"a list of {len(members)}: [{', '.join(map(describe, members))}]"
    if origin in SEQUENCES and members:
        return f"a list such as [{describe(members[0])}, ...]"
    names = {
        float: "a number",
        int: "a whole number",
        str: "a text",
        bool: "true or false",
        list: "a list",
        tuple: "a list",
    }
    return names.get(hint, f"a {getattr(hint, '__name__', hint)}")
