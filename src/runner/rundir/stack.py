"""The checkpoints of a stack: those of all its members in one file of the sweep's folder, `stacks/<number>.pt`.

A member's own `last.pt` and `best.pt` are written when it leaves the stack. If the process is killed before, they are
written from this file, before the member is resumed: all members then continue from the same step.
"""

import os
import time
from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch

from runner.errors import ConfigError, Problem, TrainingError, first_line
from runner.rundir import layout
from runner.rundir.checkpoint import NOT_SAVABLE, Checkpoints
from runner.rundir.checkpoint_file import CheckpointError, load
from runner.rundir.folders import display_path
from runner.util.files import load_json_or_empty, open_to_read
from runner.util.nested import replace_tensors
from runner.util.primitives import StateError, encode

FORMAT = 1
SECONDS = 1.0
"""Between two writes of the file, if no member leaves: epochs of small models take milliseconds."""

AT_ONCE = 8
"""Journals that are flushed to the disk at the same time: a file system writes what several wait for together."""

_RNG: dict[int, tuple[Any, Any]] = {}
"""The states of generators, and how they are saved: members with the same ones share a thousand numbers in the file."""


class MemberCheckpoints(Checkpoints):
    """The checkpoints of a member, in memory until they are written.

    Args:
        folder: the arguments are those of `Checkpoints`.
        keep: see there.
        before: see there.
    """

    def __init__(self, folder: Path, keep: int = 1, before: Callable[[], None] = lambda: None) -> None:
        super().__init__(folder, keep, before)
        self.sync = before
        self._latest: deque[dict[str, Any]] = deque(maxlen=keep)
        self._best: dict[str, Any] | None = None
        self._written: dict[str, Any] | None = None

    def save(self, state: dict[str, Any], best: bool, wait: bool = True) -> None:
        """Copy the state, whose tensors are parts of larger ones. Its generators are not copied: no step uses them."""
        try:
            rng = _encoded(state["rng"])
            encoded = {key: encode(part, key) for key, part in state.items() if key != "rng"}
        except StateError as error:
            raise TrainingError(f"{error}, {NOT_SAVABLE}") from error
        # Tensors are views of rows, which a file would contain as a whole.
        copied = replace_tensors(encoded, lambda tensor, _: tensor.detach().clone()) | {"rng": rng}
        self._latest.append(copied)
        if best:
            self._best = copied

    def content(self) -> dict[str, Any] | None:
        """Return the last and the best state, for the file of the stack; None before the first."""
        return {"last": self._latest[-1], "best": self._best} if self._latest else None

    def newest(self) -> Path | None:
        """Write what is in memory, and return the last checkpoint; None if there is none yet."""
        self.write()
        return super().newest()

    def write(self) -> None:
        """Write the checkpoints into the member's folder.

        Raises:
            TrainingError: they cannot be written.
        """
        states = list(self._latest)
        if not states or states[-1] is self._written:
            return
        if self._best is not None and not any(state is self._best for state in states):
            super().save(self._best, best=True)
        for state in states:
            super().save(state, best=state is self._best)
        self._written = states[-1]


class StackFile:
    """The file of a stack.

    Args:
        path: of the file; its folder is made.
    """

    def __init__(self, path: Path) -> None:
        self._path, self._written_at = path, time.monotonic()

    def due(self) -> bool:
        """Return whether the last write was a second ago."""
        return time.monotonic() - self._written_at >= SECONDS

    def write(self, members: Mapping[int, MemberCheckpoints]) -> None:
        """Replace the file; the members' metrics are on the disk before.

        Args:
            members: by the numbers of their jobs, in the order of the stack.

        Raises:
            OSError: it cannot be written, for example because the disk is full.
        """
        contents = {number: content for number, own in members.items() if (content := own.content()) is not None}
        if not contents:
            return
        with ThreadPoolExecutor(AT_ONCE) as pool:
            list(pool.map(lambda own: own.sync(), members.values()))
        self._path.parent.mkdir(exist_ok=True)
        fresh = self._path.with_name(f".{self._path.name}.tmp")
        fresh.unlink(missing_ok=True)
        with fresh.open("xb") as file:  # follows no link
            torch.save({"format": FORMAT, "members": contents}, file)
            file.flush()
            os.fsync(file.fileno())
        fresh.replace(self._path)
        self._written_at = time.monotonic()

    def remove(self) -> None:
        """Remove the file: no member needs it any more."""
        self._path.unlink(missing_ok=True)


def restore(sweep: Path, only: int | None = None) -> list[list[int]]:
    """Write the checkpoints of members whose own are older than those in the files of their stacks.

    Args:
        sweep: the folder of a sweep that does not run.
        only: a job; None: all, after which the files are removed.

    Returns:
        The members of each stack that have not ended, in its order.

    Raises:
        ConfigError: a file is damaged.
    """
    stacks = []
    for path in sorted((sweep / layout.STACKS).glob("*.pt")):
        members = []
        for number, content in _read(path).items():
            folder = sweep / str(number)
            if load_json_or_empty(folder / layout.RESULT).get("status") in ("FINISHED", "FAILED"):
                continue
            members.append(number)
            if folder.is_dir() and only in (None, number) and _is_older(folder, content["last"]):
                _write(folder, content)
        stacks.append(members)
        if only is None:
            path.unlink()
    return stacks


def _read(path: Path) -> dict[int, dict[str, Any]]:
    try:
        open_to_read(path).close()
        content = torch.load(path, map_location="cpu", weights_only=True)
        return dict(content["members"])
    except Exception as error:  # the unpickler raises many types
        text = f"{display_path(path)} is damaged ({first_line(error)})"
        raise ConfigError(Problem("resume", text, "remove it: its jobs then start again", topic="file")) from error


def _is_older(folder: Path, state: Mapping[str, Any]) -> bool:
    """Return whether the last checkpoint in a folder is older than a state."""
    last = folder / layout.CHECKPOINTS / layout.LAST
    try:
        own = load(last, mapped=True)["progress"]
    except CheckpointError:
        return True
    return _position(own) < _position(state["progress"])


def _position(progress: Mapping[str, Any]) -> tuple[int, int, int]:
    return progress["step"], progress["epoch"], progress["batch"]


def _write(folder: Path, content: Mapping[str, Any]) -> None:
    checkpoints = Checkpoints(folder / layout.CHECKPOINTS)
    best, last = content["best"], content["last"]
    if best is not None and _position(best["progress"]) != _position(last["progress"]):
        checkpoints.save(best, best=True)
        best = None
    checkpoints.save(last, best=best is not None)


def _encoded(rng: Mapping[str, Any]) -> Any:
    """Encode states of generators, which are the same object each time, as no step draws."""
    if id(rng) not in _RNG:
        _RNG[id(rng)] = rng, encode(rng, "rng")
    return _RNG[id(rng)][1]
