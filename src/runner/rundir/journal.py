"""The journal of a run: each metric is appended to `metrics.jsonl` first, and uploaded from there."""

import json
import os
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from runner.util.files import write_atomically

_CHUNK = 1 << 20


class MetricPoint(NamedTuple):
    """One value of a metric; `time` is in seconds since the epoch, to the millisecond (MLflow's resolution)."""

    name: str
    value: float
    step: int
    time: float


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
        for points, end in _chunks(path, 0) if path.exists() else ():
            self._size = end
            for point in points:
                self._last_step[point.name] = max(point.step, self.last_step(point.name))
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
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
            lines = "".join(_line(self._encode(name), value, step, now) for name, value in fresh.items()).encode()
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
    lines = (_line(json.dumps(point.name), point.value, point.step, point.time) for point in points)
    write_atomically(path, "".join(lines))


def _line(name: str, value: float, step: int, seconds: float) -> str:
    return f'{{"name": {name}, "value": {json.dumps(float(value))}, "step": {step:d}, "time": {seconds!r}}}\n'


def read(path: Path, offset: int = 0) -> tuple[list[MetricPoint], int]:
    """Read the points after a byte offset.

    An incomplete last line, which is being written, is left for the next call.

    Returns:
        The points, and the offset to continue from.
    """
    points: list[MetricPoint] = []
    for chunk, end in _chunks(path, offset) if path.exists() else ():
        points += chunk
        offset = end
    return points, offset


def _chunks(path: Path, offset: int) -> Iterator[tuple[list[MetricPoint], int]]:
    """Yield the points of complete lines, a megabyte at a time, and the offset after them."""
    with path.open("rb") as file:
        file.seek(offset)
        rest = b""
        while block := file.read(_CHUNK):
            whole, newline, rest = (rest + block).rpartition(b"\n")
            if newline:
                offset += len(whole) + 1
                points = (_point(line) for line in whole.split(b"\n"))
                yield [point for point in points if point is not None], offset


def _point(line: bytes) -> MetricPoint | None:
    """Parse a line. A damaged line (zeros after a power loss) is skipped."""
    try:
        record = json.loads(line)
        return MetricPoint(record["name"], float(record["value"]), int(record["step"]), float(record["time"]))
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
