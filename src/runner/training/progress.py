"""The progress of training: counts, running sums, seconds, the best value so far."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from time import perf_counter
from typing import Any

from runner.config.settings import EarlyStoppingSettings
from runner.device import Device

Metrics = dict[str, float]

OPTIONAL = ("rates", "more_sums", "norms", "stop_reason", "micro_batch")
"""Fields of `Progress` that a checkpoint has only if they are not empty."""


@dataclass
class Progress:
    """The progress of training in primitive values; a part of every checkpoint.

    Attributes:
        epoch: the epoch in progress, from 1; `trainer.epochs` + 1 when all are done.
        batch: the number of batches done in this epoch.
        step: the number of optimizer steps.
        lr: the mean learning rate of the optimizer steps of this epoch.
        rates: the same for each named group of parameters.
        epoch_steps: the number of optimizer steps of this epoch.
        sums: the running sums of this epoch, as `RunningMetrics.state` returns them.
        more_sums: those of this epoch that not every task has, likewise.
        norms: those of the last step, by layer, if they are to be logged.
        stop_reason: why training ends before its time, if a callback asked for it.
        micro_batch: the most samples that are computed at once, since memory has run out; None: a whole batch.
        seconds: the training time of this epoch.
        epoch_seconds: that of each finished epoch since the last checkpoint; `EpochSeconds` has the earlier ones. A
            checkpoint has none, except one of an earlier version, which has those of all epochs.
        trained_seconds: the training time of all finished epochs.
        samples: the number of samples in the finished epochs.
        best: the best value of the monitored metric.
        best_epoch: the epoch of the best value.
        best_step: the step of the best value if it was measured within an epoch.
        best_metrics: all metrics measured together with the best value.
        reference: the last value that improved by `min_delta`.
        stale: the number of validations since `reference`.
        longest_stale: the maximum of `stale`; None in a checkpoint of 0.1.0, which did not record it.
        validated_step: the last step that was validated within an epoch.
        cut_short: the epoch that `max_steps` or `max_time` ended early, if any.
        out_of_turn: the epoch that was validated only because it was the last.
        data: the fingerprint of the samples; a resumed run must have the same.
    """

    epoch: int = 1
    batch: int = 0
    step: int = 0
    lr: float = 0.0
    epoch_steps: int = 0
    sums: list[list[float]] = field(default_factory=list)
    seconds: float = 0.0
    epoch_seconds: list[float] = field(default_factory=list)
    trained_seconds: float = 0.0
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
    rates: dict[str, float] = field(default_factory=dict)
    more_sums: dict[str, Any] = field(default_factory=dict)
    norms: dict[str, float] = field(default_factory=dict)
    stop_reason: str | None = None
    micro_batch: int | None = None

    def start_epoch(self, lr: float, rates: Mapping[str, float]) -> None:
        """Start an epoch with this learning rate, and those of named groups."""
        self.lr, self.rates, self.epoch_steps = lr, dict(rates), 0

    def take_step(self, lr: float, rates: Mapping[str, float]) -> None:
        """Count an optimizer step with this learning rate, and those of named groups."""
        self.step += 1
        self.epoch_steps += 1
        self.lr += (lr - self.lr) / self.epoch_steps  # a constant rate stays exact, unlike in sum / count
        for name, rate in rates.items():
            self.rates[name] += (rate - self.rates[name]) / self.epoch_steps

    def end_epoch(self, samples: int) -> None:
        """Count a finished epoch of so many samples, and go to the next one."""
        self.samples += samples
        self.epoch_seconds.append(self.seconds)
        self.trained_seconds += self.seconds
        self.epoch, self.batch, self.seconds = self.epoch + 1, 0, 0.0
        self.sums, self.more_sums, self.norms = [], {}, {}

    @property
    def finished_epochs(self) -> int:
        """The number of finished epochs."""
        return self.epoch - 1

    @classmethod
    def from_checkpoint(cls, saved: Mapping[str, Any]) -> "Progress":
        """Restore the values that `state_dict` returned, or those of an earlier version."""
        seconds = list(saved["epoch_seconds"])
        return cls(**{"longest_stale": None, "trained_seconds": sum(seconds), **saved, "epoch_seconds": seconds})

    def state_dict(self) -> dict[str, Any]:
        """Return the values for a checkpoint: those of `OPTIONAL` only if there are any."""
        return {name: value for name, value in asdict(self).items() if name not in OPTIONAL or value}


class Stopwatch:
    """Seconds of training without validation and checkpoints. Start and stop wait for the device."""

    def __init__(self, device: Device) -> None:
        self._device = device
        self._seconds = 0.0
        self._started_at: float | None = None

    def start(self, seconds: float | None = None) -> None:
        """Continue, from a reading of `seconds` if given."""
        self._device.synchronize()
        self._seconds = self._seconds if seconds is None else seconds
        self._started_at = perf_counter()

    def stop(self) -> float:
        """Stop, and return the reading."""
        if self._started_at is not None:
            self._device.synchronize()
            self._seconds += perf_counter() - self._started_at
            self._started_at = None
        return self._seconds

    def read(self) -> float:
        """Return the current reading without waiting for the device."""
        return self._seconds + (perf_counter() - self._started_at if self._started_at is not None else 0.0)


class Monitor:
    """Tracks the best value of the monitored metric, and early stopping."""

    def __init__(self, metric: str, higher_is_better: bool, early_stopping: EarlyStoppingSettings) -> None:
        self.metric, self.higher_is_better = metric, higher_is_better
        self._patience, self._min_delta = early_stopping.patience, early_stopping.min_delta

    def update(self, progress: Progress, metrics: Metrics, within_epoch: bool = False) -> bool:
        """Record new metrics; return whether they are the best so far. A non-finite value never is."""
        if self.metric not in metrics:
            return False
        value = metrics[self.metric]
        # Patience counts improvements by min_delta; the best checkpoint follows any improvement.
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
        """Return whether the patience of early stopping is exhausted."""
        return self._patience is not None and progress.stale >= self._patience
