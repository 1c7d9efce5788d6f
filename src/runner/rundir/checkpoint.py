"""Checkpoints: tensors and primitives in a zip container, written atomically.

`last.pt` is replaced by renaming a complete file. Earlier ones are `last-1.pt`, `last-2.pt`, ... `best.pt` is a
link to the checkpoint of the best epoch. That of a large model is written by a thread, from a copy.
"""

import contextlib
import logging
import os
import pickle
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import torch

from runner.errors import TrainingError, first_line
from runner.rundir import layout
from runner.rundir.checkpoint_file import CheckpointError, DamagedError, load, remove_unnamed_shards
from runner.rundir.folders import display_path
from runner.util.background import in_background
from runner.util.files import hard_link
from runner.util.primitives import StateError, encode, find_unreadable, without_tensor_data
from runner.util.snapshot import snapshot

log = logging.getLogger("runner")

FRESH = ".last.pt.tmp"
"""The name of a file until it is complete."""

LARGE = 64 << 20
"""The bytes of tensors from which a state is written beside the training: below, a write takes 0.1 s."""


NOT_SAVABLE = (
    "which a checkpoint cannot hold: it holds tensors, NumPy arrays, generators, numbers, texts and containers of them"
)


def find_unsavable(state: Mapping[str, Any]) -> str | None:
    """Describe the part of a state that a checkpoint cannot hold; None if it holds all. Tensors are not copied."""
    try:
        path = find_unreadable({"": without_tensor_data({key: encode(part, key) for key, part in state.items()})})
    except StateError as error:
        return f"{error}, {NOT_SAVABLE}"
    return f"{path.removeprefix('.')}, {NOT_SAVABLE}" if path else None


