"""`trainer.callbacks`: a mapping of names, or a list, of nodes with a `_target_`."""

from collections.abc import Iterator, Mapping
from typing import Any

from runner.config.keys import format_value, select
from runner.errors import Problem

KEY = "trainer.callbacks"
EXAMPLE = f"{KEY}.mine._target_=<module>.<Class>"


def by_name(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the nodes of the callbacks by name; one in a list has the name of its class.

    Args:
        config: nested plain mappings.
    """
    typed = select(config, KEY)  # a config of version 0.1.0 lacks it
    if isinstance(typed, Mapping):
        return {str(name): node for name, node in typed.items()}
    named: dict[str, Any] = {}
    for node in typed if isinstance(typed, list) else ():
        path = node.get("_target_") if isinstance(node, Mapping) else None
        name = first = str(path or "callback").rpartition(".")[2]
        number = 1
        while name in named:
            number += 1
            name = f"{first}_{number}"
        named[name] = node
    return named


def check(config: Mapping[str, Any]) -> Iterator[Problem]:
    """Check the form of `trainer.callbacks`; the signatures of the classes are checked later."""
    typed = select(config, KEY)
    if typed is not None and not isinstance(typed, Mapping | list):
        text = f"{KEY}={format_value(typed)} is neither a mapping of names nor a list"
        yield Problem(KEY, text, f"write {EXAMPLE}", topic="type")
    for name, node in by_name(config).items():
        key = f"{KEY}.{name}"
        if not name.isidentifier():
            text = f"{key}: {name} is not a name of letters, digits and underscores"
            yield Problem(key, text, "write another", topic="syntax")
        elif not isinstance(node, Mapping):
            text = f"{key}={format_value(node)} is not a mapping"
            yield Problem(key, text, f"write {key}._target_=<module>.<Class>", topic="type")
