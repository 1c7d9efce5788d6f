"""Learning-rate schedules.

A function here, or any `torch.optim.lr_scheduler` class given by `_target_`, is called with the optimizer and with the
arguments that it takes of `total_steps`, `steps_per_epoch`, `epochs` and `mode` (`min` or `max`: the direction in which
the monitored metric is better). A plain torch scheduler is stepped once per epoch.
"""

import inspect
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import (
    CosineAnnealingLR,
    CosineAnnealingWarmRestarts,
    LRScheduler,
    OneCycleLR,
    ReduceLROnPlateau,
    StepLR,
)

from runner.errors import ConfigError, Problem
from runner.util.ranges import COUNT, POSITIVE, PROBABILITY, Range


@dataclass(frozen=True)
class Schedule:
    """A scheduler and when to step it.

    Attributes:
        scheduler: a torch scheduler; None: the learning rate is constant.
        every: `step` (of the optimizer) or `epoch`; a `ReduceLROnPlateau` is stepped with the monitored metric after
            an epoch that measured it.
        horizon: whether the schedule depends on the planned length of training. Raising that length later then gives
            other results than planning it from the start.
    """

    scheduler: LRScheduler | None
    every: str = "epoch"
    horizon: bool = False


def has_goal(target: Callable[..., Any]) -> bool:
    """Return whether `mode` is the direction of a metric; in `CyclicLR` it is the shape of a cycle."""
    mode = inspect.signature(target).parameters.get("mode")
    return mode is not None and mode.default in ("min", "max", inspect.Parameter.empty)


def constant(optimizer: Optimizer) -> Schedule:
    """Keep the learning rate of the optimizer."""
    return Schedule(None)


def step(optimizer: Optimizer, step_size: Annotated[int, COUNT], gamma: Annotated[float, POSITIVE] = 0.1) -> Schedule:
    """Multiply the learning rate by `gamma` every `step_size` epochs."""
    return Schedule(StepLR(optimizer, step_size=step_size, gamma=gamma))


def plateau(
    optimizer: Optimizer,
    mode: Literal["min", "max"] = "min",
    factor: Annotated[float, Range(0, 1, open_low=True, open_high=True)] = 0.1,
    patience: Annotated[int, Range(0, whole=True)] = 3,
    threshold: Annotated[float, Range(0)] = 0.0,
    min_lr: Annotated[float, Range(0)] = 0.0,
) -> Schedule:
    """Multiply the learning rate by `factor` after more than `patience` validations without improvement.

    Args:
        optimizer: the optimizer whose learning rate is scheduled.
        mode: whether the metric is better lower (`min`) or higher (`max`).
        factor: below 1.
        patience: how many validations without improvement change nothing.
        threshold: the smallest difference to the best value that counts as an improvement.
        min_lr: the lowest learning rate.
    """
    return Schedule(
        ReduceLROnPlateau(
            optimizer,
            mode=mode,
            factor=factor,
            patience=patience,
            threshold=threshold,
            threshold_mode="abs",  # "rel" counts an unchanged negative R2 as an improvement
            min_lr=min_lr,
        )
    )


def cosine(optimizer: Optimizer, total_steps: int, min_lr: Annotated[float, Range(0)] = 0.0) -> Schedule:
    """Decay the learning rate to `min_lr` by half a cosine (Loshchilov, Hutter 2017, arXiv:1608.03983)."""
    return Schedule(CosineAnnealingLR(optimizer, T_max=total_steps, eta_min=min_lr), every="step", horizon=True)


def cosine_restarts(
    optimizer: Optimizer,
    steps_per_epoch: int,
    period: Annotated[int, COUNT] = 1,
    min_lr: Annotated[float, Range(0)] = 0.0,
) -> Schedule:
    """Decay the learning rate to `min_lr` by half a cosine, and restart (Loshchilov, Hutter 2017, arXiv:1608.03983).

    With a period of one epoch each epoch ends with small steps, so its validation shows the quality of the weights.
    There is no horizon: training can be extended and stays exact.
    """
    steps = period * steps_per_epoch
    return Schedule(CosineAnnealingWarmRestarts(optimizer, T_0=steps, eta_min=min_lr), every="step")


