"""A folder of images: its names, without hidden ones and those that other programs leave behind."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from runner.data.image_file import is_image
from runner.errors import ConfigError, Problem, Topic

JUNK = ("__macosx", "@eadir", "#recycle", "$recycle.bin", "system volume information", "lost+found", "__pycache__")
"""Folders of archivers, network disks and systems, in lower case: their images are copies, thumbnails or deleted."""


@dataclass(frozen=True)
class ImageRoot:
    """A folder of images, and the config key that names it.

    Attributes:
        key: `data.path`, `data.val_path` or `data.test_path`.
        path: the folder; for a part inside `data.path` that of the part.
    """

    key: str
    path: Path

    def problem(self, text: str, suggestion: str = "", *, key: str = "", topic: Topic = "data") -> Problem:
        """Make a problem of the folder: its text is `<key>: <text>`.

        Args:
            text: what is wrong.
            suggestion: what to do.
            key: the key that decides, if it is another one.
            topic: its kind.
        """
        return Problem(key or self.key, f"{self.key}: {text}", suggestion, topic=topic)

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Turn errors of the file system into problems.

        Raises:
            ConfigError: a folder cannot be read.
        """
        try:
            yield
        except OSError as error:
            raise ConfigError(unreadable(self.key, error)) from error


def unreadable(key: str, error: OSError) -> Problem:
    """Make the problem of a file or a folder that cannot be read."""
    text = f"{key}: {error.filename} cannot be read ({error.strerror})"
    return Problem(key, text, "make it readable, or remove it", topic="file")


def list_names_in(folder: Path, junk: bool = False) -> list[str]:
    """List the names in a folder, sorted, without hidden ones; those of `JUNK` only if `junk` is True."""
    with os.scandir(folder) as entries:
        return sorted(entry.name for entry in entries if not is_ignored(entry.name, junk))


def is_ignored(name: str, junk: bool = False) -> bool:
    """Whether a name is hidden, or one of `JUNK` unless `junk` is True."""
    return name.startswith(".") or (not junk and name.lower() in JUNK)


def leads_up(folder: Path, name: str) -> bool:
    """Whether a name is a link to its folder, or to one above."""
    folder = folder.resolve()
    return (folder / name).is_symlink() and (folder / name).resolve() in (folder, *folder.parents)


def has_images(folder: Path) -> bool:
    """Whether there is an image anywhere below a folder."""
    return any(is_image(name) for _, _, names in os.walk(folder) for name in names)


def holds_images(folder: Path) -> bool:
    """Whether there is an image directly in a folder."""
    return any(map(is_image, list_names_in(folder)))
