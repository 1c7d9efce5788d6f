"""What is minimised, and with it the task: the loss decides what targets and outputs mean, and what is measured."""

import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Literal

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own name for it
from torch import Tensor, nn

from runner.errors import ConfigError
from runner.util import metric_names
from runner.util.ranges import Range


class Metric:
    """What is measured beside the loss: batches give sums over samples, which are added up, and then the value.

    Args:
        sums: (outputs, prepared targets) of a batch -> sums over its samples, any shape, on the device.
        value: the sums of all batches, flattened, and the number of samples -> the value; None where it has
            none. Without it: the mean over samples of the one sum.
        higher_is_better: whether it rises as a model gets better; one named accuracy or r2 always does.
        of_differences: whether it stays the same when outputs and targets are moved by the same number: those of a
            regression are then given less the targets' mean, where that is large, for a large number costs digits.
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
    """A loss of one's own derives from this and overrides all but `probabilities`.

    Attributes:
        metrics: what is measured beside the loss, by name. Metrics with the same function `sums` share its result.
        regression: whether outputs are values, in the units of the targets (N, K) that `prepare` gives. Targets may
            then be scaled (`data.scale_targets`): `forward` gets them scaled, as the model gives its outputs; the
            metrics get both in the units of the data.
        takes: the targets it can be given: classes, values, or either; None if that is not known.
    """

    metrics: Mapping[str, Metric] = {}
    regression: bool = False
    takes: Literal["classes", "values", "either"] | None = None

    def higher_is_better(self, metric: str) -> bool:
        """Which way a metric of a part, such as `val/f1`, is better."""
        own = self.metrics.get(metric.partition("/")[2])
        return metric_names.higher_is_better(metric) or (own is not None and own.higher_is_better)

    def num_outputs(self, targets: Tensor, classes: Sequence[str] | None) -> int:
        """How many outputs a model needs for these targets.

        Raises:
            ConfigError: the targets are not of this loss's kind.
        """
        raise NotImplementedError

    def prepare(self, targets: Tensor, dtype: torch.dtype) -> Tensor:
        """Targets as `forward` takes them; `dtype` is that of the weights."""
        raise NotImplementedError

    def forward(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """The mean over the samples of a batch, a scalar."""
        raise NotImplementedError

    def probabilities(self, outputs: Tensor) -> Tensor | None:
        """Of each class, (N, classes), out of a model's outputs (N, K); None where outputs are values."""
        return None


def name_of(loss: Loss) -> str:
    """As the config names it: `bce_with_logits` of `BCEWithLogits`."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", type(loss).__name__).lower()


FEW = 20
"""Different whole numbers that may be classes, written as floats."""


def answers(loss: Loss, outputs: Tensor) -> Tensor:
    """What a person is told, out of outputs (N, K) in the units of the data.

    The probabilities of the classes; of several yes-or-no questions at once, that of each one's yes; or the values.
    """
    probabilities = loss.probabilities(outputs)
    if probabilities is not None:
        return probabilities
    return outputs.sigmoid() if isinstance(loss, BCEWithLogits) else outputs


def answer_names(loss: Loss, num_outputs: int, classes: Sequence[str] | None) -> list[str]:
    """The names of the columns of `answers`: `p_cat` and `p_dog`, or `value`, or `value_0`, `value_1`, ..."""
    device = next((tensor.device for tensor in loss.state_dict().values()), None)
    probabilities = loss.probabilities(torch.zeros(1, num_outputs, device=device))
    if probabilities is not None:
        return [f"p_{name}" for name in classes or range(probabilities.shape[1])]
    name = "p" if isinstance(loss, BCEWithLogits) else "value"
    return [name] if num_outputs == 1 else [f"{name}_{number}" for number in range(num_outputs)]


def correct(outputs: Tensor, targets: Tensor) -> Tensor:
    """How many of (N, K) outputs are largest at the target class (N,)."""
    return torch.count_nonzero(outputs.argmax(dim=1) == targets)  # takes half as long as `sum` of so few


def correct_signs(outputs: Tensor, targets: Tensor) -> Tensor:
    """The share of the K outputs of each sample on their target's side, summed over samples; both (N, K)."""
    return ((outputs > 0) == (targets > 0.5)).to(outputs.dtype).mean(dim=1).sum()


