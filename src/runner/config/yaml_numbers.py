"""Find numbers in the user's YAML files that composing would silently change."""

from collections.abc import Iterator
from pathlib import Path

import yaml
from omegaconf._utils import get_yaml_loader

from runner.config import schema
from runner.config.keys import TARGET_GROUPS, format_value
from runner.config.parameters import find_text_parameters
from runner.errors import ConfigError, Problem
from runner.util import ranges


def check_numbers(file: Path, package: str) -> None:
    """Check that the integers of a file fit into 64 bits, and that none of its texts or flags is read as another value.

    Args:
        file: a file that OmegaConf has read.
        package: the dotted path of its keys in the config; empty for the whole config.

    Raises:
        ConfigError: with the first wrong value.
    """
    loader = get_yaml_loader()(file.read_text(encoding="utf-8"))
    try:
        root = loader.get_single_node()
        texts = _texts(root, package)
        for key, scalar in _plain_scalars(root, package):
            value = loader.construct_object(scalar)
            where = f"{file}, line {scalar.start_mark.line + 1}: {key.rpartition('.')[2]}: {scalar.value}"
            if not ranges.fits_64_bits(value):
                raise ConfigError(Problem(key, f"{where} is out of range", schema.BITS, topic="range"))
            if schema.find_number_flags(key, value):
                text = f"{where} is not {schema.FLAGS}"
                raise ConfigError(Problem(key, text, f"write {schema.FLAGS}", topic="type"))
            is_text = key in texts or schema.is_text(key)
            if is_text and isinstance(value, int | float) and str(value) != scalar.value:
                text = f"{where} is read as {format_value(value)}"
                instead = f"write the text in quotes: '{scalar.value}'"
                raise ConfigError(Problem(key, text, instead, topic="type"))
    finally:
        loader.dispose()


def _texts(root: yaml.Node | None, package: str) -> set[str]:
    """Find the keys that are texts in the signature of a `_target_` in the same file."""
    keys = set()
    for key, scalar in _plain_scalars(root, package):
        group, _, leaf = key.rpartition(".")
        if leaf == "_target_" and group in TARGET_GROUPS:
            keys |= {f"{group}.{name}" for name in find_text_parameters(scalar.value)}
    return keys


def _plain_scalars(node: yaml.Node | None, key: str) -> Iterator[tuple[str, yaml.ScalarNode]]:
    """Iterate over the values without quotes, each with the dotted key of its mapping's entry."""
    if isinstance(node, yaml.MappingNode):
        for name, child in node.value:
            if isinstance(name, yaml.ScalarNode):
                yield from _plain_scalars(child, f"{key}.{name.value}" if key else name.value)
    elif isinstance(node, yaml.SequenceNode):
        for child in node.value:
            yield from _plain_scalars(child, key)
    elif isinstance(node, yaml.ScalarNode) and node.style is None:
        yield key, node
