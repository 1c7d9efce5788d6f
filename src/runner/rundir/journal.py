"""The journal of a run: each metric is appended to `metrics.jsonl` first, and uploaded from there."""

import json
import os
import threading
import time
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path

from runner.rundir.points import (
    Curve,
    MetricPoint,
    encode,
    is_named,
    last_steps,
    parse,
    parse_curves,
    select,
    select_step,
)
from runner.util.files import open_to_append, open_to_read, write_atomically

_BLOCK = 1 << 20
"""Bytes that are read at a time."""


class Journal:
    """An append-only file of metrics that stays readable after a kill at any moment.

    A (name, step) is written once, also across resumes: a run that resumes from an earlier checkpoint measures
    the same steps again, and skips what the file has. The steps of a name only increase. So the highest step of
    each name is enough to know what has been written, and memory is one integer per name.

    Args:
        path: the file; an existing one is continued, and an incomplete last line is removed.

    Raises:
        OSError: the file cannot be opened or written (full disk, no permission).
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = threading.Lock()
        self._last_step: dict[str, int] = {}
        self._encoded: dict[str, str] = {}
        self._size = 0
        for block, end in blocks(path):
            self._size = end
            for name, step in last_steps(block).items():
                self._last_step[name] = max(step, self.last_step(name))
        self._file = open_to_append(path)
        os.ftruncate(self._file, self._size)

    def write(self, metrics: Mapping[str, float], step: int) -> None:
        """Append the metrics of one step, except those that were written for this step before.

        All lines go to the kernel in one call, with no buffer in this process: SIGKILL loses nothing.

        Raises:
            OSError: nothing was written, for example because the disk is full.
        """
        now = round(time.time(), 3)
        with self._lock:
            fresh = {name: value for name, value in metrics.items() if step > self.last_step(name)}
            lines = "".join(encode(self._encode(name), value, step, now) for name, value in fresh.items()).encode()
            if not lines:
                return
            self._append(lines)
            self._last_step.update(dict.fromkeys(fresh, step))

    def last_step(self, name: str) -> int:
        """Return the highest step written for a metric; -1 if there is none."""
        return self._last_step.get(name, -1)

    def sync(self) -> None:
        """Wait until everything is on the disk; called before a checkpoint, which refers to the journal."""
        os.fsync(self._file)

    def close(self) -> None:
        """Flush to disk and close; a second call does nothing."""
        with self._lock:
            if self._file >= 0:
                os.fsync(self._file)
                os.close(self._file)
                self._file = -1

    def _append(self, lines: bytes) -> None:
        try:
            written = os.write(self._file, lines)
            while written < len(lines):  # a disk that is nearly full takes a part, the next call raises
                written += os.write(self._file, lines[written:])
        except OSError as error:
            os.ftruncate(self._file, self._size)
            raise OSError(error.errno, error.strerror, str(self.path)) from error
        self._size += len(lines)

    def _encode(self, name: str) -> str:
        if name not in self._encoded:
            self._encoded[name] = json.dumps(name)
        return self._encoded[name]


def rewrite(path: Path, points: Iterable[MetricPoint]) -> None:
    """Write a journal of these points, as if they had been logged one by one."""
    lines = (encode(json.dumps(point.name), point.value, point.step, point.time) for point in points)
    write_atomically(path, "".join(lines))


def read(path: Path, offset: int = 0, names: Collection[str] | None = None) -> tuple[list[MetricPoint], int]:
    """Read the points after a byte offset.

    An incomplete last line, which is being written, is left for the next call.

    Args:
        path: the journal; without the file there are no points.
        offset: where to start.
        names: only these metrics, see `is_named`; much faster than all if they are few.

    Returns:
        The points, and the offset to continue from.
    """
    points: list[MetricPoint] = []
    for block, end in blocks(path, offset):
        offset = end
        if names is None:
            points += parse(block)
        else:
            points += (point for point in parse(select(block, names)) if is_named(point.name, names))
    return points, offset


def read_block(path: Path, offset: int, end: int, size: int) -> tuple[list[MetricPoint], int]:
    """Read the points of complete lines after an offset, of about `size` bytes and not beyond `end`.

    Returns:
        The points, and the offset to continue from; it is the given one at the end.
    """
    if offset < end:
        for lines, after in blocks(path, offset, min(size, end - offset)):
            return (parse(lines), after) if after <= end else ([], offset)
    return [], offset


def read_step(path: Path, step: int) -> list[MetricPoint]:
    """Read the points of a step."""
    found = (point for block, _ in blocks(path) for point in parse(select_step(block, step)))
    return [point for point in found if point.step == step]


def read_curves(path: Path, names: Collection[str]) -> dict[str, Curve]:
    """Read the curves of some metrics, see `is_named`; two to six times as fast as `read`."""
    import numpy as np

    parts: dict[str, list[Curve]] = {}
    for block, _ in blocks(path):
        for name, curve in parse_curves(block, names).items():
            parts.setdefault(name, []).append(curve)
    return {name: Curve(*map(np.concatenate, zip(*curves, strict=True))) for name, curves in parts.items()}


def read_last(path: Path) -> MetricPoint | None:
    """Read the last point; None if there is none."""
    size = path.stat().st_size if path.exists() else 0
    for start in (max(0, size - _BLOCK), 0):  # a line may be cut at its beginning: it is skipped
        if points := read(path, start)[0]:
            return points[-1]
    return None


def blocks(path: Path, offset: int = 0, size: int | None = None) -> Iterator[tuple[bytes, int]]:
    """Yield complete lines, about `size` bytes at a time, without the last newline, and the offset after them."""
    if not path.exists():
        return
    with open_to_read(path) as file:
        file.seek(offset)
        rest = b""
        while block := file.read(size or _BLOCK):
            whole, newline, rest = (rest + block).rpartition(b"\n")
            if newline:
                offset += len(whole) + 1
                yield whole, offset
