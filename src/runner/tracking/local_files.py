"""Artifacts in folders of this machine (`file:`), where others may have put links: none is followed."""

import os
import shutil
import stat
from collections.abc import Callable
from pathlib import Path

from runner.errors import StoreError
from runner.util.files import hard_link

LOCAL = "file:"

_OF_OTHERS = stat.S_IWGRP | stat.S_IWOTH


def local_folder(location: str) -> Path | None:
    """Return the folder of an artifact location; None if it is not a folder of this machine."""
    if not location.startswith(LOCAL) and not location.startswith("/"):
        return None
    from mlflow.utils.file_utils import local_file_uri_to_path

    return Path(local_file_uri_to_path(location))


def copy_into(root: Path, name: str, source: Path) -> None:
    """Copy a file to `root/name` with its permissions and times, whole or not at all, and through no link.

    Raises:
        StoreError: a folder between is a link.
        OSError: the file cannot be read or written.
    """
    _put(root, name, source, _copy)


def link_into(root: Path, name: str, source: Path) -> None:
    """Do the same as a hard link, if the file system has them: for files that are replaced and never written to.

    A file that others may write to is copied: a store may be open to more people than a run's folder.
    """
    _put(root, name, source, _copy if source.stat().st_mode & _OF_OTHERS else hard_link)


def _put(root: Path, name: str, source: Path, put: Callable[[Path, Path], None]) -> None:
    target = root / name
    between = list(target.parents)
    _refuse(next((folder for folder in between[: between.index(root)] if folder.is_symlink()), None))
    target.parent.mkdir(parents=True, exist_ok=True)
    put(source, target)


def _copy(source: Path, target: Path) -> None:
    temporary = target.with_name(f".{target.name}.tmp")
    temporary.unlink(missing_ok=True)
    shutil.copy2(source, temporary, follow_symlinks=False)
    temporary.replace(target)


def refuse_links(location: str, name: str = "") -> None:
    """Check that a file or folder of a run's artifacts is reached through no link, and holds none.

    MLflow follows links: it would read or write any file of this user that a link names.

    Args:
        location: of the artifacts of a run or a model; any but a folder of this machine passes.
        name: of the file or folder in it; it may be missing.

    Raises:
        StoreError: there is a link.
    """
    root = local_folder(location)
    if root is None:
        return
    path = root / name
    between = [path, *path.parents]
    _refuse(next((part for part in between[: between.index(root)] if part.is_symlink()), None) or first_link(path))
    refuse_linked_folder(location)


def refuse_linked_folder(location: str) -> None:
    """Check that the folder of a run's artifacts, and that of the run above it, are no links.

    Raises:
        StoreError: one is.
    """
    root = local_folder(location)
    if root is not None:
        _refuse(next((part for part in (root, root.parent) if part.is_symlink()), None))


def _refuse(link: Path | None) -> None:
    if link is not None:
        raise StoreError(f"{link} is a link, and artifacts behind links are not used; remove it")


def first_link(folder: Path) -> Path | None:
    """Return the first link in a folder and the folders below; None if there is none, or no such folder."""
    for where, folders, files in os.walk(folder):
        for name in sorted([*folders, *files]):
            if (Path(where) / name).is_symlink():
                return Path(where) / name
    return None
