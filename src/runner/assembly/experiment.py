"""One run, ready to start: plain typed objects, no config."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from runner.callbacks import Callback
from runner.config.settings import ConsoleSettings, TrackingSettings, TrainerSettings
from runner.data.augment import Augment
from runner.data.loading import Loaders
from runner.data.splits import Splits
from runner.data.target_scale import TargetScale
from runner.device import Device
from runner.model.freeze import Freeze
from runner.model.probe import Cost
from runner.precision import Precision
from runner.scheduler import Schedule
from runner.strategy import Strategy
from runner.task import Task
from runner.tracking.notify import Notifier


@dataclass
class Parts:
    """The objects of a config.

    Attributes:
        num_outputs: of the model, as the data and the task need them; None if they do not tell.
        measured: the names of what a step of the task measures besides its metrics: `loss`, and further scalars.
        target_scale: of a regression whose targets are scaled, or far from 0.
        augment: of the training part.
        cost: of one sample's forward pass.
        channels_last: the storage of images.
        loss_node: the group `loss`, of a resolved config; that of the chosen loss for `loss=auto`.
        freeze: the parameters that are not trained, and until when.
        callbacks: the user's, by name.
    """

    seed: int
    device: Device
    precision: Precision
    strategy: Strategy
    task: Task
    splits: Splits
    model: nn.Module
    num_outputs: int | None
    target_scale: TargetScale | None
    optimizer: torch.optim.Optimizer
    schedule: Schedule
    trainer: TrainerSettings
    augment: Augment | None
    cost: Cost
    measured: Sequence[str]
    channels_last: bool
    loss_node: Mapping[str, Any]
    freeze: Freeze
    callbacks: Mapping[str, Callback]


@dataclass
class Setup(Parts):
    """Everything of a run but its batches.

    Attributes:
        config: resolved, as plain mappings and lists: for the record only.
        choices: which member of each group was chosen: for the record only.
        in_memory: whether the samples are held as tensors.
    """

    config: dict[str, Any]
    choices: dict[str, str]
    in_memory: bool
    tracking: TrackingSettings
    console: ConsoleSettings


@dataclass
class Experiment(Setup):
    """One run, ready to start.

    Attributes:
        typed: the arguments of its command, without credentials: for the record only. None where nobody typed any.
        pause_after: the epoch after which training pauses, until the run is resumed; None: it does not.
        batch_size_found: how the number for `data.batch_size=max` was found; None: it was given.
        fitted: the preprocessing of an earlier run that this one takes over; None: none.
        notifier: is told how the run ends; None: nobody.
    """

    loaders: Loaders
    typed: Sequence[str] | None = None
    pause_after: int | None = None
    fitted: Mapping[str, Any] | None = None
    batch_size_found: str | None = None
    notifier: Notifier | None = None
