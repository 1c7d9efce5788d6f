"""Bounds on how deep arguments and YAML files are nested, and on what the aliases of a file expand to.

Hydra and OmegaConf read both by recursion, and copy each alias: without bounds a few lines take hours.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from runner.errors import ConfigError, Problem
from runner.util.files import read_text

MAX_DEPTH = 32
"""The most lists and mappings within each other, and the most words of a key."""

MAX_SAVED_DEPTH = 3 * MAX_DEPTH
"""The same in a saved config, where the value of an argument lies below its key."""

MAX_EXPANDED = 10_000
"""The most values that the aliases of a file may add; composing that many takes 2 s."""

DEPTH = f"use at most {MAX_DEPTH} levels"

_OPENING, _CLOSING = "([{", ")]}"


def is_too_deep(argument: str) -> bool:
    """Return whether the key of an argument, or the brackets in its value, exceed `MAX_DEPTH`."""
    key, _, value = argument.partition("=")
    return key.count(".") >= MAX_DEPTH or any(depth > MAX_DEPTH for depth in _depths(value))


def _depths(value: str) -> Iterator[int]:
    """Iterate over the depth after each bracket that is not quoted."""
    depth, quote, escaped = 0, "", False
    for character in value:
        if escaped or character == "\\":
            escaped = not escaped
        elif quote:
            quote = "" if character == quote else quote
        elif character in "'\"":
            quote = character
        elif character in _OPENING + _CLOSING:
            depth += 1 if character in _OPENING else -1
            yield depth


def check_argument(argument: str) -> None:
    """Check how deep an argument is nested.

    Raises:
        ConfigError: too deep.
    """
    if is_too_deep(argument):
        key = argument.partition("=")[0].lstrip("+~")
        raise ConfigError(Problem(key, f"{argument} is nested too deeply", DEPTH, topic="range"))


def check_file(file: Path, text: str, max_depth: int = MAX_DEPTH) -> None:
    """Check how deep a YAML file is nested, and what its aliases (`*name`) expand to.

    Args:
        file: its path, for the message.
        text: its content; what is no YAML is not checked.
        max_depth: the most lists and mappings within each other.

    Raises:
        ConfigError: too deep, too large, or an alias within the value that it refers to.
    """
    try:
        _check_events(file, text, max_depth)
    except yaml.YAMLError:  # the reader explains it
        return


def load_saved(file: Path) -> Any:
    """Load the config that a run saved, which anyone may have edited.

    Raises:
        ConfigError: its aliases stand for too many values; runner itself writes none.
        OSError, ValueError, RecursionError, yaml.YAMLError: it cannot be read.
    """
    text = read_text(file)
    if "&" in text:
        check_file(file, text, MAX_SAVED_DEPTH)
    return yaml.safe_load(text)


def _check_events(file: Path, text: str, max_depth: int) -> None:
    def refuse(event: yaml.Event, what: str, instead: str) -> ConfigError:
        line = event.start_mark.line + 1 if event.start_mark else 0
        return ConfigError(Problem("", f"{file}, line {line}: {what}", instead, topic="range"))

    sizes: dict[str, int] = {}  # of complete values with an anchor
    open_sizes, open_anchors = [0], [""]
    added = 0
    for event in yaml.parse(text, Loader=yaml.SafeLoader):
        if isinstance(event, yaml.CollectionStartEvent):
            open_sizes.append(1)
            open_anchors.append(event.anchor or "")
            if len(open_sizes) - 1 > max_depth:
                raise refuse(event, "it is nested too deeply", f"use at most {max_depth} levels")
        elif isinstance(event, yaml.CollectionEndEvent):
            size, anchor = open_sizes.pop(), open_anchors.pop()
            open_sizes[-1] += size
            sizes[anchor] = size
        elif isinstance(event, yaml.ScalarEvent):
            open_sizes[-1] += 1
            sizes[event.anchor or ""] = 1
        elif isinstance(event, yaml.AliasEvent):
            if event.anchor in open_anchors:
                raise refuse(event, f"*{event.anchor} refers to a value that contains it", "write the value out")
            size = sizes.get(event.anchor or "", 1)
            open_sizes[-1] += size
            added += size
            if added > MAX_EXPANDED:
                what = f"its aliases, such as *{event.anchor}, stand for more than {MAX_EXPANDED:,} values"
                raise refuse(event, what, "use fewer")
