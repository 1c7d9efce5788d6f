"""mixup and cutmix: each training sample is mixed with another of its batch, inputs and targets in the same shares.

mixup (Zhang et al. 2018, "mixup: Beyond Empirical Risk Minimization") averages whole samples; cutmix (Yun et al. 2019,
"CutMix: Regularization Strategy to Train Strong Classifiers with Localizable Features") pastes a rectangle of the
other image. Both keep the share lambda ~ Beta(alpha, alpha) of a sample, drawn for each sample.
"""

from dataclasses import dataclass
from typing import Annotated, Self

import numpy
import torch
from torch import Tensor

from runner.util.ranges import Range


@dataclass(frozen=True)
class Mix:
    """How one of the two mixes.

    Attributes:
        alpha: of the beta distribution: the larger, the more even are the shares.
        probability: of a sample to be mixed.
    """

    alpha: float
    probability: float = 1.0


def make_mix(
    *, alpha: Annotated[float, Range(0)] = 0.0, probability: Annotated[float, Range(0, 1)] = 1.0
) -> Mix | None:
    """Return how to mix; None if that is off."""
    return Mix(alpha, probability) if alpha and probability else None


@dataclass(frozen=True)
class Mixing:
    """Mixes each sample of a batch with the one before it; the first with the last.

    Neighbours of a shuffled batch are a random pair. With both `mixup` and `cutmix`, a sample gets one of them, each
    with probability 0.5.

    Attributes:
        mixup: of inputs of any shape.
        cutmix: of images (N, C, H, W).
        classes: the number of classes if targets are class indices (N,); they become probabilities (N, classes).
            None if targets are values.
        dtype: of these probabilities.
    """

    mixup: Mix | None = None
    cutmix: Mix | None = None
    classes: int | None = None
    dtype: torch.dtype = torch.float32

    def to(self, dtype: torch.dtype) -> Self:
        """Return a copy that makes probabilities of a type."""
        return type(self)(self.mixup, self.cutmix, self.classes, dtype)

    def __call__(self, inputs: Tensor, targets: Tensor, seed: int) -> tuple[Tensor, Tensor]:
        """Mix a batch; inputs and targets are not changed.

        Args:
            inputs: (N, ...) of a floating-point type.
            targets: prepared by the loss: class indices (N,), or values (N, ...).
            seed: of all that is drawn for the batch.

        Returns:
            Inputs of the same shape and type, and the targets: probabilities of the classes, or values.
        """
        device, samples = inputs.device, len(inputs)
        # By numpy, as torch's beta distribution takes no generator; on the CPU: every device gets the same draws.
        rng = numpy.random.default_rng(seed)
        draws = torch.from_numpy(rng.random((4, samples)))
        by_mixup = draws[0] < 0.5 if self.mixup and self.cutmix else torch.full((samples,), self.mixup is not None)
        shares = torch.ones(samples, dtype=torch.float64)
        if self.mixup:
            mixed = by_mixup & (draws[1] < self.mixup.probability)
            shares = torch.where(mixed, _beta(rng, self.mixup.alpha, samples), shares)
        kept = _spread(shares.to(device, inputs.dtype, non_blocking=True), inputs)
        if self.cutmix:
            pasted = ~by_mixup & (draws[1] < self.cutmix.probability)
            wanted = torch.where(pasted, _beta(rng, self.cutmix.alpha, samples), 1.0)
            rows, columns = (cover(wanted, *place) for place in zip(draws[2:], inputs.shape[2:], strict=True))
            # A rectangle that the border cuts off is smaller than was drawn: its own area counts.
            shares = torch.where(pasted, 1 - rows.double().mean(1) * columns.double().mean(1), shares)
            rows, columns = rows.to(device, non_blocking=True), columns.to(device, non_blocking=True)
            kept = kept * ~(rows[:, None, :, None] & columns[:, None, None, :])
        if self.classes is not None:
            certain = torch.zeros(samples, self.classes, dtype=self.dtype, device=device)
            targets = certain.scatter_(1, targets.unsqueeze(1), 1)
        return _mix(inputs, kept), _mix(targets, _spread(shares.to(device, targets.dtype), targets))


def _beta(rng: numpy.random.Generator, alpha: float, samples: int) -> Tensor:
    return torch.from_numpy(rng.beta(alpha, alpha, samples))


def cover(shares: Tensor, middle: Tensor, length: int) -> Tensor:
    """Return masks (N, length) of the rows, or the columns, of the rectangles that are pasted.

    Args:
        shares: (N,) of the images that should be kept; a rectangle has the image's proportions.
        middle: (N,) in [0, 1): the place of its centre; what lies beyond the border is cut off.
        length: of the images, in pixels.
    """
    centre, half = (middle * length).floor().unsqueeze(1), ((1 - shares).sqrt() * length / 2).floor().unsqueeze(1)
    pixels = torch.arange(length)
    return (pixels >= centre - half) & (pixels < centre + half)


def _spread(shares: Tensor, values: Tensor) -> Tensor:
    """Shape shares (N,) so that they broadcast to values (N, ...)."""
    return shares.view(-1, *[1] * (values.ndim - 1))


def _mix(values: Tensor, kept: Tensor) -> Tensor:
    """Mix each sample with the one before it; where it is kept whole, it stays exactly as it is."""
    return torch.lerp(values.roll(1, 0), values, kept)
