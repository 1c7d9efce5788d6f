"""Files to be removed, by kind, and what that frees: a file with several names takes its room once."""

import os
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from runner.rundir import layout
from runner.rundir.ownership import is_own_folder

CHECKPOINTS, MODELS, IN_STORE = "checkpoints", "models", "copies in MLflow's store"
STACKS, GRAPHS, REHEARSALS, IMAGES = "checkpoints of stacks", "model graphs", "rehearsals", "decoded images"
LEFT = "left by an interrupted clean"

LARGE = {layout.CHECKPOINTS: CHECKPOINTS, layout.MODEL: MODELS}
"""What is removed of a run's folder, by name."""

REMOVED = ".removed-"
"""Prefix of the name of a folder that is being removed."""

_BLOCK = 512  # bytes, the unit of `st_blocks`


@dataclass(frozen=True)
class Item:
    """A file or folder to be removed."""

    kind: str
    path: Path


@dataclass(frozen=True)
class Size:
    """What a kind of files takes: their number, and the bytes that removing them frees."""

    files: int
    bytes: int


def large_items(folder: Path) -> list[Item]:
    """Return the large folders in the folder of a run."""
    left = [Item(LEFT, path) for path in sorted(folder.glob(f"{REMOVED}*")) if is_own_folder(path)]
    return left + [Item(kind, folder / name) for name, kind in LARGE.items() if is_own_folder(folder / name)]


def measure(items: Iterable[Item]) -> dict[str, Size]:
    """Return the size of each kind of items. Nothing is freed by a file that has a name elsewhere too."""
    numbers, names = dict[str, int](), dict[tuple[int, int], int]()
    owners: dict[tuple[int, int], tuple[str, int, int]] = {}
    for item in items:
        numbers.setdefault(item.kind, 0)
        for found in _files(item.path):
            inode = found.st_dev, found.st_ino
            numbers[item.kind] += 1
            names[inode] = names.get(inode, 0) + 1
            owners.setdefault(inode, (item.kind, found.st_nlink, found.st_blocks * _BLOCK))
    freed = dict.fromkeys(numbers, 0)
    for inode, (kind, links, size) in owners.items():
        if names[inode] >= links:
            freed[kind] += size
    return {kind: Size(numbers[kind], freed[kind]) for kind in numbers}


def _files(path: Path) -> Iterator[os.stat_result]:
    if not path.is_dir() or path.is_symlink():
        if path.exists():
            yield path.lstat()
        return
    for where, _, names in os.walk(path):
        for name in names:
            yield (Path(where) / name).lstat()


def remove(path: Path) -> None:
    """Remove a file or folder: a folder gets another name first, so that nobody finds a part of it.

    Raises:
        OSError: it cannot be removed.
    """
    if not path.is_dir():
        path.unlink(missing_ok=True)
        return
    if not path.name.startswith(REMOVED):
        aside = path.with_name(f"{REMOVED}{path.name}")
        if aside.exists():
            shutil.rmtree(aside)
        path = path.rename(aside)
    shutil.rmtree(path)
