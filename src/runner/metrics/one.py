"""A single metric over the batches of a part: a class of torchmetrics, or a function of the user's."""

import copy
import inspect
import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from itertools import compress, zip_longest
from typing import Any, Protocol

import torch
from torch import Tensor

from runner.errors import ConfigError, Problem
from runner.metrics.entries import PREFIXES
from runner.metrics.meaning import Meaning

Values = tuple[float | None, list[float | None] | None]
"""A value, None if it is undefined; and the values of all classes, None if there are none."""

PRESENT = ("AUROC", "AveragePrecision")
"""Classes of torchmetrics that give a class without samples a value, 0: it does not count in our average."""


class One(Protocol):
    """A metric.

    Attributes:
        name: in the results.
        higher_is_better: None if nobody declared it.
        in_sums: it adds up numbers; otherwise it keeps all predictions.
        exact: its sums are whole numbers, which do not depend on the division into batches.
        notes: what a reader of its values should know; empty most of the time.
        raw: it gets outputs and targets as a step returns them.
    """

    name: str
    raw: bool
    higher_is_better: bool | None
    in_sums: bool
    exact: bool
    notes: list[str]

    def start(self, device: torch.device) -> None:
        """Start from zero, on a device."""

    def update(self, outputs: Tensor, targets: Tensor) -> None:
        """Add a batch, as `Meaning.convert` returns it."""

    def compute(self) -> Values:
        """Return the value so far, and those of all classes."""

    def parts(self) -> dict[str, Any]:
        """Return what this rank has so far, on the CPU."""

    def merged(self, shares: Sequence[Mapping[str, Any]], sizes: Sequence[Sequence[int]]) -> "One":
        """Return this metric with the samples of all ranks.

        Args:
            shares: what `parts` returned on each rank.
            sizes: of the batches of each rank.
        """

    def state(self) -> dict[str, Any]:
        """Return the sums as lists."""

    def load(self, state: Mapping[str, Any]) -> None:
        """Continue from sums."""

    def arguments(self) -> dict[str, Any]:
        """Return what is measured, for the record: the class or function, and its arguments."""


