"""The metrics of a run: which there are, and their values over the batches of a part."""

import copy
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from runner.metrics.meaning import Meaning
from runner.metrics.one import One

log = logging.getLogger("runner")

Gather = Callable[[Any], list[Any]]

VALUES_AT_ONCE = 65_536
"""How many outputs of small batches are measured at once: an update of torchmetrics takes about 0.3 ms."""


class MetricSet:
    """The metrics that a config asks for.

    Args:
        metrics: made, and tried.
        meaning: of outputs and targets.
    """

    def __init__(self, metrics: Sequence[One], meaning: Meaning) -> None:
        self._metrics, self.meaning = list(metrics), meaning

    @property
    def names(self) -> list[str]:
        """The names, without a part."""
        return [one.name for one in self._metrics]

    def measured_on(self, part: str) -> list[str]:
        """Return the names of those measured on a part: those that keep all predictions not in training."""
        return [one.name for one in self._metrics if one.in_sums or part != "train"]

    def higher_is_better(self, name: str) -> bool | None:
        """Return whether a higher value is better; None if nobody declared it, or there is no such metric."""
        return next((one.higher_is_better for one in self._metrics if one.name == name), None)

    def is_open(self, name: str) -> bool:
        """Whether it is one of these metrics, and nobody declared whether a higher value is better."""
        return name in self.names and self.higher_is_better(name) is None

    def describe(self) -> list[str]:
        """Describe each metric with the arguments that it got."""
        lines = []
        for one in self._metrics:
            arguments = one.arguments()
            what = arguments.pop("class", None) or arguments.pop("function")
            shown = " ".join(f"{name}={value}" for name, value in arguments.items())
            kept = "" if one.in_sums else " (validation and test)"
            lines.append(f"{one.name}: {what}{' ' if shown else ''}{shown}{kept}")
        return lines

    def record(self) -> dict[str, dict[str, Any]]:
        """Return the class or function of each metric and its arguments."""
        return {one.name: one.arguments() for one in self._metrics}

    def start(self, device: torch.device, training: bool) -> "Measured":
        """Start to measure a part.

        Args:
            device: of the outputs.
            training: measure only what adds up numbers.
        """
        metrics = [copy.copy(one) for one in self._metrics if one.in_sums or not training]
        return Measured(metrics, self.meaning, device)


class Measured:
    """The values of metrics over the batches of a part.

    Small batches are collected: each metric is updated once for several. Sums of floats are updated batch by batch, as
    their last bits depend on the division.
    """

    def __init__(self, metrics: Sequence[One], meaning: Meaning, device: torch.device) -> None:
        self._metrics, self._meaning, self._device = list(metrics), meaning, device
        self._raw = [one for one in self._metrics if one.raw]
        self._exact = [one for one in self._metrics if one.exact and not one.raw]
        self._in_floats = [one for one in self._metrics if not one.exact and not one.raw]
        self._per_class: dict[str, dict[str, float | None]] = {}
        self.reset()

    def reset(self) -> None:
        """Start from zero."""
        self._collected: list[tuple[Tensor, Tensor]] = []
        self._values = 0
        self._unknown: set[str] = set()
        self._sizes: list[int] = []  # of the batches, as metrics get them
        self._raw_sizes: list[int] = []
        self._notes: list[str] = []
        for one in self._metrics:
            one.start(self._device)

    def update(self, outputs: Tensor, targets: Tensor) -> None:
        """Add a batch: outputs (N, K, ...), values in the units of the data, and targets as the loss takes them."""
        for one in self._raw:
            one.update(outputs.detach().clone(), targets.detach().clone())
        self._raw_sizes.append(len(targets))
        if not self._exact and not self._in_floats:
            return
        batch = self._meaning.convert(outputs, targets)
        if self._device.type == "cuda":  # CUDA graphs overwrite outputs, and these are kept
            batch = batch[0].clone(), batch[1]
        self._sizes.append(len(batch[1]))
        for one in self._in_floats:
            one.update(*batch)
        if self._exact:
            self._collected.append(batch)
            self._values += batch[0].numel()
            if self._values >= VALUES_AT_ONCE:
                self._flush()

    def _flush(self) -> None:
        if self._collected:
            outputs, targets = (torch.cat(parts) for parts in zip(*self._collected, strict=True))
            for one in self._exact:
                one.update(outputs, targets)
        self._collected, self._values = [], 0

    def _known(self, gather: Gather | None) -> list[One]:
        """Return the metrics that have a value, with the samples of all ranks."""
        self._flush()
        known = [one for one in self._metrics if one.name not in self._unknown]
        if gather is None:
            return known
        shares = gather(([one.parts() for one in known], self._sizes, self._raw_sizes))
        return [
            one.merged([parts[number] for parts, *_ in shares], [sizes[1 + one.raw] for sizes in shares])
            for number, one in enumerate(known)
        ]

    def compute(self, gather: Gather | None = None) -> dict[str, float]:
        """Return the values so far by name, without undefined ones.

        Args:
            gather: returns the values of all ranks, if there are several.
        """
        values = {}
        known = self._known(gather)
        for one in known:
            value, by_class = one.compute()
            if value is not None:
                values[one.name] = value
            if by_class is not None:
                names = map(str, range(len(by_class))) if one.raw else self._meaning.names
                self._per_class[one.name] = dict(zip(names, by_class, strict=True))
        self._notes = [note for one in known for note in one.notes]
        return values

    def per_class(self) -> dict[str, dict[str, float | None]]:
        """Return the values of `compute` by class, label or output; None where one is undefined."""
        return self._per_class

    def notes(self) -> list[str]:
        """Return what a reader of the values of `compute` should know."""
        return self._notes

    def state(self, gather: Gather | None = None) -> dict[str, dict[str, Any]]:
        """Return the sums for a checkpoint; those of metrics that keep all predictions are left out."""
        return {one.name: one.state() for one in self._known(gather) if one.in_sums}

    def load(self, state: Mapping[str, Mapping[str, Any]]) -> None:
        """Continue from sums; a metric that has none here is undefined until the next start."""
        self.reset()
        for one in self._metrics:
            if one.name in state:
                one.load(state[one.name])
            else:
                self._unknown.add(one.name)