def warmup_cosine(
    optimizer: Optimizer,
    total_steps: int,
    steps_per_epoch: int,
    warmup_epochs: Annotated[float, Range(0)] = 1.0,
    min_lr: Annotated[float, Range(0)] = 0.0,
) -> Schedule:
    """Raise the learning rate linearly to the optimizer's, then decay it to `min_lr` by half a cosine.

    Args:
        optimizer: the optimizer whose learning rate is scheduled.
        total_steps: planned steps of the optimizer.
        steps_per_epoch: steps of the optimizer.
        warmup_epochs: length of the rise; fractions of an epoch are rounded to whole steps.
        min_lr: the learning rate after the last step.

    Raises:
        ConfigError: the rise is as long as training.
    """
    warmup_steps = round(warmup_epochs * steps_per_epoch)
    if warmup_steps >= total_steps:
        epochs = total_steps / steps_per_epoch
        text = f"scheduler.warmup_epochs={warmup_epochs:g} is not below the length of training in epochs, {epochs:g}"
        suggestion = f"write scheduler.warmup_epochs={epochs / 5:.1g}, or a larger trainer.epochs"
        raise ConfigError(Problem("scheduler.warmup_epochs", text, suggestion, topic="conflict"))
    return Schedule(WarmupCosineLR(optimizer, warmup_steps, total_steps, min_lr), every="step", horizon=True)


class WarmupCosineLR(LRScheduler):
    """A learning rate of `lr (k + 1) / (w + 1)` in step k (from 0) to k = w = `warmup_steps`, then half a cosine."""

    def __init__(self, optimizer: Optimizer, warmup_steps: int, total_steps: int, min_lr: float = 0.0) -> None:
        self.warmup_steps, self.total_steps, self.min_lr = warmup_steps, total_steps, min_lr
        super().__init__(optimizer)

    def get_lr(self) -> list[float | Tensor]:
        """Return the learning rate of each group for the next step, from the number of steps so far."""
        if self.last_epoch < self.warmup_steps:
            return [lr * (self.last_epoch + 1) / (self.warmup_steps + 1) for lr in self.base_lrs]
        done = (self.last_epoch - self.warmup_steps) / max(1, self.total_steps - self.warmup_steps)
        share = (1 + math.cos(math.pi * min(1.0, done))) / 2
        return [self.min_lr + (lr - self.min_lr) * share for lr in self.base_lrs]


def onecycle(
    optimizer: Optimizer,
    total_steps: int,
    pct_start: Annotated[float, Range(0, 1)] = 0.3,
    div_factor: Annotated[float, Range(1)] = 25.0,
    final_div_factor: Annotated[float, Range(1)] = 1e4,
    base_momentum: Annotated[float | None, PROBABILITY] = None,
) -> Schedule:
    """Raise the learning rate to the optimizer's and decay it, each by half a cosine (Smith, Topin, arXiv:1708.07120).

    Args:
        optimizer: the optimizer whose learning rate is the peak.
        total_steps: planned steps of the optimizer.
        pct_start: the share of the steps in which the learning rate rises.
        div_factor: the first learning rate is the peak divided by this.
        final_div_factor: the last learning rate is the first divided by this.
        base_momentum: the momentum (for Adam and its variants: the first beta) at the peak; it falls to it from the
            optimizer's own value, and rises back. None: it stays constant.

    Raises:
        ConfigError: the optimizer has no momentum above `base_momentum`.
    """
    if pct_start * total_steps in (1, total_steps):  # a peak in the first or the last step: torch divides by zero
        pct_start *= 1 - 1e-9
    scheduler = OneCycleLR(
        optimizer,
        max_lr=[float(group["lr"]) for group in optimizer.param_groups],
        total_steps=total_steps,
        pct_start=float(pct_start),
        div_factor=div_factor,
        final_div_factor=final_div_factor,
        cycle_momentum=base_momentum is not None,
        base_momentum=base_momentum or 0.0,
        max_momentum=_momentum(optimizer, above=base_momentum) if base_momentum is not None else 0.0,
    )
    return Schedule(scheduler, every="step", horizon=True)


def _momentum(optimizer: Optimizer, above: float) -> list[float]:
    """Return the momentum, or first beta, of each group; all must be above a value."""
    key, suggestion = "scheduler.base_momentum", "write scheduler.base_momentum=null"
    if "betas" in optimizer.defaults:
        momenta = [float(group["betas"][0]) for group in optimizer.param_groups]
    elif "momentum" in optimizer.defaults:
        momenta = [float(group["momentum"]) for group in optimizer.param_groups]
    else:
        text = "scheduler.base_momentum requires an optimizer with a single momentum, such as sgd or adamw"
        raise ConfigError(Problem(key, text, suggestion, topic="conflict"))
    if min(momenta) <= above:
        text = f"scheduler.base_momentum={above} must be below the momentum of the optimizer, {min(momenta)}"
        raise ConfigError(Problem(key, text, suggestion, topic="conflict"))
    return momenta
