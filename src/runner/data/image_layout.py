"""Where the images of a folder are: its parts by their usual names, their classes, and each file once."""

import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from runner.data.image_file import EXTENSIONS, is_image
from runner.errors import ConfigError, did_you_mean

PARTS = {
    "train": ("train", "training"),
    "val": ("val", "valid", "validation", "dev"),
    "test": ("test", "testing", "eval"),
}
"""The names of folders that are parts, in any case."""

JUNK = ("__macosx", "@eadir", "#recycle", "$recycle.bin", "system volume information", "lost+found", "__pycache__")
"""Folders that archives, network disks and systems leave, in any case: their images are copies, thumbnails or waste."""

IMAGES = {"images", "image", "imgs", "img", "jpegimages", "pictures"}
ANSWERS = {
    "masks", "mask", "labels", "label", "annotations", "annotation", "segmentation", "segmentations",
    "segmentationclass", "gt", "groundtruth", "targets",
}  # fmt: skip
"""Names of two folders of one data set of which the second has an answer to each image of the first."""

SHOWN = 5  # names in an error

Files = list[tuple[str, int]]
"""Paths of images below a folder, each with the index of its class."""


@dataclass
class Left:
    """What was found beside the images of the classes, and left out.

    Attributes:
        links: to what is there anyway.
        folders: hidden, or of no class.
        hidden: images whose names begin with a dot.
        outside: images that lie in no class.
        others: files of other kinds, by their endings.
    """

    links: int = 0
    folders: list[str] = field(default_factory=list)
    hidden: int = 0
    outside: int = 0
    others: Counter[str] = field(default_factory=Counter)

    def words(self) -> list[str]:
        """Phrases for the user."""
        endings = ", ".join(ending for ending, _ in self.others.most_common(SHOWN))
        counted = [
            (self.links, "link", " to what is there anyway"),
            (self.hidden, "hidden image", ""),
            (self.outside, "image", " outside of the classes"),
            (self.others.total(), "file", f" of other kinds ({endings})"),
        ]
        found = [f"{count} {what}{'s' * (count != 1)}{where} left out" for count, what, where in counted if count]
        if self.folders:
            more = f" and {len(self.folders) - SHOWN} more" if len(self.folders) > SHOWN else ""
            found.append(f"{', '.join(f'{name}/' for name in self.folders[:SHOWN])}{more} left out")
        return found


