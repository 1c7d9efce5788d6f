"""The state of training: all objects that the loop uses. `saving.py` has their part in a checkpoint."""

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor, nn

from runner.config.settings import TrainerSettings
from runner.data.collate import Batch
from runner.data.loading import Loaders
from runner.data.target_scale import TargetScale, preprocessing
from runner.device import Device
from runner.errors import TrainingError
from runner.model.freeze import Freeze
from runner.optimizer import complete_momentum, trainable
from runner.optimizer.groups import rates
from runner.optimizer.several import Several
from runner.precision import Precision
from runner.rundir import layout
from runner.rundir.artifacts import Artifacts
from runner.rundir.checkpoint import (
    Checkpoints,
)
from runner.rundir.epoch_seconds import EpochSeconds
from runner.scheduler import Schedule
from runner.strategy import Single, Strategy
from runner.task import Task, higher_is_better
from runner.task.supervised import Supervised
from runner.training.averaging import WeightAverage
from runner.training.callbacks import Callbacks
from runner.training.energy import Energy
from runner.training.norms import LayerNorms
from runner.training.progress import Metrics, Monitor, Progress, Stopwatch
from runner.training.running_metrics import RunningMetrics
from runner.training.spans import Span, no_span
from runner.util.rng import derive_seed, isolated_rng

if TYPE_CHECKING:
    from runner.assembly.experiment import Experiment


class Interrupted(Exception):
    """A stop was requested. When `fit` raises it, a checkpoint has been written."""


class Paused(Interrupted):
    """The epoch was reached after which training pauses."""


class StopRequest(Protocol):
    """A stop flag set by a signal handler, and checked after every step."""

    requested: bool


class Display(Protocol):
    """The display of training for a person."""

    def start_epoch(self, epoch: int, batches: int, done: int) -> None:
        """Start an epoch, or resume it after `done` batches."""

    def due(self) -> bool:
        """Return whether to call `batch` after the next batch."""

    def batch(self, done: int, loss: float) -> None:
        """Show the number of finished batches of the epoch, and the running mean of the loss."""

    def end_epoch(self, epoch: int, metrics: Metrics, seconds: float, best: bool) -> None:
        """Show the metrics of a finished epoch, and its seconds of training."""

    def note(self, text: str) -> None:
        """Show a note."""


