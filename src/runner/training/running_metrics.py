"""The running sums of loss, scalars and metrics of an epoch."""

import math
from collections import ChainMap
from collections.abc import Callable, Mapping
from itertools import chain, groupby, islice
from typing import Any

import torch
from torch import Tensor

from runner.data.target_scale import TargetScale
from runner.strategy import Single, Strategy
from runner.task import Step, Task
from runner.training.progress import Metrics

Summed = tuple[Callable[[Tensor, Tensor], Tensor], bool]

ONE_PROCESS = Single()

VALUES_AT_ONCE = 65_536
"""How many outputs of small batches are measured at once: an epoch of the MLP, batch 64, takes 0.98 times as long."""

LOSSES_AT_ONCE = 1024
"""How many losses are collected at most."""


class RunningMetrics:
    """Running sums of loss, scalars and metrics, on the device, in float64 if it supports it.

    The loss and the scalars of a step are means over its weight: their mean over an epoch is the sum of weight times
    value, divided by the sum of weights of the steps that have it. Metrics are sums over samples.

    Args:
        task: has the metrics; those of a regression are measured in the units of the data.
        device: the device of the sums.
        scale: the scale of a regression's targets, if any.
        training: leave out the metrics that keep all predictions.
        strategy: adds up the sums of all ranks.

    Attributes:
        extra: the metrics that the key `metrics` asks for; None if there are none.
        samples: the number of samples.
        weight: the sum of weights when `means` was last called.
        with_metrics: False while nobody reads more than the loss.
    """

    def __init__(
        self,
        task: Task,
        device: torch.device,
        scale: TargetScale | None = None,
        training: bool = False,
        strategy: Strategy = ONE_PROCESS,
    ) -> None:
        self._task, self._metrics, self._strategy = task, dict(task.metrics), strategy
        self._gather = strategy.gather if strategy.ranks > 1 else None
        # Metrics with the same sums share them.
        self._summed = list(dict.fromkeys((metric.sums, metric.of_differences) for metric in self._metrics.values()))
        self._scale = scale.to(device) if scale is not None else None
        self._dtype = torch.float32 if device.type == "mps" else torch.float64
        self._device = device
        self._loss = self._number(0.0)
        self._has_loss = True
        self._weight: Tensor | int = 0  # a number while no step has another weight than its samples
        self._scalars: dict[str, tuple[Tensor, Tensor | int]] = {}  # sums of weight times value, and of weights
        self._totals: dict[Summed, Tensor] = {}  # sizes are known after the first batch
        # Losses that `_loss` lacks, with their weights: on a CPU many are added at once, in 1.0 instead of 2.7 us each
        # (one thread of an Intel Xeon). The sum is the same: a float32 times a count is exact in 53 bits.
        self._adds_losses_later = device.type == "cpu" and task.dtype == torch.float32
        self._losses: list[tuple[Tensor, int]] = []
        # Batches that the totals lack, and their number of outputs. They are collected only if all sums are counts,
        # which do not depend on the division into batches; not on a GPU, where CUDA graphs overwrite outputs.
        self._counts, self._may_collect = False, device.type == "cpu"
        self._collected: list[tuple[Tensor, Tensor]] = []
        self._values = 0
        self.extra = task.extra.start(device, training) if task.extra is not None else None
        self.samples = 0
        self.weight: float = 0
        self.with_metrics = True

    def add(self, step: Step) -> None:
        """Add the step of a batch."""
        self.samples += step.samples
        weight = step.weight
        if isinstance(weight, Tensor):
            weight = weight.detach().to(self._dtype)
        self._weight = self._weight + weight
        if step.loss is None:
            self._has_loss = False
        elif isinstance(weight, Tensor):
            self._add_losses()
            self._loss.add_(step.loss.detach() * weight)
        elif self._adds_losses_later:
            self._losses.append((step.loss.detach(), weight))
            if len(self._losses) >= LOSSES_AT_ONCE:
                self._add_losses()
        else:
            self._loss.add_(step.loss.detach(), alpha=weight)
        for name, value in step.scalars.items():
            total, weights = self._scalars.get(name) or (self._number(0.0), 0)
            self._scalars[name] = total + value.detach() * weight, weights + weight
        if not self.with_metrics or step.outputs is None:
            return
        if self._summed:
            self._add_outputs(step.outputs, step.targets)
        if self.extra is not None:
            self.extra.update(*self._in_units(step.outputs.detach(), step.targets, of_differences=False))

    @property
    def summed(self) -> list[Summed]:
        """The functions whose sums over the samples the metrics need, each with its argument `of_differences`."""
        return self._summed

    def share_loss(self, total: Tensor) -> None:
        """Let another add the losses: `total`, a view of a larger tensor, becomes the sum, and takes the sum so far."""
        self._loss = total.copy_(self._loss)

    def share_total(self, summed: Summed, total: Tensor) -> None:
        """Let another add the sums of a metric, likewise."""
        if summed in self._totals:
            total.copy_(self._totals[summed].reshape(total.shape))
        self._totals[summed], self._counts = total, False

    def count(self, samples: int) -> None:
        """Count the samples of a batch whose sums another adds."""
        self.samples += samples
        self._weight = self._weight + samples

    def _add_losses(self) -> None:
        """Add the collected losses, one after the other: how often this is called does not change the sum."""
        if not self._losses:
            return
        losses, weights = zip(*self._losses, strict=True)
        total = self._loss.item()
        for loss, weight in zip(torch.stack(losses).tolist(), weights, strict=True):
            total += loss * weight
        self._loss.fill_(total)
        self._losses = []

    def _add_outputs(self, outputs: Tensor, targets: Tensor) -> None:
        # Outputs with a gradient own their memory; targets may be views of a data set's buffer.
        if self._counts and self._may_collect and outputs.grad_fn is not None and outputs.numel() < VALUES_AT_ONCE:
            self._collected.append((outputs.detach(), targets.clone()))
            self._values += outputs.numel()
            if self._values >= VALUES_AT_ONCE:
                self._measure_collected()
        else:
            self._measure(outputs.detach(), targets)

    def _measure_collected(self) -> None:
        """Measure the collected batches."""
        for _, batches in groupby(self._collected, key=lambda batch: [part.shape[1:] for part in batch]):
            outputs, targets = (torch.cat(parts) for parts in zip(*batches, strict=True))
            self._measure(outputs, targets)
        self._collected, self._values = [], 0

    def _measure(self, outputs: Tensor, targets: Tensor) -> None:
        measured = {kind: self._in_units(outputs, targets, kind) for kind in {kind for _, kind in self._summed}}
        for summed in self._summed:
            function, of_differences = summed
            sums = function(*measured[of_differences])
            total = self._totals.get(summed)
            if total is None:  # counts stay integers: adding them takes a third of the time
                dtype = self._dtype if sums.is_floating_point() else sums.dtype
                self._totals[summed] = sums.to(dtype, copy=True)
                self._counts = not any(total.is_floating_point() for total in self._totals.values())
            else:
                total.add_(sums if sums.shape == total.shape else sums.reshape(total.shape))

    def _in_units(self, outputs: Tensor, targets: Tensor, of_differences: bool) -> tuple[Tensor, Tensor]:
        """Convert outputs and targets to the units of the data, as a metric takes them."""
        if self._scale is None:
            return outputs, targets
        convert = self._scale.from_center if of_differences else self._scale.in_units
        return convert(outputs), convert(targets)

    def means(self, extra: bool = True, own: bool = False) -> Metrics:
        """Return loss, scalars and metrics so far, without undefined ones: one read of the device.

        Args:
            extra: also those of the key `metrics`, which take longer.
            own: of this rank alone, which then does not wait for others.
        """
        samples, ((loss,), *totals), more = self._read(own)
        if not samples:
            return {}
        self.weight = more.get("weight", samples)
        scalars = {**({"loss": (loss, self.weight)} if self._has_loss else {}), **more.get("scalars", {})}
        means = {name: total / weight if weight else math.nan for name, (total, weight) in scalars.items()}
        sums = dict(zip(self._totals, totals, strict=False))
        values = {
            name: metric.value(sums[metric.sums, metric.of_differences], samples)
            for name, metric in self._metrics.items()
            if (metric.sums, metric.of_differences) in sums
        }
        means |= {name: value for name, value in values.items() if value is not None}
        if extra and self.with_metrics and self.extra is not None:
            means |= self.extra.compute(self._gather)
        return means | self._task.derived(means)

    def state(self, own: bool = False) -> tuple[list[list[float]], dict[str, Any]]:
        """Return what `reset` restores: one read of the device, and those of the key `metrics`.

        Args:
            own: of this rank alone.

        Returns:
            The number of samples and the sums of loss and metrics; then, where there are any, `weight`, the sum of
            weights, `scalars`, their sums and those of their weights, and `metrics`, the sums of the key `metrics`.
        """
        samples, sums, more = self._read(own)
        if self.with_metrics and self.extra is not None:
            more["metrics"] = self.extra.state(None if own else self._gather)
        return [[float(samples)], *sums], more

    def reset(self, state: list[list[float]] | None = None, more: Mapping[str, Any] | None = None) -> None:
        """Start from zero, or from the sums that `state` returned."""
        self._losses, self._collected, self._values = [], [], 0
        self._weight, self._scalars = 0, {}
        if not state:
            self.samples = 0
            self._totals = self._totals if self._counts else {}  # those of a resumed epoch are floats
            for total in (self._loss, *self._totals.values()):
                total.zero_()
            if self.extra is not None:
                self.extra.reset()
            return
        more = more or {}
        (samples,), (loss,), *totals = state
        self._weight = self._number(more["weight"]) if "weight" in more else int(samples)
        for name, (total, weights) in more.get("scalars", {}).items():
            self._scalars[name] = self._number(total), self._number(weights)
        if self.extra is not None:
            self.extra.load(more.get("metrics", {}))
        self._counts = False
        self.samples = int(samples)
        self._loss.fill_(loss)
        # Without totals, the metrics of the samples so far are unknown.
        self.with_metrics &= bool(totals or not samples or not self._summed)
        self._totals = {
            summed: torch.tensor(sums, dtype=self._dtype, device=self._device)
            for summed, sums in zip(self._summed, totals, strict=False)  # empty before the first batch
        }

    def _number(self, value: float) -> Tensor:
        return torch.tensor(value, dtype=self._dtype, device=self._device)

    def _read(self, own: bool) -> tuple[int, list[list[float]], dict[str, Any]]:
        """Read the number of samples, the sums of loss and metrics, and those of weights and scalars, at once."""
        self._measure_collected()
        self._add_losses()
        if not own and self._strategy.ranks > 1:
            self._share_layout()
        totals = [self._loss, *(self._totals.values() if self.with_metrics else ())]
        weight = [self._weight] if isinstance(self._weight, Tensor) else []
        pairs = [torch.as_tensor(number).to(self._loss) for pair in self._scalars.values() for number in pair]
        parts = [part.flatten() for part in (*totals, *weight, *pairs)]
        if own or self._strategy.ranks == 1:
            samples, numbers = self.samples, iter(torch.cat(parts).tolist())
        else:
            numbers = iter(self._strategy.sum(torch.cat([self._number(self.samples)[None], *parts])).tolist())
            samples = int(next(numbers))
        sums = [list(islice(numbers, total.numel())) for total in totals]
        more: dict[str, Any] = {"weight": next(numbers)} if weight else {}
        if self._scalars:
            more["scalars"] = {name: [next(numbers), next(numbers)] for name in self._scalars}
        return samples, sums, more

    def _share_layout(self) -> None:
        """Get zeros for the sums that only other ranks have: their samples came before a resume, or a stream gave them.

        What is added up then has the same size on all ranks.
        """
        shapes = {self._summed.index(summed): total.shape for summed, total in self._totals.items()}
        own = (self.with_metrics, self._has_loss, isinstance(self._weight, Tensor), list(self._scalars), shapes)
        with_metrics, has_loss, weighted, scalars, all_shapes = zip(*self._strategy.gather(own), strict=True)
        self.with_metrics, self._has_loss = all(with_metrics), all(has_loss)
        if any(weighted) and not isinstance(self._weight, Tensor):
            self._weight = self._number(self._weight)
        for name in dict.fromkeys(chain(*scalars)):
            own_sums = self._scalars.pop(name) if name in self._scalars else (self._number(0.0), 0)
            self._scalars[name] = own_sums  # in the same order on all ranks
        merged = ChainMap(*all_shapes)
        self._totals = {
            summed: self._totals.get(summed, torch.zeros(merged[place], dtype=self._dtype, device=self._device))
            for place, summed in enumerate(self._summed)
            if place in merged
        }
