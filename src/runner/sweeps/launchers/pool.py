"""Jobs in slots: a fixed number at a time, on whatever engine; whatever becomes of one leaves the others alone."""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing import connection
from typing import Protocol

from runner.errors import ConfigError, first_line
from runner.sweeps.jobs import Job, JobOutcome, JobProgress, JobSpec
from runner.sweeps.launchers.launcher import ExitStatus, JobHandle, Launcher
from runner.sweeps.launchers.slots import Slot
from runner.sweeps.results.outcome import judge
from runner.util.stopping import Stop

TICK_SECONDS = 0.2


class Watcher(Protocol):
    """Who is told what happens to the jobs."""

    def started(self, job: Job, slot: Slot) -> None:
        """A job begins in a slot."""

    def progress(self, job: Job, progress: JobProgress) -> None:
        """A job is so far."""

    def ended(self, job: Job, fate: JobOutcome) -> None:
        """A job is over, and its folder is complete; it may never have begun."""

    def tick(self) -> None:
        """A moment has passed."""


@dataclass
class _Running:
    """A job in its slot.

    Attributes:
        started: when it began; None while it waits for a place.
        spent: seconds that it has run before, if its place was taken away.
        asked_to_end: why it was told to, if it was.
        pruned: its search has ended it early.
        kill_at: when it is killed if it has not ended by then.
    """

    job: Job
    slot: Slot
    task: JobSpec
    work: JobHandle
    started: float | None = None
    spent: float = 0.0
    asked_to_end: str | None = None
    pruned: bool = False
    kill_at: float | None = None

    @property
    def seconds(self) -> float:
        """That it has run, in all."""
        return self.spent + (0.0 if self.started is None else time.monotonic() - self.started)


class Pool:
    """Runs jobs in slots.

    Args:
        engine: runs them.
        slots: one job at a time in each.
        prepare: makes a job's folder, and says what its process is to do.
        watcher: who is told.
        stop: a request to end; the jobs are told to.
        timeout: seconds that a job may take; None: as long as it likes.
        stop_on_failure: end them all when one fails.
    """

    def __init__(
        self,
        engine: Launcher,
        slots: Sequence[Slot],
        prepare: Callable[[Job, Slot], JobSpec],
        watcher: Watcher,
        stop: Stop,
        timeout: float | None = None,
        stop_on_failure: bool = False,
    ) -> None:
        self._engine, self._free = engine, list(slots)
        self._prepare, self._watcher, self._stop = prepare, watcher, stop
        self._timeout, self._stop_on_failure = timeout, stop_on_failure
        self._running: list[_Running] = []
        self._failed: str | None = None
        self._later = False

    def run(self, jobs: Iterator[Job | None]) -> None:
        """Run them all: a free slot takes the next at once. A second Ctrl-C kills what runs.

        Args:
            jobs: None among them: there is none now, and there may be one a moment later.
        """
        try:
            while True:
                self._start(jobs)
                if not self._running and not self._later:
                    return
                self._wait()
        except BaseException as error:
            for running in self._running:
                running.work.kill()
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

    def _start(self, jobs: Iterator[Job | None]) -> None:
        """Fill the free slots; what goes into them is handed over together, which makes it an array on Slurm."""
        prepared: list[tuple[Job, Slot, JobSpec]] = []
        self._later = False
        while self._free and not self._ending:
            try:
                job = next(jobs)
            except StopIteration:
                break
            if job is None:
                self._later = True
                break
            slot = self._free[0]
            try:
                prepared.append((job, slot, self._prepare(job, slot)))
                self._free.remove(slot)
            except (ConfigError, OSError) as error:  # its folder is in use, the disk is full
                self._over(job, JobOutcome("FAILED", first_line(error), 0.0))
        if not prepared:
            return
        try:
            works = self._engine.start([task for _, _, task in prepared])
        except ConfigError as error:  # the engine refuses what it is asked for
            self._free += [slot for _, slot, _ in prepared]
            for job, _, _ in prepared:
                self._over(job, JobOutcome("FAILED", first_line(error), 0.0))
            return
        self._running += [_Running(*each, work) for each, work in zip(prepared, works, strict=True)]
        self._look_who_began()

    def _look_who_began(self) -> None:
        for running in self._running:
            begun = running.work.begun()
            if begun and running.started is None:
                running.started = time.monotonic()
                self._watcher.started(running.job, running.slot)
            elif not begun and running.started is not None:  # it waits for another place
                running.spent, running.started = running.seconds, None

    def _wait(self) -> None:
        """Wait until something happens, for a moment at most, and see to it."""
        connection.wait([end for running in self._running for end in running.work.ends()], TICK_SECONDS)
        self._look_who_began()
        for running in list(self._running):
            for progress in running.work.heard():
                self._watcher.progress(running.job, progress)
            if (ended := running.work.ended()) is not None:
                self._end(running, ended)
            else:
                self._enforce(running)
        self._watcher.tick()

    def _enforce(self, running: _Running) -> None:
        """End a job that is to end: by asking first, which lets it write a checkpoint."""
        now = time.monotonic()
        if running.kill_at is not None:
            if now >= running.kill_at:
                running.work.kill()
            return
        why = self._ending
        if why is None and self._timeout is not None and running.seconds >= self._timeout:
            why = f"took longer than sweep.job_timeout={self._timeout:g} s"
        if why is not None:
            self._tell_to_end(running, why)

    def _tell_to_end(self, running: _Running, why: str) -> None:
        running.asked_to_end, running.kill_at = why, time.monotonic() + running.work.grace
        running.work.tell_to_end()

    def _end(self, running: _Running, ended: ExitStatus) -> None:
        seconds = round(running.seconds, 3)
        running.work.close()
        self._running.remove(running)
        self._free.append(running.slot)
        self._free.sort(key=lambda slot: slot.number)
        fate = judge(running.task.folder, ended.code, ended.words, seconds)
        if running.pruned and fate.status == "KILLED":
            fate = JobOutcome("FINISHED", running.asked_to_end or "", seconds)
        elif running.asked_to_end is not None and fate.status != "FINISHED":
            fate = JobOutcome("KILLED", running.asked_to_end, seconds, wanted=self._ending is not None)
        self._over(running.job, fate)

    def _over(self, job: Job, fate: JobOutcome) -> None:
        if fate.status != "FINISHED" and self._failed is None:
            self._failed = f"stopped, as job {job.number} did not finish (sweep.on_failure=stop)"
        self._watcher.ended(job, fate)
