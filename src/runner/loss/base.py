"""What a loss and a metric are to the rest of runner."""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from runner.loss.class_weight import ClassWeight, typed_weights
from runner.util import metric_names


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
        ignore_index: the target that counts neither in `forward` nor in the metrics; None if all count.
        class_weights: what `class_weight` has become: a weight (K,) of each class or label; None without any.
        reads_targets: whether `read_targets` is called.
    """

    metrics: Mapping[str, Metric] = {}
    regression: bool = False
    takes: Literal["classes", "values", "either"] | None = None
    ignore_index: int | None = None
    class_weights: Tensor | None
    reads_targets: bool = False

    def __init__(self) -> None:
        super().__init__()
        self.class_weights = None

    def set_weights(self, class_weight: ClassWeight, key: str) -> None:
        """Set `class_weights`; `read_targets` follows for balanced ones. A loss without any has no such buffer."""
        self.reads_targets = class_weight == "balanced"
        if class_weight is not None:
            del self.class_weights  # no buffer without weights: it would be in every checkpoint
            self.register_buffer("class_weights", typed_weights(class_weight, key))

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

    def read_targets(self, targets: Tensor, num_outputs: int) -> None:
        """Take from the targets of the training part what the loss depends on, such as balanced class weights.

        Args:
            targets: of the training part, as the data set has them.
            num_outputs: of the model.

        Raises:
            ConfigError: they do not allow it.
        """

    def prepare(self, targets: Tensor, dtype: torch.dtype) -> Tensor:
        """Convert targets to the form that `forward` takes; `dtype` is that of the weights."""
        raise NotImplementedError

    def forward(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the mean over the samples of a batch, a scalar."""
        raise NotImplementedError

    def denominator(self, outputs: Tensor, targets: Tensor) -> Tensor | None:
        """Return what `forward` is a mean over: a sum of class weights, or a number of tokens; None: the samples."""
        return None

    def probabilities(self, outputs: Tensor) -> Tensor | None:
        """Return class probabilities (N, classes) of outputs (N, K); None if outputs are values."""
        return None


def name_of(part: nn.Module) -> str:
    """Return the name of a loss or a task in the config: `bce_with_logits` for `BCEWithLogits`."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", type(part).__name__).lower()
