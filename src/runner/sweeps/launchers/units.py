"""What runs in a place: a process with the jobs of a stack, or with one job; each job has a handle of its own."""

import contextlib
import logging
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import replace
from multiprocessing.connection import Connection

from runner.errors import describe_error
from runner.sweeps.jobs import JobProgress, JobSpec, StackSpec
from runner.sweeps.launchers.launcher import ExitStatus, LauncherDied
from runner.sweeps.launchers.local import ProcessHandle
from runner.sweeps.launchers.slots import Slot
from runner.util.options import EXIT_FAILED

log = logging.getLogger("runner")

MEMBER_SECONDS = 0.25
"""Seconds that each member of a stack adds to the time in which it must have stopped."""


class Unit:
    """What runs in a place: a stack, or a job.

    Attributes:
        jobs: their specs.
        process: None until it has started, or if it never will.
        cancelled: the numbers of the jobs that never start; the others do.
    """

    def __init__(self, jobs: Sequence[JobSpec]) -> None:
        self.jobs = list(jobs)
        self.process: ProcessHandle | None = None
        self.cancelled = set[int]()
        self.closed = 0
        self.reports: dict[int, deque[JobProgress]] = {job.number: deque() for job in jobs}
        self.codes: dict[int, int] = {}

    @property
    def wanted(self) -> list[JobSpec]:
        """The jobs that are not cancelled."""
        return [job for job in self.jobs if job.number not in self.cancelled]

    def start(self, place: Slot) -> None:
        """Start it in a place."""
        raise NotImplementedError

    def read(self) -> None:
        """Distribute the reports of the process to its jobs."""
        raise NotImplementedError

    def clean_up(self) -> None:
        """Remove what its jobs need no more; the process has ended."""

    def environment(self, place: Slot) -> dict[str, str]:
        """Return the environment variables in a place."""
        return self.jobs[0].environment | place.environment()


class Single(Unit):
    """A job of its own."""

    def __init__(self, job: JobSpec) -> None:
        super().__init__([job])

    def start(self, place: Slot) -> None:
        """Start the process of the job."""
        self.process = ProcessHandle(replace(self.jobs[0], environment=self.environment(place)))

    def read(self) -> None:
        """Take its reports."""
        if self.process is not None:
            self.reports[self.jobs[0].number].extend(self.process.read_progress())


class Stack(Unit):
    """Several jobs in one process."""

    def start(self, place: Slot) -> None:
        """Start the process of the stack."""
        first, jobs = self.jobs[0], self.wanted
        name = str(min(job.number for job in jobs))
        spec = StackSpec(name, first.folder.parent, first.where, self.environment(place), jobs)
        self.file = spec.file
        self.process = ProcessHandle(spec, "runner.sweeps.launchers.stack_worker:main")

    def clean_up(self) -> None:
        """Remove the file of its checkpoints, if all jobs have their own, and an empty log."""
        if all(self.codes.get(job.number) in (0, EXIT_FAILED) for job in self.wanted):
            self.file.unlink(missing_ok=True)
        printed = self.file.with_suffix(".log")
        with contextlib.suppress(OSError):
            if not printed.stat().st_size:
                printed.unlink()

    def read(self) -> None:
        """Distribute the reports and exit codes."""
        if self.process is None:
            return
        for number, report in self.process.read():
            if isinstance(report, JobProgress):
                self.reports[number].append(report)
            else:
                self.codes[number] = report


class Queue:
    """Starts units when places are free."""

    def __init__(self, places: Sequence[Slot]) -> None:
        self.places = list(places)
        self._free, self._waiting = list(places), deque[Unit]()
        self._taken: dict[int, Slot] = {}

    def add(self, unit: Unit) -> None:
        """Add a unit at the end."""
        self._waiting.append(unit)

    def advance(self) -> None:
        """Start the next units while there are free places."""
        while self._free and self._waiting:
            unit = self._waiting.popleft()
            if not unit.wanted:
                continue
            try:
                unit.start(self._free[0])
            except LauncherDied as error:
                log.error("error: %s", describe_error(error))
                unit.cancelled |= {job.number for job in unit.jobs}
                continue
            self._taken[id(unit)] = self._free.pop(0)

    def ended(self, unit: Unit) -> None:
        """Free the place of a unit whose process has ended."""
        if id(unit) in self._taken:
            self._free.append(self._taken.pop(id(unit)))
            self.advance()


class Handle:
    """A job of a unit."""

    def __init__(self, number: int, unit: Unit, queue: Queue) -> None:
        self._number, self._unit, self._queue = number, unit, queue
        self._is_closed = False
        self.grace = ProcessHandle.grace + MEMBER_SECONDS * len(unit.jobs)

    def has_started(self) -> bool:
        """Return whether it has a place."""
        return self._unit.process is not None and self._number not in self._unit.cancelled

    def waitables(self) -> Sequence[Connection | int]:
        """Return those of the process, for the first of its jobs that has not ended: each may be waited for once."""
        process = self._unit.process
        first = next((job.number for job in self._unit.wanted if job.number not in self._unit.codes), None)
        return process.waitables() if process is not None and first == self._number else []

    def read_progress(self) -> Iterator[JobProgress]:
        """Yield its reports since the last call."""
        self._unit.read()
        own = self._unit.reports[self._number]
        while own:
            yield own.popleft()

    def exit_status(self) -> ExitStatus | None:
        """Return its own exit code, or that of the process that ended before it."""
        unit = self._unit
        if self._number in unit.cancelled:
            return ExitStatus(None, "not started")
        if unit.process is None:
            return None
        status = unit.process.exit_status()
        unit.read()
        code = unit.codes.get(self._number)
        return status if code is None else ExitStatus(code, f"exit code {code}")

    def request_stop(self) -> None:
        """Ask the process to stop, with all its jobs; a job that waits for a place never starts, and the others do."""
        if self._unit.process is None:
            self._unit.cancelled.add(self._number)
        elif self._number not in self._unit.cancelled:
            self._unit.process.request_stop()

    def kill(self) -> None:
        """Kill the process, with all its jobs."""
        if self._unit.process is None:
            self._unit.cancelled.add(self._number)
        elif self._number not in self._unit.cancelled:
            self._unit.process.kill()

    def close(self) -> None:
        """Clean up when the last of its jobs has ended."""
        if self._is_closed:
            return
        self._is_closed = True
        self._unit.closed += 1
        if self._unit.closed == len(self._unit.jobs) and self._unit.process is not None:
            self._unit.process.close()
            self._unit.clean_up()
            self._queue.ended(self._unit)
