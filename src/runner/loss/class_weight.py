"""`class_weight`: the weights of classes and labels, as typed or balanced by the targets of the training part."""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from runner.errors import ConfigError, Problem

ClassWeight = Literal["balanced"] | Sequence[float] | None


def typed_weights(class_weight: ClassWeight, key: str) -> Tensor | None:
    """Return the weights that were typed; None if they are balanced by the targets later.

    Args:
        class_weight: the value of the key.
        key: the key.

    Raises:
        ConfigError: they are all 0.
    """
    if isinstance(class_weight, str) or class_weight is None:
        return None
    weights = torch.tensor([float(weight) for weight in class_weight], dtype=torch.float64)
    if not weights.any():
        suggestion = f"write {key}=balanced, or {key}=null"
        raise ConfigError(Problem(key, f"{key}: at least one weight must be above 0", suggestion, topic="range"))
    return weights


def check_count(weights: Tensor | None, count: int, key: str, of: str) -> None:
    """Check that there is one weight for each class or label.

    Args:
        weights: the weights (K,); None is right for any count.
        count: the number of classes or labels.
        key: the key.
        of: `classes` or `labels`.

    Raises:
        ConfigError: there are more, or fewer.
    """
    if weights is not None and len(weights) != count:
        text = f"{key}: {len(weights)} weights for {count} {of}"
        suggestion = f"write one for each, or {key}=balanced"
        raise ConfigError(Problem(key, text, suggestion, topic="conflict"))


def balanced_classes(targets: Tensor, count: int) -> Tensor:
    """Return weights (count,) that give all classes the same sum: samples / (classes that occur * samples of a class).

    These are those of scikit-learn's `class_weight="balanced"`. A class that does not occur has weight 1.

    Args:
        targets: classes from 0 to count - 1, of any shape.
        count: the number of classes.
    """
    samples = torch.bincount(targets.flatten().long(), minlength=count).double()
    occurring = samples > 0
    weights = targets.numel() / (occurring.sum() * samples.clamp(min=1))
    return torch.where(occurring, weights, 1.0)


def balanced_labels(targets: Tensor) -> Tensor:
    """Return for each label (K,) the number of negatives divided by that of positives; 1 where one of them is 0.

    Args:
        targets: (N, K), from 0 to 1.
    """
    positives = targets.double().sum(0)
    negatives = len(targets) - positives
    return torch.where((positives > 0) & (negatives > 0), negatives / positives.clamp(min=1e-12), 1.0)
