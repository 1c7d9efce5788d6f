"""`trainer.log_norms`: the values are those of a computation by hand, and training does not change by a bit."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from helpers.composed import built, trained
from helpers.tasks import PAIR
from helpers.training import Stop, divided, exact_state, net, same, supervised, training
from runner.data.loading import TensorLoader
from runner.model.freeze import freeze
from runner.rundir.checkpoint_file import load
from runner.training.loop import fit
from runner.training.norms import LayerNorms
from runner.training.saving import restore
from runner.training.state import Interrupted

ALL = {f"norm/{kind}/{layer}" for kind in ("gradient", "weight") for layer in ("0", "3")}


def norms(state: Any, ending: str = "") -> dict[tuple[str, int], float]:
    logged = {key: value for key, value in state.log.values.items() if key[0].startswith("norm/")}
    return {key: value for key, value in logged.items() if key[0].endswith("_step") == (ending == "_step")}


def by_hand(state: Any, samples: slice) -> dict[str, float]:
    """Compute the norms of the gradient of these training samples, and of the weights, in float64."""
    loader = state.loaders.train
    assert isinstance(loader, TensorLoader)
    order = torch.cat([inputs for inputs, _ in loader.epoch(1)])
    targets = torch.cat([targets for _, targets in loader.epoch(1)])
    model = net().double()
    cross_entropy(model(order[samples].double()), targets[samples]).backward()

    def norm(tensors: list[Tensor | None]) -> float:
        return torch.cat([tensor.flatten() for tensor in tensors if tensor is not None]).norm().item()

    expected = {}
    for name, layer in (("0", model[0]), ("3", model[3])):
        expected[f"norm/gradient/{name}"] = norm([parameter.grad for parameter in layer.parameters()])
        expected[f"norm/weight/{name}"] = norm([parameter.detach() for parameter in layer.parameters()])
    return expected


@pytest.mark.parametrize(
    ("arguments", "samples", "tolerance"),
    [
        ({"batch_size": 32}, 32, 1e-5),
        ({"batch_size": 32, "clip_norm": 1e-3}, 32, 1e-5),  # before clipping
        ({"batch_size": 8, "grad_accumulation": 4}, 32, 1e-5),  # of the whole step
        ({"batch_size": 8, "grad_accumulation": 4, "precision": "fp16", "clip_norm": 0.1}, 32, 1e-2),  # unscaled
        ({"batch_size": 32, "precision": "fp64"}, 32, 1e-12),
    ],
)
def test_they_are_those_of_the_first_step_computed_by_hand(
    tmp_path: Path, arguments: dict[str, Any], samples: int, tolerance: float
) -> None:
    state = training(tmp_path, log_norms=True, log_every_steps=1, epochs=1, **arguments)
    expected = by_hand(state, slice(samples))
    fit(state)
    measured = {name: value for (name, step), value in norms(state, "_step").items() if step == 1}
    assert measured.keys() == {f"{name}_step" for name in expected}
    for name, value in expected.items():
        assert measured[f"{name}_step"] == pytest.approx(value, rel=tolerance), name


def test_they_are_logged_when_the_loss_is_and_for_the_last_step_of_an_epoch(tmp_path: Path) -> None:
    state = training(tmp_path, log_norms=True, log_every_steps=2, batch_size=16, epochs=2)
    fit(state)
    steps = len(state.loaders.train)
    assert {name for name, _ in norms(state)} == ALL
    assert state.log.of("norm/weight/0").keys() == {1, 2}
    assert state.log.of("norm/weight/0_step").keys() == state.log.of("train/loss_step").keys() == {2, 4, 6, 8, 10, 12}
    assert steps == 6, "so that an epoch ends at such a step:"
    assert state.log.of("norm/gradient/3")[2] == state.log.of("norm/gradient/3_step")[12]
    cut = training(tmp_path / "cut", log_norms=True, batch_size=16, max_steps=4)
    fit(cut)
    assert {step for _, step in norms(cut)} == {1}, "the last step is known to be it"


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_training_is_the_same_bit_for_bit_with_and_without_them(tmp_path: Path, precision: str) -> None:
    ends, logs = [], []
    for log_norms in (False, True):
        torch.manual_seed(3)
        state = training(
            tmp_path / str(log_norms), model=net(dropout=0.3), precision=precision, log_norms=log_norms, clip_norm=0.5,
            log_every_steps=1, grad_accumulation=2, batch_size=8,
        )  # fmt: skip
        fit(state)
        ends.append(exact_state(load(state.checkpoints.last)))
        logs.append({key: value for key, value in state.log.exact().items() if not key[0].startswith("norm/")})
    assert same(*ends) and logs[0] == logs[1]


def test_a_run_stopped_anywhere_logs_the_same(tmp_path: Path) -> None:
    arguments: dict[str, Any] = {"log_norms": True, "batch_size": 32, "validate_every_steps": 1}
    whole = training(tmp_path / "whole", **arguments)
    fit(whole)
    for after in range(1, whole.stop.looks):
        folder = tmp_path / str(after)
        stopped = training(folder, stop=Stop(after), **arguments)
        with pytest.raises(Interrupted):
            fit(stopped)
        resumed = training(folder, **arguments)
        restore(resumed, stopped.checkpoints.load_last())
        fit(resumed)
        assert stopped.log.exact() | resumed.log.exact() == whole.log.exact(), f"stopped at look {after}"


class Tied(nn.Module):
    """An embedding with sparse gradients, a parameter of its own, and a layer that shares its weight with another."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(5, 3, sparse=True)
        self.shift = nn.Parameter(torch.ones(3))
        self.first, self.second = nn.Linear(3, 3), nn.Linear(3, 3)
        self.second.weight = self.first.weight
        self.unused = nn.Linear(2, 2)

    def forward(self, words: Tensor) -> Tensor:
        return self.second(self.first(self.embedding(words) + self.shift))


