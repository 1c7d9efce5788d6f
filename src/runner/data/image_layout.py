"""Where the images of a folder are: its parts by their usual names, their classes, and each file once."""

import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from runner.data.image_file import EXTENSIONS, is_image
from runner.errors import ConfigError

PARTS = {
    "train": ("train", "training"),
    "val": ("val", "valid", "validation", "dev"),
    "test": ("test", "testing", "eval"),
}
"""The names of folders that are parts, in any case."""

SHOWN = 5  # names in an error

Files = list[tuple[str, int]]
"""Paths of images below a folder, each with the index of its class."""


def find_parts(folder: Path) -> dict[str, Path]:
    """The folders of the parts that a folder is divided into; none if it holds classes.

    A folder named as a part that has images directly in it is a class of that name.

    Raises:
        ConfigError: it is not clear which they are.
    """
    with reading():
        names = [name for name in _names_in(folder) if (folder / name).is_dir() and not _leads_up(folder, name)]
        holders = [name for name in names if not any(map(is_image, _names_in(folder / name)))]
    found: dict[str, Path] = {}
    for name in holders:
        part = next((part for part, known in PARTS.items() if name.lower() in known), None)
        if part in found:
            raise ConfigError(
                f"data.path: {folder} has {found[part].name}/ and {name}/, which are both the {part} part; rename one"
            )
        if part is not None:
            found[part] = folder / name
    others = [name for name in names if folder / name not in found.values()]
    if not found:
        known = {word for words in PARTS.values() for word in words}
        if alike := [name for name in holders if known & set(re.findall("[a-z]+", name.lower()))]:
            raise ConfigError(
                f"data.path: it is not clear whether {' and '.join(f'{name}/' for name in alike[:SHOWN])} of {folder}"
                f" are parts or classes; name parts train, val and test, and put a class's images directly into its"
                f" folder"
            )
        return {}
    if filled := [name for name in others if _has_images(folder / name)]:
        parts, rest = (", ".join(f"{name}/" for name in given[:SHOWN]) for given in (
            [path.name for path in found.values()], filled))  # fmt: skip
        raise ConfigError(
            f"data.path: {folder} has {parts} beside {rest}, which are no parts; move these away, or name a folder of"
            " classes alone"
        )
    if "train" not in found:
        names_found = ", ".join(f"{path.name}/" for path in found.values())
        raise ConfigError(f"data.path: {folder} has {names_found}, but no train/; name a folder that has one")
    return found


def find_images(folder: Path, follow_all: bool = False) -> tuple[list[str], Files, int]:
    """The classes of a folder, and its image files, both sorted; and how many links to them were left out.

    A link is followed unless what it leads to lies in the folder anyway, or the folder in that.

    Args:
        folder: with a sub-folder for each class.
        follow_all: follow every link, and take a file as often as it is met, as version 0.1.0 did.

    Raises:
        ConfigError: there is no class, one without images, or a file that is in two.
    """
    with reading():
        entries = _names_in(folder)
        classes = [name for name in entries if (folder / name).is_dir()]
        if not follow_all:
            classes = [name for name in classes if not _leads_up(folder, name)]
        if follow_all:
            files = [(name, index) for index, label in enumerate(classes) for name in _walk_all(folder, label)]
            skipped = 0
        else:
            files, skipped = _each_once(folder, classes)
    if not classes:
        direct = "; its images lie directly in it" if any(map(is_image, entries)) else ""
        raise ConfigError(f"data.path: {folder} has no sub-folders{direct}: make one for each class, named after it")
    filled = {target for _, target in files}
    empty = [label for index, label in enumerate(classes) if index not in filled]
    if empty:
        names = ", ".join(empty[:SHOWN]) + (", ..." if len(empty) > SHOWN else "")
        raise ConfigError(
            f"data.path: {folder} has sub-folders without images ({' '.join(EXTENSIONS)}): {names}; move them away"
        )
    return classes, files, skipped


