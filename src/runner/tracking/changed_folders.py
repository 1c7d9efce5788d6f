"""Find the new files of a folder in which each file is written once: only folders that have changed are read."""

import os
import stat
import time
from collections.abc import Iterator
from pathlib import Path

SETTLED_SECONDS = 3.0
"""A folder that changed later is read again: a file added within the clock's precision does not change its time."""


class ChangedFolders:
    """The folders below a root, with the times at which they were read; links are not followed.

    Args:
        root: may be missing.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self._read: dict[Path, int] = {}
        self._folders = {root}
        self._reading: dict[Path, int] = {}

    def new_files(self) -> Iterator[Path]:
        """Yield the files of each folder that has changed since it was read, in order; some are not new."""
        self._reading = {}
        waiting = sorted(self._folders, reverse=True)
        while waiting:
            folder = waiting.pop()
            try:
                status = folder.lstat()
                changed = status.st_mtime_ns
                if self._read.get(folder) == changed or not stat.S_ISDIR(status.st_mode):
                    continue
                with os.scandir(folder) as entries:
                    visible = [each for each in entries if not each.name.startswith(".")]
            except OSError:  # it is missing
                continue
            found = sorted(visible, key=lambda each: each.name)
            folders = [folder / each.name for each in found if each.is_dir(follow_symlinks=False)]
            waiting += [path for path in reversed(folders) if path not in self._folders]
            self._folders.update(folders)
            if time.time_ns() - changed > SETTLED_SECONDS * 1e9:
                self._reading[folder] = changed
            yield from (folder / each.name for each in found if each.is_file(follow_symlinks=False))

    def done(self) -> None:
        """Note that the files of the last call were handled."""
        self._read |= self._reading
