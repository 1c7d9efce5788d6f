"""Find the classes of a folder of images, and each of its image files once."""

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from runner.config.keys import format_value
from runner.data.image_file import EXTENSIONS, is_image
from runner.data.image_layout import CLASSES, check_classes
from runner.data.image_tree import ImageRoot, is_ignored, leads_up, list_names_in
from runner.data.listing import NAMES_SHOWN, list_names
from runner.errors import ConfigError, close_match

Files = list[tuple[str, int]]
"""Paths of images below a folder, each with the index of its class."""

Identity = tuple[int, int]
"""A file or a folder on the disk, by device and inode."""


@dataclass
class LeftOut:
    """What lies beside the images of the classes, and is left out.

    Attributes:
        links: number of links to files and folders that are included anyway.
        folders: hidden folders, and those that are not classes.
        hidden: number of images whose names begin with a dot.
        outside: number of images outside of the classes.
        others: number of files of other kinds, by their extensions.
    """

    links: int = 0
    folders: list[str] = field(default_factory=list)
    hidden: int = 0
    outside: int = 0
    others: Counter[str] = field(default_factory=Counter)

    def phrases(self) -> list[str]:
        """Describe it for the user."""
        extensions = ", ".join(extension for extension, _ in self.others.most_common(NAMES_SHOWN))
        counted = [
            (self.links, "link", " to what is there anyway"),
            (self.hidden, "hidden image", ""),
            (self.outside, "image", " outside of the classes"),
            (self.others.total(), "file", f" of other kinds ({extensions})"),
        ]
        phrases = [f"{count} {kind}{'s' * (count != 1)}{where} left out" for count, kind, where in counted if count]
        if self.folders:
            more = len(self.folders) - NAMES_SHOWN
            shown = ", ".join(f"{name}/" for name in self.folders[:NAMES_SHOWN])
            phrases.append(f"{shown}{f' and {more} more' if more > 0 else ''} left out")
        return phrases


def find_images(
    root: ImageRoot, chosen: Sequence[str] | None = None, follow_all: bool = False
) -> tuple[list[str], Files, LeftOut]:
    """Find the classes of a folder and its image files, both sorted, and what is left out.

    A link is followed unless its target lies in the folder anyway, or contains the folder.

    Args:
        root: has a sub-folder for each class.
        chosen: the sub-folders that are classes, in the order of their indices; None: all of them.
        follow_all: follow every link, and include a file as often as it is met, as version 0.1.0 did.

    Raises:
        ConfigError: there is no class, one has no images, one may not be a class, or a file is in two.
    """
    left_out = LeftOut()
    folder = root.path
    with root.reading():
        entries = list_names_in(folder, junk=follow_all)
        classes = [name for name in entries if (folder / name).is_dir()]
        if follow_all:
            files = [(name, index) for index, label in enumerate(classes) for name in _walk_all(folder, label)]
        else:
            classes = _choose_classes(root, [name for name in classes if not leads_up(folder, name)], chosen)
            _count_outside(folder, classes, left_out)
            if chosen is None:
                check_classes(root, classes)
            files = _Search(root, classes, left_out).run()
    if not classes:
        direct = "; its images lie directly in it" if any(map(is_image, entries)) else ""
        text = f"{folder} has no sub-folders{direct}"
        raise ConfigError(root.problem(text, "make one for each class, named after it"))
    filled = {target for _, target in files}
    empty = [label for index, label in enumerate(classes) if index not in filled]
    if empty:
        text = f"{folder} has sub-folders without images ({' '.join(EXTENSIONS)}): {list_names(empty)}"
        raise ConfigError(root.problem(text, "move them away"))
    return classes, files, left_out


def _choose_classes(root: ImageRoot, folders: list[str], chosen: Sequence[str] | None) -> list[str]:
    """Return the classes: all sub-folders, or the chosen ones."""
    if chosen is None:
        return folders
    if missing := [name for name in chosen if name not in folders]:
        text = f"{root.path} has no folder {list_names(missing)}"
        corrected = [name if name in folders else close_match(name, folders) for name in chosen]
        clear = None not in corrected and len(set(corrected)) == len(corrected)
        suggestion = f"write {CLASSES}={format_value(corrected)}" if clear else f"name some of {list_names(folders)}"
        raise ConfigError(root.problem(text, suggestion, key=CLASSES, topic="unknown"))
    return list(chosen)


