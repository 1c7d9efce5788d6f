"""`hydra/launcher=stacked`: jobs that differ in numbers alone are trained as one program, one for each core.

The others run as `hydra/launcher=local` runs them, and one line says why.
"""

import contextlib
import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import psutil

from runner.rundir import layout
from runner.rundir.energy import METRIC as ENERGY
from runner.runs.reproduction import was_in_stack
from runner.sweeps.jobs import JobSpec
from runner.sweeps.launchers.launcher import ResourceRequest
from runner.sweeps.launchers.local import Local
from runner.sweeps.launchers.slots import Slot
from runner.sweeps.launchers.units import Handle, Queue, Single, Stack

log = logging.getLogger("runner")

SEARCHED = "jobs that a search chooses"

MEMORY_SHARE = 0.25
"""Of the free memory, for the weights of all stacks at a time."""

MOST = 128
"""Models of a stack: more save nothing, and each has three open files."""

COPIES = 6
"""Of the weights of a model in a stack: weights, gradients, their parts, two of Adam, an average."""


class Stacked(Local):
    """Trains jobs as stacks on this machine."""

    stacks = True

    def __init__(self) -> None:
        self._resumed: list[list[int]] = []
        self._alone: dict[int, str] = {}
        self._kinds: dict[int, str] = {}
        self._seeds: dict[int, int] = {}
        self._largest = 1
        self._folders = set[Path]()
        self._queue = Queue([])

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
        self._largest = min(MOST, max(2, int(free // max(1, largest))))
        self._queue = Queue(places)
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

    def start(self, specs: Sequence[JobSpec]) -> list["Handle"]:  # type: ignore[override]
        """Divide the jobs into stacks, and start as many as there are places; the others wait."""
        handles: dict[int, Handle] = {}
        by_number = {spec.number: spec for spec in specs}
        self._folders |= {spec.folder.parent for spec in specs}
        for stack, together in self._divide(by_number):
            jobs = [by_number[number] for number in stack]
            unit = Stack(jobs) if together else Single(jobs[0])
            self._queue.add(unit)
            handles |= {number: Handle(number, unit, self._queue) for number in stack}
        self._queue.advance()
        return [handles[spec.number] for spec in specs]

    def close(self) -> None:
        """Remove the folder of the stacks' files if it is empty."""
        for folder in self._folders:
            with contextlib.suppress(OSError):
                (folder / layout.STACKS).rmdir()

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
