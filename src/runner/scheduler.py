"""How the learning rate changes while training.

A function here, or any `torch.optim.lr_scheduler` class by `_target_`, is called with the optimizer and
those of `total_steps`, `steps_per_epoch`, `epochs` and `mode` (`min` or `max`: what of the monitored metric
is better) that it takes. A bare torch scheduler steps once an epoch.
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

from runner.errors import ConfigError
from runner.util.ranges import COUNT, POSITIVE, PROBABILITY, Range


@dataclass(frozen=True)
class Schedule:
    """A scheduler and when to step it.

    Attributes:
        scheduler: torch's own; None keeps the learning rate as it is.
        every: `step` (of the optimizer) or `epoch`; a `ReduceLROnPlateau` steps when an epoch has measured the
            monitored metric, which it is given.
        horizon: whether its course depends on the planned length of training, which therefore cannot
            be raised later and stay exact.
    """

    scheduler: LRScheduler | None
    every: str = "epoch"
    horizon: bool = False


def has_goal(target: Callable[..., Any]) -> bool:
    """Whether its `mode` says what of a metric is better; that of `CyclicLR` is the shape of a cycle."""
    mode = inspect.signature(target).parameters.get("mode")
    return mode is not None and mode.default in ("min", "max", inspect.Parameter.empty)


def constant(optimizer: Optimizer) -> Schedule:
    """The learning rate of the optimizer, all along."""
    return Schedule(None)


def step(optimizer: Optimizer, step_size: Annotated[int, COUNT], gamma: Annotated[float, POSITIVE] = 0.1) -> Schedule:
    """The learning rate times `gamma` after every `step_size` epochs."""
    return Schedule(StepLR(optimizer, step_size=step_size, gamma=gamma))


def plateau(
    optimizer: Optimizer,
    mode: Literal["min", "max"] = "min",
    factor: Annotated[float, Range(0, 1, open_low=True, open_high=True)] = 0.1,
    patience: Annotated[int, Range(0, whole=True)] = 3,
    threshold: Annotated[float, Range(0)] = 0.0,
    min_lr: Annotated[float, Range(0)] = 0.0,
) -> Schedule:
    """The learning rate times `factor` when the monitored metric has not become better for more than `patience` times.

    Args:
        optimizer: whose learning rate it is.
        mode: whether the metric is better lower or higher.
        factor: below 1.
        patience: measurements without a better one that change nothing.
        threshold: by how much more than the best so far a measurement must be better to count.
        min_lr: where it ends.
    """
    return Schedule(
        ReduceLROnPlateau(
            optimizer,
            mode=mode,
            factor=factor,
            patience=patience,
            threshold=threshold,
            threshold_mode="abs",  # "rel" takes an unchanged negative R2 for a better one
            min_lr=min_lr,
        )
    )


def cosine(optimizer: Optimizer, total_steps: int, min_lr: Annotated[float, Range(0)] = 0.0) -> Schedule:
    """Half a cosine from the optimizer's learning rate down to `min_lr` (Loshchilov, Hutter 2017, arXiv:1608.03983)."""
    return Schedule(CosineAnnealingLR(optimizer, T_max=total_steps, eta_min=min_lr), every="step", horizon=True)


def cosine_restarts(
    optimizer: Optimizer,
    steps_per_epoch: int,
    period: Annotated[int, COUNT] = 1,
    min_lr: Annotated[float, Range(0)] = 0.0,
) -> Schedule:
    """Half a cosine down to `min_lr`, again and again (Loshchilov, Hutter 2017, arXiv:1608.03983).

    With a period of an epoch each epoch ends with small steps, so that its validation shows what it was worth;
    and there is no horizon: training can be prolonged and stay exact.
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
    """A straight line up to the optimizer's learning rate, then half a cosine down to `min_lr`.

    Args:
        optimizer: whose learning rate it is.
        total_steps: planned.
        steps_per_epoch: of the optimizer.
        warmup_epochs: how long it rises; fractions of an epoch are rounded to whole steps.
        min_lr: reached after the last step.
    """
    warmup_steps = round(warmup_epochs * steps_per_epoch)
    if warmup_steps >= total_steps:
        raise ConfigError(
            f"scheduler.warmup_epochs={warmup_epochs:g} is as long as training, {total_steps / steps_per_epoch:g}"
            f" epochs: write fewer, {total_steps / steps_per_epoch / 5:.1g} say, or trainer.epochs=<more>"
        )
    return Schedule(WarmupCosineLR(optimizer, warmup_steps, total_steps, min_lr), every="step", horizon=True)


class WarmupCosineLR(LRScheduler):
    """The learning rate of step k, from 0: `lr (k + 1) / (w + 1)` up to k = w = `warmup_steps`, then half a cosine."""

    def __init__(self, optimizer: Optimizer, warmup_steps: int, total_steps: int, min_lr: float = 0.0) -> None:
        self.warmup_steps, self.total_steps, self.min_lr = warmup_steps, total_steps, min_lr
        super().__init__(optimizer)

    def get_lr(self) -> list[float | Tensor]:
        """The learning rate of each group for the next step; it follows from how many there were."""
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
    """One rise to the optimizer's learning rate and one fall, each half a cosine (Smith, Topin 2019, arXiv:1708.07120).

    Args:
        optimizer: whose learning rate is the peak.
        total_steps: planned.
        pct_start: share of the steps that it rises in.
        div_factor: it starts at the peak divided by this,
        final_div_factor: and its last step has the start divided by this.
        base_momentum: what the momentum (of Adam and its kin: the first beta) falls to at the peak, before it
            rises to the optimizer's own again; None leaves it alone.

    Raises:
        ConfigError: the optimizer has no momentum above `base_momentum`.
    """
    if pct_start * total_steps in (1, total_steps):  # the peak is the first or the last step: torch divides by zero
        pct_start *= 1 - 1e-9
    made = OneCycleLR(
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
    return Schedule(made, every="step", horizon=True)


def _momentum(optimizer: Optimizer, above: float) -> list[float]:
    """The momentum, or first beta, of each group."""
    if "betas" in optimizer.defaults:
        found = [float(group["betas"][0]) for group in optimizer.param_groups]
    elif "momentum" in optimizer.defaults:
        found = [float(group["momentum"]) for group in optimizer.param_groups]
    else:
        raise ConfigError(
            "scheduler.base_momentum needs an optimizer with one momentum, such as optimizer=sgd or adamw:"
            " write scheduler.base_momentum=null"
        )
    if min(found) <= above:
        raise ConfigError(
            f"scheduler.base_momentum={above} is not below the optimizer's own momentum, which is {min(found)}:"
            " write scheduler.base_momentum=null to leave that alone"
        )
    return found
