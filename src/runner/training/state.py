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
        self.evaluated = self.average.model if self.average else self.model
        # What is called in their place; `torch.compile` gives others.
        self.forward: Callable[[Tensor], Tensor] = self.model
        self.forward_evaluated: Callable[[Tensor], Tensor] = self.evaluated
        # Called when a checkpoint is written: see `hidden.Watch`.
        self.look: Callable[[], None] = lambda: None

    @property
    def best_is_last(self) -> bool:
        """Whether there is nothing to tell a best epoch by."""
        return self.loaders.val is None and self.settings.monitor.startswith("val/")


def prepare(
    x: "Experiment",
    checkpoints: Checkpoints,
    log: Callable[[Mapping[str, float], int], None],
    display: Display,
    stop: StopRequest,
) -> Training:
    """What trains an experiment; the rest is where it is kept, who is told, who watches, and who may stop it."""
    return Training(
        model=x.model,
        loss=x.loss,
        optimizer=x.optimizer,
        schedule=x.schedule,
        precision=x.precision,
        device=x.device,
        loaders=x.loaders,
        settings=x.trainer,
        checkpoints=checkpoints,
        log=log,
        display=display,
        stop=stop,
        progress=Progress(data=x.splits.fingerprint),
        preprocessing=preprocessing(x.target_scale),
        target_scale=x.target_scale,
    )


def require_finite(t: Training, value: float, name: str) -> float:
    """Give the value back, or end the run if it is not finite and `on_nonfinite` does not ignore that."""
    if not math.isfinite(value) and t.settings.on_nonfinite != "ignore":
        good = t.checkpoints.last
        raise TrainingError(
            f"{name} is {value} in epoch {t.progress.epoch} by step {t.progress.step}; "
            + (f"the last good checkpoint is {good}" if good.exists() else "there is no checkpoint before it")
            + "; a lower optimizer.lr or trainer.clip_norm=1 may help"
        )
    return value


def save_within_epoch(t: Training, best: bool = False) -> None:
    """Write a checkpoint from which the epoch in progress goes on at its next batch."""
    t.progress.sums, t.progress.seconds = t.sums.state(), t.clock.stop()
    save(t, best)
    t.clock.start()


def save(t: Training, best: bool) -> None:
    """Write a checkpoint; the last good one is not replaced by one whose weights are not finite."""
    if t.parameters:
        finite = torch.stack([torch.isfinite(p.detach()).all() for p in t.parameters]).all()
        require_finite(t, 0.0 if finite.item() else math.nan, "a weight")
    t.checkpoints.save(checkpoint_state(t), best)
    t.look()


def checkpoint_state(t: Training) -> dict[str, Any]:
    """Everything that exact resume needs, as tensors and primitives."""
    modules = {"model": t.model, "ema": t.average.model if t.average is not None else None, "loss": t.loss}
    optional = {
        "buffers": {name: held for name, module in modules.items() if module and (held := unsaved_buffers(module))},
        "loss": t.loss.state_dict(),
        "data": {
            name: data_set.state_dict() for name, data_set in t.loaders.data_sets().items() if saves_itself(data_set)
        },
        "preprocessing": t.preprocessing,
    }
    return {
        "format": FORMAT,
        "model": t.model.state_dict(),
        "optimizer": t.optimizer.state_dict(),
        "scheduler": t.schedule.scheduler.state_dict() if t.schedule.scheduler is not None else {},
        "scaler": t.precision.state_dict(),
        "ema": t.average.state_dict() if t.average is not None else {},
        "rng": rng(t),
        "progress": asdict(t.progress),
        **{key: part for key, part in optional.items() if part},
    }


def rng(t: Training) -> dict[str, Any]:
    """The state of every generator: those that all share, and under `held` those that objects have of their own."""
    held = held_generators(stateful(t))
    return {**rng_state(t.device.torch), **({"held": held} if held else {})}


def set_rng(t: Training, states: Mapping[str, Any]) -> None:
    """Restore the states that `rng` returned."""
    set_rng_state(dict(states), t.device.torch)
    restore_generators(stateful(t), states.get("held", {}))


def stateful(t: Training) -> dict[str, Any]:
    """Whatever may have state of its own, by the first word of its path."""
    data = {"data" if name == "train" else f"{name}_data": held for name, held in t.loaders.data_sets().items()}
    averaged = {"ema": t.average.model} if t.average is not None else {}
    schedule = {"scheduler": t.schedule.scheduler} if t.schedule.scheduler is not None else {}
    return {"model": t.model, **averaged, "loss": t.loss, "optimizer": t.optimizer, **schedule, **data}


def restore(t: Training, checkpoint: Mapping[str, Any]) -> None:
    """Resume from a `checkpoint_state`."""
    buffers = checkpoint.get("buffers", {})
    load_module(t.model, checkpoint["model"], buffers.get("model"))
    load_state(t.optimizer, checkpoint["optimizer"])
    if t.schedule.scheduler is not None:
        t.schedule.scheduler.load_state_dict(checkpoint["scheduler"])
    t.precision.load_state_dict(checkpoint["scaler"])
    if t.average is not None:
        t.average.load_state_dict(checkpoint["ema"], buffers.get("ema"))
    load_loss(t.loss, checkpoint)
    t.preprocessing = dict(checkpoint.get("preprocessing", {}))
    for name, data_set in t.loaders.data_sets().items():
        if saves_itself(data_set) and name in checkpoint.get("data", {}):
            data_set.load_state_dict(checkpoint["data"][name])
    set_rng(t, checkpoint["rng"])
    t.progress = Progress(**{"longest_stale": None, **checkpoint["progress"]})


def load_weights(t: Training, checkpoint: Mapping[str, Any]) -> None:
    """Evaluate with the weights of a checkpoint from now on, and with the state that its loss had."""
    checkpoint = dict(checkpoint)
    for module in (t.model, t.evaluated):
        load_module(module, weights(checkpoint), weight_buffers(checkpoint))
    load_loss(t.loss, checkpoint)
