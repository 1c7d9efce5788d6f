"""One run, ready to start: plain typed objects, no config."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from runner.config.settings import ConsoleSettings, TrackingSettings, TrainerSettings
from runner.data.loading import Loaders
from runner.data.splits import Splits
from runner.data.target_scale import TargetScale
from runner.device import Device
from runner.loss import Loss
from runner.precision import Precision
from runner.scheduler import Schedule


@dataclass
class Setup:
    """Everything of a run but its batches: plain objects, no config.

    Attributes:
        config: resolved, as plain mappings and lists: for the record only.
        choices: which member of each group was chosen: for the record only.
        num_outputs: of the model, as the data and the loss need them.
        flops: floating-point operations of one sample's forward pass; None if they cannot be told.
        doubts: what looks like a mistake, and may be meant.
        target_scale: of a regression whose targets are scaled, or far from 0.
    """

    config: dict[str, Any]
    choices: dict[str, str]
    seed: int
    device: Device
    precision: Precision
    splits: Splits
    in_memory: bool
    model: nn.Module
    num_outputs: int
    flops: int | None
    doubts: list[str]
    loss: Loss
    target_scale: TargetScale | None
    optimizer: torch.optim.Optimizer
    schedule: Schedule
    trainer: TrainerSettings
    tracking: TrackingSettings
    console: ConsoleSettings


@dataclass
class Experiment(Setup):
    """One run, ready to start.

    Attributes:
        typed: the arguments of its command, without credentials: for the record only. None where nobody typed any.
    """

    loaders: Loaders
    typed: Sequence[str] | None = None
