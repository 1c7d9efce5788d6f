"""Runs as they are now, read from their folders again and again: only what has changed is read."""

import json
import math
import re
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from runner.rundir import journal, layout
from runner.rundir.lock import is_locked
from runner.rundir.ownership import own_folders
from runner.saved.sweep_folder import is_sweep
from runner.util.files import load_json_or_empty, open_to_read

ENDED = ("FINISHED", "FAILED", "KILLED", "PAUSED")
LOG_BYTES = 1 << 14
POINTS = 400
"""Of a curve: more are thinned out, as a terminal has fewer columns."""

FALL = ("loss", "error", "mae", "rmse", "perplexity")
"""The ends of names of metrics that fall as a model improves; a run says it itself only once it has ended."""

_DATE = re.compile(r"^\d{4}-\d\d-\d\d ([\d:]+)[,\d]* \w+ +")

LOSSES = ("train/loss", "val/loss")
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


@dataclass
class LiveRun:
    """A run.

    Attributes:
        folder: of the run.
        name: that tells it from others: the values of a job, or the name of the folder.
        job: its number, for a job of a sweep.
        status: RUNNING, FINISHED, FAILED, KILLED, PAUSED, or WAITING for a job that has not started.
        epoch: the last one with metrics.
        epochs: planned; 0 if that is not known.
        metric: that decides which epoch is the best.
        curves: steps and values of some metrics, by name.
        best: the best value of the metric so far.
        changed: when its journal last grew, in seconds since 1970.
    """

    folder: Path
    name: str
    job: int | None = None
    status: str = "WAITING"
    epoch: int = 0
    epochs: int = 0
    metric: str = "val/loss"
    curves: dict[str, list[tuple[int, float]]] = field(default_factory=dict)
    changed: float = 0.0
    best: float | None = None
    _offset: int = 0
    _result: float | None = None
    """When the result was written that has been read."""

    @property
    def sweep(self) -> Path | None:
        """The folder of its sweep, if it is a job."""
        return self.folder.parent if self.job is not None else None

    def last(self, metric: str) -> float | None:
        """Return the newest value of a metric; None if there is none."""
        points = self.curves.get(metric)
        return points[-1][1] if points else None

    def refresh(self) -> bool:
        """Read what has changed; return whether something has."""
        config = self.folder / layout.CONFIG
        if not self.epochs and config.exists():
            self._read_config(config)
        grown, before = self._read_journal(), self.status
        if self._has_new_result() or self._result is None:  # without one it may start, end or be resumed
            self.status = self._status(config)
        return grown or self.status != before

    def _status(self, config: Path) -> str:
        outcome = load_json_or_empty(self.folder / layout.JOB).get("status")
        status = load_json_or_empty(self.folder / layout.RESULT).get("status") or outcome
        if status in ENDED:
            return str(status)
        if not config.exists():
            return "WAITING"
        return "RUNNING" if is_locked(self.folder) else "KILLED"

    def _read_config(self, path: Path) -> None:
        try:
            with open_to_read(path) as file:
                config = yaml.load(file, _LOADER)
            self.epochs = int(config["trainer"]["epochs"])
            self.metric = str(config["trainer"]["monitor"])
        except (OSError, ValueError, TypeError, KeyError, yaml.YAMLError):  # it is being written, or of another version
            return

    def _read_journal(self) -> bool:
        path = self.folder / layout.JOURNAL
        try:
            stat = path.stat()
        except OSError:
            return False
        if stat.st_size < self._offset:  # a job that failed has started again
            self.curves, self._offset, self.epoch, self.best = {}, 0, 0, None
        if stat.st_size == self._offset:
            return False
        before = self._offset
        points, self._offset = journal.read(path, before, (*LOSSES, self.metric))
        for point in points:
            curve = self.curves.setdefault(point.name, [])
            curve.append((point.step, point.value))
            if point.name == self.metric and math.isfinite(point.value):
                pick = min if self.metric.endswith(FALL) else max
                self.best = point.value if self.best is None else pick(self.best, point.value)
            self.epoch = max(self.epoch, point.step)
            if len(curve) > 2 * POINTS:
                curve[:] = curve[::2]
        self.changed = stat.st_mtime
        return self._offset > before

    def _has_new_result(self) -> bool:
        """Return whether a result was written, or removed by a resume, since the last call."""
        try:
            written: float | None = (self.folder / layout.RESULT).stat().st_mtime
        except OSError:
            written = None
        changed, self._result = written != self._result, written
        return changed

    def tail(self, lines: int) -> list[str]:
        """Return the last lines of its log, without dates."""
        try:
            with open_to_read(self.folder / layout.LOG) as file:
                file.seek(0, 2)
                file.seek(max(0, file.tell() - LOG_BYTES))
                text = file.read().decode(errors="replace")
            return [_DATE.sub(r"\1 ", line) for line in text.splitlines()[-lines:]]
        except OSError:
            return []


class LiveRuns:
    """The runs of an outputs folder, or the jobs of a sweep.

    Args:
        root: the folder of all outputs, or of a sweep.
        most: only so many runs, the newest.
    """

    def __init__(self, root: Path, most: int = 500) -> None:
        self._root, self._most = root, most
        self.runs: dict[Path, LiveRun] = {}
        self._left_out = set[Path]()
        self._plans: dict[Path, float] = {}
        self._looked = 0.0

    def refresh(self) -> set[Path]:
        """Look for new runs every second, and read what has changed; return the folders of changed runs."""
        now = time.monotonic()
        new: set[Path] = set()
        if now - self._looked >= 1.0:
            self._looked = now
            for run in self._find():
                new.add(run.folder)
                if run.folder in self.runs:  # its sweep has got another axis
                    self.runs[run.folder].name = run.name
                elif run.folder not in self._left_out:
                    self.runs[run.folder] = run
            oldest = sorted(self.runs.values(), key=lambda run: (run.sweep or run.folder).name)
            for run in oldest[: max(0, len(oldest) - self._most)]:
                del self.runs[run.folder]
                self._left_out.add(run.folder)
        changed = {folder for folder, run in self.runs.items() if run.refresh()}
        return changed | (new & self.runs.keys())

    def _find(self) -> Iterator[LiveRun]:
        if is_sweep(self._root):
            yield from self._jobs(self._root)
            return
        for folder in own_folders(self._root / "runs", layout.CONFIG):
            if folder not in self.runs:
                yield LiveRun(folder, folder.name)
        for sweep in own_folders(self._root / "sweeps", layout.SWEEP_PLAN):
            yield from self._jobs(sweep)

    def _jobs(self, sweep: Path) -> Iterator[LiveRun]:
        """Yield the jobs of a sweep whose plan has changed since it was read."""
        try:
            written = (sweep / layout.SWEEP_PLAN).stat().st_mtime
        except OSError:
            return
        if self._plans.get(sweep) == written:
            return
        self._plans[sweep] = written
        jobs: list[Mapping[str, Any]] = load_json_or_empty(sweep / layout.SWEEP_PLAN).get("jobs", [])
        for job in jobs:
            number, name = job.get("number"), job.get("name")
            if isinstance(number, int):
                yield LiveRun(sweep / str(number), str(name or json.dumps(job.get("point", {}))), number)
