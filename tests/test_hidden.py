"""Twenty models with and without state that a resume would miss; see `KINDS`."""

import logging
import random
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from runner import checks, rehearsal
from runner.attributes import Walk
from runner.checkpoint import load
from runner.data.source import Source
from runner.errors import ConfigError, TrainingError
from runner.hidden import Watch
from runner.loop import fit
from runner.loss import CrossEntropy
from runner.rehearsal import Rehearsal
from runner.training import Training, restore
from training import divided, exact_state, net, same, training


class Base(nn.Module):
    """Scales its inputs by what `factor` gives, which the models below make of state that they have."""

    def __init__(self) -> None:
        super().__init__()
        self.net = net()
        self.set_up()

    def set_up(self) -> None: ...

    def factor(self, inputs: Tensor) -> Any:
        return 1.0

    def forward(self, inputs: Tensor) -> Tensor:
        return self.net(inputs * self.factor(inputs))


class Plain(Base): ...


class Dropout(Base):
    def set_up(self) -> None:
        self.net = nn.Sequential(nn.Linear(6, 16), nn.BatchNorm1d(16), nn.Dropout(0.3), nn.Linear(16, 3))


class Counter(Base):
    def set_up(self) -> None:
        self.counter = 0

    def factor(self, inputs: Tensor) -> Any:
        self.counter += self.training
        return 1 + self.counter / 100


class DeepCounter(Base):
    def set_up(self) -> None:
        self.parts = nn.ModuleList([Counter()])

    def factor(self, inputs: Tensor) -> Any:
        return self.parts[0].factor(inputs)


class TensorAttribute(Base):
    def set_up(self) -> None:
        self.mean = torch.zeros(6)

    def factor(self, inputs: Tensor) -> Any:
        self.mean = 0.9 * self.mean + 0.1 * inputs.mean(0)
        return 1 + self.mean


class ArrayInPlace(Base):
    def set_up(self) -> None:
        self.seen = np.zeros(3)

    def factor(self, inputs: Tensor) -> Any:
        self.seen += 0.01
        return 1 + float(self.seen[0])


class History(Base):
    def set_up(self) -> None:
        self.history: list[float] = []

    def factor(self, inputs: Tensor) -> Any:
        self.history.append(inputs.mean().item())
        return 1 + sum(self.history) / 100


class Memory(Base):
    def set_up(self) -> None:
        self.memory: dict[str, Any] = {"means": {}}

    def factor(self, inputs: Tensor) -> Any:
        self.memory["means"][len(self.memory["means"])] = inputs.mean()
        return 1 + len(self.memory["means"]) / 50


class Helper:
    def __init__(self) -> None:
        self.calls = 0


class InHelper(Base):
    def set_up(self) -> None:
        self.helper = Helper()

    def factor(self, inputs: Tensor) -> Any:
        self.helper.calls += 1
        return 1 + self.helper.calls / 50


class InPlainList(Base):
    """BatchNorm in a list that is no ModuleList: nothing of it is registered."""

    def set_up(self) -> None:
        self.layers = [nn.BatchNorm1d(6, momentum=0.5)]

    def factor(self, inputs: Tensor) -> Any:
        self.layers[0](inputs)
        return 1 + self.layers[0].running_mean


class NonPersistent(Base):
    def set_up(self) -> None:
        self.register_buffer("seen", torch.zeros(()), persistent=False)

    def factor(self, inputs: Tensor) -> Any:
        self.seen += 0.01
        return 1 + self.seen


class ExtraState(Counter):
    def get_extra_state(self) -> Any:
        return {"counter": np.int64(self.counter)}

    def set_extra_state(self, state: Any) -> None:
        self.counter = int(state["counter"])


class OwnGenerator(Base):
    def set_up(self) -> None:
        self.drawn = torch.Generator().manual_seed(1)

    def factor(self, inputs: Tensor) -> Any:
        return 1 + torch.rand(inputs.shape, generator=self.drawn) / 5


class NumpyGenerators(Base):
    def set_up(self) -> None:
        self.drawn = {"new": np.random.default_rng(1), "old": np.random.RandomState(1), "python": random.Random(1)}

    def factor(self, inputs: Tensor) -> Any:
        return 1 + self.drawn["new"].normal() / 9 + self.drawn["old"].normal() / 9 + self.drawn["python"].random() / 9


