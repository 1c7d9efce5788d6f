"""Jobs of stacks that wait for a place: each can be cancelled for itself."""

from pathlib import Path
from typing import ClassVar

import pytest

from runner.sweeps.jobs import JobSpec
from runner.sweeps.launchers import units
from runner.sweeps.launchers.slots import Slot
from runner.sweeps.launchers.units import Handle, Queue, Stack


class Process:
    """Stands in for the process of a stack, which ends when it is told to."""

    started: ClassVar[list[list[int]]] = []

    def __init__(self, spec: units.StackSpec, function: str) -> None:
        self.started.append([job.number for job in spec.jobs])

    def exit_status(self) -> None:
        return None

    def read(self) -> list[tuple[int, int]]:
        return []

    def waitables(self) -> list[int]:
        return [7]

    def close(self) -> None:
        pass


def test_a_cancelled_job_leaves_the_others_of_its_stack(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(units, "ProcessHandle", Process)
    monkeypatch.setattr(Process, "grace", 10.0, raising=False)
    monkeypatch.setattr(Process, "started", [])
    queue = Queue([Slot(0, 1)])
    stacks = [
        Stack([JobSpec(n, tmp_path / str(n), b"", str(tmp_path), {}, "", None, None, 1) for n in numbers])
        for numbers in ([0, 1], [2, 3, 4], [5, 6])
    ]
    handles = {job.number: Handle(job.number, stack, queue) for stack in stacks for job in stack.jobs}
    for stack in stacks:
        queue.add(stack)
    queue.advance()
    assert Process.started == [[0, 1]]
    for number in (2, 5, 6):
        handles[number].request_stop()
    assert [handles[number].exit_status() for number in (2, 5)] == [units.ExitStatus(None, "not started")] * 2
    assert handles[3].exit_status() is None
    for number in (0, 1, 2):
        handles[number].close()
    assert Process.started == [[0, 1], [3, 4]]
    assert not handles[2].has_started() and handles[3].has_started()
    assert handles[3].waitables() == [7] and not handles[2].waitables()
    handles[2].kill()  # not its process, which it never had
    for number in (3, 4):
        handles[number].close()
    assert Process.started == [[0, 1], [3, 4]]
