"""`debug=lr_range`: a learning-rate range test (Smith 2017, arXiv:1506.01186), which leaves the training as it was.

The rate rises exponentially from step to step, in the order of a real training. The test ends when the loss diverges.
The suggestion is the rate at which the smoothed loss falls most steeply.
"""

import itertools
import math
from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from runner.training.loop import add_gradients, divide_batches
from runner.training.module_state import ModuleState
from runner.training.saving import checkpoint_state, restore, save
from runner.training.state import Interrupted, Training
from runner.training.weighting import correct_gradients

SMOOTHING = 0.98
"""The share of earlier steps in the smoothed loss."""

DIVERGED = 4.0
"""The loss has diverged when it is so many times the best one, both smoothed."""

LEFT_OUT = 10
"""One of so many steps at the start has no suggestion: the mean is of few batches there."""


@dataclass
class RangeTest:
    """The result of a range test, by step.

    Attributes:
        rates: of the first group of parameters; those of the others have risen by the same factor.
        losses: of the batch of each step, before the optimizer steps at the rate.
        smoothed: their exponential mean.
        diverged: whether the test ended early, as the loss rose to `DIVERGED` times the best.
    """

    rates: list[float] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)
    smoothed: list[float] = field(default_factory=list)
    diverged: bool = False
    _mean: float = 0.0

    def add(self, rate: float, loss: float) -> None:
        """Add a step; then `diverged` tells whether it was the last."""
        self._mean = SMOOTHING * self._mean + (1 - SMOOTHING) * loss
        smoothed = self._mean / (1 - SMOOTHING ** (len(self.rates) + 1))
        if math.isfinite(smoothed):
            self.rates.append(rate)
            self.losses.append(loss)
            self.smoothed.append(smoothed)
        best = min(self.smoothed, default=0.0)
        self.diverged = not math.isfinite(smoothed) or smoothed - best > (DIVERGED - 1) * abs(best)

    @property
    def suggestion(self) -> int | None:
        """The place of the steepest descent before the lowest loss; None if the loss does not fall."""
        first, lowest = len(self.rates) // LEFT_OUT, int(np.argmin(self.smoothed)) if self.smoothed else 0
        if lowest - first < 2:
            return None
        slopes = np.gradient(self.smoothed, np.log(self.rates))[first : lowest + 1]
        steepest = int(np.argmin(slopes))
        return first + steepest if slopes[steepest] < 0 else None


def range_test(state: Training) -> RangeTest:
    """Train with a rising learning rate, and restore all that it has changed: weights, optimizer, generators.

    Raises:
        Interrupted: a stop was requested; a checkpoint of the training as it was is written.
    """
    try:
        with untouched(state):
            return _test(state)
    except Interrupted:
        save(state, best=False)
        raise


@contextmanager
def untouched(state: Training) -> Iterator[None]:
    """Restore the training after the block: all that a checkpoint holds, and what only forward passes change."""
    before = deepcopy(checkpoint_state(state))
    modules = ModuleState(module for root in (state.model, state.task) for module in root.modules())
    try:
        yield
    finally:
        for parameter in state.parameters:
            parameter.grad = None
        restore(state, before)
        modules.restore()
        state.sums.reset()
        state.weight = 0


def _test(state: Training) -> RangeTest:
    settings, loader = state.settings.lr_range, state.loaders.train
    assert settings.steps is not None
    ratio = (settings.highest / settings.lowest) ** (1 / max(settings.steps - 1, 1))
    groups = state.optimizer.param_groups
    factors = [float(group["lr"]) / (float(groups[0]["lr"]) or 1.0) for group in groups]
    add = add_gradients if state.settings.on_oom == "fail" else divide_batches(state)
    accumulation, result = state.settings.grad_accumulation, RangeTest()
    state.model.train()
    state.task.train()
    state.sums.with_metrics = False
    state.sums.reset()
    for epoch in itertools.count(state.progress.epoch):
        for index, batch in enumerate(loader.epoch(epoch)):
            ends_step = (index + 1) % accumulation == 0 or index + 1 == len(loader)
            usable = add(state, batch, index, ends_step)
            if usable and not ends_step:
                continue
            correct_gradients(state, index)
            rate = settings.lowest * ratio ** len(result.rates)
            result.add(rate, state.sums.means(extra=False).get("loss", math.nan) if usable else math.nan)
            if result.diverged or len(result.rates) == settings.steps:
                return result
            for group, factor in zip(groups, factors, strict=True):
                _set_rate(group, rate * factor)
            state.precision.step(state.optimizer, state.parameters, state.settings.clip_norm)
            state.sums.reset()
            if state.stopping():
                raise Interrupted
    raise AssertionError("epochs do not end")


def _set_rate(group: dict[str, object], rate: float) -> None:
    if isinstance(group["lr"], Tensor):
        with torch.no_grad():
            group["lr"].fill_(rate)
    else:
        group["lr"] = rate
