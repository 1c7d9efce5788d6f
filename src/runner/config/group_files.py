"""The files of the config groups: their names and contents."""

from collections.abc import Mapping

from hydra.core.config_loader import ConfigLoader
from hydra.core.object_type import ObjectType
from omegaconf import DictConfig, OmegaConf

from runner.config.keys import GROUPS
from runner.config.messages import REFUSED, dotted_keys
from runner.config.repository import CheckedRepository


class GroupFiles:
    """The members of the groups, including those of the user.

    Args:
        loader: Hydra's config loader.
        repository: the loader's config files.
        config: the name of the primary config.

    Attributes:
        search: the arguments that add folders to the search path.
    """

    def __init__(self, loader: ConfigLoader, repository: CheckedRepository, config: str) -> None:
        self._loader, self._repository, self._config = loader, repository, config
        self.search: list[str] = []

    def options(self, group: str) -> list[str]:
        """List the members of a group; empty if the group does not exist."""
        if self.search:
            return self._loader.get_group_options(group, ObjectType.CONFIG, self._config, self.search)
        # `get_group_options` of the loader copies the whole repository, which takes 25 ms a call.
        return self._repository.get_group_options(group, ObjectType.CONFIG)

    def subgroups(self, parent: str) -> list[str]:
        """List the groups within a group."""
        return self._loader.get_group_options(parent, ObjectType.GROUP)

    def choices(self) -> dict[str, list[str]]:
        """List the members of each group."""
        groups = dict.fromkeys([*GROUPS, *self._repository.get_group_options("", ObjectType.GROUP)])
        return {group: options for group in groups if group != "hydra" and (options := self.options(group))}

    def load(self, group: str, choice: str) -> DictConfig:
        """Load a member's file."""
        loaded = self._repository.load_config(f"{group}/{choice}")
        config = loaded.config if loaded is not None else OmegaConf.create()
        assert isinstance(config, DictConfig)
        return config

    def keys_of_members(self, key: str) -> Mapping[str, list[str]]:
        """List the keys of each member of a key's group."""
        group, _, leaf = key.partition(".")
        if not leaf or group not in GROUPS:
            return {}
        members = {}
        for option in self.options(group):
            try:
                members[option] = dotted_keys(self.load(group, option))
            except REFUSED:  # a broken file of the user's that this config does not use
                continue
        return members
