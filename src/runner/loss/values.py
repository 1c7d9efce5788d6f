"""The losses for targets that are values: regressions."""

from collections.abc import Mapping, Sequence
from typing import Annotated

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own name for it
from torch import Tensor

from runner.errors import ConfigError, Problem
from runner.loss.base import Loss, Metric, name_of
from runner.loss.sums import absolute_error, r_squared, root_mean_squared_error, squares
from runner.util.ranges import POSITIVE


class Regression(Loss):
    """The base of losses for values: targets (N,) or (N, K); integers are converted.

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
            text = f"loss={name_of(self)} needs values, but the targets are named classes"
            raise ConfigError(Problem("loss", text, "write loss=cross_entropy", topic="conflict"))
        return 1 if targets.ndim == 1 else targets.flatten(1).shape[1]

    def prepare(self, targets: Tensor, dtype: torch.dtype) -> Tensor:
        """Convert targets to values of shape (N, K)."""
        return targets.to(dtype).reshape(len(targets), -1)


class MSE(Regression):
    """Mean squared error: see `Regression` for the targets."""

    def forward(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the mean squared error over samples and outputs."""
        # `F.mse_loss` broadcasts first: forward and backward of the smallest net take 1.06 times as long with it.
        same = outputs.shape == targets.shape
        return torch.ops.aten.mse_loss.default(outputs, targets) if same else F.mse_loss(outputs, targets)


class L1(Regression):
    """Mean absolute error: outliers count less than with the squared error, and the median is the best constant."""

    def forward(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the mean absolute error over samples and outputs."""
        return F.l1_loss(outputs, targets)


class Huber(Regression):
    """Huber loss: half the squared error up to `delta`, linear beyond it (Huber 1964).

    Args:
        delta: in the units of the loss: in standard deviations of the targets where they are standardised.
    """

    def __init__(self, delta: Annotated[float, POSITIVE] = 1.0) -> None:
        super().__init__()
        self.delta = delta

    def forward(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the mean over samples and outputs."""
        return F.huber_loss(outputs, targets, delta=self.delta)
