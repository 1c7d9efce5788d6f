"""Models with and without state that a resume would miss; see `stateful_models`."""

import logging
import random
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from helpers.stateful_models import (
    KINDS,
    PARTS,
    SIBLINGS,
    Attention,
    Base,
    Counter,
    Cycle,
    Dropout,
    ExtraState,
    Global,
    GlobalGenerator,
    Helper,
    Hooked,
    LateGenerator,
    NonPersistent,
    NumpyGenerators,
    OnlyCounts,
    OwnGenerator,
    Plain,
)  # fmt: skip
from helpers.training import divided, exact_state, same, training
from runner.assembly import checks
from runner.data.source import Source
from runner.errors import ConfigError, TrainingError
from runner.loss import CrossEntropy
from runner.rundir.checkpoint_file import load
from runner.training import rehearsal
from runner.training.attributes import Walk, held_generators, restore_generators
from runner.training.compilation import compile_model
from runner.training.hidden import UNSAVED, Watch
from runner.training.loop import fit
from runner.training.rehearsal import Rehearsal
from runner.training.saving import restore
from runner.training.state import Training
from runner.util.rng import seed_all

CASES: dict[str, tuple[Callable[[], dict[str, Any]], set[str]]] = {
    **{kind.__name__: (lambda kind=kind: {"model": kind()}, named) for kind, named in (KINDS | SIBLINGS).items()},
    **PARTS,
}
ENOUGH = [*list(KINDS)[4::5], Cycle, Global, Hooked, OnlyCounts, Attention, GlobalGenerator]


def made(folder: Path, kind: type[Base] | str, epochs: int = 2, **more: Any) -> Training:
    seed_all(0)
    name = kind if isinstance(kind, str) else kind.__name__
    return training(folder / name, epochs=epochs, **CASES[name][0](), **more)


def said(caplog: pytest.LogCaptureFixture) -> set[str]:
    """Return the paths of all notes on hidden state; each note shows at most five of them."""
    records = of_hidden_state(caplog)
    for record in records:
        assert record.getMessage().startswith("note  ") and all(
            path in record.getMessage() for path in record.paths[:5]
        )
    elsewhere = {"elsewhere"} if any(record.risk == "unexplained" for record in records) else set()
    caplog.clear()
    return {path for record in records for path in record.paths} | elsewhere


def of_hidden_state(caplog: pytest.LogCaptureFixture) -> list[Any]:
    return [record for record in caplog.records if getattr(record, "topic", "") == UNSAVED]


