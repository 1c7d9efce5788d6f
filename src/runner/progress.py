"""Where training stands: counts, sums, seconds, the best value so far. Small objects that the loop calls by name."""

import math
from dataclasses import dataclass, field
from time import perf_counter

import torch
from torch import Tensor

from .device import Device
from .loss import Loss
from .settings import EarlyStoppingSettings

Metrics = dict[str, float]


@dataclass
class Progress:
    """Where training stands, in primitives: part of every checkpoint.

    Attributes:
        epoch: the epoch in progress, from 1; one more than `trainer.epochs` when all are done.
        batch: batches of it that are done.
        step: optimizer steps taken.
        lr: the learning rate of its first step.
        sums: of the epoch in progress, as `Sums.state` gives them.
        seconds: that its training has taken.
        epoch_seconds: of each finished epoch.
        samples: trained on in the finished epochs.
        best: the best value of the monitored metric, and `best_epoch` the epoch it was reached in.
        best_metrics: what was measured together with it.
        reference: the last value that was better by `min_delta`.
        stale: validations since then.
        validated_step: the last step that was validated within an epoch.
        cut_short: the epoch that `max_steps` or `max_time` ended early, if one did.
        out_of_turn: the epoch that was validated only because it was the last.
        data: the fingerprint of the samples, which a resumed run must find unchanged.
    """

    epoch: int = 1
    batch: int = 0
    step: int = 0
    lr: float = 0.0
    sums: list[float] = field(default_factory=list)
    seconds: float = 0.0
    epoch_seconds: list[float] = field(default_factory=list)
    samples: int = 0
    best: float | None = None
    best_epoch: int = 0
    best_metrics: dict[str, float] = field(default_factory=dict)
    reference: float | None = None
    stale: int = 0
    validated_step: int = 0
    cut_short: int | None = None
    out_of_turn: int | None = None
    data: str = ""


class Sums:
    """Running sums of loss and metrics over samples, on the device, in 64 bits where it has them."""

    def __init__(self, loss: Loss, device: torch.device) -> None:
        self.names = ["loss", *loss.metrics]
        self._functions = list(loss.metrics.values())
        dtype = torch.float32 if device.type == "mps" else torch.float64
        self._totals = [torch.zeros((), dtype=dtype, device=device) for _ in self.names]
        self.samples = 0

    def add(self, loss: Tensor, outputs: Tensor, targets: Tensor) -> None:
        """Add a batch: its mean loss (a scalar), its outputs (N, K) and targets (N, ...)."""
        self.samples += len(targets)
        self._totals[0].add_(loss.detach(), alpha=len(targets))
        outputs = outputs.detach()
        for total, function in zip(self._totals[1:], self._functions, strict=True):
            total.add_(function(outputs, targets))

    def means(self) -> Metrics:
        """The means over the samples so far: one read of the device."""
        *totals, samples = self.state()
        return {name: total / samples for name, total in zip(self.names, totals, strict=True)} if samples else {}

    def state(self) -> list[float]:
        """The sums and, last, the number of samples: one read of the device."""
        return [*torch.stack(self._totals).tolist(), float(self.samples)]

    def reset(self, state: list[float] | None = None) -> None:
        """Start from zero, or from what `state` gave."""
        *totals, samples = state or [0.0] * (len(self._totals) + 1)
        for total, value in zip(self._totals, totals, strict=True):
            total.fill_(value)
        self.samples = int(samples)


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

    def __init__(self, metric: str, early_stopping: EarlyStoppingSettings) -> None:
        self.metric = metric
        self.higher_is_better = metric.endswith("/accuracy")
        self._patience, self._min_delta = early_stopping.patience, early_stopping.min_delta

    def update(self, progress: Progress, metrics: Metrics) -> bool:
        """Take new measurements into account; whether they are the best so far. What is not finite never is."""
        if self.metric not in metrics:
            return False
        value = metrics[self.metric]
        # Patience counts what is better by min_delta; the best checkpoint follows whatever is better at all.
        if math.isfinite(value) and self._gain(progress.reference, value) > self._min_delta:
            progress.reference, progress.stale = value, 0
        else:
            progress.stale += 1
        better = math.isfinite(value) and self._gain(progress.best, value) > 0
        if better:
            progress.best, progress.best_epoch, progress.best_metrics = value, progress.epoch, dict(metrics)
        return better

    def _gain(self, before: float | None, now: float) -> float:
        if before is None:
            return math.inf
        return now - before if self.higher_is_better else before - now

    def exhausted(self, progress: Progress) -> bool:
        """Whether patience has run out."""
        return self._patience is not None and progress.stale >= self._patience
