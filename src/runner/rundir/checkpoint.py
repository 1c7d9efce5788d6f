"""Checkpoints: tensors and primitives in a zip container, written atomically.

`last.pt` is replaced by renaming a complete file. Earlier ones are `last-1.pt`, `last-2.pt`, ... `best.pt` is a
link to the checkpoint of the best epoch. That of a large model is written by a thread, from a copy.
"""

import contextlib
import logging
import os
import pickle
import zipfile
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch

from runner import __version__
from runner.errors import TrainingError, first_line
from runner.rundir import layout
from runner.rundir.folders import display_path
from runner.util.files import hard_link, open_to_read
from runner.util.primitives import StateError, decode, encode, find_unreadable, without_tensor_data
from runner.util.snapshot import snapshot

log = logging.getLogger("runner")

FORMAT = 2
"""The format that is written. All formats from 1 are read. 2 added the `OPTIONAL` keys."""

KEYS = ("model", "optimizer", "scheduler", "scaler", "ema", "rng", "progress", "format")
OPTIONAL = ("buffers", "loss", "task", "data", "preprocessing", "callbacks")
"""Left out if they are empty."""

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


class CheckpointError(Exception):
    """A checkpoint is missing, or not one of runner; the message names the file."""


class DamagedError(CheckpointError):
    """A checkpoint is damaged; an older one may be intact."""


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
        self._thread = ThreadPoolExecutor(1, "checkpoint")  # it starts with the first task
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
        try:
            encoded = {key: encode(part, key) for key, part in state.items()}
        except StateError as error:
            raise TrainingError(f"{error}, {NOT_SAVABLE}") from error
        copied = snapshot(encoded, LARGE) if not wait else None
        if copied is not None:
            self._writing = self._thread.submit(self._write, copied, best)
        else:
            self._write(encoded, best)

    def wait(self) -> None:
        """Wait until the last checkpoint is written.

        Raises:
            TrainingError: as `save` does; told once.
        """
        if self._writing is not None:
            error = self._writing.exception()
            self._writing = None
            if error is not None:
                raise error

    def _write(self, encoded: dict[str, Any], best: bool) -> None:
        fresh = self.folder / ".last.pt.tmp"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            fresh.unlink(missing_ok=True)
            with fresh.open("xb") as file:  # follows no link
                torch.save(encoded, file)
                file.flush()
                os.fsync(file.fileno())
            if not self._read_back:
                self._read(fresh, encoded)
                self._read_back = True
            self._put_in_place(fresh, best)
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
            load(fresh, mapped=True)
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

    def load_last(self) -> dict[str, Any]:
        """Load the newest checkpoint that is intact; damaged ones are reported.

        Raises:
            CheckpointError: none is intact, and the message names the damaged ones; or the file is not a checkpoint
                of runner, which is not skipped silently.
        """
        damage: list[str] = []
        damaged: list[Path] = []
        ages = range(max(self.keep, 1 + len(list(self.folder.glob("last-*.pt")))))
        # The best is a complete checkpoint too, of an earlier epoch.
        for path in (*map(self._path, ages), self.best):
            if path.exists():
                try:
                    state = load(path)
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
    """Those of a rank that writes none: rank 0 does."""

    def save(self, state: dict[str, Any], best: bool, wait: bool = True) -> None:
        """Write nothing."""


def load(path: Path, mapped: bool = False) -> dict[str, Any]:
    """Load a checkpoint onto the CPU; checksums are verified and no code is run.

    Args:
        path: the file.
        mapped: whether its tensors are pages of the file, of which the system keeps in memory what it has room for: for
            a state that is copied, or only looked at, and then dropped.

    Raises:
        CheckpointError: it is damaged, or holds more than tensors and primitives.
    """
    refused = f"{display_path(path)} holds more than tensors and plain values, which could run code when loaded"
    try:
        open_to_read(path).close()
        # torch.load accepts a container with damaged contents, so the checksums are verified here.
        with zipfile.ZipFile(path) as container:
            damaged = container.testzip()
        if damaged:
            raise DamagedError(f"{display_path(path)} is damaged ({damaged})")
        state = _content(path, mapped)
    except FileNotFoundError:
        raise CheckpointError(f"{display_path(path)} does not exist") from None
    except DamagedError:
        raise
    except (zipfile.BadZipFile, OSError, EOFError, RuntimeError) as error:
        if _is_pickle(path):
            raise CheckpointError(refused) from error
        raise DamagedError(f"{display_path(path)} is damaged ({first_line(error)})") from error
    except Exception as error:  # the unpickler raises many types for a payload that is more than tensors
        raise CheckpointError(refused) from error
    if not isinstance(state, dict) or not is_checkpoint(state):
        raise CheckpointError(f"{display_path(path)} is not a checkpoint of runner")
    return decode_checkpoint(state, path)


def _content(path: Path, mapped: bool) -> Any:
    if mapped:
        with contextlib.suppress(RuntimeError, OSError):  # a file system that maps no files
            return torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    return torch.load(path, map_location="cpu", weights_only=True)


def is_checkpoint(content: Mapping[str, Any]) -> bool:
    """Whether the content of a file is a checkpoint, of any format."""
    return set(KEYS) <= set(content) and isinstance(content["format"], int)


def decode_checkpoint(content: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """Decode the content of a checkpoint into the state that was saved, with the original types.

    Raises:
        CheckpointError: a newer runner wrote it.
    """
    if content["format"] > FORMAT:
        raise CheckpointError(
            f"{display_path(path)} has format {content['format']}, runner {__version__} reads formats 1 to {FORMAT}:"
            f" install a newer runner{_required_version(content)}"
        )
    return {key: decode(part) for key, part in content.items()}


def _required_version(state: Mapping[str, Any]) -> str:
    """Name the version that a newer checkpoint requires, if it has one."""
    version = state.get("version")
    return f", version {version}" if isinstance(version, str) else ""


def _is_pickle(path: Path) -> bool:
    """Whether it is a bare pickle without a container, as older versions of torch wrote."""
    try:
        with open_to_read(path) as file:
            return file.read(1) == pickle.PROTO
    except OSError:
        return False
