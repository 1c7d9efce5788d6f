"""The files of the config groups: which there are, and what is in them."""

from collections.abc import Mapping

from hydra.core.config_loader import ConfigLoader
from hydra.core.object_type import ObjectType
from omegaconf import DictConfig, OmegaConf

from runner.config.keys import GROUPS
from runner.config.messages import REFUSED, dotted_keys
from runner.config.yaml_numbers import CheckedRepository


class GroupFiles:
    """The members of the groups, of the user's own too.

    Args:
        loader: Hydra's.
        repository: its files.
        config: the name of the primary config.

    Attributes:
        search: the arguments that add folders to the search path.
    """

    def __init__(self, loader: ConfigLoader, repository: CheckedRepository, config: str) -> None:
        self._loader, self._repository, self._config = loader, repository, config
        self.search: list[str] = []

    def options(self, group: str) -> list[str]:
        """The members of a group; none if the group does not exist."""
        if self.search:
            return self._loader.get_group_options(group, ObjectType.CONFIG, self._config, self.search)
        # Hydra's own way copies the whole repository each time: 25 ms a question.
        return self._repository.get_group_options(group, ObjectType.CONFIG)

    def subgroups(self, parent: str) -> list[str]:
        """The groups in a group."""
        return self._loader.get_group_options(parent, ObjectType.GROUP)

    def choices(self) -> dict[str, list[str]]:
        """The members of each group."""
        groups = dict.fromkeys([*GROUPS, *self._repository.get_group_options("", ObjectType.GROUP)])
        return {group: options for group in groups if group != "hydra" and (options := self.options(group))}

    def load(self, group: str, choice: str) -> DictConfig:
        """The content of a member's file."""
        loaded = self._repository.load_config(f"{group}/{choice}")
        config = loaded.config if loaded is not None else OmegaConf.create()
        assert isinstance(config, DictConfig)
        return config

    def keys_of_members(self, key: str) -> Mapping[str, list[str]]:
        """The keys of each member of the group that a key would belong to."""
        group, _, leaf = key.partition(".")
        if not leaf or group not in GROUPS:
            return {}
        members = {}
        for option in self.options(group):
            try:
                members[option] = dotted_keys(self.load(group, option))
            except REFUSED:  # a file of the user's that is not in use
                continue
        return members
