"""Numbers in YAML files of the user's that composing would change without a word."""

from collections.abc import Iterator
from pathlib import Path

import yaml
from hydra._internal.config_repository import ConfigRepository
from hydra.core.config_search_path import ConfigSearchPath
from hydra.plugins.config_source import ConfigResult
from omegaconf._utils import get_yaml_loader

from runner.config import schema
from runner.config.keys import TARGET_GROUPS, format_value
from runner.config.text_parameters import text_parameters
from runner.util import ranges

SCHEME = "file://"


class CheckedRepository(ConfigRepository):
    """Hydra's config files, of which those outside a folder are checked.

    Args:
        search_path: where they are.
        own: the folder of runner's own files, whose texts are quoted.
    """

    def __init__(self, search_path: ConfigSearchPath, own: Path) -> None:
        super().__init__(search_path)
        self._own = own.resolve()

    def load_config(self, config_path: str) -> ConfigResult | None:
        """Load a file.

        Raises:
            ValueError: it holds a number that is not what was written; the text says what to write.
        """
        result = super().load_config(config_path)
        if result is None or not result.path.startswith(SCHEME):
            return result
        folder, name = Path(result.path.removeprefix(SCHEME)), f"{config_path.removesuffix('.yaml')}.yaml"
        if folder.resolve() != self._own:
            package = (result.header.get("package") or "_group_").replace("_global_", "")
            group = config_path.rpartition("/")[0].replace("/", ".")
            check(folder / name, package.replace("_group_", group))
        return result


def check(file: Path, package: str) -> None:
    """See that the whole numbers of a file have 64 bits, and that no text of it is read as a number.

    Args:
        file: one that OmegaConf has read.
        package: the dotted place of its keys in the config; empty for the whole config.

    Raises:
        ValueError: with the first that is not so, and what to write.
    """
    loader = get_yaml_loader()(file.read_text(encoding="utf-8"))
    try:
        root = loader.get_single_node()
        texts = _texts(root, package)
        for key, scalar in _plain_scalars(root, package):
            value = loader.construct_object(scalar)
            where = f"{file}, line {scalar.start_mark.line + 1}: {key.rpartition('.')[2]}: {scalar.value}"
            if not ranges.fits_64_bits(value):
                raise ValueError(f"{where} is out of range: whole numbers have at most 64 bits")
            is_text = key in texts or schema.is_text(key)
            if is_text and isinstance(value, int | float) and str(value) != scalar.value:
                raise ValueError(
                    f"{where} is read as {format_value(value)}; write the text in quotes: '{scalar.value}'"
                )
    finally:
        loader.dispose()


def _texts(root: yaml.Node | None, package: str) -> set[str]:
    """The keys that the signature of a `_target_` in the same file calls texts alone."""
    keys = set()
    for key, scalar in _plain_scalars(root, package):
        group, _, leaf = key.rpartition(".")
        if leaf == "_target_" and group in TARGET_GROUPS:
            keys |= {f"{group}.{name}" for name in text_parameters(scalar.value)}
    return keys


def _plain_scalars(node: yaml.Node | None, key: str) -> Iterator[tuple[str, yaml.ScalarNode]]:
    """The values without quotes, each with the dotted key of the mapping's entry."""
    if isinstance(node, yaml.MappingNode):
        for name, child in node.value:
            if isinstance(name, yaml.ScalarNode):
                yield from _plain_scalars(child, f"{key}.{name.value}" if key else name.value)
    elif isinstance(node, yaml.SequenceNode):
        for child in node.value:
            yield from _plain_scalars(child, key)
    elif isinstance(node, yaml.ScalarNode) and node.style is None:
        yield key, node
