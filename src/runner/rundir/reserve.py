"""Room on the disk that a run keeps for its last words: on a full disk its status could not be written otherwise."""

import contextlib
import os
from pathlib import Path

NAME = ".reserve.tmp"
"""Left over after a kill, it is replaced when the run goes on."""

BYTES = 1 << 14
"""Twice a manifest, which is written as a whole beside the one before."""


class Reserve:
    """A file without content that takes room.

    Args:
        folder: where it is; it exists. Without room for it there is no reserve.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / NAME
        with contextlib.suppress(OSError):
            self.release()
            file = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            try:
                _allocate(file)
            finally:
                os.close(file)

    def release(self) -> None:
        """Give the room back; a second call does nothing."""
        self._path.unlink(missing_ok=True)


def _allocate(file: int) -> None:
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(file, 0, BYTES)
    else:  # macOS
        os.write(file, os.urandom(BYTES))
