"""Checkpoints: tensors and primitives in a zip container, whole or not there at all.

`last.pt` is replaced by renaming a complete file onto it; the ones before it are kept as `last-1.pt`,
`last-2.pt`, ... `best.pt` is a link to the file that was last when its epoch was the best.
"""

import logging
import os
import pickle
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from runner import __version__
from runner.errors import TrainingError, first_line
from runner.rundir import layout
from runner.rundir.folders import display_path
from runner.util.buffers import load_buffers, load_module
from runner.util.files import hard_link
from runner.util.primitives import StateError, decode, encode, find_unreadable, without_tensor_data

log = logging.getLogger("runner")

FORMAT = 2
"""Of what is written now; every format from 1 on is read. 2 added the `OPTIONAL` keys."""

KEYS = ("model", "optimizer", "scheduler", "scaler", "ema", "rng", "progress", "format")
OPTIONAL = ("buffers", "loss", "data", "preprocessing")
"""Absent where they would be empty. The names `task` and `callbacks` are reserved for later formats."""


NOT_HELD = (
    "which a checkpoint cannot hold: it holds tensors, NumPy arrays, generators, numbers, texts and containers of them"
)


def find_unsavable(state: Mapping[str, Any]) -> str | None:
    """What of a state a checkpoint cannot hold, in a sentence; None if it holds all. Large tensors cost nothing."""
    try:
        path = find_unreadable({"": without_tensor_data({key: encode(part, key) for key, part in state.items()})})
    except StateError as error:
        return f"{error}, {NOT_HELD}"
    return f"{path.removeprefix('.')}, {NOT_HELD}" if path else None


class CheckpointError(Exception):
    """A checkpoint is missing, or not one of ours; the sentence names the file."""


class DamagedError(CheckpointError):
    """It cannot be read: another one may be."""


class Checkpoints:
    """The checkpoints of one run.

    Args:
        folder: where they lie; made when the first is written.
        keep: how many of the last ones are kept.
        before: called before each is written: a run goes on from it and measures nothing before it again, so
            whatever was measured must be on the disk too.
    """

    def __init__(self, folder: Path, keep: int = 1, before: Callable[[], None] = lambda: None) -> None:
        self.folder, self.keep, self._before = folder, keep, before
        self.last, self.best = folder / layout.LAST, folder / layout.BEST
        self._read_back = False

    def save(self, state: dict[str, Any], best: bool) -> None:
        """Make the state the last checkpoint, and the best one if it is. The first one is read back at once.

        Raises:
            TrainingError: it cannot be written (the disk is full, say), or it holds what could not be read again;
                the one before it is left as it was.
        """
        self._before()
        fresh = self.folder / ".last.pt.tmp"
        try:
            encoded = {key: encode(part, key) for key, part in state.items()}
        except StateError as error:
            raise TrainingError(f"{error}, {NOT_HELD}") from error
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with fresh.open("wb") as file:
                torch.save(encoded, file)
                file.flush()
                os.fsync(file.fileno())
            if not self._read_back:
                self._read(fresh, encoded)
                self._read_back = True
            self._put_in_place(fresh, best)
        except (AttributeError, TypeError, pickle.PicklingError) as error:  # of a tensor of a class of the user's
            fresh.unlink(missing_ok=True)
            raise TrainingError(f"{find_unreadable(encoded) or first_line(error)}, {NOT_HELD}") from error
        except (OSError, RuntimeError) as error:
            # Of a write that fails, torch tells something else; and what was written may be what fills the disk.
            cause = error.__context__ if isinstance(error.__context__, OSError) else error
            fresh.unlink(missing_ok=True)
            reason = getattr(cause, "strerror", None) or first_line(cause)
            kept = (
                f"the last good one is {display_path(self.last)}" if self.last.exists() else "there is none before it"
            )
            raise TrainingError(
                f"a checkpoint cannot be written to {display_path(self.folder)}: {reason}; {kept}"
            ) from error

    def _read(self, fresh: Path, encoded: dict[str, Any]) -> None:
        """See that what was written can be read: a run that trains to its end must be of use afterwards.

        Raises:
            TrainingError: it cannot; the sentence names the state that is at fault.
        """
        try:
            load(fresh)
        except CheckpointError as error:
            fresh.unlink(missing_ok=True)
            raise TrainingError(f"{find_unreadable(encoded) or error}, {NOT_HELD}") from error

    def _put_in_place(self, fresh: Path, best: bool) -> None:
        for age in range(self.keep - 1, 0, -1):
            older = self._kept(age - 1)
            if older.exists():
                hard_link(older, self._kept(age))
        if best:
            # First: a kill in between repeats the epoch, and with it this; the other way round it would be lost.
            hard_link(fresh, self.best)
        fresh.replace(self.last)

    def load_last(self) -> dict[str, Any]:
        """The newest checkpoint that is whole; says which ones are damaged.

        Raises:
            CheckpointError: there is none, with the damaged ones named; or one that is no checkpoint of ours is in
                its place, which nobody should pass over.
        """
        damage: list[str] = []
        damaged: list[Path] = []
        kept = range(max(self.keep, 1 + len(list(self.folder.glob("last-*.pt")))))
        # The best is a whole checkpoint as well, of an earlier moment.
        for path in (*map(self._kept, kept), self.best):
            if path.exists():
                try:
                    state = load(path)
                except DamagedError as error:
                    damage.append(str(error))
                    damaged.append(path)
                    continue
                for other in damaged:  # or the next one that is written would take a good one's place with it
                    other.replace(other.with_suffix(".damaged"))
                if path != self.last:
                    log.warning("%s; going on from %s", "; ".join(damage) or "there is no last.pt", path.name)
                return state
        raise CheckpointError("; ".join(damage) or f"there is no checkpoint in {display_path(self.folder)}")

    def _kept(self, age: int) -> Path:
        return self.last if age == 0 else self.folder / f"last-{age}.pt"


