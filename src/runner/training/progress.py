"""Where training stands: counts, sums, seconds, the best value so far. Small objects that the loop calls by name."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import groupby
from time import perf_counter

import torch
from torch import Tensor

from runner.config.settings import EarlyStoppingSettings
from runner.data.target_scale import TargetScale
from runner.device import Device
from runner.loss import Loss

Metrics = dict[str, float]
Summed = tuple[Callable[[Tensor, Tensor], Tensor], bool]

VALUES_AT_ONCE = 65_536
"""Outputs of small batches that are measured together: an epoch of the MLP, batch 64, takes 0.98 times as long."""


@dataclass
class Progress:
    """Where training stands, in primitives: part of every checkpoint.

    Attributes:
        epoch: the epoch in progress, from 1; one more than `trainer.epochs` when all are done.
        batch: batches of it that are done.
        step: optimizer steps taken.
        lr: the mean learning rate of the optimizer steps of the epoch in progress.
        epoch_steps: how many those are.
        sums: of the epoch in progress, as `RunningMetrics.state` gives them.
        seconds: that its training has taken.
        epoch_seconds: of each finished epoch.
        samples: trained on in the finished epochs.
        best: the best value of the monitored metric, and `best_epoch` the epoch it was reached in.
        best_step: after which it was reached, if that was within the epoch.
        best_metrics: what was measured together with it.
        reference: the last value that was better by `min_delta`.
        stale: validations since then.
        longest_stale: the largest that ever was; None in a checkpoint of 0.1.0, which did not count it.
        validated_step: the last step that was validated within an epoch.
        cut_short: the epoch that `max_steps` or `max_time` ended early, if one did.
        out_of_turn: the epoch that was validated only because it was the last.
        data: the fingerprint of the samples, which a resumed run must find unchanged.
    """

    epoch: int = 1
    batch: int = 0
    step: int = 0
    lr: float = 0.0
    epoch_steps: int = 0
    sums: list[list[float]] = field(default_factory=list)
    seconds: float = 0.0
    epoch_seconds: list[float] = field(default_factory=list)
    samples: int = 0
    best: float | None = None
    best_epoch: int = 0
    best_step: int | None = None
    best_metrics: dict[str, float] = field(default_factory=dict)
    reference: float | None = None
    stale: int = 0
    longest_stale: int | None = 0
    validated_step: int = 0
    cut_short: int | None = None
    out_of_turn: int | None = None
    data: str = ""

    def take_step(self, lr: float) -> None:
        """Count an optimizer step of the epoch in progress, taken with this learning rate."""
        self.step += 1
        self.epoch_steps += 1
        self.lr += (lr - self.lr) / self.epoch_steps  # a sum over the steps would round a constant rate


class RunningMetrics:
    """Running sums of loss and metrics over samples, on the device, in 64 bits where it has them.

    Args:
        loss: what is measured; of a regression in the units of the data, but for the loss itself.
        device: where the sums are.
        scale: of the targets of a regression, if they have one.

    Attributes:
        with_metrics: False while nobody reads more than the loss.
    """

    def __init__(self, loss: Loss, device: torch.device, scale: TargetScale | None = None) -> None:
        self._metrics = dict(loss.metrics)
        # Metrics that need the same sums share them.
        self._summed = list(dict.fromkeys((metric.sums, metric.of_differences) for metric in self._metrics.values()))
        self._scale = scale.to(device) if scale is not None else None
        self._dtype = torch.float32 if device.type == "mps" else torch.float64
        self._device = device
        self._loss = torch.zeros((), dtype=self._dtype, device=device)
        self._totals: dict[Summed, Tensor] = {}  # as many numbers as a metric gives: known when it has given some
        # Batches that the totals lack, and how many outputs these have. They wait if all that is summed are counts,
        # which are the same however samples are divided. Not on a GPU: CUDA graphs write the next outputs over these.
        self._counts, self._may_wait = False, device.type == "cpu"
        self._waiting: list[tuple[Tensor, Tensor]] = []
        self._values = 0
        self.samples = 0
        self.with_metrics = True

    def add(self, loss: Tensor, outputs: Tensor, targets: Tensor) -> None:
        """Add a batch: its mean loss (a scalar), its outputs (N, K) and targets (N, ...)."""
        self.samples += len(targets)
        self._loss.add_(loss.detach(), alpha=len(targets))
        if not self.with_metrics:
            return
        # With a gradient, outputs have memory of their own; targets may lie in a buffer of a data set.
        if self._counts and self._may_wait and outputs.grad_fn is not None and outputs.numel() < VALUES_AT_ONCE:
            self._waiting.append((outputs.detach(), targets.clone()))
            self._values += outputs.numel()
            if self._values >= VALUES_AT_ONCE:
                self._catch_up()
        else:
            self._measure(outputs.detach(), targets)

    def _catch_up(self) -> None:
        """Measure the batches that wait."""
        for _, batches in groupby(self._waiting, key=lambda batch: [part.shape[1:] for part in batch]):
            outputs, targets = (torch.cat(parts) for parts in zip(*batches, strict=True))
            self._measure(outputs, targets)
        self._waiting, self._values = [], 0

    def _measure(self, outputs: Tensor, targets: Tensor) -> None:
        measured = {kind: self._measured(outputs, targets, kind) for kind in {kind for _, kind in self._summed}}
        for summed in self._summed:
            function, of_differences = summed
            sums = function(*measured[of_differences])
            total = self._totals.get(summed)
            if total is None:  # counts stay whole numbers, for which adding takes a third of the time
                counted = not sums.is_floating_point()
                self._totals[summed] = sums.to(sums.dtype if counted else self._dtype, copy=True)
                self._counts = not any(total.is_floating_point() for total in self._totals.values())
            else:
                total.add_(sums if sums.shape == total.shape else sums.reshape(total.shape))

    def _measured(self, outputs: Tensor, targets: Tensor, of_differences: bool) -> tuple[Tensor, Tensor]:
        """Outputs and targets in the units of the data, as a metric takes them."""
        if self._scale is None:
            return outputs, targets
        convert = self._scale.from_center if of_differences else self._scale.in_units
        return convert(outputs), convert(targets)

    def means(self) -> Metrics:
        """Loss and metrics over the samples so far, as far as they have a value: one read of the device."""
        if not self.samples:
            return {}
        (loss,), *totals = self._read()
        sums = dict(zip(self._totals, totals, strict=False))
        values = {
            name: metric.value(sums[metric.sums, metric.of_differences], self.samples)
            for name, metric in self._metrics.items()
            if (metric.sums, metric.of_differences) in sums
        }
        return {"loss": loss / self.samples} | {name: value for name, value in values.items() if value is not None}

    def state(self) -> list[list[float]]:
        """The number of samples, the sum of the loss, and those of each wanted metric: one read of the device."""
        return [[float(self.samples)], *self._read()]

    def reset(self, state: list[list[float]] | None = None) -> None:
        """Start from zero, or from what `state` gave."""
        self._waiting, self._values = [], 0
        if not state:
            self.samples = 0
            self._totals = self._totals if self._counts else {}  # of a resumed epoch they are floats
            for total in (self._loss, *self._totals.values()):
                total.zero_()
            return
        (samples,), (loss,), *totals = state
        self._counts = False
        self.samples = int(samples)
        self._loss.fill_(loss)
        self.with_metrics &= bool(totals or not samples)  # nothing is known of the samples so far
        self._totals = {
            summed: torch.tensor(sums, dtype=self._dtype, device=self._device)
            for summed, sums in zip(self._summed, totals, strict=False)  # none yet before the first batch
        }

    def _read(self) -> list[list[float]]:
        self._catch_up()
        totals = [self._loss, *(self._totals.values() if self.with_metrics else ())]
        numbers = torch.cat([total.flatten() for total in totals]).tolist()
        return [[numbers.pop(0) for _ in range(total.numel())] for total in totals]


class Stopwatch:
    """Seconds of training alone: it stands still during validation and checkpoints, and waits for the device."""

    def __init__(self, device: Device) -> None:
        self._device = device
        self._seconds = 0.0
        self._since: float | None = None

    def start(self, seconds: float | None = None) -> None:
        """Go on; with `seconds`, from that reading."""
        self._device.synchronize()
        self._seconds = self._seconds if seconds is None else seconds
        self._since = perf_counter()

    def stop(self) -> float:
        """Stand still, and give the reading."""
        if self._since is not None:
            self._device.synchronize()
            self._seconds += perf_counter() - self._since
            self._since = None
        return self._seconds

    def read(self) -> float:
        """The reading now, without waiting for the device."""
        return self._seconds + (perf_counter() - self._since if self._since is not None else 0.0)


class Monitor:
    """Which value of the monitored metric is best, and whether it is time to give up."""

    def __init__(self, metric: str, higher_is_better: bool, early_stopping: EarlyStoppingSettings) -> None:
        self.metric, self.higher_is_better = metric, higher_is_better
        self._patience, self._min_delta = early_stopping.patience, early_stopping.min_delta

    def update(self, progress: Progress, metrics: Metrics, within_epoch: bool = False) -> bool:
        """Take new measurements into account; whether they are the best so far. What is not finite never is."""
        if self.metric not in metrics:
            return False
        value = metrics[self.metric]
        # Patience counts what is better by min_delta; the best checkpoint follows whatever is better at all.
        if math.isfinite(value) and self._gain(progress.reference, value) > self._min_delta:
            progress.reference, progress.stale = value, 0
        else:
            progress.stale += 1
            if progress.longest_stale is not None:
                progress.longest_stale = max(progress.longest_stale, progress.stale)
        better = math.isfinite(value) and self._gain(progress.best, value) > 0
        if better:
            progress.best, progress.best_epoch, progress.best_metrics = value, progress.epoch, dict(metrics)
            progress.best_step = progress.step if within_epoch else None
        return better

    def _gain(self, before: float | None, now: float) -> float:
        if before is None:
            return math.inf
        return now - before if self.higher_is_better else before - now

    def exhausted(self, progress: Progress) -> bool:
        """Whether patience has run out."""
        return self._patience is not None and progress.stale >= self._patience
