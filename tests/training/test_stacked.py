"""Several trainings as one program against the same trainings alone."""

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from helpers.training import Log, Stop, divided, exact_state, net, same, training
from runner.config.settings import EarlyStoppingSettings
from runner.errors import TrainingError
from runner.loss import CrossEntropy
from runner.rundir.checkpoint_file import load
from runner.rundir.stack import MemberCheckpoints, StackFile, restore
from runner.scheduler import cosine_restarts
from runner.training.loop import fit
from runner.training.saving import restore as restored
from runner.training.stacked import Member, fit_stacks
from runner.training.state import Interrupted, Training
from runner.util.primitives import decode

Make = Callable[[Path, int], Training]


class Ends:
    """Records how members end, and writes their checkpoints as a run does."""

    def __init__(self) -> None:
        self.reasons: dict[int, str | None] = {}
        self.errors: dict[int, BaseException] = {}

    def member(self, number: int, state: Training) -> Member:
        def end(reason: str | None, error: BaseException | None) -> None:
            state.checkpoints.newest()
            self.reasons[number] = reason
            if error is not None:
                self.errors[number] = error

        return Member(number, state, nullcontext, end)


class Store(StackFile):
    """The file of a stack, which is written each time it may be."""

    def due(self) -> bool:
        return True

    def write(self, members: Sequence[Member]) -> None:  # type: ignore[override]
        super().write({member.number: member.state.checkpoints for member in members})  # type: ignore[misc]


def stackable(state: Training) -> Training:
    checkpoints = state.checkpoints
    state.checkpoints = MemberCheckpoints(checkpoints.folder, checkpoints.keep)
    return state


def in_stack(folder: Path, make: Make, count: int) -> tuple[list[Training], Ends]:
    states = [stackable(make(folder / str(number), number)) for number in range(count)]
    ends = Ends()
    fit_stacks([ends.member(number, state) for number, state in enumerate(states)], Store(folder / "stacks" / "0.pt"))
    assert sorted(ends.reasons) == list(range(count))
    return states, ends


def make(folder: Path, number: int, **changed: Any) -> Training:
    """Trainings with two seeds and several learning rates, momenta and decays."""
    seed = number % 2
    options: dict[str, Any] = {
        "model": net(seed=seed),
        "splits": divided(seed=seed),
        "seed": seed,
        "optimizer": lambda p: torch.optim.SGD(
            p, lr=0.02 * (number + 1), momentum=0.9 * (number % 3 > 0), weight_decay=0.01 * (number % 2)
        ),
        "epochs": 3,
    }
    return training(folder, **(options | changed))


def worst(stacked: Sequence[Training], alone: Sequence[Training]) -> float:
    """Return the largest difference of a weight."""
    pairs = [
        (a, b) for s, t in zip(stacked, alone, strict=True) for a, b in zip(s.parameters, t.parameters, strict=True)
    ]
    return max(float((a - b).detach().abs().max()) for a, b in pairs)


OPTIONS: dict[str, dict[str, Any]] = {
    "sgd": {},
    "nesterov": {"optimizer": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, nesterov=True)},
    "adam": {"optimizer": lambda p: torch.optim.Adam(p, lr=0.01, weight_decay=0.01)},
    "adamw": {"optimizer": lambda p: torch.optim.AdamW(p, lr=0.01, weight_decay=0.1)},
    "clipped": {"clip_norm": 0.3},
    "scheduled by step": {"schedule": lambda optimizer: cosine_restarts(optimizer, 3)},
    "averaged": {"ema_decay": 0.9},
    "fp64": {"precision": "fp64"},
    "at most five steps": {"max_steps": 5},
    "logged by step": {"log_every_steps": 2},
    "validated now and then": {"validate_every_epochs": 2, "log_every_epochs": 2, "checkpoint_every_epochs": 3},
}


@pytest.mark.parametrize("name", OPTIONS)
def test_each_member_is_trained_as_alone(tmp_path: Path, name: str) -> None:
    options = OPTIONS[name]
    stacked, ends = in_stack(tmp_path / "stacked", lambda folder, n: make(folder, n, **options), 5)
    alone = [make(tmp_path / "alone" / str(number), number, **options) for number in range(5)]
    reasons = [fit(state) for state in alone]
    assert list(ends.reasons.values()) == reasons
    assert not ends.errors
    assert worst(stacked, alone) < 2e-6
    for one, other in zip(stacked, alone, strict=True):
        assert isinstance(one.log, Log) and isinstance(other.log, Log)
        ours, theirs = one.log.exact(), other.log.exact()
        assert ours == pytest.approx(theirs, abs=2e-6)
        assert list(ours) == list(theirs)
        assert one.progress.best_epoch == other.progress.best_epoch
        saved, expected = (load(state.checkpoints.last) for state in (one, other))
        assert saved["progress"]["step"] == expected["progress"]["step"]
        assert load(one.checkpoints.best)["progress"]["epoch"] == load(other.checkpoints.best)["progress"]["epoch"]