def find_parts(folder: Path, classes: Sequence[str] | None = None) -> dict[str, Path]:
    """The folders of the parts that a folder is divided into; none if it holds classes.

    A folder named as a part that has images directly in it is a class of that name.

    Args:
        folder: to look in.
        classes: the classes' names, if they were given.

    Raises:
        ConfigError: it is not clear which they are.
    """
    with reading():
        names = [name for name in _names_in(folder) if (folder / name).is_dir() and not _leads_up(folder, name)]
        if classes is not None and set(classes) <= set(names):
            return {}
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
        flat = [name for name in names if name not in holders and name.lower() in known]
        if len(flat) > 1:
            raise ConfigError(
                f"data.path: {_listed(flat)} of {folder} are named as parts, and have images directly in them; put"
                f" those of each class into a folder of its own, or write data.classes=[{','.join(flat)}]"
            )
        if classes is None:
            _check_classes(folder, names)
        alike = [name for name in holders if known & set(re.findall("[a-z]+", name.lower()))]
        if alike or (alike := _divided_alike(folder, holders)):
            raise ConfigError(
                f"data.path: it is not clear whether {_listed(alike)} of {folder} are parts or classes; name parts"
                f" train, val and test, or by data.path, data.val_path and data.test_path; for classes write"
                f" data.classes=[{','.join(alike[:SHOWN])}{',...' if len(alike) > SHOWN else ''}]"
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


def find_images(
    folder: Path, given: Sequence[str] | None = None, follow_all: bool = False
) -> tuple[list[str], Files, Left]:
    """The classes of a folder, and its image files, both sorted; and what was left out.

    A link is followed unless what it leads to lies in the folder anyway, or the folder in that.

    Args:
        folder: with a sub-folder for each class.
        given: the sub-folders that are classes, in the order of their indices; None: all of them.
        follow_all: follow every link, and take a file as often as it is met, as version 0.1.0 did.

    Raises:
        ConfigError: there is no class, one without images, one that may be none, or a file that is in two.
    """
    left = Left()
    with reading():
        entries = _names_in(folder, junk=follow_all)
        classes = [name for name in entries if (folder / name).is_dir()]
        if follow_all:
            files = [(name, index) for index, label in enumerate(classes) for name in _walk_all(folder, label)]
        else:
            there = [name for name in classes if not _leads_up(folder, name)]
            classes = _chosen(folder, there, given)
            _look_around(folder, classes, left)
            if given is None:
                _check_classes(folder, classes)
            files = _each_once(folder, classes, left)
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
    return classes, files, left


def _chosen(folder: Path, there: list[str], given: Sequence[str] | None) -> list[str]:
    """The classes: all sub-folders, or those that were given."""
    if given is None:
        return there
    if missing := [name for name in given if name not in there]:
        raise ConfigError(
            f"data.classes: {folder} has no folder {', '.join(missing[:SHOWN])}; {did_you_mean(missing[0], there)}"
        )
    return list(given)


def _check_classes(folder: Path, classes: Sequence[str]) -> None:
    """See that folders are classes, as far as their names and what is in them tell.

    Raises:
        ConfigError: they may be something else.
    """
    images, answers = ([name for name in classes if name.lower() in words] for words in (IMAGES, ANSWERS))
    if images and answers:
        raise ConfigError(
            f"data.path: {_listed([*images, *answers])} of {folder} look like images and an answer to each, and"
            " data=image_folder reads a folder for each class; for classes write"
            f" data.classes=[{','.join(classes[:SHOWN])}{',...' if len(classes) > SHOWN else ''}]"
        )
    if len(classes) == 1 and not any(map(is_image, _names_in(folder / classes[0]))):
        below = [name for name in _names_in(folder / classes[0]) if _has_images(folder / classes[0] / name)]
        if below:
            raise ConfigError(
                f"data.path: {folder} has one folder alone, {classes[0]}/, with {_listed(below)} in it; write"
                f" data.path={folder / classes[0]}"
            )


def _divided_alike(folder: Path, holders: Sequence[str]) -> list[str]:
    """Folders without images of their own of which two or more have the same sub-folders of images, as parts have."""
    below = {name: {sub for sub in _names_in(folder / name) if _has_images(folder / name / sub)} for name in holders}
    return [name for name in holders if any(len(below[name] & below[other]) > 1 for other in holders if other != name)]


def _look_around(folder: Path, classes: Sequence[str], left: Left) -> None:
    """Note what lies beside the classes."""
    with os.scandir(folder) as entries:
        for entry in sorted(entries, key=lambda entry: entry.name):
            if entry.name in classes:
                continue
            if entry.is_dir():
                if _leads_up(folder, entry.name):
                    continue
                left.folders.append(entry.name)
            elif is_image(entry.name):
                left.outside += 1


def _listed(names: Sequence[str]) -> str:
    shown = [f"{name}/" for name in names[:SHOWN]] + ["..."] * (len(names) > SHOWN)
    return " and ".join([", ".join(shown[:-1]), shown[-1]]) if len(shown) > 1 else shown[0]


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


def _names_in(folder: Path, junk: bool = False) -> list[str]:
    """What is in a folder and not hidden, sorted; with `junk` whatever else is no folder of the user's."""
    with os.scandir(folder) as entries:
        return sorted(entry.name for entry in entries if not _is_left(entry.name, junk))


def _is_left(name: str, junk: bool = False) -> bool:
    return name.startswith(".") or (not junk and name.lower() in JUNK)


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


def _each_once(folder: Path, classes: Sequence[str], left: Left) -> Files:
    """The image files of each class, those that lie in it first, then those that links of it lead to."""
    places: dict[tuple[int, int], tuple[str, int]] = {}  # of each file, by what it is on the disk
    entered: set[tuple[int, int]] = set()
    links: list[tuple[str, int]] = []
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
                    if _is_left(entry.name):
                        if entry.is_dir():
                            left.folders.append(name)
                        left.hidden += is_image(entry.name.lstrip(".")) and not entry.is_dir()
                    elif entry.is_symlink():
                        links.append((name, index))
                    elif entry.is_dir():
                        stack.append(name)
                    elif is_image(entry.name) and entry.is_file():
                        yield name
                    else:
                        left.others[_kind(entry.name)] += 1

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
            left.links += sum(not take(name, index) for name in enter(label, index))
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
                left.links += 1
                continue
            found: Iterator[str] = enter(name, index)
        elif is_image(path.name) and (path.is_file() or not path.exists()):  # one that leads nowhere is told when read
            found = iter([name])
        else:
            left.others[_kind(path.name)] += 1
            continue
        for file in found:
            left.links += _identity(folder / file) in inside or not take(file, index)
    return sorted(places.values(), key=lambda place: (place[1], place[0]))


def _kind(name: str) -> str:
    """The ending of a file that is no image; of one that has an image's, what it is instead."""
    return "no regular file" if is_image(name) else Path(name).suffix.lower() or "no ending"


def _identity(path: Path) -> tuple[int, int]:
    """What it is on the disk, by whatever name; a link that leads nowhere is itself."""
    try:
        found = path.stat()
    except FileNotFoundError:
        found = path.lstat()
    return found.st_dev, found.st_ino
