"""Checks of Hydra's own part of a config, in which Hydra accepts values that end a run or a sweep at its start."""

import os
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from hydra.core.override_parser.types import Override
from omegaconf import DictConfig

from runner.errors import ConfigError, Problem

OPEN = ("hydra.launcher.", "hydra.sweeper.", "hydra.callbacks.", "hydra.job.env_set.")
"""Mappings whose keys may be deleted."""


def check_deletion(text: str, override: Override) -> list[Problem]:
    """Check that an override deletes no key or group that Hydra needs."""
    key = override.key_or_group
    is_hydras = key == "hydra" or key.startswith(("hydra.", "hydra/"))
    if not (override.is_delete() and is_hydras) or key.startswith(OPEN):
        return []
    return [Problem(key, f"{text}: a run needs {key}", "leave it out", topic="missing")]


def check_search_path(text: str, value: Any) -> list[Problem]:
    """Check that the folders in Hydra's search path exist: Hydra only warns about others.

    Args:
        text: the override as it was typed.
        value: what it sets `hydra.searchpath` to.
    """
    key, suggestion = "hydra.searchpath", "write hydra.searchpath=[file:///<folder>]"
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        return [Problem(key, f"{text} is not a list of folders", suggestion, topic="type")]
    for item in value:
        scheme, separator, name = str(item).partition("://")
        if separator and scheme not in ("file", "pkg"):
            return [Problem(key, f"{text}: no such kind of address: {scheme}://", suggestion, topic="type")]
        if scheme == "pkg" and separator:
            if not _is_package(name):
                return [Problem(key, f"{text}: no such package: {name}", "install it", topic="unavailable")]
        elif why := _unusable(folder := name if separator else scheme):
            return [Problem(key, f"{text}: {why}: {folder}", suggestion, topic="file")]
    return []


def check_copied(text: str, value: Any) -> list[Problem]:
    """Check that the environment variables in `hydra.job.env_copy` are set: Hydra reads them while it composes."""
    missing = [str(name) for name in value if str(name) not in os.environ] if isinstance(value, list) else []
    return [
        Problem(
            "hydra.job.env_copy",
            f"{text}: the environment variable {name} is not set",
            "set it, or leave it out",
            topic="missing",
        )
        for name in missing
    ]


def _is_package(name: str) -> bool:
    try:
        return find_spec(name.partition("/")[0]) is not None
    except (ImportError, ValueError):
        return False


def check_node(node: DictConfig) -> list[Problem]:
    """Check the values of Hydra's node that a run or a sweep starts with.

    Args:
        node: composed; its references need not be resolvable.
    """
    return [*_check_plugins(node), *_check_logging(node)]


def _check_plugins(node: DictConfig) -> list[Problem]:
    problems = []
    for name, example in (("launcher", "local"), ("sweeper", "grid")):
        plugin = node._get_node(name)
        if not isinstance(plugin, DictConfig) or plugin._is_none() or "_target_" not in plugin:
            text = f"hydra.{name} has no _target_"
            problems.append(Problem(f"hydra.{name}", text, f"write hydra/{name}={example}", topic="missing"))
    return problems


def _check_logging(node: DictConfig) -> list[Problem]:
    problems = []
    for name in ("job_logging", "hydra_logging"):
        logging = node._get_node(name)
        if isinstance(logging, DictConfig) and not logging._is_missing() and "root" not in logging:
            text = f"hydra.{name} has no key root"
            problems.append(Problem(f"hydra.{name}", text, f"write hydra/{name}=default", topic="missing"))
    if not isinstance(node.verbose, bool | str) and not hasattr(node.verbose, "__iter__"):
        text = f"hydra.verbose={node.verbose} is not valid"
        problems.append(Problem("hydra.verbose", text, "write true, false or names of loggers", topic="type"))
    return problems


def check_folder(key: str, folder: Path, instead: str) -> None:
    """Check that a folder of config files exists and can be read.

    Args:
        key: the option that names it.
        folder: its path.
        instead: what to do otherwise.

    Raises:
        ConfigError: it does not, or cannot.
    """
    if why := _unusable(str(folder)):
        raise ConfigError(Problem(key, f"{key} {folder}: {why}", instead, topic="file"))


def _unusable(folder: str) -> str | None:
    """Return why the files in a folder cannot be read; None if they can."""
    try:
        os.scandir(folder).close()
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return "no such folder"
    except OSError as error:
        return error.strerror
    return None