@pytest.mark.parametrize(
    "names",
    [pytest.param(list(CASES), marks=pytest.mark.soak, id="all"), [*(k.__name__ for k in ENOUGH), "scheduler"]],
    ids=lambda names: f"{len(names)} of them",
)
def test_models_with_and_without_hidden_state_none_missed_none_accused_wrongly(
    names: list[str], tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert len(CASES) >= 50
    runs = {name: made(tmp_path, name) for name in names}
    watches = {name: Watch(state) for name, state in runs.items()}  # their rehearsals run in parallel
    monkeypatch.setattr("runner.training.hidden.LONGER_SECONDS", 60)
    monkeypatch.setattr("runner.training.hidden.WAIT_SECONDS", 60)
    with caplog.at_level(logging.WARNING):
        for name in names:
            fit(runs[name])
            watches[name].close()
            runs[name].loaders.close()
            matters = all(record.risk != "harmless so far" for record in of_hidden_state(caplog))
            assert said(caplog) == CASES[name][1], name
            assert matters == (name != "OnlyCounts")


def ends(folder: Path, name: str) -> bool:
    """Return whether a run that is stopped after an epoch and resumed ends bit for bit like an uninterrupted one."""
    kind = next((kind for kind in KINDS | SIBLINGS if kind.__name__ == name), Base)
    kind.reset()
    more = {} if name in ("PythonGenerator", "Chain") else {"ema_decay": 0.9}  # these cannot be copied
    whole = made(folder / "whole", name, 3, **more)
    fit(whole)
    kind.reset()
    parts = made(folder / "parts", name, 1, **more)
    fit(parts)
    kind.reset()
    resumed = made(folder / "resumed", name, 3, **more)
    restore(resumed, load(parts.checkpoints.last))
    fit(resumed)
    for state in (whole, parts, resumed):
        state.loaders.close()
    one, other = (exact_state(load(state.checkpoints.last)) for state in (whole, resumed))
    return same(one, other)


SAVED = [NonPersistent, ExtraState, OwnGenerator, NumpyGenerators, LateGenerator, GlobalGenerator]


@pytest.mark.parametrize("name", [kind.__name__ for kind in SAVED])
def test_what_is_kept_ends_bit_for_bit_as_if_it_had_never_stopped(name: str, tmp_path: Path) -> None:
    assert ends(tmp_path, name)


@pytest.mark.soak
@pytest.mark.parametrize("name", CASES)
def test_what_is_not_named_ends_as_if_it_had_never_stopped_and_what_is_named_does_not(
    name: str, tmp_path: Path
) -> None:
    assert ends(tmp_path, name) == (not CASES[name][1] or name == "OnlyCounts")


def test_training_takes_the_same_steps_with_and_without_a_rehearsal(tmp_path: Path) -> None:
    ends = []
    for rehearse in (False, True):
        state = made(tmp_path / str(rehearse), Dropout)
        watch = Watch(state, rehearse)
        fit(state)
        watch.close()
        ends.append(exact_state(load(state.checkpoints.last)))
        assert not state.optimizer._optimizer_step_post_hooks
    assert same(*ends)


def test_without_a_rehearsal_what_changes_is_said_after_the_first_step(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    state = made(tmp_path, Counter)
    watch = Watch(state, rehearse=False)
    seen: list[set[str]] = []
    state.log = lambda metrics, step: seen.append(said(caplog))  # type: ignore[assignment]
    with caplog.at_level(logging.WARNING):
        fit(state)
        watch.close()
    assert seen[0] == {"model.counter"} and not any(seen[1:]), "once, before the end of the first epoch"
    assert not said(caplog)


class Counting(torch.optim.SGD):
    """A learning rate that falls with a count of steps."""

    def __init__(self, params: Any) -> None:
        super().__init__(params, lr=0.1)
        self.count = 0

    def step(self, closure: Any = None) -> Any:
        self.count += 1
        self.param_groups[0]["lr"] = 0.1 / (1 + self.count / 10)
        return super().step(closure)


class CountingLoss(CrossEntropy):
    calls = 0

    def forward(self, outputs: Tensor, targets: Tensor) -> Tensor:
        self.calls += 1
        return super().forward(outputs, targets) * (1 + self.calls / 100)


def test_loss_and_optimizer_are_looked_at_as_well(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    state = training(tmp_path, optimizer=Counting, loss=CountingLoss())
    found = Rehearsal(state)
    verdict = found.verdict(wait=60)
    assert verdict is not None and verdict.missed == {"optimizer.count", "loss.calls"}
    with caplog.at_level(logging.WARNING):
        watch = Watch(state, rehearse=False)
        fit(state)
        watch.close()
    assert "keep it in the optimizer's state" in caplog.text
    assert said(caplog) == {"optimizer.count", "loss.calls"}


class Own(torch.optim.SGD):
    """A user's subclass without changes."""


@pytest.mark.parametrize("kind", [Own, torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW, torch.optim.Adagrad])
@pytest.mark.parametrize("way", [{"fused": True}, {"foreach": True}, {}], ids=str)
def test_what_torch_keeps_in_an_optimizer_for_itself_is_not_named(
    kind: type[torch.optim.Optimizer], way: dict[str, Any], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    state = training(tmp_path, optimizer=lambda params: kind(params, lr=0.01, **way), epochs=1)  # type: ignore[call-arg]
    watch = Watch(state, rehearse=False)
    with caplog.at_level(logging.WARNING):
        fit(state)
        watch.close()
    assert said(caplog) == set()


class Layers(nn.Module):
    """Layers for which torch sets attributes of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.gru = nn.utils.parametrizations.weight_norm(nn.Linear(6, 8)), nn.GRU(8, 8)
        self.attention = nn.TransformerEncoderLayer(8, 2, 8, batch_first=True)
        self.norm, self.last = nn.BatchNorm1d(8), nn.utils.parametrizations.spectral_norm(nn.Linear(8, 3))

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.attention(self.gru(self.first(x).unsqueeze(0))[0])
        return self.last(self.norm(hidden.squeeze(0)))  # type: ignore[no-any-return]


@pytest.mark.parametrize("ema_decay", [None, 0.9])
def test_what_torch_compile_sets_in_a_model_is_not_named(
    ema_decay: float | None, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="eager"))
    state = training(tmp_path, model=Layers(), epochs=1, ema_decay=ema_decay)
    watch = Watch(state)
    with caplog.at_level(logging.WARNING):
        compile_model(state)
        fit(state)
        watch.close()
    torch._dynamo.reset()
    assert said(caplog) == set()


@pytest.fixture
def forks(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The rehearsals that are started; a verdict is waited for."""
    started, fork = list[int](), rehearsal.fork
    monkeypatch.setattr("runner.training.hidden.LONGER_SECONDS", 60)
    monkeypatch.setattr(rehearsal, "fork", lambda *arguments, **more: started.append(1) or fork(*arguments, **more))
    return started


def notes_of(folder: Path, caplog: pytest.LogCaptureFixture, shared: Callable[[], Path], **more: Any) -> list[Any]:
    with caplog.at_level(logging.WARNING):
        state = made(folder, Counter, **more)
        watch = Watch(state, shared=shared)
        fit(state)
        watch.close()
        state.loaders.close()
    notes = [(record.paths, record.risk, record.getMessage()) for record in of_hidden_state(caplog)]
    caplog.clear()
    return notes


UNKNOWN = b'{"missed": ["elsewhere.k"], "derived": [], "unexplained": null}'
DAMAGED = [b"", b"\xff", b"[1]", b'{"missed": 3}', b'{"missed": "k", "derived": [3], "unexplained": {"a": 1}}']


@pytest.mark.parametrize("content", [None, UNKNOWN, *DAMAGED])
def test_the_first_of_several_trainings_rehearses_for_all(
    content: bytes | None, tmp_path: Path, caplog: pytest.LogCaptureFixture, forks: list[int]
) -> None:
    file = tmp_path / "verdict.json"
    first = notes_of(tmp_path / "first", caplog, lambda: file)
    if content is not None:
        file.write_bytes(content)
    second = notes_of(tmp_path / "second", caplog, lambda: file)
    assert first and [paths for paths, *_ in second] == [paths for paths, *_ in first]
    assert len(forks) == (2 if content in DAMAGED else 1)


def test_a_verdict_is_not_left_if_more_code_was_imported_meanwhile_or_with_too_few_steps(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, forks: list[int]
) -> None:
    files = iter([tmp_path / "before.json", tmp_path / "after.json"])
    assert notes_of(tmp_path / "imports", caplog, lambda: next(files))
    assert notes_of(tmp_path / "short", caplog, lambda: tmp_path / "short.json", max_steps=2)
    assert len(forks) == 2 and not list(tmp_path.glob("*.json"))


@pytest.mark.parametrize(("limit", "value"), [("free_host_memory", lambda: 1000), ("LARGEST", 100)])
def test_a_model_that_is_too_large_is_not_rehearsed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: str, value: object
) -> None:
    monkeypatch.setattr(rehearsal, limit, value)
    found = Rehearsal(made(tmp_path, Plain))
    assert not found.running() and found.verdict() is None


def test_large_containers_and_cycles_do_not_take_long() -> None:
    root = Helper()
    root.me, root.many, root.large = root, list(range(1_000_000)), np.zeros(10_000_000)  # type: ignore[attr-defined]
    first = Walk({"root": root}).attributes
    assert set(first) == {"root.calls", "root.many", "root.large"}
    root.many.append(1)  # type: ignore[attr-defined]
    second = Walk({"root": root}).attributes
    assert {name for name in first if first[name] != second[name]} == {"root.many"}


class InAFile(Dataset[Any]):
    """Reads from an open file."""

    def __init__(self, path: Path) -> None:
        np.arange(64 * 7, dtype="f4").tofile(path)
        self.file = path.open("rb", buffering=0)

    def __len__(self) -> int:
        return 64

    def __getitem__(self, index: int) -> Any:
        self.file.seek(28 * index)
        return torch.frombuffer(bytearray(self.file.read(28)), dtype=torch.float32)[:6], index % 3


def test_a_file_that_a_data_set_has_open_is_not_moved_by_a_rehearsal(tmp_path: Path) -> None:
    data_set = InAFile(tmp_path / "samples")
    state = training(tmp_path, splits=divided(Source("own", train=data_set)), in_memory=False)
    data_set.file.seek(5)
    verdict = Rehearsal(state).verdict(wait=60)
    assert verdict is not None and not verdict.missed and verdict.unexplained is None
    assert data_set.file.tell() == 5
    data_set.file.close()


class Thing: ...


class LateThing(Base):
    thing: Any = None

    def factor(self, inputs: Tensor) -> Any:
        self.thing = Thing()
        return 1.0

    def get_extra_state(self) -> Any:
        return {"things": [self.thing]}

    def set_extra_state(self, state: Any) -> None: ...


def test_state_that_no_checkpoint_can_hold_is_refused_before_the_start_or_after_the_first_step(tmp_path: Path) -> None:
    state = training(tmp_path, model=LateThing())
    checks.state({"model": state.model.state_dict()})
    watch = Watch(state, rehearse=False)
    with pytest.raises(TrainingError, match=r"^model._extra_state.things\[0\] is of type .*Thing, which a checkpoint"):
        fit(state)
    watch.close()
    assert state.progress.step <= 1
    with pytest.raises(ConfigError, match=r"^model._extra_state.things\[0\] is of type .*Thing, which a checkpoint"):
        checks.state({"model": state.model.state_dict()})


def test_each_generator_in_lists_within_lists_goes_on() -> None:
    model = torch.nn.Module()
    model.drawn = [[random.Random(0)], [random.Random(1), random.Random(2)]]
    saved = held_generators({"model": model})
    values = [chance.random() for inner in model.drawn for chance in inner]
    restore_generators({"model": model}, saved)
    assert len(saved) == 3 and [chance.random() for inner in model.drawn for chance in inner] == values
