"""How the learning rate changes while training.

A function here, or any `torch.optim.lr_scheduler` class by `_target_`, is called with the optimizer and
those of `total_steps`, `steps_per_epoch` and `epochs` that it takes. A bare torch scheduler steps once an epoch.
"""

from dataclasses import dataclass

from torch.optim import Optimizer
from torch.optim.lr_scheduler import CosineAnnealingLR, CosineAnnealingWarmRestarts, LRScheduler


@dataclass(frozen=True)
class Schedule:
    """A scheduler and when to step it.

    Attributes:
        scheduler: torch's own; None keeps the learning rate as it is.
        every: `step` (of the optimizer) or `epoch`.
        horizon: whether its course depends on the planned length of training, which therefore cannot
            be raised later and stay exact.
    """

    scheduler: LRScheduler | None
    every: str = "epoch"
    horizon: bool = False


def constant(optimizer: Optimizer) -> Schedule:
    """The learning rate of the optimizer, all along."""
    return Schedule(None)


def cosine(optimizer: Optimizer, total_steps: int, min_lr: float = 0.0) -> Schedule:
    """Half a cosine from the optimizer's learning rate down to `min_lr` (Loshchilov, Hutter 2017, arXiv:1608.03983)."""
    return Schedule(CosineAnnealingLR(optimizer, T_max=total_steps, eta_min=min_lr), every="step", horizon=True)


def cosine_restarts(optimizer: Optimizer, steps_per_epoch: int, period: int = 1, min_lr: float = 0.0) -> Schedule:
    """Half a cosine down to `min_lr`, again and again (Loshchilov, Hutter 2017, arXiv:1608.03983).

    With a period of an epoch each epoch ends with small steps, so that its validation shows what it was worth;
    and there is no horizon: training can be prolonged and stay exact.
    """
    steps = period * steps_per_epoch
    return Schedule(CosineAnnealingWarmRestarts(optimizer, T_0=steps, eta_min=min_lr), every="step")