@contextmanager
def reading() -> Iterator[None]:
    """Where folders are read.

    Raises:
        ConfigError: one cannot be.
    """
    try:
        yield
    except OSError as error:
        raise ConfigError(
            f"data.path: {error.filename} cannot be read: {error.strerror}; make it readable, or remove it"
        ) from error


def _names_in(folder: Path) -> list[str]:
    """What is in a folder and not hidden, sorted."""
    with os.scandir(folder) as entries:
        return sorted(entry.name for entry in entries if not entry.name.startswith("."))


def _leads_up(folder: Path, name: str) -> bool:
    """Whether it is a link to the folder that it lies in, or to one above."""
    folder = folder.resolve()
    return (folder / name).is_symlink() and (folder / name).resolve() in (folder, *folder.parents)


def _has_images(folder: Path) -> bool:
    return any(is_image(name) for _, _, names in os.walk(folder) for name in names)


def _walk_all(folder: Path, label: str) -> list[str]:
    """The image files below `folder/label`, by their paths below `folder`, in an order that is always the same."""
    found = []
    for parent, folders, names in os.walk(folder / label, followlinks=True):
        folders[:] = [name for name in folders if not name.startswith(".")]
        below = Path(parent).relative_to(folder).as_posix()
        found += [f"{below}/{name}" for name in names if is_image(name)]
    return sorted(found)


def _each_once(folder: Path, classes: Sequence[str]) -> tuple[Files, int]:
    """The image files of each class, those that lie in it first, then those that links of it lead to."""
    places: dict[tuple[int, int], tuple[str, int]] = {}  # of each file, by what it is on the disk
    entered: set[tuple[int, int]] = set()
    links: list[tuple[str, int]] = []
    skipped = 0
    above = {_identity(parent) for parent in (folder.resolve(), *folder.resolve().parents)}

    def enter(start: str, index: int) -> Iterator[str]:
        """The files below a folder; the links in it are put aside."""
        stack = [start]
        while stack:
            below = stack.pop()
            entered.add(_identity(folder / below))
            with os.scandir(folder / below) as entries:
                for entry in sorted(entries, key=lambda entry: entry.name):
                    name = f"{below}/{entry.name}"
                    if entry.name.startswith("."):
                        continue
                    if entry.is_symlink():
                        links.append((name, index))
                    elif entry.is_dir():
                        stack.append(name)
                    elif is_image(entry.name):
                        yield name

    def take(name: str, index: int) -> bool:
        before, of_class = places.setdefault(_identity(folder / name), (name, index))
        if of_class != index:
            raise ConfigError(
                f"data.path: {before} and {name} of {folder} are the same file in two classes; remove one"
            )
        return before == name

    for index, label in enumerate(classes):
        if (folder / label).is_symlink():
            links.append((label, index))
        else:
            skipped += sum(not take(name, index) for name in enter(label, index))
    inside = set(places)  # what needs no link
    waiting = 0
    while waiting < len(links):  # which grow by those in the folders that they lead to
        name, index = links[waiting]
        waiting += 1
        path = folder / name
        if path.is_dir():
            identity = _identity(path)
            if identity in entered and name in classes:
                raise ConfigError(f"data.path: {name} of {folder} is a link to another class; remove one")
            if identity in entered or identity in above:
                skipped += 1
                continue
            found: Iterator[str] = enter(name, index)
        else:
            found = iter([name] if is_image(path.name) else [])
        for file in found:
            skipped += _identity(folder / file) in inside or not take(file, index)
    return sorted(places.values(), key=lambda place: (place[1], place[0])), skipped


def _identity(path: Path) -> tuple[int, int]:
    """What it is on the disk, by whatever name; a link that leads nowhere is itself."""
    try:
        found = path.stat()
    except FileNotFoundError:
        found = path.lstat()
    return found.st_dev, found.st_ino
