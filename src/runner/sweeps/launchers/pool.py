"""Runs jobs in slots: a fixed number at a time, by any launcher; the end of one never affects the others."""

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing import connection
from typing import Protocol

from runner.errors import ConfigError, describe_error, first_line
from runner.rundir.requests import STEERED
from runner.sweeps.jobs import Job, JobOutcome, JobProgress, JobSpec
from runner.sweeps.launchers.launcher import ExitStatus, JobHandle, Launcher, LauncherDied
from runner.sweeps.launchers.slots import Slot
from runner.sweeps.results.outcome import judge
from runner.util.stopping import Stop

TICK_SECONDS = 0.2

NOT_STARTED = "not started: sweep.max_time is over"
"""Why a job ended that was still waiting in the queue of a cluster."""


class PoolListener(Protocol):
    """Receives the events of a pool."""

    def job_started(self, job: Job, slot: Slot) -> None:
        """Handle the start of a job in a slot."""

    def job_progressed(self, job: Job, progress: JobProgress) -> None:
        """Handle a progress report."""

    def job_ended(self, job: Job, outcome: JobOutcome) -> None:
        """Handle the end of a job, whose folder is complete; it may never have started."""

    def tick(self) -> None:
        """Do periodic work: called every 0.2 s or more often."""


@dataclass
class _Running:
    """A job in its slot.

    Attributes:
        started: when it started; None while it waits for resources.
        spent: seconds that it had run before the cluster took its resources back.
        stop_reason: why it was asked to stop; None if it was not.
        pruned: whether its search has asked for that.
        kill_at: when it is killed if it has not ended by then.
    """

    job: Job
    slot: Slot
    spec: JobSpec
    handle: JobHandle
    started: float | None = None
    spent: float = 0.0
    stop_reason: str | None = None
    pruned: bool = False
    kill_at: float | None = None

    @property
    def seconds(self) -> float:
        """Seconds that it has run in all."""
        return self.spent + (0.0 if self.started is None else time.monotonic() - self.started)