class LateGenerator(Base):
    def set_up(self) -> None:
        self.drawn: torch.Generator | None = None

    def factor(self, inputs: Tensor) -> Any:
        self.drawn = self.drawn or torch.Generator().manual_seed(1)
        return 1 + torch.rand(inputs.shape, generator=self.drawn) / 5


class LastActivations(Base):
    def forward(self, inputs: Tensor) -> Tensor:
        self.features = self.net(inputs)
        self.last, self.norm = self.features.detach(), self.features.norm().item()
        return self.features


class Cache(Base):
    """What it makes when it is first called is the same each time."""

    def set_up(self) -> None:
        self.positions: Tensor | None = None
        self.by_size: dict[int, Tensor] = {}

    def factor(self, inputs: Tensor) -> Any:
        if self.positions is None:
            self.positions = torch.linspace(0.9, 1.1, inputs.shape[1])
        return self.by_size.setdefault(inputs.shape[1], self.positions)


class SpectralNorm(Base):
    def set_up(self) -> None:
        torch.manual_seed(0)
        self.net = nn.Sequential(torch.nn.utils.spectral_norm(nn.Linear(6, 16)), nn.ReLU(), nn.Linear(16, 3))


class OfTheClass(Base):
    """A counter that no object has."""

    calls: ClassVar[list[int]] = []

    def factor(self, inputs: Tensor) -> Any:
        type(self).calls.append(1)
        return 1 + len(self.calls) / 100


class Later(Base):
    """Moves only when an epoch's validation has been: not within two steps."""

    def set_up(self) -> None:
        self.stage = 0

    def factor(self, inputs: Tensor) -> Any:
        if not self.training and inputs.shape[0] < 32:
            self.stage += 1
        return 1 + self.stage / 10


KINDS: dict[type[Base], set[str]] = {
    Plain: set(),
    Dropout: set(),
    Counter: {"model.counter"},
    DeepCounter: {"model.parts.0.counter"},
    TensorAttribute: {"model.mean"},
    ArrayInPlace: {"model.seen"},
    History: {"model.history"},
    Memory: {"model.memory"},
    InHelper: {"model.helper.calls"},
    InPlainList: {"model.layers[0].running_mean", "model.layers[0].running_var", "model.layers[0].num_batches_tracked"},
    NonPersistent: set(),
    ExtraState: set(),
    OwnGenerator: set(),
    NumpyGenerators: set(),
    LateGenerator: set(),
    LastActivations: set(),
    Cache: set(),
    SpectralNorm: set(),
    OfTheClass: {"elsewhere"},
    Later: {"model.stage"},
}
"""The models, and what is to be said of them."""


def made(folder: Path, kind: type[Base], epochs: int = 2, **more: Any) -> Training:
    torch.manual_seed(0)
    return training(folder / kind.__name__, model=kind(), epochs=epochs, **more)


def said(caplog: pytest.LogCaptureFixture) -> set[str]:
    """The paths that notes name."""
    notes = [m.removeprefix("note").strip() for m in caplog.messages if m.startswith("note")]
    paths = {path for note in notes if " is in no checkpoint" in note
             for path in note.partition(" changes in ")[0].split(", ")}  # fmt: skip
    elsewhere = {"elsewhere"} if any("no attribute explains it" in note for note in notes) else set()
    caplog.clear()
    return paths | elsewhere


