"""Hydra's access to config files, with checks of the user's files before they are composed."""

from pathlib import Path

from hydra._internal.config_repository import ConfigRepository
from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.object_type import ObjectType
from hydra.plugins.config_source import ConfigResult
from omegaconf import DictConfig

from runner.config import nesting
from runner.config.augment_list import expand_file
from runner.config.yaml_keys import check_keys, read_file
from runner.config.yaml_numbers import check_numbers
from runner.errors import ConfigError, Problem


class CheckedRepository(ConfigRepository):
    """Hydra's repository of config files, which also checks the user's files and expands lists of augmentations.

    Args:
        search_path: the folders of the files.
        own: the folder of runner's own files, which are not checked.
    """

    def __init__(self, search_path: ConfigSearchPath, own: Path) -> None:
        super().__init__(search_path)
        self._own = own.resolve()

    def load_config(self, config_path: str) -> ConfigResult | None:
        """Load a file.

        Raises:
            ConfigError: a file of the user's is nested too deeply, is not UTF-8, holds a list, or has a key or number
                that would differ from its text.
            OSError: the file cannot be read.
        """
        source = next((source for source in self.get_sources() if source.is_config(config_path)), None)
        if source is None or source.scheme() != "file":
            return super().load_config(config_path)
        file = Path(source.path, f"{config_path.removesuffix('.yaml')}.yaml")
        is_users = Path(source.path).resolve() != self._own
        if is_users:
            text = read_file(file)
            nesting.check_file(file, text)
            check_keys(file, text)
        result = super().load_config(config_path)
        assert result is not None
        if not isinstance(result.config, DictConfig):
            instead = "write lines of the form key: value in it"
            raise ConfigError(Problem("", f"{file} holds a list, not keys", instead, topic="type"))
        package = (result.header.get("package") or "_group_").replace("_global_", "")
        package = package.replace("_group_", config_path.rpartition("/")[0].replace("/", "."))
        if is_users:
            check_numbers(file, package)
        expand_file(result.config, package)
        return result

    def config_exists(self, config_path: str) -> bool:
        """Return whether there is a file; a name that no file can have is none."""
        try:
            return super().config_exists(config_path)
        except OSError:
            return False

    def get_group_options(self, group_name: str, results_filter: ObjectType | None = ObjectType.CONFIG) -> list[str]:
        """List the members of a group; a name that no folder can have is none."""
        try:
            return super().get_group_options(group_name, results_filter)
        except OSError:
            return []
