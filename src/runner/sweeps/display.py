"""The display of a running sweep: on a terminal a line per running job and a bar, elsewhere a line now and then."""

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
from runner.rundir.manifest import PAUSE
from runner.rundir.requests import STEERED
from runner.sweeps.jobs import Job, JobOutcome, JobProgress
from runner.sweeps.launchers.slots import Slot
from runner.sweeps.results.outcome import last_lines
from runner.sweeps.results.table import describe_values, read_row
from runner.util import events
from runner.util.metric_names import format_metric
from runner.util.tables import format_duration
from runner.util.terminal import can_redraw_lines

log = logging.getLogger("runner")

REFRESH_SECONDS = 0.2
MAX_LINES = 12
"""Lines of running jobs on a terminal; a cluster runs hundreds."""

PLAIN_SECONDS = 60.0
"""Between two lists of the running jobs, without a terminal."""


@dataclass
class _Line:
    """A running job."""

    job: Job
    slot: Slot
    started: float
    progress: JobProgress | None = None

    @property
    def share(self) -> float:
        """The part of the job that is done, from 0 to 0.95: test and plots follow."""
        return 0.95 * self.progress.done / self.progress.epochs if self.progress else 0.0

    def describe(self, metric: str) -> str:
        """Describe its progress: `3 lr=0.1: epoch 4/20, val/loss 0.1234, 12 s left`."""
        text = f"{self.job.number} {self.job.name}: "
        if self.progress is None:
            return text + "starting"
        progress = self.progress
        text += f"epoch {min(int(progress.done) + 1, progress.epochs)}/{progress.epochs}"
        for name in (metric, "val/loss", "train/loss"):
            if name in progress.metrics:
                text += f", {name} {format_metric(name, progress.metrics[name]).strip()}"
                break
        if progress.done >= progress.epochs:
            return text + ", test and plots"
        if progress.done <= 0:
            return text
        seconds = time.monotonic() - self.started
        return text + f", {format_duration(seconds * (progress.epochs - progress.done) / progress.done)} left"


class Display:
    """Shows the progress of a sweep.

    Args:
        folder: of the sweep.
        jobs: the number of jobs to run.
        slots: how many run at a time.
        objectives: of the sweep.
        quiet: show no bars.
    """

    def __init__(
        self, folder: Path, jobs: int, slots: int, objectives: Sequence[Objective], quiet: bool = False
    ) -> None:
        self._folder, self._jobs, self._slots, self._objectives = folder, jobs, slots, objectives
        self._metric = objectives[0].metric
        self._done = 0
        self._lines: dict[int, _Line] = {}
        self._started = self._listed = time.monotonic()
        self._has_bars = sys.stderr.isatty() and can_redraw_lines() and not quiet
        self._is_sent = events.is_heard() and not quiet
        self._bars: list[tqdm] = []
        self._next = 0.0

    def expect(self, jobs: int) -> None:
        """Expect so many jobs in all, more than were known of before."""
        self._jobs = jobs
        if self._bars:
            self._bars[-1].total = jobs

    def job_started(self, job: Job, slot: Slot) -> None:
        """Add a line for the job."""
        self._lines[job.number] = _Line(job, slot, time.monotonic())

    def job_progressed(self, job: Job, progress: JobProgress) -> None:
        """Update the job's line."""
        line = self._lines[job.number]
        metrics = (line.progress.metrics if line.progress else {}) | progress.metrics
        line.progress = JobProgress(progress.done, progress.epochs, metrics)

    def job_ended(self, job: Job, outcome: JobOutcome) -> None:
        """Log a line; for a job that did not finish, also the end of its log."""
        self._lines.pop(job.number, None)
        self._done += 1
        folder = self._folder / str(job.number)
        place = f"{self._done:>{len(str(self._jobs))}}/{self._jobs}"
        head = f"{place}  job {job.number}  {job.name}"
        if outcome.as_planned:
            values = describe_values(read_row(job, folder, self._objectives), self._objectives)
            reason = f"paused {outcome.reason}" if outcome.status == PAUSE else outcome.reason
            parts = [head, values, reason, format_duration(outcome.seconds)]
            log.info("%s", "  ".join(part for part in parts if part))
            return
        log.warning("%s  %s: %s  %s", head, outcome.status, outcome.reason, format_duration(outcome.seconds))
        if outcome.by_request or outcome.reason == STEERED:
            return
        for line in last_lines(folder):
            log.warning("      | %s", line)
        if (folder / layout.LOG).exists():
            log.warning("      log: %s", display_path(folder / layout.LOG))

    def tick(self) -> None:
        """Refresh the display if it is time."""
        now = time.monotonic()
        if self._has_bars:
            if now >= self._next:
                self._next = now + REFRESH_SECONDS
                self._refresh()
        elif self._is_sent:
            if now >= self._next:
                self._next = now + REFRESH_SECONDS
                self._send()
        elif now - self._listed >= PLAIN_SECONDS and self._lines:
            self._listed = now
            for line in self._lines.values():
                log.info("       job %s", line.describe(self._metric))

    def _send(self) -> None:
        """Send the progress to the notebook or script that started the sweep."""
        done = min(self._done + sum(line.share for line in self._lines.values()), self._jobs)
        events.send("progress", done=done, total=self._jobs, unit="job", metrics={})

    def _refresh(self) -> None:
        count = min(self._slots, MAX_LINES)
        if not self._bars:
            self._bars = [self._make_bar(position, is_whole=position == count) for position in range(count + 1)]
        running = list(self._lines.values())
        placed = {line.slot.number: line for line in running} if self._slots == count else dict(enumerate(running))
        for position, bar in enumerate(self._bars[:-1]):
            line = placed.get(position)
            bar.set_description_str(f"  job {line.describe(self._metric)}" if line else "  -")
        whole = self._bars[-1]
        whole.n = min(self._done + sum(line.share for line in running), self._jobs)
        whole.set_description_str(f"{self._done}/{self._jobs} jobs{self._time_left()}")

    def _make_bar(self, position: int, is_whole: bool) -> tqdm:
        """Return the bar of all jobs, or a line of text for a running one."""
        return tqdm(
            total=self._jobs,
            position=position,
            bar_format="{desc} {percentage:3.0f}% {bar}" if is_whole else "{desc}",
            leave=False,
            dynamic_ncols=True,
            file=sys.stderr,
        )

    def _time_left(self) -> str:
        """Estimate the time left from the jobs so far."""
        done = self._done + sum(line.share for line in self._lines.values())
        if done < 0.05:
            return ""
        seconds = time.monotonic() - self._started
        return f", {format_duration(seconds * (self._jobs - done) / done)} left"

    def close(self) -> None:
        """Remove the bars, or send the last progress."""
        if self._is_sent:
            self._send()
        for bar in reversed(self._bars):
            bar.close()
        self._bars = []
