"""What can be trained in a stack, and what is said about the rest."""

from dataclasses import fields
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn

from helpers.composed import built
from runner.assembly.experiment import Experiment
from runner.assembly.models import example
from runner.config.settings import TrainerSettings
from runner.training.stackable import SETTINGS, why_not

IN_STACK = {
    "epochs",
    "max_steps",
    "clip_norm",
    "ema_decay",
    "monitor",
    "validate_every_epochs",
    "log_every_epochs",
    "log_every_steps",
    "checkpoint_every_epochs",
    "checkpoint_every_steps",
    "checkpoint_every_seconds",
    "keep_checkpoints",
    "on_nonfinite",  # except for skip
    "deterministic",
    "early_stopping",
}
"""The settings of the trainer that do in a stack what they do alone: `test_stacked` trains with them."""


def test_each_setting_of_the_trainer_is_decided() -> None:
    assert IN_STACK.isdisjoint(SETTINGS)
    assert IN_STACK | set(SETTINGS) == {field.name for field in fields(TrainerSettings)}


@pytest.fixture(scope="module")
def plain() -> Experiment:
    return built("device.threads=1", "data.limit=64")


def reason(experiment: Experiment) -> str | None:
    batch = example(experiment.task, experiment.splits, 4, experiment.precision.dtype)
    return why_not(experiment, batch)


def test_a_plain_training(plain: Experiment) -> None:
    assert reason(plain) is None


ALONE = {
    "trainer.max_time=60": "trainer.max_time",
    "trainer.grad_accumulation=2": "trainer.grad_accumulation",
    "trainer.validate_every_steps=5": "trainer.validate_every_steps",
    "trainer.detect_anomaly=true": "trainer.detect_anomaly",
    "trainer.profile_steps=3": "trainer.profile_steps",
    "trainer.log_norms=true": "trainer.log_norms",
    "trainer.on_nonfinite=skip": "trainer.on_nonfinite=skip",
    "model.dropout=0.1": "dropout",
    "optimizer=muon": "the optimizer Combined",
    "optimizer=rmsprop": "the optimizer RMSprop",
    "+optimizer.dampening=0.1": "optimizer.dampening",
    "precision=bf16": "precision=bf16: autocast",
    "data.in_memory=false": "data that are not in memory",
    "data.augment.flip=true": "data.augment",
    "+loss.class_weight=balanced": "a loss with weights",
    "loss.ignore_index=3": "a loss that is no mean over samples",
}


@pytest.mark.parametrize("override", ALONE)
def test_what_runs_alone(override: str) -> None:
    typed = ["loss=cross_entropy"] if "loss." in override else []
    assert reason(built("device.threads=1", "data.limit=64", *typed, override)) == ALONE[override]


class Noisy(nn.Linear):
    def forward(self, inputs: Tensor) -> Tensor:
        return super().forward(inputs.flatten(1)) + torch.rand(())


class Counting(nn.Linear):
    steps = 0

    def forward(self, inputs: Tensor) -> Tensor:
        self.steps += 1
        return super().forward(inputs.flatten(1))


class WithBuffer(nn.Linear):
    def __init__(self, features: int, classes: int) -> None:
        super().__init__(features, classes)
        self.register_buffer("seen", torch.zeros(()))

    def forward(self, inputs: Tensor) -> Tensor:
        self.seen += 1
        return super().forward(inputs.flatten(1))


class Branching(nn.Linear):
    def forward(self, inputs: Tensor) -> Tensor:
        outputs = super().forward(inputs.flatten(1))
        return outputs if outputs.sum() > 0 else -outputs


class Unused(nn.Linear):
    def __init__(self, features: int, classes: int) -> None:
        super().__init__(features, classes)
        self.more = nn.Parameter(torch.zeros(3))

    def forward(self, inputs: Tensor) -> Tensor:
        return super().forward(inputs.flatten(1))


MODELS: dict[type[nn.Linear], str] = {
    Noisy: "a model that draws random numbers",
    Counting: "a model whose steps change its attributes",
    WithBuffer: "a model that changes a buffer",
    Branching: "torch.func.vmap: ",
    Unused: "a parameter without a gradient",
}


@pytest.mark.parametrize("kind", MODELS)
def test_models_of_the_user(plain: Experiment, kind: type[nn.Linear], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plain, "model", kind(64, 10))
    assert str(reason(plain)).startswith(MODELS[kind])


def test_batch_norm(plain: Experiment, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plain, "model", nn.Sequential(nn.Flatten(), nn.BatchNorm1d(64), nn.Linear(64, 10)))
    assert reason(plain) == "BatchNorm"


def test_metrics_of_the_training_part(plain: Experiment, monkeypatch: pytest.MonkeyPatch) -> None:
    for names, expected in ((["f1"], "the metric f1 of the training part"), ([], None)):
        monkeypatch.setattr(plain.task, "extra", SimpleNamespace(measured_on=lambda part, names=names: names))
        assert reason(plain) == expected
