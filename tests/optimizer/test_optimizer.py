import copy
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from conftest import Called
from helpers.composed import accuracy, built, trained
from helpers.problems import about
from helpers.training import blobs, divided, exact_state, net, same, training
from runner.assembly import experiment, optimization
from runner.config.keys import SHARED_KEYS
from runner.errors import ConfigError
from runner.optimizer import (
    CPUMuon,
    complete_momentum,
    hidden_weights,
    label,
    load_state,
    muon,
    supports_fused,
    trainable,
    use_fused,
)
from runner.precision import Precision, forget_gradients
from runner.rundir.checkpoint_file import load
from runner.training.loop import fit
from runner.training.saving import checkpoint_state, restore
from runner.training.state import Training

CPU = torch.device("cpu")


def test_an_optimizer_is_called_by_its_own_name():
    net = torch.nn.Sequential(*[torch.nn.Linear(4, 4) for _ in range(3)])
    assert label(torch.optim.AdamW(net.parameters())) == "AdamW"
    assert label(muon(list(net.parameters()), net)) == "Muon + AdamW"


@pytest.mark.parametrize("target", [torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW, muon])
def test_the_fused_kernel_is_used_where_there_is_one_and_nobody_chose_otherwise(target: Any) -> None:
    assert supports_fused(target, CPU, {"lr"})
    assert not supports_fused(target, CPU, {"lr", "foreach"})
    assert not supports_fused(target, CPU, {"lr", "fused"})
    assert not supports_fused(target, torch.device("mps"), {"lr"})
    assert use_fused(target, CPU, {"lr"}, 17_226)
    assert not use_fused(target, CPU, {"lr"}, 54)


def test_an_optimizer_without_a_fused_kernel_is_asked_for_none() -> None:
    assert not supports_fused(torch.optim.RMSprop, CPU, {"lr"})
    assert not supports_fused(torch.optim.LBFGS, CPU, {"lr"})


class Odd(torch.optim.SGD):
    """State of every kind that torch would cast or rebuild."""

    def step(self, closure: Any = None) -> Any:
        for group in self.param_groups:
            for p in group["params"]:
                own = self.state[p]
                own.setdefault("single", torch.zeros(p.shape, dtype=torch.float32)).add_(0.1)
                own.setdefault("double", torch.zeros((), dtype=torch.float64)).add_(1 / 3)
                own.setdefault("half", [torch.zeros(2, dtype=torch.bfloat16), (torch.ones(1, dtype=torch.float16), 2)])
                own.setdefault("nested", {"array": np.zeros(2), "text": "warm", "number": np.float32(0.1)})
                own["nested"]["array"] += 0.5
                own.setdefault("in lists", [np.ones(2), {"of": (np.arange(2), "text", p.shape, torch.zeros(1))}])
        return super().step(closure)


OPTIMIZERS = {
    **{name: getattr(torch.optim, name) for name in (
        "Adadelta", "Adafactor", "Adagrad", "Adam", "AdamW", "Adamax", "ASGD", "NAdam", "RAdam", "RMSprop", "Rprop",
        "SGD",
    )},
    "Adam foreach": lambda p: torch.optim.Adam(p, foreach=True),
    "Adam fused": lambda p: torch.optim.AdamW(p, fused=True, amsgrad=True),
    "NAdam foreach": lambda p: torch.optim.NAdam(p, foreach=True),
    "rate in a tensor": lambda p: torch.optim.Adam(p, lr=torch.tensor(0.01)),
    "odd": lambda p: Odd(p, lr=0.1, momentum=0.9),
}  # fmt: skip


@pytest.mark.parametrize("precision", ["fp32", "fp64"])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_resumed_state_has_the_dtype_and_the_type_that_it_had(name: str, precision: str, tmp_path: Path) -> None:
    def prepared(folder: str, epochs: int) -> Training:
        return training(tmp_path / folder, precision=precision, epochs=epochs, optimizer=OPTIMIZERS[name])

    whole, parts, resumed = prepared("whole", 2), prepared("parts", 1), prepared("resumed", 2)
    fit(whole)
    fit(parts)
    restore(resumed, load(parts.checkpoints.last))
    assert same(resumed.optimizer.state_dict(), parts.optimizer.state_dict()), "unchanged"
    fit(resumed)
    assert same(exact_state(checkpoint_state(resumed)), exact_state(checkpoint_state(whole)))


def test_frozen_weights_are_left_out() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    model[0].requires_grad_(False)
    assert trainable(model) == list(model[1].parameters())


