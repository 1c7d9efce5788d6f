"""`hydra/launcher=stacked`: jobs that differ in numbers alone are trained as one program, one for each core.

The others run as `hydra/launcher=local` runs them, and one line says why.
"""

import logging
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from multiprocessing.connection import Connection

import psutil

from runner.errors import describe_error
from runner.rundir import layout
from runner.rundir.energy import METRIC as ENERGY
from runner.runs.reproduction import was_in_stack
from runner.sweeps.jobs import JobProgress, JobSpec, StackSpec
from runner.sweeps.launchers.launcher import ExitStatus, LauncherDied, ResourceRequest
from runner.sweeps.launchers.local import Local, ProcessHandle
from runner.sweeps.launchers.slots import Slot
from runner.util.options import EXIT_FAILED

log = logging.getLogger("runner")

SEARCHED = "jobs that a search chooses"

MEMORY_SHARE = 0.25
"""Of the free memory, for the weights of all stacks at a time."""

COPIES = 6
"""Of the weights of a model in a stack: weights, gradients, their parts, two of Adam, an average."""

MEMBER_SECONDS = 0.25
"""Seconds that each member of a stack adds to the time in which it must have stopped."""


class Stacked(Local):
    """Trains jobs as stacks on this machine."""

    stacks = True

    def __init__(self) -> None:
        self._resumed: list[list[int]] = []
        self._alone: dict[int, str] = {}
        self._kinds: dict[int, str] = {}
        self._seeds: dict[int, int] = {}
        self._largest = 1
        self._queue = _Queue([])

    def resume_stacks(self, stacks: Sequence[Sequence[int]]) -> None:
        """Train these jobs together again, in this order."""
        self._resumed = [list(stack) for stack in stacks]

    def allocate(self, request: ResourceRequest) -> list[Slot]:
        """Divide the machine's cores and GPUs among stacks, and return a slot for each job.

        Raises:
            ConfigError: the machine has fewer.
        """
        places = super().allocate(request)
        metrics = request.settings.metric
        by_energy = ENERGY in (metrics if isinstance(metrics, list) else [metrics])
        for_all = SEARCHED if request.is_search else "sweep.metric=energy/kwh" if by_energy else ""
        for number, info in request.infos.items():
            self._alone[number] = for_all or info.why_alone or ""
            self._kinds[number], self._seeds[number] = info.kind, info.seed
        largest = COPIES * max((info.bytes for info in request.infos.values()), default=0)
        free = MEMORY_SHARE * psutil.virtual_memory().available / len(places)
        self._largest = max(2, int(free // max(1, largest)))
        self._queue = _Queue(places)
        self._report()
        if request.is_search:
            return places
        threads = places[0].threads
        return [Slot(number, threads) for number in range(request.max_jobs)]

    def describe(self, slots: Sequence[Slot]) -> str:
        """Describe how many stacks, or jobs, are trained at a time: `2 stacks at a time, 1 thread each`."""
        return super().describe(self._queue.places).replace("job", "stack", 1)

    def environment(self, slot: Slot) -> dict[str, str]:
        """Return this process's own environment; that of a place follows when a stack starts in it."""
        return super().environment(Slot(slot.number))

    def start(self, specs: Sequence[JobSpec]) -> list["_Handle"]:  # type: ignore[override]
        """Divide the jobs into stacks, and start as many as there are places; the others wait."""
        handles: dict[int, _Handle] = {}
        by_number = {spec.number: spec for spec in specs}
        for stack, together in self._divide(by_number):
            jobs = [by_number[number] for number in stack]
            unit = _Stack(jobs) if together else _Single(jobs[0])
            self._queue.add(unit)
            handles |= {number: _Handle(number, unit, self._queue) for number in stack}
        self._queue.advance()
        return [handles[spec.number] for spec in specs]

    def _divide(self, specs: Mapping[int, JobSpec]) -> Iterator[tuple[list[int], bool]]:
        """Divide jobs: those of a stack that is resumed, then each kind in equal parts for the places.

        Yields:
            The jobs of a process, and whether they are a stack. A job that is resumed is trained as before, in a stack
            of one if need be: otherwise its last bits would differ.
        """
        left = dict.fromkeys(specs)
        for stack in self._resumed:
            if again := [number for number in stack if number in left and not self._why_alone(number)]:
                yield again, True
                left = dict.fromkeys(number for number in left if number not in again)
        by_kind: dict[tuple[str, bool], list[int]] = {}
        for number in left:
            is_resumed = specs[number].config is None
            was_stacked = is_resumed and was_in_stack(specs[number].folder / layout.ENVIRONMENT)
            alone = bool(self._why_alone(number)) or (is_resumed and not was_stacked)
            kind = f"alone {number}" if alone else self._kinds[number]
            by_kind.setdefault((kind, was_stacked and not alone), []).append(number)
        for (_, always), jobs in by_kind.items():
            jobs.sort(key=lambda number: (self._seeds.get(number, 0), number))  # one seed has one copy of the samples
            size = min(-(-len(jobs) // len(self._queue.places)), self._largest)
            parts = [jobs[start : start + size] for start in range(0, len(jobs), size)]
            yield from ((part, always or len(part) > 1) for part in parts)

    def _why_alone(self, number: int) -> str:
        return self._alone.get(number, SEARCHED)

    def _report(self) -> None:
        """Log why jobs are not stacked, a line for each reason."""
        by_reason: dict[str, list[int]] = {}
        for number in self._alone:
            if reason := self._why_alone(number):
                by_reason.setdefault(reason, []).append(number)
        for reason, numbers in by_reason.items():
            jobs = "all jobs" if len(numbers) == len(self._alone) else f"{len(numbers)} of {len(self._alone)} jobs"
            log.info(
                "stacked    %s run one by one, as with hydra/launcher=local: a stack does not support %s", jobs, reason
            )


class _Unit:
    """What runs in a place: a stack, or a job.

    Attributes:
        jobs: their specs.
        process: None until it has started, or if it never will.
    """

    def __init__(self, jobs: Sequence[JobSpec]) -> None:
        self.jobs = list(jobs)
        self.process: ProcessHandle | None = None
        self.cancelled = False
        self.closed = 0
        self.reports: dict[int, deque[JobProgress]] = {job.number: deque() for job in jobs}
        self.codes: dict[int, int] = {}

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


class _Single(_Unit):
    """A job of its own."""

    def __init__(self, job: JobSpec) -> None:
        super().__init__([job])

    def start(self, place: Slot) -> None:
        self.process = ProcessHandle(replace(self.jobs[0], environment=self.environment(place)))

    def read(self) -> None:
        if self.process is not None:
            self.reports[self.jobs[0].number].extend(self.process.read_progress())


class _Stack(_Unit):
    """Several jobs in one process."""

    def start(self, place: Slot) -> None:
        first = self.jobs[0]
        name = str(min(job.number for job in self.jobs))
        spec = StackSpec(name, first.folder.parent, first.where, self.environment(place), self.jobs)
        self.file = spec.file
        self.process = ProcessHandle(spec, "runner.sweeps.launchers.stack_worker:main")

    def clean_up(self) -> None:
        if all(self.codes.get(job.number) in (0, EXIT_FAILED) for job in self.jobs):  # they have their own checkpoints
            self.file.unlink(missing_ok=True)

    def read(self) -> None:
        if self.process is None:
            return
        for number, report in self.process.read():
            if isinstance(report, JobProgress):
                self.reports[number].append(report)
            else:
                self.codes[number] = report


class _Queue:
    """Starts units when places are free."""

    def __init__(self, places: Sequence[Slot]) -> None:
        self.places = list(places)
        self._free, self._waiting = list(places), deque[_Unit]()
        self._taken: dict[int, Slot] = {}

    def add(self, unit: _Unit) -> None:
        """Add a unit at the end."""
        self._waiting.append(unit)

    def advance(self) -> None:
        """Start the next units while there are free places."""
        while self._free and self._waiting:
            unit = self._waiting.popleft()
            if unit.cancelled:
                continue
            try:
                unit.start(self._free[0])
            except LauncherDied as error:
                log.error("error: %s", describe_error(error))
                unit.cancelled = True
                continue
            self._taken[id(unit)] = self._free.pop(0)

    def ended(self, unit: _Unit) -> None:
        """Free the place of a unit whose process has ended."""
        if id(unit) in self._taken:
            self._free.append(self._taken.pop(id(unit)))
            self.advance()


class _Handle:
    """A job of a unit."""

    def __init__(self, number: int, unit: _Unit, queue: _Queue) -> None:
        self._number, self._unit, self._queue = number, unit, queue
        self._is_closed = False
        self.grace = ProcessHandle.grace + MEMBER_SECONDS * len(unit.jobs)

    def has_started(self) -> bool:
        """Return whether its unit has a place."""
        return self._unit.process is not None

    def waitables(self) -> Sequence[Connection | int]:
        """Return those of the process, for the first of its jobs that has not ended: each may be waited for once."""
        process = self._unit.process
        first = next((job.number for job in self._unit.jobs if job.number not in self._unit.codes), None)
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
        if unit.process is None:
            return ExitStatus(None, "not started") if unit.cancelled else None
        status = unit.process.exit_status()
        unit.read()
        code = unit.codes.get(self._number)
        return status if code is None else ExitStatus(code, f"exit code {code}")

    def request_stop(self) -> None:
        """Ask the process to stop, with all its jobs; one that waits for a place never starts."""
        if self._unit.process is None:
            self._unit.cancelled = True
        else:
            self._unit.process.request_stop()

    def kill(self) -> None:
        """Kill the process, with all its jobs."""
        if self._unit.process is None:
            self._unit.cancelled = True
        else:
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
