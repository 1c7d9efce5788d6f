"""Which folders are this user's own.

A tracking store, a tag, a manifest or a study may name any path, and others may write to them. So what they say is
data: a folder that they name is used only after these checks. They read with `lstat`, which follows no link.
"""

import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

from runner.rundir.folders import outputs

_SYSTEM = 0


def is_own_folder(path: Path) -> bool:
    """Whether a path is a folder of this user, and not a link to one."""
    return _is_own(path, stat.S_ISDIR)


def is_own_file(path: Path) -> bool:
    """Whether a path is a regular file of this user, and not a link to one."""
    return _is_own(path, stat.S_ISREG)


def own_folders(parent: Path, file: str) -> list[Path]:
    """Return the folders in a folder that are this user's own and have a file of this user's, sorted by name.

    Args:
        parent: such as `runs` of the outputs folder, which several users may share; may be missing.
        file: its path in each, such as `config.yaml`.
    """
    folders = sorted(path for path in parent.glob("*") if is_own_folder(path))
    return [folder for folder in folders if is_own_file(folder / file)]


def is_part_of(named: Path, folder: Path) -> bool:
    """Whether a folder is no link, and of the owner of the folder around it, which a user has named."""
    return is_real_folder(folder) and folder.lstat().st_uid == named.stat().st_uid


def named_folder(text: str) -> Path | None:
    """Return the folder that a tag names, without links in its path; None if it is not an own folder here."""
    if not text.startswith("/") or "\0" in text:
        return None
    folder = Path(os.path.realpath(text))
    return folder if is_own_folder(Path(text)) and is_own_folder(folder) else None


def is_in_own_outputs(folder: Path) -> bool:
    """Whether a folder is below this user's outputs folder, and nobody else could have put it there.

    Args:
        folder: absolute, without links in its path.
    """
    root = outputs()
    if folder == root or not folder.is_relative_to(root):
        return False
    between = [path for path in folder.parents if path.is_relative_to(root)]
    return is_own_folder(folder) and all(_is_own(path, stat.S_ISDIR, _SYSTEM) for path in between)


def is_free_in_own_outputs(folder: Path) -> bool:
    """Whether a path that a store names is free, in a folder below this user's outputs folder that is its own."""
    parent = folder.parent
    if ".." in folder.parts or _lstat(folder) is not None or not folder.is_absolute():
        return False
    return Path(os.path.realpath(parent)) == parent and is_own_folder(parent) and is_in_own_outputs(parent)


def real_files(folder: Path, pattern: str = "[!.]*") -> Iterator[Path]:
    """Yield the regular files below a folder in the order of their paths, without links and what is behind them.

    Args:
        folder: may be missing.
        pattern: of the names of files and folders.
    """
    if not _has_type(folder, stat.S_ISDIR):
        return
    for path in sorted(folder.glob(pattern)):
        if _has_type(path, stat.S_ISREG):
            yield path
        else:
            yield from real_files(path, pattern)


def is_real_file(path: Path) -> bool:
    """Whether a path is a regular file, and not a link to one."""
    return _has_type(path, stat.S_ISREG)


def is_real_folder(path: Path) -> bool:
    """Whether a path is a folder, and not a link to one."""
    return _has_type(path, stat.S_ISDIR)


def _is_own(path: Path, has_type: Callable[[int], bool], *others: int) -> bool:
    found = _lstat(path)
    return found is not None and has_type(found.st_mode) and found.st_uid in (os.geteuid(), *others)


def _has_type(path: Path, has_type: Callable[[int], bool]) -> bool:
    found = _lstat(path)
    return found is not None and has_type(found.st_mode)


def _lstat(path: Path) -> os.stat_result | None:
    try:
        return path.lstat()
    except (OSError, ValueError):  # missing, behind a folder that this user may not enter, or no name of a file
        return None
