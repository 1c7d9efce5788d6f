"""What a person sees of a sweep: on a terminal a line a running job and a bar over all, elsewhere one now and then."""

import logging
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from runner.comparison.objectives import Objective
from runner.rundir import layout
from runner.rundir.folders import display_path
from runner.sweeps.jobs import Job, JobOutcome, JobProgress
from runner.sweeps.launchers.slots import Slot
from runner.sweeps.results.outcome import last_lines
from runner.sweeps.results.table import read_row, values_in_words
from runner.util.metric_names import format_metric
from runner.util.tables import format_duration
from runner.util.terminal import can_redraw_lines

log = logging.getLogger("runner")

REFRESH_SECONDS = 0.2
MOST_LINES = 12
"""Jobs that have a line of their own on a terminal; a cluster runs hundreds."""

PLAIN_SECONDS = 60.0
"""Without a terminal, what runs is told so often."""


@dataclass
class _Line:
    """A running job."""

    job: Job
    slot: Slot
    started: float
    progress: JobProgress | None = None

    def words(self, metric: str) -> str:
        """How far it is: `3 lr=0.1: epoch 4/20, val/loss 0.1234, 12 s left`."""
        told = f"{self.job.number} {self.job.name}: "
        if self.progress is None:
            return told + "starts"
        progress = self.progress
        told += f"epoch {min(int(progress.done) + 1, progress.epochs)}/{progress.epochs}"
        for name in (metric, "val/loss", "train/loss"):
            if name in progress.metrics:
                told += f", {name} {format_metric(name, progress.metrics[name]).strip()}"
                break
        if progress.done >= progress.epochs:
            return told + ", test and plots"
        seconds = time.monotonic() - self.started
        return told + (
            f", {format_duration(seconds * (progress.epochs - progress.done) / progress.done)} left"
            if progress.done > 0
            else ""
        )


class Display:
    """Watches the jobs of a sweep.

    Args:
        folder: the sweep's.
        jobs: how many there are to run.
        slots: how many run at a time.
        objectives: that the sweep goes by.
        quiet: show no bars.
    """

    def __init__(
        self, folder: Path, jobs: int, slots: int, objectives: Sequence[Objective], quiet: bool = False
    ) -> None:
        self._folder, self._jobs, self._slots, self._objectives = folder, jobs, slots, objectives
        self._metric = objectives[0].metric
        self._done = 0
        self._seconds: list[float] = []
        self._lines: dict[int, _Line] = {}
        self._started = self._told = time.monotonic()
        self._shown = sys.stderr.isatty() and can_redraw_lines() and not quiet
        self._bars: list[tqdm] = []
        self._next = 0.0

    def started(self, job: Job, slot: Slot) -> None:
        """A job begins in a slot."""
        self._lines[job.number] = _Line(job, slot, time.monotonic())

    def progress(self, job: Job, progress: JobProgress) -> None:
        """A job is so far."""
        line = self._lines[job.number]
        metrics = (line.progress.metrics if line.progress else {}) | progress.metrics
        line.progress = JobProgress(progress.done, progress.epochs, metrics)

    def ended(self, job: Job, fate: JobOutcome) -> None:
        """A job is over: a line, and of one that has not finished the end of its log."""
        self._lines.pop(job.number, None)
        self._done += 1
        self._seconds.append(fate.seconds)
        folder = self._folder / str(job.number)
        row = read_row(job, folder, self._objectives)
        place = f"{self._done:>{len(str(self._jobs))}}/{self._jobs}"
        head = f"{place}  job {job.number}  {job.name}"
        if fate.status == "FINISHED":
            told = values_in_words(row, self._objectives)
            value = f"  {told}" if told else ""
            why = f"  {fate.why}" if fate.pruned else ""
            log.info("%s%s%s  %s", head, value, why, format_duration(fate.seconds))
            return
        log.warning("%s  %s: %s  %s", head, fate.status, fate.why, format_duration(fate.seconds))
        if fate.wanted:
            return
        for line in last_lines(folder):
            log.warning("      | %s", line)
        if (folder / layout.LOG).exists():
            log.warning("      log: %s", display_path(folder / layout.LOG))

    def tick(self) -> None:
        """A moment has passed: refresh, if it is time to."""
        now = time.monotonic()
        if not self._shown:
            if now - self._told >= PLAIN_SECONDS and self._lines:
                self._told = now
                for running in self._lines.values():
                    log.info("       job %s", running.words(self._metric))
            return
        if now < self._next:
            return
        self._next = now + REFRESH_SECONDS
        lines = min(self._slots, MOST_LINES)
        if not self._bars:
            plain = "{desc}"
            whole = "{desc} {percentage:3.0f}% {bar}"
            self._bars = [
                tqdm(
                    total=self._jobs,
                    position=position,
                    bar_format=whole if position == lines else plain,
                    leave=False,
                    dynamic_ncols=True,
                    file=sys.stderr,
                )
                for position in range(lines + 1)
            ]
        begun = list(self._lines.values())
        placed = {line.slot.number: line for line in begun} if self._slots == lines else dict(enumerate(begun))
        for position, bar in enumerate(self._bars[:-1]):
            line = placed.get(position)
            bar.set_description_str(f"  job {line.words(self._metric)}" if line else "  -")
        whole_bar = self._bars[-1]
        whole_bar.n = min(self._done + sum(map(self._share, begun)), self._jobs)
        whole_bar.set_description_str(f"{self._done}/{self._jobs} jobs{self._left()}")

    @staticmethod
    def _share(line: _Line) -> float:
        """How much of a job is done."""
        return 0.95 * line.progress.done / line.progress.epochs if line.progress else 0.0

    def _left(self) -> str:
        """The time that is left, as the jobs have taken it so far."""
        done = self._done + sum(map(self._share, self._lines.values()))
        if done < 0.05:
            return ""
        seconds = time.monotonic() - self._started
        return f", {format_duration(seconds * (self._jobs - done) / done)} left"

    def close(self) -> None:
        """Take the bars away."""
        for bar in reversed(self._bars):
            bar.close()
        self._bars = []
