"""The state of training: all objects that the loop uses, and their part in a checkpoint."""

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor, nn

from runner.config.settings import TrainerSettings
from runner.data.collate import Batch
from runner.data.loading import Loaders
from runner.data.source import saves_itself
from runner.data.streaming import StreamPosition
from runner.data.target_scale import TargetScale, preprocessing
from runner.device import Device
from runner.errors import TrainingError
from runner.model.freeze import Freeze
from runner.optimizer import complete_momentum, load_state, trainable
from runner.optimizer.groups import rates
from runner.optimizer.several import Several
from runner.precision import Precision
from runner.rundir import layout
from runner.rundir.artifacts import Artifacts
from runner.rundir.checkpoint import (
    FORMAT,
    Checkpoints,
    best_weights,
    load_task,
    task_buffers,
    task_state,
    weight_buffers,
)
from runner.rundir.epoch_seconds import EpochSeconds
from runner.scheduler import Schedule
from runner.strategy import Single, Strategy
from runner.task import Task, higher_is_better
from runner.task.supervised import Supervised
from runner.training.attributes import held_generators, restore_generators
from runner.training.averaging import WeightAverage
from runner.training.callbacks import Callbacks
from runner.training.energy import Energy
from runner.training.norms import LayerNorms
from runner.training.progress import Metrics, Monitor, Progress, Stopwatch
from runner.training.running_metrics import RunningMetrics
from runner.training.spans import Span, no_span
from runner.util.buffers import load_module, unsaved_buffers
from runner.util.rng import derive_seed, isolated_rng, rng_state, set_rng_state
from runner.util.shards import own_part

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
        after_save: called after a checkpoint is written; `hidden.Watch` replaces it.
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
        self.freeze.at_epoch(self.progress.epoch)
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
        if self.freeze.at_epoch(self.progress.epoch):
            optimizers = self.optimizer.by_name.values() if isinstance(self.optimizer, Several) else [self.optimizer]
            for optimizer in optimizers:
                complete_momentum(optimizer)

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


def save_within_epoch(state: Training, best: bool = False) -> None:
    """Write a checkpoint that resumes the epoch in progress at its next batch."""
    state.progress.sums, state.progress.more_sums = state.sums.state()
    state.progress.seconds = state.clock.stop()
    save(state, best)
    state.clock.start()


def save(state: Training, best: bool) -> None:
    """Write a checkpoint; non-finite weights end the run instead, and the last good checkpoint stays."""
    if state.parameters:
        finite = torch.stack([torch.isfinite(own_part(weight.detach())).all() for weight in state.parameters]).all()
        bad = state.strategy.agree("finite", not finite.item(), now=True)
        require_finite(state, math.nan if bad else 0.0, "a weight")
    progress = state.progress
    with state.span("checkpoint"):
        state.epoch_seconds.append(progress.finished_epochs - len(progress.epoch_seconds), progress.epoch_seconds)
        progress.epoch_seconds.clear()
        state.checkpoints.save(checkpoint_state(state), best)
    state.after_save()


def checkpoint_state(state: Training) -> dict[str, Any]:
    """Return everything that an exact resume needs, as tensors and primitives."""
    modules = {
        "model": state.model,
        "ema": state.average.model if state.average is not None else None,
    }
    buffers = {name: unsaved_buffers(module) for name, module in modules.items() if module is not None}
    buffers |= task_buffers(state.task)
    optional = {
        "buffers": {name: tensors for name, tensors in buffers.items() if tensors},
        **task_state(state.task),
        "data": data_state(state),
        "preprocessing": state.preprocessing,
        "callbacks": state.callbacks.state_dict(),
        "ranks": state.strategy.gather(own_state(state)) if state.strategy.ranks > 1 else [],
    }
    return {
        "format": FORMAT,
        "model": state.strategy.plain(state.model.state_dict()),
        "optimizer": state.strategy.plain(state.optimizer.state_dict()),
        "scheduler": state.schedule.scheduler.state_dict() if state.schedule.scheduler is not None else {},
        "scaler": state.precision.state_dict(),
        "ema": state.average.state_dict() if state.average is not None else {},
        "rng": rng(state) if state.fixed_rng is None else state.fixed_rng,
        "progress": state.progress.state_dict(),
        **{key: part for key, part in optional.items() if part},
    }