class FromTorchmetrics:
    """A class of torchmetrics."""

    def __init__(
        self,
        name: str,
        higher_is_better: bool | None,
        made_by: Any,
        arguments: Mapping[str, Any],
        meaning: Meaning,
        raw: bool = False,
    ) -> None:
        self.name, self.higher_is_better, self.raw = name, higher_is_better, raw
        self._class, self._arguments, self._meaning = made_by, dict(arguments), meaning
        self._average = self._arguments.get("average", _default(made_by, "average"))
        self._over_present = made_by.__name__.removeprefix(PREFIXES.get(meaning.kind or "", "")) in PRESENT
        self._by_class = made_by
        self.notes: list[str] = []
        self.start(torch.device("cpu"))
        if "validate_args" in self._arguments:  # once, and not for each batch, which would ask the device
            self._make({"validate_args": True})
        defaults = list(self._metric._defaults.values())
        self.in_sums = not any(isinstance(default, list) for default in defaults)
        self.exact = not self.in_sums or not any(default.is_floating_point() for default in defaults)

    def start(self, device: torch.device) -> None:
        """Start from zero, on a device."""
        self.notes = []
        self._device = device if device.type != "mps" else torch.device("cpu")
        by_class = self._average in ("macro", "weighted")
        self._metric = self._make({"average": "none"} if by_class and self._over_present else {})
        # The same states, read for each class.
        self._per_class = self._make({"average": "none"}) if by_class and not self._over_present else None

    def _make(self, changed: Mapping[str, Any]) -> Any:
        with warnings.catch_warnings():  # that it keeps all predictions: of that we decide ourselves
            warnings.simplefilter("ignore")
            try:
                metric = self._class(**{**self._arguments, **changed})
            except Exception as error:
                text = f"metrics: {self.name}: {str(error).strip().splitlines()[0]}"
                raise ConfigError(Problem("metrics", text, "change its arguments", topic="range")) from error
        for state, default in metric._defaults.items():  # `set_dtype` would make floats of counts too
            if isinstance(default, Tensor) and default.is_floating_point():
                metric._defaults[state] = default.double()
                setattr(metric, state, default.double())
        metric._to_sync = False  # between ranks: `merged` does, for all that is read from the states
        return metric.to(self._device)

    def update(self, outputs: Tensor, targets: Tensor) -> None:
        """Add a batch."""
        if len(targets):
            one_class = self._meaning.kind == "binary"
            self._metric.update(outputs[:, 1] if one_class else outputs, targets)

    def compute(self) -> Values:
        """Return the value so far, and those of all classes."""
        if not self._metric._update_count:
            return None, None
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            result = self._metric.compute()
            if self._over_present:
                return self._mean_of_present(result)
            by_class = self._read_by_class()
        if not isinstance(result, Tensor) or result.ndim > 1:
            kind = "tensor of several axes" if isinstance(result, Tensor) else type(result).__name__
            text = f"metrics: {self.name} is a {kind}, not a number"
            suggestion = "write the path of a function that returns a number"
            raise ConfigError(Problem("metrics", text, suggestion, topic="type"))
        if result.ndim == 1 and len(result) > 1:  # one value an output, or a label
            values = _listed(result)
            known = [value for value in values if value is not None]
            return (sum(known) / len(known) if known else None), values
        return _number(result), by_class

    def _read_by_class(self) -> list[float | None] | None:
        if self._per_class is None:
            return None
        for name in self._metric._defaults:
            setattr(self._per_class, name, getattr(self._metric, name))
        self._per_class._update_count, self._per_class._computed = 1, None
        return _listed(self._per_class.compute())

    def _mean_of_present(self, result: Tensor) -> Values:
        positives, samples = self._positives()
        present = positives > 0
        if "AUROC" in self._class.__name__:
            present &= positives < samples
        if result.ndim == 0:
            return (_number(result) if bool(present.any()) else None), None
        values = [value if there else None for value, there in zip(_listed(result), present.tolist(), strict=True)]
        if not present.any():
            return None, values
        missing = [name for name, there in zip(self._meaning.names, present.tolist(), strict=True) if not there]
        shown = ", ".join(missing[:5]) + (", ..." if len(missing) > 5 else "")
        self.notes = [f"{self.name} is undefined for {shown}: the mean is over the others"] if missing else []
        weights = positives.double() if self._average == "weighted" else torch.ones_like(positives).double()
        weights, known = weights[present], result[present].double()
        return float((weights * known).sum() / weights.sum()), values

    def _positives(self) -> tuple[Tensor, Tensor]:
        """Return for each class or label the number of its samples, and of all."""
        metric, kind, count = self._metric, self._meaning.kind, self._meaning.count
        if not isinstance(metric._defaults.get("target"), list):
            table = metric.confmat[0].reshape(-1, 2, 2)  # at the lowest threshold: actual, predicted
            return table[:, 1].sum(1), table.sum((1, 2))
        targets = torch.cat(metric.target) if isinstance(metric.target, list) else metric.target
        samples = torch.tensor(len(targets))
        if kind == "multilabel":
            return targets.reshape(-1, count).sum(0), samples.to(targets.device)
        if kind == "binary":
            return targets.sum().reshape(1), samples.to(targets.device)
        return torch.bincount(targets, minlength=count), samples.to(targets.device)

    def parts(self) -> dict[str, Any]:
        """Return the states so far, on the CPU; none without samples."""
        if not self._metric._update_count:
            return {}
        states = {name: getattr(self._metric, name) for name in self._metric._defaults}
        joined = {
            name: torch.cat([torch.atleast_1d(part) for part in state]) if isinstance(state, list) else state
            for name, state in states.items()
        }
        return {name: state.cpu() for name, state in joined.items()}

    def merged(self, shares: Sequence[Mapping[str, Any]], sizes: Sequence[Sequence[int]]) -> "FromTorchmetrics":
        """Return this metric with the samples of all ranks, in their order where it keeps them."""
        merged = copy.copy(self)
        merged.start(self._device)
        metric, has = merged._metric, [bool(share) for share in shares]
        metric._update_count = int(any(has))
        for name, default in metric._defaults.items() if any(has) else ():
            states = [share[name].to(self._device) for share in compress(shares, has)]
            if isinstance(default, list):
                setattr(metric, name, [_in_order(states, list(compress(sizes, has)))])
                continue
            reduce, stacked = metric._reductions[name], torch.stack(states)
            setattr(metric, name, stacked if reduce is None else reduce(stacked))
        return merged

    def state(self) -> dict[str, Any]:
        """Return the sums as lists."""
        if not self._metric._update_count:
            return {}
        return {name: getattr(self._metric, name).tolist() for name in self._metric._defaults}

    def load(self, state: Mapping[str, Any]) -> None:
        """Continue from sums."""
        for name, value in state.items():
            now = getattr(self._metric, name)
            setattr(self._metric, name, torch.tensor(value, dtype=now.dtype, device=now.device))
        self._metric._update_count = int(bool(state))

    def arguments(self) -> dict[str, Any]:
        """Return the class and its arguments."""
        shown = {name: value for name, value in self._arguments.items() if name != "validate_args"}
        shown = {name: value.tolist() if isinstance(value, Tensor) else value for name, value in shown.items()}
        average = {"average": self._average} if isinstance(self._average, str) else {}
        return {"class": self._class.__name__, **average, **shown}