def _count_outside(folder: Path, classes: Sequence[str], left_out: LeftOut) -> None:
    """Record what lies beside the classes."""
    with os.scandir(folder) as entries:
        for entry in sorted(entries, key=lambda entry: entry.name):
            if entry.name in classes:
                continue
            if entry.is_dir():
                if not leads_up(folder, entry.name):
                    left_out.folders.append(entry.name)
            elif is_image(entry.name):
                left_out.outside += 1


def _walk_all(folder: Path, label: str) -> list[str]:
    """List the image files below `folder/label`, relative to `folder`, in a fixed order."""
    files = []
    for parent, folders, names in os.walk(folder / label, followlinks=True):
        folders[:] = [name for name in folders if not name.startswith(".")]
        below = Path(parent).relative_to(folder).as_posix()
        files += [f"{below}/{name}" for name in names if is_image(name)]
    return sorted(files)


class _Search:
    """The search for the image files of classes: those that lie in a class first, then those that its links lead to."""

    def __init__(self, root: ImageRoot, classes: Sequence[str], left_out: LeftOut) -> None:
        self.root, self.folder, self.classes, self.left_out = root, root.path, classes, left_out
        self.files: dict[Identity, tuple[str, int]] = {}
        self.entered: set[Identity] = set()
        self.links: list[tuple[str, int]] = []
        self.above = {_identify(parent) for parent in (self.folder.resolve(), *self.folder.resolve().parents)}

    def run(self) -> Files:
        """Return the files by class and name.

        Raises:
            ConfigError: a file or a folder is in two classes.
        """
        for index, label in enumerate(self.classes):
            if (self.folder / label).is_symlink():
                self.links.append((label, index))
            else:
                self.left_out.links += sum(not self._add(name, index) for name in self._enter(label, index))
        inside = set(self.files)  # these need no link
        waiting = 0
        while waiting < len(self.links):  # which may grow: a link may lead to a folder with links
            name, index = self.links[waiting]
            waiting += 1
            for file in self._follow(name, index):
                self.left_out.links += _identify(self.folder / file) in inside or not self._add(file, index)
        return sorted(self.files.values(), key=lambda file: (file[1], file[0]))

    def _add(self, name: str, index: int) -> bool:
        """Add a file; return whether it is new."""
        before, of_class = self.files.setdefault(_identify(self.folder / name), (name, index))
        if of_class != index:
            text = f"{before} and {name} of {self.folder} are the same file in two classes"
            raise ConfigError(self.root.problem(text, "remove one"))
        return before == name

    def _enter(self, start: str, index: int) -> Iterator[str]:
        """Yield the image files below a folder; links are queued."""
        stack = [start]
        while stack:
            below = stack.pop()
            self.entered.add(_identify(self.folder / below))
            with os.scandir(self.folder / below) as entries:
                for entry in sorted(entries, key=lambda entry: entry.name):
                    name = f"{below}/{entry.name}"
                    if is_ignored(entry.name):
                        if entry.is_dir():
                            self.left_out.folders.append(name)
                        self.left_out.hidden += is_image(entry.name.lstrip(".")) and not entry.is_dir()
                    elif entry.is_symlink():
                        self.links.append((name, index))
                    elif entry.is_dir():
                        stack.append(name)
                    elif is_image(entry.name) and entry.is_file():
                        yield name
                    else:
                        self.left_out.others[_kind(entry.name)] += 1

    def _follow(self, name: str, index: int) -> Iterator[str]:
        """Yield the image files that a link leads to."""
        path = self.folder / name
        if path.is_dir():
            identity = _identify(path)
            if identity in self.entered and name in self.classes:
                text = f"{name} of {self.folder} is a link to another class"
                raise ConfigError(self.root.problem(text, "remove one"))
            if identity in self.entered or identity in self.above:
                self.left_out.links += 1
            else:
                yield from self._enter(name, index)
        elif is_image(path.name) and (path.is_file() or not path.exists()):  # a broken link is reported when it is read
            yield name
        else:
            self.left_out.others[_kind(path.name)] += 1


def _kind(name: str) -> str:
    """Return the extension of a file that is not an image; a pipe or device may have the extension of one."""
    return "no regular file" if is_image(name) else Path(name).suffix.lower() or "no extension"


def _identify(path: Path) -> Identity:
    """Identify a file or a folder on the disk, whatever its path; a broken link is identified by itself."""
    try:
        status = path.stat()
    except FileNotFoundError:
        status = path.lstat()
    return status.st_dev, status.st_ino