def absolute_error(outputs: Tensor, targets: Tensor) -> Tensor:
    """Sum over samples of the mean absolute error over the K outputs; both (N, K)."""
    return (outputs - targets).abs().mean(dim=1).sum()


def squares(outputs: Tensor, targets: Tensor) -> Tensor:
    """(3, K): by output, the sums over samples of the squared error, of the target and of its square."""
    targets = targets if targets.device.type == "mps" else targets.double()
    return torch.stack([((outputs - targets) ** 2).sum(0), targets.sum(0), (targets**2).sum(0)])


def root_mean_squared_error(sums: list[float], samples: int) -> float:
    """The root of the mean squared error, averaged over the outputs."""
    errors = sums[: len(sums) // 3]
    return sum(math.sqrt(error / samples) if error >= 0 else math.nan for error in errors) / len(errors)


def r_squared(sums: list[float], samples: int) -> float | None:
    """The coefficient of determination, 1 - (squared error) / (variance), averaged over the outputs.

    None if an output's targets are all the same, which leaves nothing to explain.
    """
    outputs = len(sums) // 3
    errors, totals, squared = sums[:outputs], sums[outputs : 2 * outputs], sums[2 * outputs :]
    spreads = [square - total**2 / samples for square, total in zip(squared, totals, strict=True)]
    # What is left of two large equal numbers is no spread.
    if any(spread <= 1e-12 * square for spread, square in zip(spreads, squared, strict=True)):
        return None
    return sum(1 - error / spread for error, spread in zip(errors, spreads, strict=True)) / outputs


def _not_classes(targets: Tensor) -> str:
    """What targets are that are not one integer a sample, and what to write instead."""
    whole = not targets.is_floating_point() or bool((targets == targets.round()).all())
    if targets.ndim == 2 and targets.shape[1] == 1 and whole:
        return "the targets are of shape (N, 1): give them as integers of shape (N,), such as targets[:, 0]"
    if targets.ndim == 2 and bool(((targets == 0) | (targets == 1)).all()):
        one_hot = bool((targets.sum(1) == 1).all())
        instead = "give targets.argmax(1), the number of each class" if one_hot else "write loss=bce_with_logits"
        return f"the targets are {targets.shape[1]} values of 0 or 1: {instead}"
    if targets.ndim != 1:
        return f"the targets are of shape {tuple(targets.shape)}: write loss=mse"
    if whole and float(targets.min()) == 0 and float(targets.max()) == 1:
        return "the targets are 0.0 and 1.0: give them as integers, 0 and 1, or write loss=bce_with_logits"
    if whole and len(targets.unique()) <= FEW:
        return "the targets are whole numbers with a decimal point: give them as integers, or write loss=mse for values"
    return "the targets are values, not classes: write loss=mse"


class CrossEntropy(Loss):
    """Classification: targets (N,) are class indices, outputs (N, K) logits.

    Validation and test compute the loss without smoothing, so that runs with and without compare.
    """

    metrics: Mapping[str, Metric] = {"accuracy": Metric(correct, higher_is_better=True)}
    takes = "classes"

    def __init__(self, label_smoothing: Annotated[float, Range(0, 1)] = 0.0) -> None:
        super().__init__()
        self.label_smoothing = label_smoothing

    def num_outputs(self, targets: Tensor, classes: Sequence[str] | None) -> int:
        """One a class."""
        if targets.is_floating_point() or targets.ndim != 1:
            raise ConfigError(f"loss=cross_entropy needs one integer class a sample, {_not_classes(targets)}")
        if int(targets.min()) < 0:
            raise ConfigError(f"loss=cross_entropy: classes count from 0, but there is a target {int(targets.min())}")
        largest = int(targets.max())
        count = len(classes) if classes else largest + 1
        if largest >= count:
            raise ConfigError(
                f"loss=cross_entropy: the data name {count} classes, 0 to {count - 1}, but there is a target {largest}:"
                " give each class a name, or none"
            )
        if count < 2:
            raise ConfigError("loss=cross_entropy tells classes apart, and there is only one: give samples of another")
        return count

    def prepare(self, targets: Tensor, dtype: torch.dtype) -> Tensor:
        """Class indices as int64."""
        return targets.long()

    def forward(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Mean cross entropy, in nats."""
        return F.cross_entropy(outputs, targets, label_smoothing=self.label_smoothing if self.training else 0.0)

    def probabilities(self, outputs: Tensor) -> Tensor:
        """The softmax."""
        return outputs.softmax(dim=1)


class BCEWithLogits(Loss):
    """Yes or no: targets (N,), or (N, K) for K questions at once, are 0 and 1, or in between; outputs logits."""

    metrics: Mapping[str, Metric] = {"accuracy": Metric(correct_signs, higher_is_better=True)}
    takes = "either"

    def num_outputs(self, targets: Tensor, classes: Sequence[str] | None) -> int:
        """One a question."""
        if float(targets.min()) < 0 or float(targets.max()) > 1:
            instead = "loss=mse" if targets.is_floating_point() else "loss=cross_entropy"
            raise ConfigError(
                f"loss=bce_with_logits needs targets from 0 to 1, these go from {targets.min():g} to"
                f" {targets.max():g}: write {instead}"
            )
        if classes and targets.ndim == 1 and len(classes) != 2:
            raise ConfigError(
                f"loss=bce_with_logits tells two classes apart, the data have {len(classes)}: write loss=cross_entropy"
            )
        return 1 if targets.ndim == 1 else targets.flatten(1).shape[1]

    def prepare(self, targets: Tensor, dtype: torch.dtype) -> Tensor:
        """Values of shape (N, K)."""
        return targets.to(dtype).reshape(len(targets), -1)

    def forward(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Mean binary cross entropy over samples and outputs, in nats."""
        return F.binary_cross_entropy_with_logits(outputs, targets)

    def probabilities(self, outputs: Tensor) -> Tensor | None:
        """Of no and yes, (N, 2), for one question; of several, they are no classes of one."""
        if outputs.shape[1] != 1:
            return None
        yes = outputs.sigmoid()
        return torch.cat([1 - yes, yes], dim=1)


class MSE(Loss):
    """Regression: targets (N,) or (N, K) are values; integers are taken as numbers.

    The loss is what is minimised: of scaled targets where they are scaled. `mae`, `rmse` and `r2` are in the units of
    the data. With several target columns each is computed by column, over all samples of a part, and averaged over the
    columns, all weighing the same (scikit-learn's `multioutput="uniform_average"`).
    """

    regression = True
    metrics: Mapping[str, Metric] = {
        "mae": Metric(absolute_error, of_differences=True),
        "rmse": Metric(squares, root_mean_squared_error, of_differences=True),
        "r2": Metric(squares, r_squared, higher_is_better=True, of_differences=True),
    }
    takes = "values"

    def num_outputs(self, targets: Tensor, classes: Sequence[str] | None) -> int:
        """One a value."""
        if classes:
            raise ConfigError("loss=mse needs values, but the targets are named classes: write loss=cross_entropy")
        return 1 if targets.ndim == 1 else targets.flatten(1).shape[1]

    def prepare(self, targets: Tensor, dtype: torch.dtype) -> Tensor:
        """Values of shape (N, K)."""
        return targets.to(dtype).reshape(len(targets), -1)

    def forward(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Mean squared error over samples and outputs."""
        return F.mse_loss(outputs, targets)
