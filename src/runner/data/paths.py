"""Paths that the user writes in the config, as files or folders that exist."""

from collections.abc import Mapping
from itertools import combinations
from pathlib import Path

from runner.errors import ConfigError, Problem, did_you_mean


def full_path(path: str | Path, key: str) -> Path:
    """Return the absolute path of what a config key names; it need not exist.

    Raises:
        ConfigError: it begins with the home folder of an unknown user.
    """
    try:
        return Path(str(path)).expanduser().absolute()
    except RuntimeError as error:
        raise _refuse(key, path, f": {error}", "write the full path") from error


def find_data_folder(path: str | Path, key: str) -> Path:
    """Return the absolute path of a folder that a config key names, as `find_data_file` does for a file.

    Raises:
        ConfigError: it does not exist.
    """
    folder = full_path(path, key)
    try:
        if folder.is_dir():
            return folder
        if folder.exists():
            raise _refuse(key, path, " is a file", "name a folder")
        siblings = [entry.name for entry in folder.parent.iterdir() if entry.is_dir()] if folder.parent.is_dir() else []
    except OSError as error:
        raise _refuse(key, path, f" cannot be read: {error.strerror or error}", "name another folder") from error
    instead = did_you_mean(folder.name, siblings) if siblings else "write the folder's full path"
    raise _refuse(key, path, f" does not exist in {folder.parent}", instead)


def find_data_file(path: str | Path, key: str) -> Path:
    """Return the absolute path of a file that a config key names.

    Args:
        path: absolute, relative to the current folder, or beginning with `~`.
        key: the config key, for problems: `data.path`.

    Raises:
        ConfigError: it does not exist, is empty, or is a device or pipe.
    """
    file = full_path(path, key)
    try:
        if file.is_dir():
            raise _refuse(key, path, " is a folder", "name a file in it")
        if not file.parent.is_dir():
            raise _refuse(key, path, f": the folder {file.parent} does not exist", "write the file's full path")
        if not file.exists():
            siblings = [entry.name for entry in file.parent.iterdir() if entry.suffix == file.suffix]
            instead = did_you_mean(file.name, siblings) if siblings else "name an existing file"
            raise _refuse(key, path, f" does not exist in {file.parent}", instead)
        if not file.is_file():
            raise _refuse(key, path, " is not a regular file", "copy its content to one, and name that")
        if file.stat().st_size == 0:
            raise _refuse(key, path, " is empty", "name a file with samples")
    except OSError as error:
        raise _refuse(key, path, f" cannot be read: {error.strerror or error}", "name another file") from error
    return file


def shared_samples(paths: Mapping[str, Path]) -> list[str]:
    """Note which keys name the same file or folder: its metrics are measured on samples used for training or selection.

    Args:
        paths: by key, of existing files or folders.
    """
    return [
        f"{other} is {one}: these parts share samples"
        for (one, path), (other, other_path) in combinations(paths.items(), 2)
        if path.samefile(other_path)
    ]


def _refuse(key: str, path: str | Path, text: str, suggestion: str) -> ConfigError:
    return ConfigError(Problem(key, f"{key}={path}{text}", suggestion, topic="file"))