CHOICES = ["optimizer=sgd", "optimizer=adam", "optimizer=adamw", "optimizer=rmsprop", "optimizer=muon"]
BARE = ["optimizer._target_=torch.optim.Adagrad", "optimizer.lr=0.05", "~optimizer.momentum", "~optimizer.nesterov"]


@pytest.mark.parametrize("choice", [*([choice] for choice in CHOICES), BARE], ids=lambda choice: choice[0])
def test_each_trains_well_as_it_is_configured(choice: list[str], here: Path) -> None:
    state = trained(here, *choice, "trainer.epochs=4")
    assert accuracy(state) > 0.75  # by chance 0.1
    assert state.log.of("train/loss")[4] < 0.5 * state.log.of("train/loss")[1]


def weights(experiment: experiment.Experiment, changed: dict[str, Any]) -> torch.Tensor:
    """Return the weights after three steps with gradients of a few samples."""
    model = copy.deepcopy(experiment.model)
    made = optimization.make_optimizer(
        experiment.config["optimizer"] | changed, model, experiment.task, experiment.device
    )
    for inputs, targets in list(experiment.loaders.train.epoch(1)) * 3:
        experiment.task.loss(model(inputs), targets).backward()
        made.step()
        made.zero_grad()
    return torch.cat([p.detach().flatten() for p in model.parameters()])


KEYS: dict[str, dict[str, Any]] = {
    "adam": {"lr": 0.01, "betas": [0.5, 0.9], "eps": 0.1, "weight_decay": 0.1},
    "rmsprop": {"lr": 0.01, "alpha": 0.5, "eps": 0.1, "momentum": 0.5, "weight_decay": 0.1, "centered": True},
    "muon": {
        "lr": 0.01,
        "momentum": 0.5,
        "nesterov": False,
        "ns_steps": 3,
        "adjust_lr_fn": "match_rms_adamw",
        "adamw_lr": 0.01,
        "betas": [0.5, 0.9],
        "eps": 0.1,
        "weight_decay": 0.1,
    },
}


@pytest.mark.parametrize("choice", KEYS)
def test_each_key_of_the_config_changes_the_weights(choice: str, here: Path) -> None:
    experiment = built(f"optimizer={choice}", "data.limit=20", "model.hidden=[8,6]")
    assert set(experiment.config["optimizer"]) == {"_target_", *KEYS[choice], *SHARED_KEYS["optimizer"]}
    found = [weights(experiment, changed) for changed in ({}, *({key: value} for key, value in KEYS[choice].items()))]
    assert not any(torch.equal(one, other) for index, one in enumerate(found) for other in found[:index])


class Deep(nn.Module):
    """A model with every kind of weight that Muon distinguishes."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(7, 6)
        self.convolution = nn.Conv1d(1, 1, 3, padding=1)
        self.attention = nn.MultiheadAttention(6, 2, batch_first=True)
        self.norm = nn.LayerNorm(6)
        self.hidden = nn.Linear(6, 8)
        self.tied = nn.Linear(6, 7, bias=False)
        self.tied.weight = self.embedding.weight
        self.output = nn.Linear(8, 3)


@pytest.fixture
def torch_in_32_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Prevent `torch.optim.Muon` from rounding to bfloat16."""
    monkeypatch.setattr(torch.Tensor, "bfloat16", torch.Tensor.clone)


