"""Checking the arguments of a config against the signature of their class or function, before calling it."""

import inspect
import types
import typing
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import PurePath
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from runner.config import schema
from runner.config.keys import format_value
from runner.config.limits import Limit, takes_none
from runner.errors import Problem, close_match
from runner.util import advice
from runner.util.ranges import find_bound

MISSING = "???"
SEQUENCES = (list, tuple, Sequence, Collection, Iterable)
MAPPINGS = (dict, Mapping)
EXAMPLES: dict[Any, list[Any]] = {int: [64, 32], float: [0.1, 0.2], str: ["a", "b"]}
"""Lists as they are written, by the type of their items."""
SPECIAL: dict[str, Any] = {
    "_target_": str,
    "_partial_": bool,
    "_convert_": Literal["none", "partial", "object", "all"],
    "_recursive_": bool,
    "_args_": list,
}
"""The types of Hydra's own keys."""


def check(
    group: str, target: Callable[..., Any], arguments: Mapping[str, Any], supplied: Collection[str]
) -> list[Problem]:
    """Find unknown names, missing ones and values of the wrong type.

    Args:
        group: the config group: `optimizer`.
        target: the class or function that will be called.
        arguments: the group's keys and values.
        supplied: names that runner passes itself.

    Returns:
        The problems; if the target has no signature, only those of Hydra's own keys.
    """
    problems = [
        _not_special(f"{group}.{key}", value, SPECIAL[key])
        for key, value in arguments.items()
        if key in SPECIAL and not fits(value, SPECIAL[key])
    ]
    try:
        parameters = inspect.signature(target).parameters
    except (TypeError, ValueError):
        return problems
    name = getattr(target, "__qualname__", str(target))
    named = {k: p for k, p in parameters.items() if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}
    open_ended = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    hints = _hints(target)
    unknown = [key for key in arguments if key not in SPECIAL and key not in named]
    if unknown and not open_ended:
        problems += _unknown(group, name, unknown, [key for key in named if key not in supplied])
    for key, value in arguments.items():
        if key in SPECIAL or key not in hints or key not in named or value == MISSING:
            continue
        unset = value is None and named[key].default is None  # `width: int = None` is common
        if unset:
            continue
        if not fits(value, hints[key]):
            problems.append(_mistyped(f"{group}.{key}", name, value, hints[key]))
        elif value is not None and (limit := limit_of(hints[key])):
            problems += filter(None, [schema.check_value(f"{group}.{key}", value, limit)])
    for key, parameter in named.items():
        if parameter.default is parameter.empty and key not in arguments and key not in supplied:
            full = f"{group}.{key}"
            problems.append(
                Problem(full, f"{full} is missing: {name} needs it", f"write +{full}=<value>", topic="missing")
            )
    return problems


def _not_special(key: str, value: Any, hint: Any) -> Problem:
    """A key of Hydra's own with a value of the wrong type."""
    words = describe(hint)
    return Problem(key, f"{key}={format_value(value)} is not {words}", f"write {words}", topic="type")


def _unknown(group: str, name: str, unknown: list[str], known: list[str]) -> list[Problem]:
    """One problem for a single unknown name, with a similar one; for several, one that lists what the target takes."""
    if len(unknown) == 1:
        key = f"{group}.{unknown[0]}"
        similar = close_match(unknown[0], known)
        if meant := advice.for_key(unknown[0], [f"{group}.{other}" for other in known]):
            similar = similar or meant.removeprefix(f"{group}.")
        if similar and "." in group:
            similar = f"{group}.{similar}"
        takes = f"{name} takes {', '.join(known)}" if known else "leave it out"
        hint = f"did you mean {similar}?" if similar else takes
        return [Problem(key, f"{key}: {name} takes no {unknown[0]}", hint, topic="unknown")]
    keys = [f"{group}.{key}" for key in unknown]
    takes = f"only {', '.join(known)}" if known else "none at all"
    drop = f"leave them out by {' '.join(f'~{key}' for key in keys)}"
    text = f"{' and '.join(keys)}: {name} takes no such keys, {takes}"
    return [Problem(keys[0], text, drop, topic="unknown")]


def _mistyped(key: str, name: str, value: Any, hint: Any) -> Problem:
    """A value of the wrong type; with a list to write if the target wants one."""
    example = _example(value, hint)
    instead = f"{key}={format_value(example)}" if example else schema.describe_expected(key) or describe(hint)
    suggestion = f"write {instead}"
    text = f"{key}={format_value(value)} is not {describe(hint)}, which {name} needs"
    return Problem(key, text, suggestion, topic="type")


def _example(value: Any, hint: Any) -> list[Any] | None:
    """A list as it is written, where the annotation is one: of the value itself if that fits."""
    hint = _plain(hint)
    items = get_args(hint) if get_origin(hint) in SEQUENCES else ()
    if not items:
        return None
    if fits([value], hint):
        return [value]
    fixed = len(items) if get_origin(hint) is tuple and items[-1] is not Ellipsis else None
    example = next((EXAMPLES[kind] for kind in (items[0], *get_args(items[0])) if kind in EXAMPLES), None)
    return example[:fixed] if example and (fixed or 0) <= len(example) else None


def _hints(target: Callable[..., Any]) -> dict[str, Any]:
    """The annotations of a target's parameters, without those that cannot be resolved."""
    function: Any = target.__init__ if inspect.isclass(target) else target
    hints: dict[str, Any] = {}
    for name, annotation in getattr(function, "__annotations__", {}).items():
        one = types.SimpleNamespace(__annotations__={name: annotation})
        with suppress(Exception):
            names = getattr(inspect.unwrap(function), "__globals__", {})
            hints |= typing.get_type_hints(one, globalns=names, include_extras=True)
    return hints


def limit_of(hint: Any) -> Limit | None:
    """The limit of a parameter, if its annotation has a bound."""
    bound = find_bound(hint)
    if bound is None:
        return None
    plain = _plain(hint)
    members = get_args(plain) if get_origin(plain) in (Union, types.UnionType) else (plain,)
    kinds = [get_origin(_plain(member)) or member for member in members]
    if any(kind in MAPPINGS for kind in kinds):
        return Limit(bound, takes_none(hint), "mapping")
    return Limit(bound, takes_none(hint), "list" if any(kind in SEQUENCES for kind in kinds) else "one")


def _plain(hint: Any) -> Any:
    """The annotation without the bound around it."""
    return get_args(hint)[0] if get_origin(hint) is Annotated else hint


def fits(value: Any, hint: Any) -> bool:
    """Whether a value from YAML matches an annotation; True if that cannot be decided."""
    hint = _plain(hint)
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
    # A tensor, a module, a callable: no plain value of YAML is one.
    return not (inspect.isclass(hint) and isinstance(value, str | int | float | bool | None))


def describe(hint: Any) -> str:
    """Describe an annotation in words."""
    hint = _plain(hint)
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