def test_of_sparse_shared_unused_and_frozen_parameters() -> None:
    model = Tied()
    freeze(model, ["first.bias"], None)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    model(torch.tensor([0, 2, 2])).sum().backward()
    measured = LayerNorms(model, supervised(), trained).measure(1.0)
    assert {name for name in measured if "weight/" in name} == {
        f"norm/weight/{layer}" for layer in ("embedding", "shift", "first", "second", "unused")
    }
    assert measured.keys() - {f"norm/gradient/{name.rpartition('/')[2]}" for name in measured} == {
        name for name in measured if "weight/" in name
    }
    assert "norm/gradient/unused" not in measured
    assert model.embedding.weight.grad is not None and model.first.weight.grad is not None
    assert measured["norm/gradient/embedding"] == pytest.approx(model.embedding.weight.grad.to_dense().norm().item())
    assert measured["norm/gradient/first"] == pytest.approx(model.first.weight.grad.norm().item()), "no frozen bias"
    assert measured["norm/weight/second"] == pytest.approx(model.second.bias.norm().item()), "the weight is the first's"


def test_layers_of_the_task_are_among_them(tmp_path: Path) -> None:
    state = training(tmp_path, splits=divided())
    state.task.temperature = nn.Parameter(torch.full((1,), 2.0))
    measured = LayerNorms(state.model, state.task, [state.task.temperature]).measure(1.0)
    assert measured == {"norm/weight/task.temperature": 2.0}


def test_several_optimizers_are_measured_each_before_its_own_step(tmp_path: Path) -> None:
    more = ("trainer.log_norms=true", "trainer.log_every_steps=1", "trainer.epochs=1", "data.limit=100")
    state = trained(tmp_path, *PAIR, *more, "tracking=off")
    layers = {f"{part}.{number}" for part in "GD" for number in (0, 2)}
    names = {f"norm/{kind}/{layer}" for kind in ("gradient", "weight") for layer in layers}
    assert {name for name, _ in norms(state)} == names
    assert all(value > 0 for value in norms(state).values())
    first = {name: value for (name, step), value in norms(state, "_step").items() if step == 1}
    fresh = dict(built(*PAIR).model.named_parameters())
    for layer in layers:  # the generator's turn comes after the discriminator's step: neither has changed the other's
        weights = torch.cat([fresh[f"{layer}.{name}"].detach().flatten() for name in ("weight", "bias")])
        assert first[f"norm/weight/{layer}_step"] == pytest.approx(weights.norm().item(), rel=1e-5)
