"""The seconds of finished epochs: an append-only file beside the journal, so that no checkpoint has a list of all.

Each line has the seconds of one epoch. Lines are appended before the checkpoint of their epochs is written. After a
kill between the two, or a resume from an earlier checkpoint, the file has more lines than the checkpoint has epochs:
the first append cuts them off.
"""

import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

from runner.rundir import journal, layout
from runner.util.files import open_to_append, open_to_read

METRIC = "time/epoch_seconds"
"""The metric that has the same numbers, of logged epochs."""


class EpochSeconds:
    """The file of one run.

    Lines may be missing: the disk lost them without power, or the folder was recovered from MLflow. Then the journal
    has the seconds of logged epochs; those of others are unknown.

    Args:
        folder: the run's folder.
    """

    def __init__(self, folder: Path) -> None:
        self.path, self._journal = folder / layout.EPOCH_SECONDS, folder / layout.JOURNAL
        self._is_cut = False

    def append(self, done: int, seconds: Sequence[float]) -> None:
        """Append the seconds of epochs.

        Args:
            done: the number of epochs before them; the first call removes lines of later ones.
            seconds: of the epochs after these.

        Raises:
            OSError: the file cannot be written, for example because the disk is full, or is a link.
        """
        self.path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with os.fdopen(open_to_append(self.path), "ab") as file:
                if not self._is_cut:
                    self._cut(file, done)
                _write(file, seconds)
        except OSError as error:
            self._is_cut = False  # a part may be written
            raise OSError(error.errno, error.strerror, str(self.path)) from error
        self._is_cut = True

    def read(self, epochs: int) -> list[float]:
        """Return the seconds of the first epochs; NaN where they are unknown."""
        known = _parse(self._content())[:epochs]
        if len(known) < epochs:
            points, _ = journal.read(self._journal, names=(METRIC,))
            logged = {point.step: point.value for point in points}
            known += [logged.get(epoch, math.nan) for epoch in range(len(known) + 1, epochs + 1)]
        return known

    def _content(self) -> bytes:
        if not self.path.exists():
            return b""
        with open_to_read(self.path) as file:
            return file.read()

    def _cut(self, file: BinaryIO, epochs: int) -> None:
        content = self._content()
        if len(_parse(content)) < epochs:
            known = self.read(epochs)
            file.truncate(0)
            _write(file, known)
        else:
            later = content.split(b"\n", epochs)[-1]
            file.truncate(len(content) - len(later))


def _write(file: BinaryIO, seconds: Sequence[float]) -> None:
    file.write("".join(f"{one!r}\n" for one in seconds).encode())


def _parse(content: bytes) -> list[float]:
    """Return the numbers of the complete lines, up to the first that is damaged (zeros after a power loss)."""
    seconds: list[float] = []
    for line in content.split(b"\n")[:-1]:
        try:
            seconds.append(float(line))
        except ValueError:
            break
    return seconds