class TestMuon:
    def test_it_takes_the_weights_within_the_model_and_adamw_the_rest(self) -> None:
        model = Deep()
        wanted = {model.attention.in_proj_weight, model.attention.out_proj.weight, model.hidden.weight}
        assert hidden_weights(model) == wanted
        first, second = muon(trainable(model), model).param_groups
        assert set(first["params"]) == wanted
        assert set(second["params"]) == set(model.parameters()) - wanted

    def test_its_steps_are_torch_s_muon_and_torch_s_adamw(self, torch_in_32_bits: None) -> None:
        model, other = net(), net()
        ours = muon(trainable(model), model, lr=0.03, momentum=0.8, weight_decay=0.1, adamw_lr=0.002)
        (weight, bias, *last) = other.parameters()
        theirs = [
            torch.optim.Muon([weight], lr=0.03, momentum=0.8, weight_decay=0.1),
            torch.optim.AdamW([bias, *last], lr=0.002, weight_decay=0.1),
        ]
        inputs = torch.randn(8, 6)
        for _ in range(3):
            for each, optimizers in ((model, [ours]), (other, theirs)):
                each.zero_grad()
                each(inputs).square().mean().backward()
                for optimizer in optimizers:
                    optimizer.step()
        for mine, yours, start in zip(model.parameters(), other.parameters(), net().parameters(), strict=True):
            assert torch.allclose(mine, yours, atol=1e-6)
            assert not torch.allclose(mine, start, atol=1e-3)

    @pytest.mark.parametrize("rule", ["original", "match_rms_adamw", "spectral_unclamped"])
    @pytest.mark.parametrize("shape", [(12, 5), (5, 12)])
    def test_on_a_cpu_it_is_torch_s_without_rounding(
        self, rule: str, shape: tuple[int, int], torch_in_32_bits: None
    ) -> None:
        start, gradient = torch.randn(shape), torch.randn(shape)
        steps = []
        for kind in (torch.optim.Muon, CPUMuon):
            weight = nn.Parameter(start.clone())
            weight.grad = gradient
            kind([weight], lr=0.5, weight_decay=0.0, adjust_lr_fn=rule, nesterov=False).step()
            steps.append(weight.detach() - start)
        assert torch.allclose(*steps, atol=1e-5)
        spread = torch.linalg.svdvals(steps[1])
        assert spread.max() < 2 * spread.min()

    def test_a_model_without_hidden_layers_is_told_what_to_write(self) -> None:
        model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Flatten(), nn.Linear(4, 2))
        frozen = net()
        frozen[0].weight.requires_grad_(False)
        for without in (model, frozen):
            with pytest.raises(ConfigError) as error:
                muon(trainable(without), without)
            assert about(error) == [("optimizer", "conflict")]
            assert error.value.problems[0].suggestion == "write optimizer=adamw"

    def test_hidden_weights_alone_need_no_adamw(self) -> None:
        model = net()
        made = muon([model[0].weight], model)
        before = model[0].weight.clone()
        model(torch.randn(4, 6)).sum().backward()
        made.step()
        assert len(made.param_groups) == 1
        assert not torch.equal(model[0].weight, before)

    def test_a_schedule_scales_both_learning_rates(self) -> None:
        model = net()
        made = muon(trainable(model), model, lr=0.02, adamw_lr=0.001)
        scheduler = torch.optim.lr_scheduler.StepLR(made, step_size=1, gamma=0.1)
        before = [p.clone() for p in model.parameters()]
        for step in range(2):
            model(torch.randn(4, 6)).square().sum().backward()
            made.step()
            made.zero_grad(set_to_none=True)
            scheduler.step()
            now = [p.clone() for p in model.parameters()]
            moved = [(a - b).abs().max().item() for a, b in zip(before, now, strict=True)]
            # AdamW moves each value by its learning rate, Muon the weight by an orthogonal matrix.
            assert all(m == pytest.approx(0.001 * 0.1**step, rel=0.5) for m in moved[1:])
            assert 0.1 < moved[0] / (0.02 * 0.1**step) < 2
            before = now
        assert [group["lr"] for group in made.param_groups] == pytest.approx([2e-4, 1e-5])
        assert all(p.grad is None for p in model.parameters())

    def test_training_resumes_bit_for_bit(self, tmp_path: Path) -> None:
        def prepared(folder: str, epochs: int) -> Any:
            model = net()
            return training(
                tmp_path / folder, model=model, epochs=epochs, optimizer=lambda p: muon(p, model, fused=True)
            )

        whole, half = prepared("whole", 4), prepared("half", 2)
        fit(whole)
        fit(half)
        stored = io.BytesIO()
        torch.save(checkpoint_state(half), stored)
        stored.seek(0)
        rest = prepared("rest", 4)
        restore(rest, torch.load(stored, weights_only=True))
        fit(rest)
        assert same(exact_state(checkpoint_state(whole)), exact_state(checkpoint_state(rest)))
        kept = checkpoint_state(rest)["optimizer"]
        assert set(kept["state"][0]) == {"momentum_buffer"}
        assert all("exp_avg" in kept["state"][index] for index in (1, 2, 3))

    def test_a_copy_goes_its_own_way(self) -> None:
        model = net()
        made = muon(trainable(model), model)
        model(torch.randn(4, 6)).sum().backward()
        twin, copied = copy.deepcopy((model, made))
        for own, optimizer in ((model, made), (twin, copied)):
            for p in own.parameters():
                p.grad = torch.ones_like(p)
            optimizer.step()
        assert all(torch.equal(a, b) for a, b in zip(model.parameters(), twin.parameters(), strict=True))
        before = [p.clone() for p in model.parameters()]
        copied.step()
        assert all(torch.equal(a, b) for a, b in zip(model.parameters(), before, strict=True))
        assert same(copied.state_dict()["param_groups"], made.state_dict()["param_groups"])

    def test_a_gradscaler_unscales_for_both_and_skips_both(self) -> None:
        model, plain = net(), net()
        scaled = Precision("fp32", CPU)
        scaled.scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
        scaled._scale = 1024.0
        ours = muon(trainable(model), model, fused=True)
        theirs = muon(trainable(plain), plain, fused=True)
        inputs = torch.randn(8, 6)
        for clip in (None, 0.1):
            scaled.backward(model(inputs).square().mean())
            assert scaled.step(ours, trainable(model), clip)
            plain(inputs).square().mean().backward()
            Precision("fp32", CPU).step(theirs, trainable(plain), clip)
        for a, b in zip(model.parameters(), plain.parameters(), strict=True):
            assert torch.allclose(a, b, atol=1e-6)
        before = copy.deepcopy(model.state_dict())
        scaled.backward(model(inputs).square().mean() * float("inf"))
        assert not scaled.step(ours, trainable(model), None)
        assert same(dict(before), dict(model.state_dict()))

    def test_it_learns_in_64_bits_too(self, tmp_path: Path) -> None:
        model = net()
        state = training(
            tmp_path,
            model=model,
            precision="fp64",
            splits=divided(blobs(300)),
            epochs=3,
            optimizer=lambda p: muon(p, model),
        )
        fit(state)
        assert state.optimizer.state[model[0].weight]["momentum_buffer"].dtype == torch.float64
        assert state.log.of("val/accuracy")[3] > 0.5  # by chance 0.33


