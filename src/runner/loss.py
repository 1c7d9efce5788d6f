"""The losses. A loss also defines the task: the meaning of targets and outputs, and the metrics."""

import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Literal

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own name for it
from torch import Tensor, nn

from runner.errors import ConfigError, Problem
from runner.util import metric_names
from runner.util.ranges import Range


class Metric:
    """A metric measured beside the loss: sums over the samples of a batch, added over all batches, then its value.

    Args:
        sums: (outputs, prepared targets) of a batch -> sums over its samples, any shape, on the device.
        value: (sums of all batches, flattened, number of samples) -> the value; None if it is undefined. Default: the
            mean of a single sum over the samples.
        higher_is_better: whether a higher value is better; always so for metrics named accuracy or r2.
        of_differences: whether adding the same number to outputs and targets changes nothing. For a regression the
            targets' mean is then subtracted from both if it is large, as large numbers cost digits.
    """

    def __init__(
        self,
        sums: Callable[[Tensor, Tensor], Tensor],
        value: Callable[[list[float], int], float | None] = lambda sums, samples: sums[0] / samples,
        higher_is_better: bool = False,
        of_differences: bool = False,
    ) -> None:
        self.sums, self.value, self.higher_is_better = sums, value, higher_is_better
        self.of_differences = of_differences


class Loss(nn.Module):
    """The base class of losses. A custom loss overrides everything except `probabilities`.

    Attributes:
        metrics: the metrics measured beside the loss, by name. Metrics with the same function `sums` share its result.
        regression: whether outputs are values, in the units of the targets (N, K) that `prepare` returns. Targets may
            then be scaled (`data.scale_targets`): `forward` gets scaled targets and outputs; the metrics get both in
            the units of the data.
        takes: the kind of targets it accepts: classes, values, or either; None if unknown.
    """

    metrics: Mapping[str, Metric] = {}
    regression: bool = False
    takes: Literal["classes", "values", "either"] | None = None

    def higher_is_better(self, metric: str) -> bool:
        """Return whether a higher value of a metric, such as `val/f1`, is better."""
        own = self.metrics.get(metric.partition("/")[2])
        return metric_names.higher_is_better(metric) or (own is not None and own.higher_is_better)

    def num_outputs(self, targets: Tensor, classes: Sequence[str] | None) -> int:
        """Return how many outputs a model needs for these targets.

        Raises:
            ConfigError: the loss does not accept such targets.
        """
        raise NotImplementedError

    def prepare(self, targets: Tensor, dtype: torch.dtype) -> Tensor:
        """Convert targets to the form that `forward` takes; `dtype` is that of the weights."""
        raise NotImplementedError

    def forward(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the mean over the samples of a batch, a scalar."""
        raise NotImplementedError

    def weight(self, outputs: Tensor, targets: Tensor) -> Tensor | None:
        """Return what `forward` is a mean over: a sum of class weights, or a number of tokens; None: the samples."""
        return None

    def probabilities(self, outputs: Tensor) -> Tensor | None:
        """Return class probabilities (N, classes) of outputs (N, K); None if outputs are values."""
        return None


def name_of(part: nn.Module) -> str:
    """Return the name of a loss or a task in the config: `bce_with_logits` for `BCEWithLogits`."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", type(part).__name__).lower()


FEW = 20
"""The largest number of distinct whole-number floats that may be classes."""


def answers(loss: Loss, outputs: Tensor) -> Tensor:
    """Convert outputs (N, K), in the units of the data, to predictions.

    These are the probabilities of the classes; for several labels per sample, the probability of each; or the values.
    """
    probabilities = loss.probabilities(outputs)
    if probabilities is not None:
        return probabilities
    return outputs.sigmoid() if isinstance(loss, BCEWithLogits) else outputs


def answer_names(loss: Loss, num_outputs: int, classes: Sequence[str] | None) -> list[str]:
    """Return the column names of `answers`: `p_cat` and `p_dog`, or `value`, or `value_0`, `value_1`, ..."""
    device = next((tensor.device for tensor in loss.state_dict().values()), None)
    probabilities = loss.probabilities(torch.zeros(1, num_outputs, device=device))
    if probabilities is not None:
        return [f"p_{name}" for name in classes or range(probabilities.shape[1])]
    name = "p" if isinstance(loss, BCEWithLogits) else "value"
    return [name] if num_outputs == 1 else [f"{name}_{number}" for number in range(num_outputs)]