def test_label_smoothing_differs(tmp_path: Path) -> None:
    def smoothed(folder: Path, number: int) -> Training:
        return make(folder, number, loss=CrossEntropy(label_smoothing=0.1 * number))

    stacked, _ = in_stack(tmp_path / "stacked", smoothed, 3)
    alone = [smoothed(tmp_path / "alone" / str(number), number) for number in range(3)]
    for state in alone:
        fit(state)
    assert worst(stacked, alone) < 2e-6


def test_one_without_patience_leaves_and_one_that_diverges_fails(tmp_path: Path) -> None:
    def of(folder: Path, number: int) -> Training:
        lr = 1e9 if number == 3 else 0.5 if number == 1 else 0.01
        patient = EarlyStoppingSettings(patience=2, min_delta=0.02)
        optimizer = lambda p: torch.optim.SGD(p, lr=lr)  # noqa: E731
        return make(folder, number, optimizer=optimizer, epochs=12, early_stopping=patient)

    stacked, ends = in_stack(tmp_path / "stacked", of, 4)
    alone = [of(tmp_path / "alone" / str(number), number) for number in range(4)]
    reasons = [fit(state) for state in alone[:3]]
    with pytest.raises(TrainingError) as failure:
        fit(alone[3])
    assert [ends.reasons[number] for number in range(3)] == reasons
    assert len({state.progress.epoch for state in stacked[:3]}) > 1  # they left at different epochs
    assert list(ends.errors) == [3]
    assert (
        str(ends.errors[3]).partition(";")[0].split(" in ")[1] == str(failure.value).partition(";")[0].split(" in ")[1]
    )
    assert worst(stacked[:3], alone[:3]) < 2e-6


def test_neither_others_nor_places_change_a_bit(tmp_path: Path) -> None:
    many, _ = in_stack(tmp_path / "many", make, 5)
    few, _ = in_stack(tmp_path / "few", lambda folder, number: make(folder, 4 - 2 * number), 2)
    assert worst(few, [many[4], many[2]]) == 0


# With 29 the stop is seen by the second member at the end of the last epoch, which the first has finished.
@pytest.mark.parametrize("looks", [1, 4, 7, 20, 29])
def test_a_stack_that_is_stopped_resumes_bit_for_bit(tmp_path: Path, looks: int) -> None:
    def whole(folder: Path, number: int) -> Training:
        return make(folder, number, optimizer=lambda p: torch.optim.Adam(p, lr=0.01 + 0.01 * number), ema_decay=0.9)

    expected, _ = in_stack(tmp_path / "whole", whole, 3)
    stop = Stop(after=looks)

    def stopping(folder: Path, number: int) -> Training:
        state = whole(folder, number)
        state.stop = stop
        return state

    _, ends = in_stack(tmp_path / "parts", stopping, 3)
    assert all(isinstance(error, Interrupted) for error in ends.errors.values())
    assert len(ends.errors) == 3

    def resumed(folder: Path, number: int) -> Training:
        state = whole(folder, number)
        assert isinstance(state.log, Log)
        restored(state, load(state.checkpoints.last))
        return state

    found, _ = in_stack(tmp_path / "parts", resumed, 3)
    for one, other in zip(found, expected, strict=True):
        assert same(*(exact_state(load(state.checkpoints.last)) for state in (one, other)))


def test_a_killed_stack_is_restored_from_its_file(tmp_path: Path) -> None:
    """The members' own files are written from it, one step for all, with no more in them than the member's tensors."""
    states = [stackable(make(tmp_path / str(number), number)) for number in range(3)]
    file = Store(tmp_path / "stacks" / "0.pt")
    ends = Ends()
    saved: list[dict[str, Any]] = []

    class Killed(Exception):
        pass

    def write(members: Sequence[Member]) -> None:
        Store.write(file, members)
        saved[:] = [load_content(member) for member in members]
        if members[0].state.progress.epoch == 3:
            raise Killed

    store = SimpleNamespace(write=write, due=lambda: True)
    members = [replace(ends.member(number, state), end=lambda *_: None) for number, state in enumerate(states)]
    with pytest.raises(Killed):
        fit_stacks(members, store)
    assert not any((tmp_path / str(number) / "checkpoints").exists() for number in range(3))
    assert restore(tmp_path) == [[0, 1, 2]]
    assert not list((tmp_path / "stacks").glob("*.pt"))
    for number, expected in enumerate(saved):
        path = tmp_path / str(number) / "checkpoints" / "last.pt"
        assert same(load(path), expected)
        assert path.stat().st_size < 20_000
        assert (path.parent / "best.pt").exists()


def load_content(member: Member) -> dict[str, Any]:
    assert isinstance(member.state.checkpoints, MemberCheckpoints)
    content = member.state.checkpoints.content()
    assert content is not None
    return {key: decode(part) for key, part in content["last"].items()}
