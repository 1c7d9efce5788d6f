"""Everything that training works with, and what of it is kept in a checkpoint."""

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor, nn

from runner.config.settings import TrainerSettings
from runner.data.loading import Loaders
from runner.data.source import saves_itself
from runner.data.target_scale import TargetScale, preprocessing
from runner.device import Device
from runner.errors import TrainingError
from runner.loss import Loss
from runner.optimizer import load_state, trainable
from runner.precision import Precision
from runner.rundir.checkpoint import FORMAT, Checkpoints, load_loss, weight_buffers, weights
from runner.scheduler import Schedule
from runner.training.attributes import held_generators, restore_generators
from runner.training.averaging import WeightAverage
from runner.training.progress import Metrics, Monitor, Progress, RunningMetrics, Stopwatch
from runner.training.spans import Span, no_span
from runner.util.buffers import load_module, unsaved_buffers
from runner.util.rng import rng_state, set_rng_state

if TYPE_CHECKING:
    from runner.assembly.experiment import Experiment


class Interrupted(Exception):
    """Asked to stop; out of `fit` it comes with a checkpoint written."""


class StopRequest(Protocol):
    """Set from outside, by a signal handler; looked at after every step."""

    requested: bool


class Display(Protocol):
    """What a person watches while training."""

    def start_epoch(self, epoch: int, batches: int, done: int) -> None:
        """An epoch begins, or goes on after `done` batches."""

    def due(self) -> bool:
        """Whether it wants to hear of the next batch."""

    def batch(self, done: int, loss: float) -> None:
        """So many batches of the epoch are done; the running mean of the loss."""

    def end_epoch(self, epoch: int, metrics: Metrics, seconds: float, best: bool) -> None:
        """An epoch is over, of which the training took so many seconds."""

    def note(self, text: str) -> None:
        """Something a person should know."""


@dataclass
class Training:
    """Everything that `fit` works with.

    Attributes:
        preprocessing: how samples are prepared, as far as a checkpoint must hold it, in tensors and primitives:
            `{"targets": {"mean": [...], "std": [...]}}`.
        target_scale: of a regression whose targets are scaled, or far from 0.
    """

    model: nn.Module
    loss: Loss
    optimizer: torch.optim.Optimizer
    schedule: Schedule
    precision: Precision
    device: Device
    loaders: Loaders
    settings: TrainerSettings
    checkpoints: Checkpoints
    log: Callable[[Mapping[str, float], int], None]
    display: Display
    stop: StopRequest
    progress: Progress = field(default_factory=Progress)
    preprocessing: dict[str, Any] = field(default_factory=dict)
    target_scale: TargetScale | None = None

    def __post_init__(self) -> None:
        self.parameters = trainable(self.model)
        self.sums = RunningMetrics(self.loss, self.device.torch, self.target_scale)
        self.clock = Stopwatch(self.device)
        monitored = self.settings.monitor
        self.monitor = Monitor(monitored, self.loss.higher_is_better(monitored), self.settings.early_stopping)
        decay = self.settings.ema_decay
        self.average = WeightAverage(self.model, decay) if decay is not None else None
        self.eval_model = self.average.model if self.average else self.model
        # Called in place of the models; `torch.compile` replaces them.
        self.forward: Callable[[Tensor], Tensor] = self.model
        self.eval_forward: Callable[[Tensor], Tensor] = self.eval_model
        # Names a part of training; replaced by `profiling.Profiler`.
        self.span: Span = no_span
        # Called after a checkpoint is written; replaced by `hidden.Watch`.
        self.after_save: Callable[[], None] = lambda: None

    @property
    def best_is_last(self) -> bool:
        """Whether there is nothing to tell a best epoch by."""
        return self.loaders.val is None and self.settings.monitor.startswith("val/")


def prepare(
    experiment: "Experiment",
    checkpoints: Checkpoints,
    log: Callable[[Mapping[str, float], int], None],
    display: Display,
    stop: StopRequest,
) -> Training:
    """What trains an experiment; the rest is where it is kept, who is told, who watches, and who may stop it."""
    return Training(
        model=experiment.model,
        loss=experiment.loss,
        optimizer=experiment.optimizer,
        schedule=experiment.schedule,
        precision=experiment.precision,
        device=experiment.device,
        loaders=experiment.loaders,
        settings=experiment.trainer,
        checkpoints=checkpoints,
        log=log,
        display=display,
        stop=stop,
        progress=Progress(data=experiment.splits.fingerprint),
        preprocessing=preprocessing(experiment.target_scale),
        target_scale=experiment.target_scale,
    )


