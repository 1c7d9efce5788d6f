"""Decide whether a training can be one of a stack: by what the step of a stack does, and by a trial of it."""

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from runner.config.settings import LARGEST, LrRangeSettings, TrainerSettings
from runner.data.collate import Batch
from runner.data.stream_part import StreamPart
from runner.errors import first_line
from runner.model.probe import BATCH_NORM
from runner.task import Task
from runner.task.supervised import Supervised
from runner.training.attributes import Walk, addresses
from runner.training.stacked_gradients import SMOOTHING, Gradients

if TYPE_CHECKING:
    from runner.assembly.experiment import Setup

DROPOUT = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout, nn.FeatureAlphaDropout)

OPTIMIZERS = (torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW)
OPTIONS = {"dampening": 0, "maximize": False, "amsgrad": False, "differentiable": False, "capturable": False}
"""Options of optimizers that the step of a stack does not have, with the values that leave them out."""

SETTINGS: Mapping[str, Any] = {
    "max_time": None,
    "grad_accumulation": 1,
    "validate_every_steps": None,
    "compile": False,
    "detect_anomaly": False,
    "profile_steps": None,
    "steps_per_epoch": None,
    "callbacks": None,
    "log_norms": False,
    "activation_checkpointing": None,
    "on_oom": "fail",
    "lr_range": LrRangeSettings(),
}
"""Settings of the trainer that a stack does not have, with the values that leave them out."""

TOLERANCE = 1e-3
"""Of the trial, relative to the largest gradient: mistakes are larger, the rounding of float32 is smaller."""


def why_not(setup: "Setup", batch: Batch | None = None) -> str | None:
    """Return why a training cannot be one of a stack; None if it can.

    Args:
        setup: everything of the run but its batches. Its model may be changed.
        batch: some samples on the CPU for a trial with two models, which takes milliseconds; None: without one.
    """
    reasons = (_of_settings(setup.trainer), _of_data(setup), _of_model(setup), _of_optimizer(setup.optimizer))
    reason = next((reason for reason in reasons if reason is not None), None)
    return _of_trial(setup, batch) if reason is None and batch is not None else reason


def _of_settings(settings: TrainerSettings) -> str | None:
    for name, value in SETTINGS.items():
        if getattr(settings, name) not in (value, {}):
            return f"trainer.{name}"
    return "trainer.on_nonfinite=skip" if settings.on_nonfinite == "skip" else None


def _of_data(setup: "Setup") -> str | None:
    if (strategy := setup.config["strategy"]["name"]) != "single":
        return f"strategy={strategy}"
    if setup.config["data"]["batch_size"] == LARGEST:
        return f"data.batch_size={LARGEST}"
    if setup.device.torch.type != "cpu":
        return f"device={setup.device.torch.type}"
    if setup.precision.autocast_dtype is not None:
        return f"precision={setup.precision.name}: autocast"
    if not setup.in_memory or isinstance(setup.splits.train, StreamPart):
        return "data that are not in memory"
    if setup.augment is not None:
        return "data.augment"
    return "targets that are scaled" if setup.target_scale is not None else None


def _of_model(setup: "Setup") -> str | None:
    task, loss = setup.task, setup.task.loss
    if type(task) is not Supervised or loss is None:
        return "a task other than supervised"
    if task.extra is not None and (names := task.extra.measured_on("train")):
        return f"the metric {names[0]} of the training part"
    if any(True for _ in (*loss.parameters(), *loss.buffers())):
        return "a loss with weights"
    if setup.freeze.until is not None:
        return "model.unfreeze_at_epoch"
    if setup.freeze.note:
        return "model.lora"
    for module in setup.model.modules():
        if isinstance(module, DROPOUT) and module.p > 0:
            return "dropout"
        if isinstance(module, BATCH_NORM):
            return "BatchNorm"
    return None


def _of_optimizer(optimizer: torch.optim.Optimizer) -> str | None:
    if type(optimizer) not in OPTIMIZERS:
        return f"the optimizer {type(optimizer).__name__}"
    for group in optimizer.param_groups:
        for name, value in OPTIONS.items():
            if group.get(name, value) != value:
                return f"optimizer.{name}"
    return None


def _of_trial(setup: "Setup", batch: Batch) -> str | None:
    """Compare the step of two models in a stack with their steps alone."""
    inputs, targets = batch
    if not isinstance(inputs, Tensor) or not isinstance(targets, Tensor):
        return "inputs or targets of several tensors"
    model, task = setup.model.cpu().train(), setup.task.cpu().train()
    if (
        task.loss is not None
        and task.loss.denominator(torch.zeros(len(targets), setup.num_outputs or 1), targets) is not None
    ):
        return "a loss that is no mean over samples"
    before, generator, attributes = _state(model), torch.get_rng_state(), _attributes(model)
    try:
        alone = [_alone(model, task, batch, factor) for factor in (1.0, 0.9)]
        if None in alone:
            return "a parameter without a gradient"
        if any(not torch.equal(value, before[name]) for name, value in _state(model).items()):
            return "a model that changes a buffer"
        if not torch.equal(generator, torch.get_rng_state()):
            return "a model that draws random numbers"
        if _attributes(model) != attributes:
            return "a model whose steps change its attributes"
        together = _together(model, task, batch, (1.0, 0.9))
    except Exception as error:  # vmap refuses many things, each with an error of its own
        return f"torch.func.vmap: {first_line(error)[:120]}"
    for expected, found in zip(alone, together, strict=True):
        assert expected is not None
        largest = max(float(gradient.abs().max()) for gradient in expected)
        if any(
            not torch.allclose(a, b, rtol=0.0, atol=TOLERANCE * largest) for a, b in zip(expected, found, strict=True)
        ):
            return "a model whose gradients are others in a stack"
    return None


def _trained(model: nn.Module) -> dict[str, nn.Parameter]:
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


def _state(model: nn.Module) -> dict[str, Tensor]:
    return {name: buffer.clone() for name, buffer in model.named_buffers()}


def _attributes(model: nn.Module) -> dict[str, int]:
    return Walk({"model": model}, leave_out=addresses(model)).attributes


def _alone(model: nn.Module, task: Task, batch: Batch, factor: float) -> list[Tensor] | None:
    """Return the gradients of the model with its weights times a factor; None if one is missing."""
    trained = _trained(model)
    weights = [parameter.detach().clone() for parameter in trained.values()]
    with torch.no_grad():
        for parameter in trained.values():
            parameter.mul_(factor)
    loss = task.measure(model, batch).loss
    assert loss is not None
    gradients = torch.autograd.grad(loss, list(trained.values()), allow_unused=True)
    with torch.no_grad():
        for parameter, weight in zip(trained.values(), weights, strict=True):
            parameter.copy_(weight)
    return None if any(gradient is None for gradient in gradients) else list(gradients)


def _together(model: nn.Module, task: Task, batch: Batch, factors: tuple[float, ...]) -> Iterator[list[Tensor]]:
    """Return the gradients of several models in a stack, which have the weights times a factor each."""
    inputs, targets = (torch.stack([part] * len(factors)) for part in batch)
    program = Gradients(model, task)
    weights = {
        name: program.stack([parameter.detach() * factor for factor in factors], name)
        for name, parameter in _trained(model).items()
    }
    smoothing = None
    if (value := getattr(task.loss, SMOOTHING, None)) is not None:
        smoothing = torch.full((len(factors),), float(value), dtype=task.dtype)
    *_, gradients = program.compute(weights, {}, inputs, targets, smoothing)
    return iter([[gradient[place] for gradient in gradients.values()] for place in range(len(factors))])