class Checkpoints:
    """The checkpoints of one run.

    Args:
        folder: their folder; created with the first checkpoint.
        keep: the number of last checkpoints to keep.
        before: called before each write. A run resumes from the checkpoint and measures nothing before it again, so
            all earlier metrics must be on the disk first.
    """

    def __init__(self, folder: Path, keep: int = 1, before: Callable[[], None] = lambda: None) -> None:
        self.folder, self.keep, self._before = folder, keep, before
        self.last, self.best = folder / layout.LAST, folder / layout.BEST
        self._read_back = False
        self._writing: Future[None] | None = None

    def save(self, state: dict[str, Any], best: bool, wait: bool = True) -> None:
        """Write the state as the last checkpoint, and as the best one if `best`. The first one is read back.

        Args:
            state: may change once this returns.
            best: it is the best so far.
            wait: return when it is written. Otherwise a large state is copied, and written by a thread, one at a time.

        Raises:
            TrainingError: it cannot be written, for example because the disk is full, or could not be read again;
                the checkpoint before it is unchanged. Or the one before could not be written.
        """
        self.wait()
        self._before()
        encoded = self._encoded(state)
        copied = snapshot(encoded, LARGE) if not wait else None
        if copied is not None:
            self._writing = in_background(lambda: self._write(copied, best), "checkpoint")
        else:
            self._write(encoded, best)

    def wait(self, seconds: float | None = None) -> None:
        """Wait until the last checkpoint is written.

        Args:
            seconds: the longest wait; None: as long as it takes.

        Raises:
            TrainingError: as `save` does; told once.
            TimeoutError: it is not written yet.
        """
        if self._writing is not None:
            error = self._writing.exception(seconds)
            self._writing = None
            if error is not None:
                raise error

    def _encoded(self, state: Mapping[str, Any]) -> dict[str, Any]:
        try:
            return {key: encode(part, key) for key, part in state.items()}
        except StateError as error:
            raise TrainingError(f"{error}, {NOT_SAVABLE}") from error

    def _write(self, encoded: dict[str, Any], best: bool) -> None:
        fresh = self.folder / FRESH
        with self._explaining(encoded, fresh):
            self._store(encoded, fresh)
            if not self._read_back:
                self._read(fresh, encoded)
                self._read_back = True
            self._put_in_place(fresh, best)

    def _store(self, encoded: dict[str, Any], fresh: Path) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        fresh.unlink(missing_ok=True)
        with fresh.open("xb") as file:  # follows no link
            torch.save(encoded, file)
            file.flush()
            os.fsync(file.fileno())

    @contextlib.contextmanager
    def _explaining(self, encoded: dict[str, Any], fresh: Path) -> Iterator[None]:
        """Explain why a file cannot be written, and remove it."""
        try:
            yield
        except (AttributeError, TypeError, pickle.PicklingError) as error:  # from a user's own tensor class
            fresh.unlink(missing_ok=True)
            raise TrainingError(f"{find_unreadable(encoded) or first_line(error)}, {NOT_SAVABLE}") from error
        except (OSError, RuntimeError) as error:
            # torch hides the OSError of a failed write; and the partial file may be what fills the disk.
            cause = error.__context__ if isinstance(error.__context__, OSError) else error
            fresh.unlink(missing_ok=True)
            reason = getattr(cause, "strerror", None) or first_line(cause)
            intact = f"the last good one is {display_path(self.last)}" if self.last.exists() else "it is the first one"
            raise TrainingError(
                f"a checkpoint cannot be written to {display_path(self.folder)}: {reason}; {intact}"
            ) from error

    def newest(self) -> Path | None:
        """Return the last checkpoint, as the last good one, when it is written; None if there is none yet."""
        self.wait()
        return self.last if self.last.exists() else None

    def _read(self, fresh: Path, encoded: dict[str, Any]) -> None:
        """Check that the written file can be read, so that the result of the training is usable.

        Raises:
            TrainingError: it cannot; the message names the state that causes it.
        """
        try:
            load(fresh, mapped=True, whole=False)
        except CheckpointError as error:
            fresh.unlink(missing_ok=True)
            raise TrainingError(f"{find_unreadable(encoded) or error}, {NOT_SAVABLE}") from error

    def _put_in_place(self, fresh: Path, best: bool) -> None:
        for age in range(self.keep - 1, 0, -1):
            older = self._path(age - 1)
            if older.exists():
                hard_link(older, self._path(age))
        if best:
            # First the best: a kill here repeats the epoch, and this step. In the other order the best would be lost.
            hard_link(fresh, self.best)
        fresh.replace(self.last)
        remove_unnamed_shards(self.folder)

    def load_last(self) -> dict[str, Any]:
        """Load the newest checkpoint that is intact; damaged ones are reported.

        Raises:
            CheckpointError: none is intact, and the message names the damaged ones; or the file is not a checkpoint
                of runner, which is not skipped silently.
        """
        damage: list[str] = []
        damaged: list[Path] = []
        ages = range(max(self.keep, 1 + len(list(self.folder.glob("last-*.pt")))))
        # The best is a complete checkpoint too, of an earlier epoch, unless the others have shards.
        for path in (*map(self._path, ages), self.best):
            if path.exists():
                try:
                    state = load(path)
                    if path == self.best and state["optimizer"] == {}:
                        continue
                except DamagedError as error:
                    damage.append(str(error))
                    damaged.append(path)
                    continue
                for other in damaged:  # otherwise the next write would replace an intact one with it
                    other.replace(other.with_suffix(".damaged"))
                if path != self.last:
                    log.warning("%s; resuming from %s", "; ".join(damage) or "last.pt does not exist", path.name)
                return state
        raise CheckpointError("; ".join(damage) or f"{display_path(self.folder)} has no checkpoint")

    def _path(self, age: int) -> Path:
        return self.last if age == 0 else self.folder / f"last-{age}.pt"


class NoCheckpoints(Checkpoints):
    """Those of a rank that writes none, as rank 0 does."""

    def save(self, state: dict[str, Any], best: bool, wait: bool = True) -> None:
        """Write nothing."""