def require_finite(state: Training, value: float, name: str) -> float:
    """Give the value back, or end the run if it is not finite and `on_nonfinite` does not ignore that."""
    if not math.isfinite(value) and state.settings.on_nonfinite != "ignore":
        good = state.checkpoints.last
        raise TrainingError(
            f"{name} is {value} in epoch {state.progress.epoch} by step {state.progress.step}; "
            + (f"the last good checkpoint is {good}" if good.exists() else "there is no checkpoint before it")
            + "; a lower optimizer.lr or trainer.clip_norm=1 may help"
        )
    return value


def save_within_epoch(state: Training, best: bool = False) -> None:
    """Write a checkpoint from which the epoch in progress goes on at its next batch."""
    state.progress.sums, state.progress.seconds = state.sums.state(), state.clock.stop()
    save(state, best)
    state.clock.start()


def save(state: Training, best: bool) -> None:
    """Write a checkpoint; the last good one is not replaced by one whose weights are not finite."""
    if state.parameters:
        finite = torch.stack([torch.isfinite(parameter.detach()).all() for parameter in state.parameters]).all()
        require_finite(state, 0.0 if finite.item() else math.nan, "a weight")
    with state.span("checkpoint"):
        state.checkpoints.save(checkpoint_state(state), best)
    state.after_save()


def checkpoint_state(state: Training) -> dict[str, Any]:
    """Everything that exact resume needs, as tensors and primitives."""
    modules = {
        "model": state.model,
        "ema": state.average.model if state.average is not None else None,
        "loss": state.loss,
    }
    optional = {
        "buffers": {name: held for name, module in modules.items() if module and (held := unsaved_buffers(module))},
        "loss": state.loss.state_dict(),
        "data": {
            name: data_set.state_dict()
            for name, data_set in state.loaders.data_sets().items()
            if saves_itself(data_set)
        },
        "preprocessing": state.preprocessing,
    }
    return {
        "format": FORMAT,
        "model": state.model.state_dict(),
        "optimizer": state.optimizer.state_dict(),
        "scheduler": state.schedule.scheduler.state_dict() if state.schedule.scheduler is not None else {},
        "scaler": state.precision.state_dict(),
        "ema": state.average.state_dict() if state.average is not None else {},
        "rng": rng(state),
        "progress": asdict(state.progress),
        **{key: part for key, part in optional.items() if part},
    }


def rng(state: Training) -> dict[str, Any]:
    """The state of every generator: those that all share, and under `held` those that objects have of their own."""
    held = held_generators(stateful(state))
    return {**rng_state(state.device.torch), **({"held": held} if held else {})}


def set_rng(state: Training, states: Mapping[str, Any]) -> None:
    """Restore the states that `rng` returned."""
    set_rng_state(dict(states), state.device.torch)
    restore_generators(stateful(state), states.get("held", {}))


def stateful(state: Training) -> dict[str, Any]:
    """Whatever may have state of its own, by the first word of its path."""
    data = {"data" if name == "train" else f"{name}_data": held for name, held in state.loaders.data_sets().items()}
    averaged = {"ema": state.average.model} if state.average is not None else {}
    schedule = {"scheduler": state.schedule.scheduler} if state.schedule.scheduler is not None else {}
    return {"model": state.model, **averaged, "loss": state.loss, "optimizer": state.optimizer, **schedule, **data}


def restore(state: Training, checkpoint: Mapping[str, Any]) -> None:
    """Resume from a `checkpoint_state`."""
    buffers = checkpoint.get("buffers", {})
    load_module(state.model, checkpoint["model"], buffers.get("model"))
    load_state(state.optimizer, checkpoint["optimizer"])
    if state.schedule.scheduler is not None:
        state.schedule.scheduler.load_state_dict(checkpoint["scheduler"])
    state.precision.load_state_dict(checkpoint["scaler"])
    if state.average is not None:
        state.average.load_state_dict(checkpoint["ema"], buffers.get("ema"))
    load_loss(state.loss, checkpoint)
    state.preprocessing = dict(checkpoint.get("preprocessing", {}))
    for name, data_set in state.loaders.data_sets().items():
        if saves_itself(data_set) and name in checkpoint.get("data", {}):
            data_set.load_state_dict(checkpoint["data"][name])
    set_rng(state, checkpoint["rng"])
    state.progress = Progress(**{"longest_stale": None, **checkpoint["progress"]})


def load_weights(state: Training, checkpoint: Mapping[str, Any]) -> None:
    """Evaluate with the weights of a checkpoint from now on, and with the state that its loss had."""
    checkpoint = dict(checkpoint)
    for module in (state.model, state.eval_model):
        load_module(module, weights(checkpoint), weight_buffers(checkpoint))
    load_loss(state.loss, checkpoint)
