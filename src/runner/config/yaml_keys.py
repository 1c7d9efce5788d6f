"""Read the user's YAML files, and find keys in them that no config can have."""

from collections.abc import Iterator
from pathlib import Path

import yaml
from omegaconf._utils import get_yaml_loader

from runner.config.keys import format_value
from runner.errors import ConfigError, Problem


def read_file(file: Path) -> str:
    """Read a file of the user's.

    Raises:
        ConfigError: it is not UTF-8.
        OSError: it cannot be read.
    """
    content = file.read_bytes()
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        text = f"{file}, line {line}, is not UTF-8"
        raise ConfigError(Problem("", text, "save it in this encoding", topic="syntax")) from None


def check_keys(file: Path, text: str) -> None:
    """Check that the keys of a file are texts, and that none below them is null: YAML reads `on` as true.

    Args:
        file: its path, for the message.
        text: its content; what is no YAML is not checked.

    Raises:
        ConfigError: with the first wrong key.
    """
    loader = get_yaml_loader()(text)
    try:
        for name, is_top in _keys(loader.get_single_node()):
            key = loader.construct_object(name)
            if key is None or (is_top and not isinstance(key, str)):
                what = f"{file}, line {name.start_mark.line + 1}: the key {name.value or 'null'} is read as"
                instead = f"write it in quotes: '{name.value}', or another"
                raise ConfigError(Problem("", f"{what} {format_value(key)}, not as a text", instead, topic="type"))
    except (yaml.YAMLError, ValueError):  # the reader explains it
        return
    finally:
        loader.dispose()


def _keys(node: yaml.Node | None, is_top: bool = True) -> Iterator[tuple[yaml.ScalarNode, bool]]:
    """Iterate over the keys of a node and of those below it, and whether they are of the node itself."""
    if isinstance(node, yaml.MappingNode):
        for name, child in node.value:
            if isinstance(name, yaml.ScalarNode):
                yield name, is_top
            yield from _keys(child, is_top=False)
    elif isinstance(node, yaml.SequenceNode):
        for child in node.value:
            yield from _keys(child, is_top=False)
