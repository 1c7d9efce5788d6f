"""The predicted memory of a training, against what torch's profiler counts in the training itself."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from conftest import Called
from helpers.composed import built
from helpers.tasks import PAIR
from helpers.training import Log, Silent, Stop
from runner.assembly.experiment import Experiment
from runner.data.loading import TensorLoader
from runner.model.recomputation import recomputing
from runner.rundir.checkpoint import NoCheckpoints
from runner.runs.dry_run import describe, first_of
from runner.training.footprint import Footprint, predict
from runner.training.loop import fit
from runner.training.state import make_training
from runner.util import trees

SMALL = ("device=cpu", "device.threads=1", "data.limit=400", "trainer.epochs=1", "trainer.max_steps=3")

CNN = ("model=cnn", "model.channels=[16,32]", "model.strides=[1,2]", "model.batch_norm=true")

TRAININGS = {
    "adamw": ("optimizer=adamw", "model.hidden=[512,512]"),
    "convolutions": (*CNN, "data.batch_size=128"),
    "recomputed": (*CNN, "data.batch_size=128", "trainer.activation_checkpointing=[features.*]"),
    "accumulated": (*CNN, "trainer.grad_accumulation=2", "trainer.ema_decay=0.9"),
    "half": ("model.hidden=[512,512]", "precision=bf16", "data.batch_size=160"),
    "several": (*PAIR, "+model.width=512"),
    "muon": ("optimizer=muon", "model.hidden=[512,512,512]"),
}


def bytes_of(tree: Any) -> int:
    tensors = [leaf for leaf in trees.leaves(tree) if isinstance(leaf, Tensor)]
    return sum({tensor.data_ptr(): tensor.untyped_storage().nbytes() for tensor in tensors}.values())


def measured(experiment: Experiment, folder: Path) -> int:
    """Train, and return the most bytes of tensors at once, as torch's allocator reports them."""
    parts = (experiment.loaders.train, experiment.loaders.val, experiment.loaders.test)
    data = [(part.inputs, part.targets) for part in parts if isinstance(part, TensorLoader)]
    state = make_training(experiment, NoCheckpoints(folder / "checkpoints"), Log(), Silent(), Stop())
    averaged = state.average.model if state.average is not None else None
    there = bytes_of(
        [[*model.parameters(), *model.buffers()] for model in (state.model, averaged) if model is not None]
    )
    there += bytes_of(data) + bytes_of([list(part.values()) for part in state.optimizer.state.values()])
    with (
        profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler,
        recomputing(state.model, experiment.trainer.activation_checkpointing),
    ):
        fit(state)
    profiler.export_chrome_trace(str(folder / "trace.json"))
    events = json.loads((folder / "trace.json").read_text())["traceEvents"]
    live: dict[int, int] = {}  # some frees are not reported: an address is then used again
    most = now = 0
    for event in sorted((event for event in events if event["name"] == "[memory]"), key=lambda event: event["ts"]):
        address, size = event["args"]["Addr"], event["args"]["Bytes"]
        now += max(size, 0) - live.pop(address, 0)
        if size > 0:
            live[address] = size
        most = max(most, now)
    return there + most


@pytest.mark.parametrize(
    "name", [*[*TRAININGS][:-2], *(pytest.param(n, marks=pytest.mark.soak) for n in [*TRAININGS][-2:])]
)
def test_it_is_near_what_training_needs(name: str, tmp_path: Path) -> None:
    experiment = built(*SMALL, *TRAININGS[name])
    predicted = predict(experiment)
    found = measured(experiment, tmp_path)
    assert predicted.total == pytest.approx(found, rel=0.05)


def test_it_changes_nothing() -> None:
    experiment = built(*SMALL, *CNN, "model.dropout=0.2")
    random, before = torch.get_rng_state(), {k: v.clone() for k, v in experiment.model.state_dict().items()}
    predict(experiment)
    assert torch.equal(torch.get_rng_state(), random)
    assert all(torch.equal(value, before[name]) for name, value in experiment.model.state_dict().items())
    assert not experiment.optimizer.state
    assert all(weight.grad is None for weight in experiment.model.parameters())


def test_ranks_have_a_share() -> None:
    wide = (*SMALL, "model.hidden=[512,512,512,512,512]", "optimizer=adamw")
    alone, copies, parts = predict(built(*wide)), *(of_two(*wide, f"strategy={name}") for name in ("ddp", "fsdp"))
    assert (copies.weights, copies.optimizer) == (alone.weights, alone.optimizer)
    assert copies.gradients == pytest.approx(2 * alone.gradients, rel=0.1)
    assert parts.optimizer == pytest.approx(alone.optimizer / 2, rel=0.01)
    assert parts.total < 0.85 * alone.total


def of_two(*overrides: str) -> Footprint:
    with first_of(2):
        return predict(built(*overrides))


def test_a_step_that_needs_values_is_not_predicted() -> None:
    experiment = built(*SMALL, "task=custom", "task._target_=helpers.tasks.Reading")
    assert describe(experiment).startswith("peak memory: not predicted")


def test_a_dry_run_leaves_nothing(runner: Callable[..., Called], here: Path) -> None:
    called = runner(*SMALL, "runner.dry_run=true", "strategy=fsdp", "strategy.nproc_per_node=2")
    assert called.code == 0
    assert "peak memory: about " in called.err and "fsdp, 2 ranks" in called.err
    assert not list(here.iterdir())
    for wrong in (["--multirun", "seed=0,1"], ["data.folds=2"]):
        called = runner(*wrong, "runner.dry_run=true")
        assert (called.code, called.about) == (2, [("runner.dry_run", "conflict")])
