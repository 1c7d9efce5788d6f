"""A path the user typed, as a file or a folder that is there."""

from collections.abc import Mapping
from itertools import combinations
from pathlib import Path

from runner.errors import ConfigError, did_you_mean


def full_path(path: str | Path, key: str) -> Path:
    """Return the absolute path of what the config names by `key`, there or not.

    Raises:
        ConfigError: if it begins with the home of a user who doesn't exist.
    """
    try:
        return Path(str(path)).expanduser().absolute()
    except RuntimeError as error:
        raise ConfigError(f"{key}={path}: {error}; write the full path") from error


def find_data_folder(path: str | Path, key: str) -> Path:
    """Return the absolute path of a folder the config names, as `find_data_file` does for a file.

    Raises:
        ConfigError: if there is no such folder.
    """
    folder = full_path(path, key)
    try:
        if folder.is_dir():
            return folder
        if folder.exists():
            raise ConfigError(f"{key}={path} is a file; name a folder")
        siblings = [entry.name for entry in folder.parent.iterdir() if entry.is_dir()] if folder.parent.is_dir() else []
    except OSError as error:
        raise ConfigError(f"{key}={path} cannot be read: {error.strerror or error}; name another") from error
    hint = did_you_mean(folder.name, siblings) if siblings else "write the folder's full path"
    raise ConfigError(f"{key}={path}: there is no such folder in {folder.parent}; {hint}")


def find_data_file(path: str | Path, key: str) -> Path:
    """Return the absolute path of a file the config names.

    Args:
        path: absolute, relative to the current directory, or beginning with `~`.
        key: the knob it was given by, for the error: `data.path`.

    Raises:
        ConfigError: there is no such file, it is empty, or a device or pipe.
    """
    file = full_path(path, key)
    try:
        if file.is_dir():
            raise ConfigError(f"{key}={path} is a folder; name a file in it")
        if not file.parent.is_dir():
            raise ConfigError(f"{key}={path}: there is no folder {file.parent}; write the file's full path")
        if not file.exists():
            siblings = [entry.name for entry in file.parent.iterdir() if entry.suffix == file.suffix]
            hint = did_you_mean(file.name, siblings) if siblings else "name a file that is there"
            raise ConfigError(f"{key}={path}: there is no such file in {file.parent}; {hint}")
        if not file.is_file():
            raise ConfigError(f"{key}={path} is not a regular file; copy what it gives into one, and name that")
        if file.stat().st_size == 0:
            raise ConfigError(f"{key}={path} is empty; name a file with samples")
    except OSError as error:
        raise ConfigError(f"{key}={path} cannot be read: {error.strerror or error}; name another") from error
    return file


def shared_samples(paths: Mapping[str, Path]) -> list[str]:
    """Say which keys name the same file or folder: what is measured there was trained on, or chosen by.

    Args:
        paths: by key, of files or folders that are there.
    """
    return [
        f"{other} is {one}: these parts share samples"
        for (one, path), (other, other_path) in combinations(paths.items(), 2)
        if path.samefile(other_path)
    ]
