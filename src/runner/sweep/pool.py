"""The local launcher: a process a job, a fixed number at a time; whatever becomes of one leaves the others alone."""

import contextlib
import os
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing import connection
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerProcess
from typing import Protocol

from runner.errors import ConfigError, first_line
from runner.stopping import Stop
from runner.sweep import warm
from runner.sweep.fate import Fate, judge
from runner.sweep.plan import Job
from runner.sweep.slots import Slot
from runner.sweep.task import Progress, Task

TICK_SECONDS = 0.2
GRACE_SECONDS = 10.0
"""For so long a job that is told to end may write its checkpoint."""


class Watcher(Protocol):
    """Who is told what happens to the jobs."""

    def started(self, job: Job, slot: Slot) -> None:
        """A job begins in a slot."""

    def progress(self, job: Job, progress: Progress) -> None:
        """A job is so far."""

    def ended(self, job: Job, fate: Fate) -> None:
        """A job is over, and its folder is complete."""

    def tick(self) -> None:
        """A moment has passed."""


@dataclass
class _Running:
    """A job in its slot.

    Attributes:
        asked_to_end: why it was told to, if it was.
        pruned: it was told so for want of prospects.
        kill_at: when it is killed if it has not ended by then.
    """

    job: Job
    slot: Slot
    task: Task
    process: ForkServerProcess
    reports: Connection
    started: float
    asked_to_end: str | None = None
    pruned: bool = False
    kill_at: float | None = None


class Pool:
    """Runs jobs in slots.

    Args:
        slots: one job at a time in each.
        prepare: makes a job's folder, and says what its process is to do.
        watcher: who is told.
        stop: a request to end; the jobs are told to.
        timeout: seconds that a job may take; None: as long as it likes.
        stop_on_failure: end them all when one fails.
    """

    def __init__(
        self,
        slots: Sequence[Slot],
        prepare: Callable[[Job, Slot], Task],
        watcher: Watcher,
        stop: Stop,
        timeout: float | None = None,
        stop_on_failure: bool = False,
    ) -> None:
        self._free = list(slots)
        self._prepare, self._watcher, self._stop = prepare, watcher, stop
        self._timeout, self._stop_on_failure = timeout, stop_on_failure
        self._running: list[_Running] = []
        self._failed: str | None = None

    def run(self, jobs: Iterator[Job]) -> None:
        """Run them all: a free slot takes the next at once. A second Ctrl-C kills what runs."""
        try:
            while True:
                while self._free and not self._ending and (job := next(jobs, None)) is not None:
                    self._start(job)
                if not self._running:
                    return
                self._wait()
        except BaseException as error:
            for running in self._running:
                _kill(running.process)
            while self._running:
                self._wait()
            if not isinstance(error, KeyboardInterrupt):
                raise

    def prune(self, number: int, why: str) -> None:
        """Tell a running job to end, as it has no prospects: it counts as finished then."""
        for running in self._running:
            if running.job.number == number and running.asked_to_end is None:
                running.pruned = True
                self._tell_to_end(running, why)

    @property
    def _ending(self) -> str | None:
        """Why no more jobs are started, if that is so."""
        if self._stop.requested:
            return f"stopped by {self._stop.signal.name}"
        return self._failed if self._stop_on_failure else None

    def _start(self, job: Job) -> None:
        slot = self._free[0]
        try:
            task = self._prepare(job, slot)
        except (ConfigError, OSError) as error:  # its folder is in use, the disk is full
            self._watcher.started(job, slot)
            self._over(job, Fate("FAILED", first_line(error), 0.0))
            return
        self._free.remove(slot)
        reports, theirs = warm.pipe()
        process = warm.process("runner.sweep.job:main", task, theirs)
        process.start()
        theirs.close()
        self._running.append(_Running(job, slot, task, process, reports, time.monotonic()))
        self._watcher.started(job, slot)

    def _wait(self) -> None:
        """Wait until something happens, for a moment at most, and see to it."""
        ends = {end: running for running in self._running for end in (running.reports, running.process.sentinel)}
        connection.wait([end for end in ends if not (isinstance(end, Connection) and end.closed)], TICK_SECONDS)
        for running in list(self._running):
            self._listen(running)
            if running.process.exitcode is not None:
                self._end(running)
            else:
                self._enforce(running)
        self._watcher.tick()

    def _listen(self, running: _Running) -> None:
        try:
            while not running.reports.closed and running.reports.poll():
                self._watcher.progress(running.job, running.reports.recv())
        except (EOFError, OSError):  # the job is gone, in the middle of a word maybe
            running.reports.close()

    def _enforce(self, running: _Running) -> None:
        """End a job that is to end: with a signal first, which lets it write a checkpoint."""
        now = time.monotonic()
        if running.kill_at is not None:
            if now >= running.kill_at:
                _kill(running.process)
            return
        why = self._ending
        if why is None and self._timeout is not None and now - running.started >= self._timeout:
            why = f"took longer than sweep.job_timeout={self._timeout:g} s"
        if why is not None:
            self._tell_to_end(running, why)

    def _tell_to_end(self, running: _Running, why: str) -> None:
        running.asked_to_end, running.kill_at = why, time.monotonic() + GRACE_SECONDS
        assert running.process.pid is not None
        with contextlib.suppress(ProcessLookupError):
            os.kill(running.process.pid, signal.SIGTERM)

    def _end(self, running: _Running) -> None:
        seconds = round(time.monotonic() - running.started, 3)
        code = running.process.exitcode
        _kill_group(running.process)  # what it may have left behind: workers of a loader, say
        running.process.join()
        self._running.remove(running)
        running.process.close()
        running.reports.close()
        self._free.append(running.slot)
        self._free.sort(key=lambda slot: slot.number)
        fate = judge(running.task.folder, code, warm.ended_by(code), seconds)
        if running.pruned and fate.status == "KILLED":
            fate = Fate("FINISHED", running.asked_to_end or "", seconds)
        elif running.asked_to_end is not None and fate.status != "FINISHED":
            fate = Fate("KILLED", running.asked_to_end, seconds, wanted=self._ending is not None)
        self._over(running.job, fate)

    def _over(self, job: Job, fate: Fate) -> None:
        if fate.status != "FINISHED" and self._failed is None:
            self._failed = f"stopped, as job {job.number} did not finish (sweep.on_failure=stop)"
        self._watcher.ended(job, fate)


def _kill(process: ForkServerProcess) -> None:
    """Kill a job with everything it has started."""
    _kill_group(process)
    assert process.pid is not None
    with contextlib.suppress(ProcessLookupError):  # it has no group of its own yet
        os.kill(process.pid, signal.SIGKILL)


def _kill_group(process: ForkServerProcess) -> None:
    assert process.pid is not None
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