def correct(outputs: Tensor, targets: Tensor) -> Tensor:
    """Count the outputs (N, K) that are largest at the target class (N,), or at the most probable one of (N, K)."""
    classes = targets.argmax(dim=1) if targets.ndim == 2 else targets  # probabilities: of mixed samples
    return torch.count_nonzero(outputs.argmax(dim=1) == classes)  # half the time of `sum` for a batch


def correct_signs(outputs: Tensor, targets: Tensor) -> Tensor:
    """Sum over samples the share of the K outputs with the sign of their target; both (N, K)."""
    return ((outputs > 0) == (targets > 0.5)).to(outputs.dtype).mean(dim=1).sum()


def absolute_error(outputs: Tensor, targets: Tensor) -> Tensor:
    """Sum over samples the mean absolute error of the K outputs; both (N, K)."""
    return (outputs - targets).abs().mean(dim=1).sum()


def squares(outputs: Tensor, targets: Tensor) -> Tensor:
    """Return (3, K): for each output, the sums over samples of squared error, target, and squared target."""
    targets = targets if targets.device.type == "mps" else targets.double()
    return torch.stack([((outputs - targets) ** 2).sum(0), targets.sum(0), (targets**2).sum(0)])


def root_mean_squared_error(sums: list[float], samples: int) -> float:
    """Return the root of the mean squared error, averaged over the outputs."""
    errors = sums[: len(sums) // 3]
    return sum(math.sqrt(error / samples) if error >= 0 else math.nan for error in errors) / len(errors)


def r_squared(sums: list[float], samples: int) -> float | None:
    """Return the coefficient of determination, 1 - (squared error) / (variance), averaged over the outputs.

    None if all targets of an output are equal: there is no variance to explain.
    """
    outputs = len(sums) // 3
    errors, totals, squared = sums[:outputs], sums[outputs : 2 * outputs], sums[2 * outputs :]
    spreads = [square - total**2 / samples for square, total in zip(squared, totals, strict=True)]
    # The difference of two large, nearly equal numbers is a rounding error, not a variance.
    if any(spread <= 1e-12 * square for spread, square in zip(spreads, squared, strict=True)):
        return None
    return sum(1 - error / spread for error, spread in zip(errors, spreads, strict=True)) / outputs


def _not_classes(targets: Tensor) -> tuple[str, str]:
    """Describe targets that are not one integer per sample, and suggest what to do instead."""
    whole = not targets.is_floating_point() or bool((targets == targets.round()).all())
    if targets.ndim == 2 and targets.shape[1] == 1 and whole:
        return "the targets have shape (N, 1)", "pass integers of shape (N,), such as targets[:, 0]"
    if targets.ndim == 2 and bool(((targets == 0) | (targets == 1)).all()):
        one_hot = bool((targets.sum(1) == 1).all())
        suggestion = "pass class indices: targets.argmax(1)" if one_hot else "write loss=bce_with_logits"
        return f"the targets are {targets.shape[1]} values of 0 or 1 per sample", suggestion
    if targets.ndim != 1:
        return f"the targets have shape {tuple(targets.shape)}", "write loss=mse"
    if whole and float(targets.min()) == 0 and float(targets.max()) == 1:
        return "the targets are 0.0 and 1.0", "write loss=bce_with_logits, or pass integers, 0 and 1"
    if whole and len(targets.unique()) <= FEW:
        return "the targets are floats, all whole numbers", "write loss=mse, or pass integers if they are classes"
    return "the targets are values, not classes", "write loss=mse"


class CrossEntropy(Loss):
    """Cross entropy for classification: targets (N,) are class indices, outputs (N, K) logits.

    Validation and test compute the loss without smoothing: runs with and without it remain comparable.
    """

    metrics: Mapping[str, Metric] = {"accuracy": Metric(correct, higher_is_better=True)}
    takes = "classes"

    def __init__(self, label_smoothing: Annotated[float, Range(0, 1)] = 0.0) -> None:
        super().__init__()
        self.label_smoothing = label_smoothing

    def num_outputs(self, targets: Tensor, classes: Sequence[str] | None) -> int:
        """Return the number of classes."""
        if targets.is_floating_point() or targets.ndim != 1:
            description, suggestion = _not_classes(targets)
            text = f"loss=cross_entropy needs one integer class per sample, but {description}"
            raise ConfigError(Problem("loss", text, suggestion, topic="conflict"))
        if (smallest := int(targets.min())) < 0:
            text = f"loss=cross_entropy: class indices start at 0, but the smallest target is {smallest}"
            raise ConfigError(Problem("loss", text, topic="data"))
        largest = int(targets.max())
        count = len(classes) if classes else largest + 1
        if largest >= count:
            text = (
                f"loss=cross_entropy: the data name {count} classes, 0 to {count - 1}, but there is a target {largest}"
            )
            raise ConfigError(Problem("loss", text, "name all classes, or none", topic="data"))
        if count < 2:
            text = f"loss=cross_entropy needs at least two classes, found {count}"
            raise ConfigError(Problem("loss", text, "add samples of another class", topic="data"))
        return count

    def prepare(self, targets: Tensor, dtype: torch.dtype) -> Tensor:
        """Convert class indices to int64."""
        return targets.long()

    def forward(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the mean cross entropy, in nats."""
        return F.cross_entropy(outputs, targets, label_smoothing=self.label_smoothing if self.training else 0.0)

    def probabilities(self, outputs: Tensor) -> Tensor:
        """Return the softmax."""
        return outputs.softmax(dim=1)


class BCEWithLogits(Loss):
    """Binary cross entropy: targets (N,), or (N, K) for K labels, are from 0 to 1; outputs are logits."""

    metrics: Mapping[str, Metric] = {"accuracy": Metric(correct_signs, higher_is_better=True)}
    takes = "either"

    def num_outputs(self, targets: Tensor, classes: Sequence[str] | None) -> int:
        """Return the number of labels."""
        if float(targets.min()) < 0 or float(targets.max()) > 1:
            suggestion = f"write loss={'mse' if targets.is_floating_point() else 'cross_entropy'}"
            text = f"loss=bce_with_logits needs targets from 0 to 1, found {targets.min():g} to {targets.max():g}"
            raise ConfigError(Problem("loss", text, suggestion, topic="conflict"))
        if classes and targets.ndim == 1 and len(classes) != 2:
            text = f"loss=bce_with_logits needs two classes, the data have {len(classes)}"
            raise ConfigError(Problem("loss", text, "write loss=cross_entropy", topic="conflict"))
        return 1 if targets.ndim == 1 else targets.flatten(1).shape[1]

    def prepare(self, targets: Tensor, dtype: torch.dtype) -> Tensor:
        """Convert targets to values of shape (N, K)."""
        return targets.to(dtype).reshape(len(targets), -1)

    def forward(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the mean binary cross entropy over samples and outputs, in nats."""
        return F.binary_cross_entropy_with_logits(outputs, targets)

    def probabilities(self, outputs: Tensor) -> Tensor | None:
        """Return the probabilities of no and yes, (N, 2), of a single label; None for several labels."""
        if outputs.shape[1] != 1:
            return None
        yes = outputs.sigmoid()
        return torch.cat([1 - yes, yes], dim=1)


class MSE(Loss):
    """Mean squared error for regression: targets (N,) or (N, K) are values; integers are converted.

    The loss is computed on scaled targets if they are scaled. `mae`, `rmse` and `r2` are in the units of the data. With
    several target columns each metric is computed per column, over all samples of a part, and averaged over the columns
    with equal weights (scikit-learn's `multioutput="uniform_average"`).
    """

    regression = True
    metrics: Mapping[str, Metric] = {
        "mae": Metric(absolute_error, of_differences=True),
        "rmse": Metric(squares, root_mean_squared_error, of_differences=True),
        "r2": Metric(squares, r_squared, higher_is_better=True, of_differences=True),
    }
    takes = "values"

    def num_outputs(self, targets: Tensor, classes: Sequence[str] | None) -> int:
        """Return the number of values per sample."""
        if classes:
            text = "loss=mse needs values, but the targets are named classes"
            raise ConfigError(Problem("loss", text, "write loss=cross_entropy", topic="conflict"))
        return 1 if targets.ndim == 1 else targets.flatten(1).shape[1]

    def prepare(self, targets: Tensor, dtype: torch.dtype) -> Tensor:
        """Convert targets to values of shape (N, K)."""
        return targets.to(dtype).reshape(len(targets), -1)

    def forward(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the mean squared error over samples and outputs."""
        return F.mse_loss(outputs, targets)