@dataclass
class Training:
    """All objects that `fit` uses.

    Attributes:
        preprocessing: the part of the samples' preprocessing that a checkpoint holds, in tensors and primitives:
            `{"targets": {"mean": [...], "std": [...]}}`.
        target_scale: the scale of a regression's targets, if they are scaled, or far from 0.
        freeze: the parameters that are not trained, and until when.
        callbacks: the user's, which the loop calls.
        pause_after: the epoch after which training pauses; None: it does not.
        strategy: who trains: this process, or several.
        artifacts: writes images, figures and tables of the run.
        epoch_seconds: the file with the seconds of finished epochs, up to the last checkpoint.
        weight: the sum of weights of the optimizer step in progress.
        waiting: its batches, with several optimizers.
        measured: the names of what a step measures: `loss`, and the scalars of the task.
        losses: the names of what is minimised: `loss`, or those of several optimizers.
        eval_model: the model for evaluation: the averaged weights if there are any.
        forward: passed to the task in place of `model`; `torch.compile` replaces it.
        eval_forward: passed to the task in place of `eval_model`; `torch.compile` replaces it.
        span: names a part of training; `profiling.Profiler` replaces it.
        after_save: called after a checkpoint is written, or copied to be; `hidden.Watch` replaces it.
        fixed_rng: the states of all generators where training draws from none of them, and other trainings share the
            process; None: those at the time of a checkpoint.
    """

    model: nn.Module
    task: Task
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
    freeze: Freeze = field(default_factory=Freeze)
    measured: Sequence[str] = ("loss",)
    callbacks: Callbacks = field(default_factory=Callbacks)
    pause_after: int | None = None
    strategy: Strategy = field(default_factory=Single)

    def __post_init__(self) -> None:
        self.parameters = [*trainable(self.model), *self.task.own_parameters()]  # and those frozen until a later epoch
        self.unfreeze()
        self.task.autocasts = self.precision.autocast_dtype is not None
        self.weight: Tensor | int = 0
        self.has_named_groups = bool(rates(self.optimizer))
        self.waiting: list[Batch] = []
        self.takes_turns = isinstance(self.optimizer, Several)
        self.losses = list(self.optimizer.by_name) if isinstance(self.optimizer, Several) else ["loss"]
        folder = self.checkpoints.folder.parent
        self.artifacts = Artifacts(folder / layout.ARTIFACTS)
        self.epoch_seconds = EpochSeconds(folder)
        self.norms = LayerNorms(self.model, self.task, self.parameters) if self.settings.log_norms else None
        self.sums = RunningMetrics(self.task, self.device.torch, self.target_scale, True, self.strategy)
        self.per_class: dict[str, dict[str, float | None]] = {}  # `val/f1` of the last evaluation
        self.stop_requested: str | None = None
        self._noted: set[str] = set()
        self.clock = Stopwatch(self.device)
        self.energy = Energy()
        monitored = self.settings.monitor
        self.monitor = Monitor(monitored, higher_is_better(self.task, monitored), self.settings.early_stopping)
        decay = self.settings.ema_decay
        self.average = WeightAverage(self.model, decay) if decay is not None else None
        self.eval_model = self.average.model if self.average else self.model
        self.forward: nn.Module = self.model
        self.eval_forward: nn.Module = self.eval_model
        self.span: Span = no_span
        self.after_save: Callable[[], None] = lambda: None
        self.fixed_rng: dict[str, Any] | None = None

    def evaluation_rng(self) -> AbstractContextManager[None]:
        """Return the context of an evaluation: what a step draws in it is the same each time, and changes no training.

        The step of `supervised` draws nothing, unless its model does.
        """
        if type(self.task).step is Supervised.step:
            return nullcontext()
        return isolated_rng(derive_seed("evaluation", self.loaders.train.seed or 0), self.device.torch)

    def stopping(self, where: str = "") -> bool:
        """Return whether a stop was requested; of any rank, if there are several.

        Args:
            where: what is asked again and again, such as after each step; empty: it is asked once.
        """
        return self.strategy.agree(where, self.stop.requested, now=not where)

    def unfreeze(self) -> None:
        """Freeze or unfreeze what the epoch in progress asks for."""
        self.freeze.at_epoch(self.progress.epoch)

    def request_stop(self, reason: str) -> None:
        """End training after the step or epoch in progress, as FINISHED; the first reason is printed.

        It is in the checkpoint: a resumed run stays ended. Several ranks end together, if one of them asks to.
        """
        self.stop_requested = self.stop_requested or reason or "a callback asked for it"

    def settle_requests(self) -> None:
        """Take up the request of a callback to end training, of any rank."""
        if not self.callbacks.by_name or self.progress.stop_reason:
            return
        if self.strategy.agree("callback", self.stop_requested is not None, now=True):
            self.progress.stop_reason = next(filter(None, self.strategy.gather(self.stop_requested)))

    def note_once(self, text: str) -> None:
        """Show a note, unless it was shown before."""
        if text not in self._noted:
            self._noted.add(text)
            self.display.note(text)

    @property
    def best_is_last(self) -> bool:
        """Return whether the last epoch counts as the best: without validation, or a loss, there is none to monitor."""
        monitored = self.settings.monitor
        no_loss = monitored in ("val/loss", "train/loss") and "loss" not in self.measured
        return no_loss or (self.loaders.val is None and monitored.startswith("val/"))


def make_training(
    experiment: "Experiment",
    checkpoints: Checkpoints,
    log: Callable[[Mapping[str, float], int], None],
    display: Display,
    stop: StopRequest,
) -> Training:
    """Create the training of an experiment, with its checkpoints, log, display and stop request."""
    experiment.strategy.divide(experiment.model, experiment.optimizer, experiment.freeze.parameters)
    complete_momentum(experiment.optimizer)
    return Training(
        model=experiment.model,
        task=experiment.task,
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
        preprocessing=preprocessing(experiment.target_scale, experiment.splits.table),
        target_scale=experiment.target_scale,
        freeze=experiment.freeze,
        measured=experiment.measured,
        callbacks=Callbacks(experiment.callbacks),
        pause_after=experiment.pause_after,
        strategy=experiment.strategy,
    )


def require_finite(state: Training, value: float, name: str) -> float:
    """Return the value; end the run if it is not finite, unless `on_nonfinite=ignore`."""
    if not math.isfinite(value) and state.settings.on_nonfinite != "ignore":
        last = state.checkpoints.newest()
        raise TrainingError(
            f"{name} is {value} in epoch {state.progress.epoch}, step {state.progress.step}; "
            + (f"the last good checkpoint is {last}" if last is not None else "there is no earlier checkpoint")
            + "; try a lower optimizer.lr, or trainer.clip_norm=1"
        )
    return value