class Pool:
    """Runs jobs in slots.

    Args:
        launcher: starts them.
        slots: one job at a time in each.
        prepare: makes a job's folder and returns its spec.
        listener: receives the events.
        stop: a request to stop, passed on to the jobs.
        timeout: seconds that a job may take; None for no limit.
        stop_on_failure: stop all jobs when one fails.
        max_time: seconds after which no job starts; None for no limit.
    """

    def __init__(
        self,
        launcher: Launcher,
        slots: Sequence[Slot],
        prepare: Callable[[Job, Slot], JobSpec],
        listener: PoolListener,
        stop: Stop,
        timeout: float | None = None,
        stop_on_failure: bool = False,
        max_time: float | None = None,
    ) -> None:
        self._launcher, self._free = launcher, list(slots)
        self._prepare, self._listener, self._stop = prepare, listener, stop
        self._timeout, self._stop_on_failure = timeout, stop_on_failure
        self._running: list[_Running] = []
        self._failure: str | None = None
        self._died: LauncherDied | None = None
        self._later = False
        self._max_time, self._start_before = max_time, math.inf

    @property
    def is_late(self) -> bool:
        """Whether it is too late to start a job."""
        return time.monotonic() >= self._start_before

    def run(self, jobs: Iterator[Job | None]) -> None:
        """Run all jobs: a free slot takes the next one at once. A second Ctrl-C kills the running ones.

        Args:
            jobs: a None among them means that there is none at the moment, but may be one later.

        Raises:
            LauncherDied: some have not started; the others have ended.
        """
        if self._max_time is not None:
            self._start_before = time.monotonic() + self._max_time
        try:
            while True:
                self._start(jobs)
                if not self._running and not self._later:
                    if self._died is not None:
                        raise self._died
                    return
                self._wait()
        except BaseException as error:
            for running in self._running:
                running.handle.kill()
            while self._running:
                self._wait()
            if not isinstance(error, KeyboardInterrupt):
                raise

    def runs(self, number: int) -> bool:
        """Return whether a job is under way."""
        return any(running.job.number == number for running in self._running)

    def stop(self, number: int) -> bool:
        """Stop a running job as the user asks for: it writes a checkpoint. Returns whether it runs."""
        for running in self._running:
            if running.job.number == number:
                if running.stop_reason is None:
                    self._request_stop(running, STEERED)
                return True
        return False

    def prune(self, number: int, reason: str) -> None:
        """Stop a running job that its search has given up; it then counts as finished."""
        for running in self._running:
            if running.job.number == number and running.stop_reason is None:
                running.pruned = True
                self._request_stop(running, reason)

    @property
    def _ending(self) -> str | None:
        """Why the whole sweep ends early; None if it does not."""
        if self._stop.requested:
            return f"stopped by {self._stop.signal.name}"
        return self._failure if self._stop_on_failure else None

    def _start(self, jobs: Iterator[Job | None]) -> None:
        """Fill the free slots; the launcher gets their jobs together, which makes them an array on Slurm."""
        prepared: list[tuple[Job, Slot, JobSpec]] = []
        self._later = False
        while self._free and not self._ending and self._died is None and not self.is_late:
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
            except LauncherDied as error:
                self._give_up(error, [job])
            except (ConfigError, OSError) as error:  # its folder is in use, the disk is full
                self._over(job, JobOutcome("FAILED", describe_error(error), 0.0))
        if not prepared:
            return
        try:
            handles = self._launcher.start([spec for _, _, spec in prepared])
        except LauncherDied as error:
            self._free += [slot for _, slot, _ in prepared]
            self._give_up(error, [job for job, _, _ in prepared])
            return
        except ConfigError as error:  # the cluster refuses them
            self._free += [slot for _, slot, _ in prepared]
            for job, _, _ in prepared:
                self._over(job, JobOutcome("FAILED", first_line(error), 0.0))
            return
        self._running += [_Running(*each, handle) for each, handle in zip(prepared, handles, strict=True)]
        self._update_starts()

    def _give_up(self, error: LauncherDied, jobs: Sequence[Job]) -> None:
        """Start no more jobs: the sweep can be resumed."""
        self._died = error
        for job in jobs:
            self._over(job, JobOutcome("KILLED", "could not be started", 0.0, by_request=True))

    def _update_starts(self) -> None:
        """Note which jobs have started, or wait for resources again."""
        for running in self._running:
            has_started = running.handle.has_started()
            if has_started and running.started is None:
                running.started = time.monotonic()
                self._listener.job_started(running.job, running.slot)
            elif not has_started and running.started is not None:  # the cluster has taken its resources back
                running.spent, running.started = running.seconds, None

    def _wait(self) -> None:
        """Wait for an event, 0.2 s at most, and handle it."""
        connection.wait([each for running in self._running for each in running.handle.waitables()], TICK_SECONDS)
        self._update_starts()
        for running in list(self._running):
            for progress in running.handle.read_progress():
                self._listener.job_progressed(running.job, progress)
            if (status := running.handle.exit_status()) is not None:
                self._end(running, status)
            else:
                self._enforce(running)
        self._listener.tick()

    def _enforce(self, running: _Running) -> None:
        """Stop a job if it has to end: by a request first, which lets it write a checkpoint."""
        now = time.monotonic()
        if running.kill_at is not None:
            if now >= running.kill_at:
                running.handle.kill()
            return
        reason = self._ending
        if reason is None and self.is_late and running.started is None and not running.spent:
            reason = NOT_STARTED  # it still waits in the queue of a cluster
        if reason is None and self._timeout is not None and running.seconds >= self._timeout:
            reason = f"took longer than sweep.job_timeout={self._timeout:g} s"
        if reason is not None:
            self._request_stop(running, reason)

    def _request_stop(self, running: _Running, reason: str) -> None:
        running.stop_reason, running.kill_at = reason, time.monotonic() + running.handle.grace
        running.handle.request_stop()

    def _end(self, running: _Running, status: ExitStatus) -> None:
        seconds = round(running.seconds, 3)
        running.handle.close()
        self._running.remove(running)
        self._free.append(running.slot)
        self._free.sort(key=lambda slot: slot.number)
        spec = running.spec
        outcome = judge(spec.folder, status.code, status.description, seconds, spec.pause_after)
        if running.pruned and outcome.status == "KILLED":
            outcome = JobOutcome("FINISHED", running.stop_reason or "", seconds)
        elif running.stop_reason is not None and not outcome.as_planned:
            by_request = self._ending is not None or running.stop_reason == NOT_STARTED
            outcome = JobOutcome("KILLED", running.stop_reason, seconds, by_request)
        self._over(running.job, outcome)

    def _over(self, job: Job, outcome: JobOutcome) -> None:
        if not outcome.as_planned and outcome.reason != STEERED and self._failure is None:
            self._failure = f"stopped because job {job.number} did not finish (sweep.on_failure=stop)"
        self._listener.job_ended(job, outcome)