def load(path: Path) -> dict[str, Any]:
    """Read a checkpoint onto the CPU, with its checksums verified and no code run.

    Raises:
        CheckpointError: it is damaged, or holds more than tensors and primitives.
    """
    refused = (
        f"{display_path(path)} is refused: it holds more than tensors and plain values, which might run as a program"
    )
    try:
        # torch.load accepts a container with damaged contents; its checksums do not.
        with zipfile.ZipFile(path) as container:
            damaged = container.testzip()
        if damaged:
            raise DamagedError(f"{display_path(path)} is damaged ({damaged})")
        state = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise CheckpointError(f"there is no {display_path(path)}") from None
    except DamagedError:
        raise
    except (zipfile.BadZipFile, OSError, EOFError, RuntimeError) as error:
        if _is_pickle(path):
            raise CheckpointError(refused) from error
        raise DamagedError(f"{display_path(path)} is damaged ({first_line(error)})") from error
    except Exception as error:  # what the unpickler raises for a payload that is more than tensors
        raise CheckpointError(refused) from error
    if not isinstance(state, dict) or not is_checkpoint(state):
        raise CheckpointError(f"{display_path(path)} is not a checkpoint of runner")
    return decode_checkpoint(state, path)


def is_checkpoint(content: Mapping[str, Any]) -> bool:
    """Whether what was read is a checkpoint, of whatever format."""
    return set(KEYS) <= set(content) and isinstance(content["format"], int)


def decode_checkpoint(content: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """The state that a checkpoint holds, with values of the types that they had.

    Raises:
        CheckpointError: a newer runner has written it.
    """
    if content["format"] > FORMAT:
        raise CheckpointError(
            f"{display_path(path)} has format {content['format']}, and runner {__version__} reads formats 1 to"
            f" {FORMAT}: it needs a newer runner{_needed(content)}"
        )
    return {key: decode(part) for key, part in content.items()}


def _needed(state: Mapping[str, Any]) -> str:
    """The version that a newer checkpoint asks for, where it names one."""
    version = state.get("version")
    return f", version {version}" if isinstance(version, str) else ""


def _is_pickle(path: Path) -> bool:
    """Whether it is no container, but a bare pickle, as older versions of torch wrote them."""
    try:
        with path.open("rb") as file:
            return file.read(1) == pickle.PROTO
    except OSError:
        return False


def best_weights(state: dict[str, Any]) -> dict[str, Any]:
    """What of a checkpoint is to be evaluated: the averaged weights where there are any."""
    averaged = state["ema"]
    return dict(averaged["weights"] if averaged else state["model"])


def weight_buffers(state: dict[str, Any]) -> dict[str, Any]:
    """The buffers that go with `weights` and are in no `state_dict`, by their names."""
    return dict(state.get("buffers", {}).get("ema" if state["ema"] else "model", {}))


def load_loss(loss: nn.Module, state: Mapping[str, Any]) -> None:
    """Give a loss the state that it had in a checkpoint; without one it is left as it was made."""
    buffers = state.get("buffers", {}).get("loss", {})
    if state.get("loss"):
        load_module(loss, state["loss"], buffers)
    else:
        load_buffers(loss, buffers)
