import random
from copy import deepcopy
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from helpers.problems import about
from helpers.training import Stop, net, same, settings, training
from runner.assembly.parts import check_graphs
from runner.device import Device
from runner.errors import ConfigError
from runner.loss import CrossEntropy
from runner.rundir.checkpoint_file import load
from runner.training import compilation
from runner.training.compilation import compile_model
from runner.training.loop import fit
from runner.training.saving import checkpoint_state, restore
from runner.training.state import Interrupted
from runner.util import compile_modes


@pytest.fixture
def quickly(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Use torch.compile without code generation, which takes half a minute, and record the modes that are asked for."""
    compile_it, modes = torch.compile, list[str]()

    def quick(model: nn.Module, mode: str) -> nn.Module:
        modes.append(mode)
        return compile_it(model, backend="aot_eager")

    monkeypatch.setattr(torch, "compile", quick)
    return modes


@pytest.fixture(autouse=True)
def _forget() -> None:
    torch._dynamo.reset()


def with_statistics() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 3))


@pytest.mark.usefixtures("quickly")
def test_it_leaves_everything_as_it_was(tmp_path: Path) -> None:
    state = training(tmp_path, model=with_statistics(), ema_decay=0.9)
    before = {name: tensor.clone() for name, tensor in state.model.state_dict().items()}
    random = torch.get_rng_state()
    assert compile_model(state) > 0
    assert same(before, dict(state.model.state_dict()))
    assert torch.equal(random, torch.get_rng_state())
    assert all(p.grad is None for p in state.model.parameters())
    assert state.model.training


class Drawing(nn.Module):
    """Draws from every kind of generator, and counts in every kind of state."""

    def __init__(self) -> None:
        super().__init__()
        self.net, self.own, self.calls, self.extra = net(), torch.Generator().manual_seed(1), 0, 0
        self.register_buffer("seen", torch.zeros(()), persistent=False)

    @torch.compiler.disable
    def count(self) -> float:
        self.calls, self.extra = self.calls + 1, self.extra + 1
        self.seen += 1
        return random.random() + np.random.rand() + torch.rand((), generator=self.own).item() + torch.rand(()).item()

    def forward(self, inputs: Tensor) -> Tensor:
        return self.net(inputs * self.count())

    def get_extra_state(self) -> int:
        return self.extra

    def set_extra_state(self, state: int) -> None:
        self.extra = state


class CountingLoss(CrossEntropy):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("seen", torch.zeros(()))

    def forward(self, outputs: Tensor, targets: Tensor) -> Tensor:
        self.seen += 1
        return super().forward(outputs, targets)


@pytest.mark.usefixtures("quickly")
def test_every_generator_and_all_state_is_left_as_it_was(tmp_path: Path) -> None:
    state = training(tmp_path, model=Drawing(), loss=CountingLoss(), ema_decay=0.9)
    before = deepcopy(checkpoint_state(state))
    compile_model(state)
    assert same(before, checkpoint_state(state))
    assert state.model.calls == 0
    assert state.eval_model.calls == 0


@pytest.mark.usefixtures("quickly")
def test_nothing_is_compiled_within_an_epoch(tmp_path: Path) -> None:
    state = training(tmp_path, epochs=3)  # 81 samples in batches of 32: full ones and a rest
    compile_model(state)
    compiled = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    assert compiled
    fit(state)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == compiled


@pytest.mark.usefixtures("quickly")
def test_a_stop_is_answered_before_all_is_compiled(tmp_path: Path) -> None:
    state = training(tmp_path, model=with_statistics(), stop=Stop(after=1))
    before = {name: tensor.clone() for name, tensor in state.model.state_dict().items()}
    torch._dynamo.utils.counters.clear()
    compile_model(state)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 1, "only full training batches"
    assert same(before, dict(state.model.state_dict())) and state.model.training
    with pytest.raises(Interrupted):
        fit(state)
    assert state.progress.step == 0
    whole, resumed = training(tmp_path / "whole", model=with_statistics()), training(tmp_path, model=with_statistics())
    restore(resumed, load(state.checkpoints.last))
    for again in (whole, resumed):
        compile_model(again)
        fit(again)
    assert same(dict(whole.model.state_dict()), dict(resumed.model.state_dict()))
    assert whole.log.exact() == resumed.log.exact()


def test_the_compiled_model_learns_the_same(tmp_path: Path) -> None:
    losses = []
    for compiled in (False, True):
        state = training(tmp_path / str(compiled), model=net(), epochs=2)
        if compiled:
            compile_model(state)
        fit(state)
        losses.append(state.log.of("val/loss")[2])
        assert set(torch.load(state.checkpoints.last, weights_only=True)["model"]) == set(net().state_dict())
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


@pytest.mark.parametrize(("value", "mode"), [(True, "default"), ("max-autotune", "max-autotune")])
def test_both_models_are_compiled_in_the_mode(value: bool | str, mode: str, quickly: list[str], tmp_path: Path) -> None:
    compile_model(training(tmp_path, compile=value, ema_decay=0.9))
    assert quickly == [mode, mode]


def test_the_modes_are_those_of_torch() -> None:
    graphs, tuned = "triton.cudagraphs", "max_autotune"
    options = torch._inductor.list_mode_options()
    assert {*compile_modes.MODES} == {*options} - {"lite"}
    assert {*compile_modes.GRAPH_MODES} == {mode for mode, chosen in options.items() if chosen.get(graphs)}
    assert {*compile_modes.TUNED_MODES} == {mode for mode, chosen in options.items() if chosen.get(tuned)}


@pytest.mark.usefixtures("quickly")
@pytest.mark.parametrize("graphs", (False, True))
def test_cuda_graphs_are_told_where_a_batch_begins(
    graphs: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    began = []
    monkeypatch.setattr(torch.compiler, "cudagraph_mark_step_begin", lambda: began.append(1))
    monkeypatch.setattr(compilation, "uses_graphs", lambda *_: graphs)
    state = training(tmp_path, compile="reduce-overhead", epochs=2)
    compile_model(state)
    began.clear()
    fit(state)
    assert state.loaders.val is not None
    assert len(began) == graphs * 2 * (len(state.loaders.train) + len(state.loaders.val))


def test_what_is_said_of_modes() -> None:
    assert not compile_modes.notes(True, "cuda") and not compile_modes.notes(False, "cpu")
    assert ["on cpu" in note for note in compile_modes.notes("reduce-overhead", "cpu")] == [True]
    assert ["not tried" in note for note in compile_modes.notes("reduce-overhead", "cuda")] == [True]
    assert ["last bits" in note for note in compile_modes.notes("max-autotune-no-cudagraphs", "cuda")] == [True]


def test_gradients_that_cuda_graphs_would_overwrite_are_refused() -> None:
    gpu, mode = Device("cuda", torch.device("cuda"), 1), "reduce-overhead"
    for several, accumulated in ((True, 1), (False, 2)):
        asked = settings(compile=mode, grad_accumulation=accumulated)
        with pytest.raises(ConfigError) as error:
            check_graphs(asked, gpu, several)
        assert about(error) == [("trainer.compile", "conflict")]
        check_graphs(asked, Device("cpu", torch.device("cpu"), 1), several)
        check_graphs(settings(compile=True, grad_accumulation=accumulated), gpu, several)
    check_graphs(settings(compile=mode), gpu, False)


def test_a_missing_compiler_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    from runner.device import resolve

    monkeypatch.setenv("PATH", "")
    with pytest.raises(ConfigError) as error:
        resolve("cpu", threads=1).check_compiler()
    assert about(error) == [("trainer.compile", "unavailable")]
    assert "C++" in str(error.value) and "trainer.compile=false" in error.value.problems[0].suggestion