class FromFunction:
    """A function of all predictions and targets of a part: it is called once, with tensors on the CPU."""

    in_sums, exact = False, True

    def __init__(
        self,
        name: str,
        higher_is_better: bool | None,
        function: Callable[..., Any],
        arguments: Mapping[str, Any],
        raw: bool = False,
    ) -> None:
        self.name, self.higher_is_better, self.raw = name, higher_is_better, raw
        self._function, self._arguments = function, dict(arguments)
        self.notes: list[str] = []
        self.start(torch.device("cpu"))

    def start(self, device: torch.device) -> None:
        """Start from zero."""
        self._batches: list[tuple[Tensor, Tensor]] = []

    def update(self, outputs: Tensor, targets: Tensor) -> None:
        """Keep a batch."""
        self._batches.append((outputs, targets))

    def compute(self) -> Values:
        """Call the function."""
        if not any(len(targets) for _, targets in self._batches):
            return None, None
        outputs, targets = (torch.cat(parts).cpu() for parts in zip(*self._batches, strict=True))
        result = self._function(outputs, targets, **self._arguments)
        if isinstance(result, Tensor):
            result = result.item() if result.numel() == 1 else result
        try:
            return _number(torch.tensor(float(result), dtype=torch.float64)), None
        except (TypeError, ValueError):
            text = f"metrics: {self.name} returns a {type(result).__name__}, not a number"
            raise ConfigError(Problem("metrics", text, "let it return a number", topic="code")) from None

    def parts(self) -> dict[str, Any]:
        """Return the predictions and targets so far, on the CPU."""
        if not self._batches:
            return {}
        outputs, targets = (torch.cat(parts).cpu() for parts in zip(*self._batches, strict=True))
        return {"outputs": outputs, "targets": targets}

    def merged(self, shares: Sequence[Mapping[str, Any]], sizes: Sequence[Sequence[int]]) -> "FromFunction":
        """Return this function with the samples of all ranks, in their order."""
        merged, has = copy.copy(self), [bool(share) for share in shares]
        merged.start(torch.device("cpu"))
        if any(has):
            of_ranks = list(compress(sizes, has))
            outputs, targets = (
                _in_order([share[name] for share in compress(shares, has)], of_ranks) for name in ("outputs", "targets")
            )
            merged.update(outputs, targets)
        return merged

    def state(self) -> dict[str, Any]:
        """Return nothing: it keeps predictions, and is not measured in training."""
        return {}

    def load(self, state: Mapping[str, Any]) -> None:
        """Load nothing."""

    def arguments(self) -> dict[str, Any]:
        """Return the function and its arguments."""
        name = getattr(self._function, "__qualname__", type(self._function).__name__)
        return {"function": f"{getattr(self._function, '__module__', '')}.{name}", **self._arguments}


def _in_order(parts: Sequence[Tensor], sizes: Sequence[Sequence[int]]) -> Tensor:
    """Put the shares of several ranks together, batch by batch: the order of the samples with one process.

    Args:
        parts: of each rank, the values (N, ...) of all its batches.
        sizes: of the batches of each rank. Values that are not one a sample stay in the order of the ranks.
    """
    if any(len(part) != sum(own) for part, own in zip(parts, sizes, strict=True)):
        return torch.cat(list(parts))
    batches = zip_longest(*(part.split(list(own)) for part, own in zip(parts, sizes, strict=True)))
    return torch.cat([share for batch in batches for share in batch if share is not None])


def _default(made_by: Any, argument: str) -> Any:
    parameter = inspect.signature(made_by.__init__).parameters.get(argument)
    return None if parameter is None or parameter.default is parameter.empty else parameter.default


def _number(value: Tensor) -> float | None:
    number = float(value)
    return number if math.isfinite(number) else None


def _listed(values: Tensor) -> list[float | None]:
    return [value if math.isfinite(value) else None for value in values.double().tolist()]