def own_state(state: Training) -> dict[str, Any]:
    """Return what differs between the ranks: generators, sums of the epoch in progress, places in streams."""
    sums, more = state.sums.state(own=True) if state.progress.sums else ([], {})
    return {"rng": rng(state), "sums": sums, "more_sums": more, "data": data_state(state)}


def data_state(state: Training) -> dict[str, Any]:
    """Return the states of the data sets that have one."""
    data_sets = state.loaders.data_sets().items()
    return {name: data_set.state_dict() for name, data_set in data_sets if saves_itself(data_set)}


def restore_data(state: Training, states: Mapping[str, Any]) -> None:
    """Restore the states that `data_state` returned."""
    for name, data_set in state.loaders.data_sets().items():
        if saves_itself(data_set) and name in states:
            data_set.load_state_dict(states[name])


def restore_own(state: Training, ranks: Sequence[Mapping[str, Any]]) -> None:
    """Restore what differs between the ranks; with another number of them, rank 0 takes the sums of all.

    Args:
        state: the training, whose progress is restored.
        ranks: the states that `own_state` returned; empty if one process has written the checkpoint.
    """
    rank, count = state.strategy.rank, state.strategy.ranks
    if len(ranks) == count > 1:
        set_rng(state, ranks[rank]["rng"])
        state.progress.sums, state.progress.more_sums = ranks[rank]["sums"], ranks[rank]["more_sums"]
        restore_data(state, ranks[rank].get("data", {}))
    elif max(len(ranks), 1) != count:
        state.note_once(f"saved by {max(len(ranks), 1)} ranks, resumed by {count}: the result may differ")
        if isinstance(position := state.loaders.train.data_set, StreamPosition):
            position.rewind()  # other samples are this rank's now: the stream is read again
        if rank > 0:
            state.progress.sums, state.progress.more_sums = [], {}


def rng(state: Training) -> dict[str, Any]:
    """Return the states of all generators: the global ones, and under `held` those that objects hold."""
    generators = held_generators(stateful(state))
    return {**rng_state(state.device.torch), **({"held": generators} if generators else {})}


def set_rng(state: Training, states: Mapping[str, Any]) -> None:
    """Restore the states that `rng` returned."""
    set_rng_state(dict(states), state.device.torch)
    restore_generators(stateful(state), states.get("held", {}))


def stateful(state: Training) -> dict[str, Any]:
    """Return all objects that may have state, by the first part of their paths."""
    data_sets = state.loaders.data_sets().items()
    data = {"data" if name == "train" else f"{name}_data": data_set for name, data_set in data_sets}
    averaged = {"ema": state.average.model} if state.average is not None else {}
    schedule = {"scheduler": state.schedule.scheduler} if state.schedule.scheduler is not None else {}
    loss = {"loss": state.task.loss} if state.task.loss is not None else {}
    return {
        "model": state.model, **averaged, **loss, "task": state.task, "optimizer": state.optimizer, **schedule, **data,
        "callbacks": SimpleNamespace(**state.callbacks.by_name),
    }  # fmt: skip


def restore(state: Training, checkpoint: Mapping[str, Any]) -> None:
    """Restore a state that `checkpoint_state` returned."""
    checkpoint = state.strategy.divided(checkpoint, state.model, state.optimizer)
    buffers = checkpoint.get("buffers", {})
    load_module(state.model, checkpoint["model"], buffers.get("model"))
    load_state(state.optimizer, checkpoint["optimizer"])
    if state.schedule.scheduler is not None:
        state.schedule.scheduler.load_state_dict(checkpoint["scheduler"])
    state.precision.load_state_dict(checkpoint["scaler"])
    if state.average is not None:
        state.average.load_state_dict(checkpoint["ema"], buffers.get("ema"))
    load_task(state.task, checkpoint)
    state.preprocessing = dict(checkpoint.get("preprocessing", {}))
    restore_data(state, checkpoint.get("data", {}))
    state.callbacks.load_state_dict(checkpoint.get("callbacks", {}))
    set_rng(state, checkpoint["rng"])
    state.progress = Progress.from_checkpoint(checkpoint["progress"])
    restore_own(state, checkpoint.get("ranks", []))
    state.unfreeze()


def load_weights(state: Training, checkpoint: Mapping[str, Any]) -> None:
    """Load the weights of a checkpoint for evaluation, and the state of its loss."""
    checkpoint = state.strategy.divided(checkpoint, state.model)
    for module in (state.model, state.eval_model):
        load_module(module, best_weights(checkpoint), weight_buffers(checkpoint))
    load_task(state.task, checkpoint)