@pytest.mark.parametrize("every", [pytest.param(1, marks=pytest.mark.soak), 5])
def test_twenty_models_none_missed_none_accused_wrongly(
    every: int, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert len(KINDS) == 20
    kinds = list(KINDS)[every - 1 :: every]
    runs = {kind: made(tmp_path, kind) for kind in kinds}
    watches = {kind: Watch(t) for kind, t in runs.items()}  # their rehearsals work side by side
    monkeypatch.setattr("runner.hidden.LONGER_SECONDS", 60)
    monkeypatch.setattr("runner.hidden.WAIT_SECONDS", 60)
    with caplog.at_level(logging.WARNING):
        for kind in kinds:
            OfTheClass.calls.clear()
            fit(runs[kind])
            watches[kind].close()
            assert said(caplog) == KINDS[kind], kind


@pytest.mark.parametrize("kind", [NonPersistent, ExtraState, OwnGenerator, NumpyGenerators, LateGenerator])
def test_what_is_kept_ends_bit_for_bit_as_if_it_had_never_stopped(kind: type[Base], tmp_path: Path) -> None:
    whole, parts = made(tmp_path / "whole", kind, 3, ema_decay=0.9), made(tmp_path / "parts", kind, 1, ema_decay=0.9)
    fit(whole)
    fit(parts)
    resumed = made(tmp_path / "resumed", kind, 3, ema_decay=0.9)
    restore(resumed, load(parts.checkpoints.last))
    fit(resumed)
    one, other = (exact_state(load(t.checkpoints.last)) for t in (whole, resumed))
    assert same(one, other), [key for key in one if not same(one[key], other[key])]


def test_training_takes_the_same_steps_with_and_without_a_rehearsal(tmp_path: Path) -> None:
    ends = []
    for rehearse in (False, True):
        t = made(tmp_path / str(rehearse), Dropout)
        watch = Watch(t, rehearse)
        fit(t)
        watch.close()
        ends.append(exact_state(load(t.checkpoints.last)))
        assert not t.optimizer._optimizer_step_post_hooks
    assert same(*ends)


def test_without_a_rehearsal_what_changes_is_said_after_the_first_step(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    t = made(tmp_path, Counter)
    watch = Watch(t, rehearse=False)
    seen: list[set[str]] = []
    t.log = lambda metrics, step: seen.append(said(caplog))  # type: ignore[assignment]
    with caplog.at_level(logging.WARNING):
        fit(t)
        watch.close()
    assert seen[0] == {"model.counter"} and not any(seen[1:]), "before the first epoch's end, and once"
    assert not said(caplog)


class Counting(torch.optim.SGD):
    """Has a rate that falls with a count of its own."""

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
    t = training(tmp_path, optimizer=Counting, loss=CountingLoss())
    found = Rehearsal(t)
    verdict = found.verdict(wait=60)
    assert verdict is not None and verdict.missed == {"optimizer.count", "loss.calls"}
    with caplog.at_level(logging.WARNING):
        watch = Watch(t, rehearse=False)
        fit(t)
        watch.close()
    assert "keep it in the optimizer's state" in caplog.text
    assert said(caplog) == {"optimizer.count", "loss.calls"}


class Own(torch.optim.SGD):
    """An optimizer of the user's own that adds nothing."""


@pytest.mark.parametrize("kind", [Own, torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW, torch.optim.Adagrad])
@pytest.mark.parametrize("way", [{"fused": True}, {"foreach": True}, {}], ids=str)
def test_what_torch_keeps_in_an_optimizer_for_itself_is_not_named(
    kind: type[torch.optim.Optimizer], way: dict[str, Any], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    t = training(tmp_path, optimizer=lambda params: kind(params, lr=0.01, **way), epochs=1)  # type: ignore[call-arg]
    watch = Watch(t, rehearse=False)
    with caplog.at_level(logging.WARNING):
        fit(t)
        watch.close()
    assert said(caplog) == set()


def test_a_model_that_is_too_large_is_not_rehearsed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rehearsal, "free_host_memory", lambda: 1000)
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
    """Reads on in a file that it has open."""

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
    t = training(tmp_path, splits=divided(Source("own", train=data_set)), in_memory=False)
    data_set.file.seek(5)
    verdict = Rehearsal(t).verdict(wait=60)
    assert verdict is not None and not verdict.missed and verdict.elsewhere is None
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
    t = made(tmp_path, LateThing)
    checks.state({"model": t.model.state_dict()})
    watch = Watch(t, rehearse=False)
    with pytest.raises(TrainingError, match=r"^model._extra_state.things\[0\] is of type .*Thing, which a checkpoint"):
        fit(t)
    watch.close()
    assert t.progress.step <= 1
    with pytest.raises(ConfigError, match=r"^model._extra_state.things\[0\] is of type .*Thing, which a checkpoint"):
        checks.state({"model": t.model.state_dict()})