def test_gradients_are_forgotten_and_an_optimizer_s_own_way_is_taken() -> None:
    class Counting(torch.optim.SGD):
        forgot = 0

        def zero_grad(self, set_to_none: bool = True) -> None:
            self.forgot += 1
            super().zero_grad(set_to_none)

    for kind in (torch.optim.SGD, Counting):
        model = torch.nn.Linear(2, 1)
        optimizer = kind(model.parameters(), lr=0.1)
        model(torch.ones(1, 2)).sum().backward()
        forget_gradients(optimizer)
        assert all(parameter.grad is None for parameter in model.parameters())
        assert getattr(optimizer, "forgot", 1) == 1


@pytest.mark.parametrize("dampening", (0.0, 0.5))
@pytest.mark.parametrize("loads", [False, True])
def test_the_fused_kernel_steps_a_parameter_whose_first_gradient_comes_later(dampening: float, loads: bool) -> None:
    def train(fused: bool) -> list[torch.Tensor]:
        weights = [torch.nn.Parameter(torch.ones(3)) for _ in range(2)]
        optimizer = torch.optim.SGD(weights, lr=0.1, momentum=0.9, dampening=dampening, fused=fused)
        if not loads:
            complete_momentum(optimizer)
        for step in range(4):
            for weight in weights[: 1 if step < 2 else 2]:
                weight.grad = torch.full((3,), step + 1.0)
            optimizer.step()
            if loads and step == 1:  # saved by an earlier version, which made no momentum before the first gradient
                load_state(optimizer, copy.deepcopy(optimizer.state_dict()))
        return [weight.detach() for weight in weights]

    for one, other in zip(train(True), train(False), strict=True):
        torch.testing.assert_close(one, other)


def test_a_branch_that_the_first_batches_do_not_take_is_trained(
    here: Path, runner: Callable[..., Called], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(here)
    (here / "late.py").write_text(
        "import torch\n"
        "class Late(torch.nn.Module):\n"
        "    def __init__(self, num_outputs: int):\n"
        "        super().__init__()\n"
        "        self.early = torch.nn.Linear(64, num_outputs)\n"
        "        self.late = torch.nn.Sequential(torch.nn.Linear(64, 200), torch.nn.Linear(200, num_outputs))\n"
        "        self.register_buffer('batches', torch.zeros(()))\n"
        "    def forward(self, inputs):\n"
        "        self.batches += self.training\n"
        "        flat = inputs.flatten(1)\n"
        "        return self.early(flat) + (self.late(flat) if self.batches > 3 else 0)\n"
    )
    options = ("optimizer=sgd", "optimizer.momentum=0.9", "trainer.epochs=1", "tracking=off")
    called = runner("model=custom", "model._target_=late.Late", *options)
    assert called.code == 0, called.err
