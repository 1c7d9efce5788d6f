"""`model.freeze` and `model.unfreeze_at_epoch`."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from conftest import Called
from helpers.composed import built
from helpers.problems import about, problem_of
from helpers.training import Stop, exact_state, same, training
from runner.model.freeze import freeze
from runner.rundir.checkpoint_file import load
from runner.training.loop import fit
from runner.training.saving import checkpoint_state, restore
from runner.training.state import Interrupted, Training


class Network(nn.Module):
    """A backbone with three kinds of BatchNorm, and a head that shares a weight with it."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.backbone = nn.Sequential(
            nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.BatchNorm1d(8, affine=False), nn.Linear(8, 8)
        )
        self.norm = nn.BatchNorm1d(8)
        self.head = nn.Linear(8, 3)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return self.head(self.norm(self.backbone(inputs)))


def test_frozen_parameters_and_their_batchnorm_stay_as_they_are(tmp_path: Path) -> None:
    model = Network()
    before = copy.deepcopy(model.state_dict())
    frozen = freeze(model, ["backbone.*"])
    state = training(tmp_path, model=model, optimizer=lambda p: torch.optim.AdamW([x for x in p if x.requires_grad]))
    fit(state)
    changed = {name for name, tensor in model.state_dict().items() if not same(tensor, before[name])}
    assert changed == {name for name in before if not name.startswith("backbone")}
    assert len(state.parameters) == 4 and frozen.resting == [model.backbone[1], model.backbone[3]]


def test_batchnorm_at_rest_stays_so_whoever_calls_train() -> None:
    model = Network()
    freeze(model, ["backbone.1", "norm.weight"])
    for module in (model, model.backbone, model.backbone[1]):
        module.train()
        assert not model.backbone[1].training
    assert model.norm.training, "its bias is trained"
    assert model.backbone[3].training, "nobody has named it"
    assert type(model.backbone[1]).__name__ == "BatchNorm1d" and isinstance(model.backbone[1], nn.BatchNorm1d)
    twin = copy.deepcopy(model)
    twin.train()
    assert not twin.backbone[1].training


def test_a_shared_weight_is_frozen_under_each_of_its_names() -> None:
    model = nn.ModuleDict({"embedding": nn.Embedding(5, 4), "output": nn.Linear(4, 5)})
    model["output"].weight = model["embedding"].weight
    assert freeze(model, ["output.weight"]).parameters == [model["embedding"].weight]


def test_what_the_model_itself_has_frozen_is_not_unfrozen() -> None:
    model = Network()
    model.backbone[0].weight.requires_grad_(False)
    frozen = freeze(model, ["backbone"], until=2)
    assert model.backbone[0].bias.requires_grad, "until training starts"
    frozen.at_epoch(1)
    assert not model.backbone[0].bias.requires_grad
    frozen.at_epoch(2)
    assert model.backbone[0].bias.requires_grad
    assert not model.backbone[0].weight.requires_grad
    assert model.backbone[1].training and type(model.backbone[1]) is nn.BatchNorm1d


def test_nothing_is_left_to_train() -> None:
    problem = problem_of(lambda: freeze(Network(), ["*"]))
    assert about([problem]) == [("model.freeze", "conflict")]
    assert problem.suggestion.endswith(" head")


def unfreezing(folder: Path, stop: int | None = None, **trainer: Any) -> Training:
    model = Network()
    frozen = freeze(model, ["backbone", "norm"], until=3)
    state = training(
        folder,
        model=model,
        optimizer=lambda p: torch.optim.AdamW(p, lr=0.01),
        stop=Stop(stop),
        **{"epochs": 4, "ema_decay": 0.9, "clip_norm": 1.0, **trainer},
    )
    state.freeze = frozen
    frozen.at_epoch(1)
    return state


@pytest.mark.parametrize("stop", [1, 5, 7, 8, 10, 11])  # before, at and after the unfreezing, within epochs of 3 steps
def test_it_resumes_bit_for_bit_before_and_after_the_epoch_of_unfreezing(stop: int, tmp_path: Path) -> None:
    whole, parts, rest = (
        unfreezing(tmp_path / name, stop if name == "parts" else None) for name in ("whole", "parts", "rest")
    )
    fit(whole)
    with pytest.raises(Interrupted):
        fit(parts)
    saved = load(parts.checkpoints.last)
    restore(rest, saved)
    fit(rest)
    assert same(exact_state(checkpoint_state(rest)), exact_state(checkpoint_state(whole)))
    start = Network().state_dict()
    moved = not same(saved["model"]["backbone.0.weight"], start["backbone.0.weight"])
    assert moved == (saved["progress"]["step"] > 6) and len(saved["optimizer"]["state"]) == (10 if moved else 2)
    assert not same(whole.model.state_dict()["backbone.0.weight"], start["backbone.0.weight"])


def test_a_config_freezes_and_says_what(here: Path, runner: Callable[..., Called]) -> None:
    arguments = ("tracking=off", "debug=fast", "model=cnn", "model.channels=[4,4]", "model.strides=[1,1]",
                 "model.batch_norm=true", "model.hidden=[]")  # fmt: skip
    called = runner(*arguments, "model.freeze=[features]", "hydra.run.dir=frozen")
    assert called.code == 0 and "frozen: 196 parameters in 6 tensors, 2 normalization layers at rest" in called.err
    trained = torch.load("frozen/checkpoints/last.pt", weights_only=True)["model"]
    start = built(*arguments[1:]).model.state_dict()
    assert all(same(trained[name], start[name]) == name.startswith("features") for name in start)
    called = runner("resume=frozen", "trainer.epochs=3", "model.freeze=[features.0]")
    assert called.about == [("model.freeze", "conflict")]
