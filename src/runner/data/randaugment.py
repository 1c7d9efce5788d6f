"""RandAugment: each image is changed by a few operations of fourteen, drawn for it alone.

Cubuk et al. 2020, "RandAugment: Practical automated data augmentation with a reduced search space". Operations and
their strengths are those of torchvision, whose functions compute them; its own class draws once for a whole batch. Here
the images of a batch that have drawn the same operation are changed together: on one core of a CPU this takes about
35 us for an image of 28x28 and each of its operations, in batches of 64.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from math import atan, degrees
from types import ModuleType
from typing import Annotated, Self

import torch
from torch import Tensor

from runner.util.ranges import Range

STRONGEST = 30  # the largest magnitude; torchvision's default is 9
SHIFT = 150 / 331  # largest translation, as a share of the side: 150 pixels of the paper's images of 331

Operation = Callable[[ModuleType, Tensor, float], Tensor]
"""(torchvision's functions, images (N, C, H, W) in [0, 1], strength from -1 to 1) -> changed images."""


def _identity(functional: ModuleType, images: Tensor, strength: float) -> Tensor:
    return images


def _affine(functional: ModuleType, images: Tensor, shift: list[int], shear: list[float]) -> Tensor:
    # Shears keep the first row or column in place, as PIL's do in the paper.
    bilinear = functional.InterpolationMode.BILINEAR
    return functional.affine(images, 0.0, shift, 1.0, shear, interpolation=bilinear, center=[0.0, 0.0])


def _shear_x(functional: ModuleType, images: Tensor, strength: float) -> Tensor:
    return _affine(functional, images, [0, 0], [degrees(atan(0.3 * strength)), 0.0])


def _shear_y(functional: ModuleType, images: Tensor, strength: float) -> Tensor:
    return _affine(functional, images, [0, 0], [0.0, degrees(atan(0.3 * strength))])


def _translate_x(functional: ModuleType, images: Tensor, strength: float) -> Tensor:
    return _affine(functional, images, [int(SHIFT * strength * images.shape[3]), 0], [0.0, 0.0])


def _translate_y(functional: ModuleType, images: Tensor, strength: float) -> Tensor:
    return _affine(functional, images, [0, int(SHIFT * strength * images.shape[2])], [0.0, 0.0])


def _rotate(functional: ModuleType, images: Tensor, strength: float) -> Tensor:
    return functional.rotate(images, 30 * strength, interpolation=functional.InterpolationMode.BILINEAR)


def _brightness(functional: ModuleType, images: Tensor, strength: float) -> Tensor:
    return functional.adjust_brightness(images, 1 + 0.9 * strength)


def _color(functional: ModuleType, images: Tensor, strength: float) -> Tensor:
    return functional.adjust_saturation(images, 1 + 0.9 * strength)


def _contrast(functional: ModuleType, images: Tensor, strength: float) -> Tensor:
    return functional.adjust_contrast(images, 1 + 0.9 * strength)


def _sharpness(functional: ModuleType, images: Tensor, strength: float) -> Tensor:
    return functional.adjust_sharpness(images, 1 + 0.9 * strength)


def _posterize(functional: ModuleType, images: Tensor, strength: float) -> Tensor:
    return functional.posterize(images, 8 - round(4 * abs(strength)))


def _solarize(functional: ModuleType, images: Tensor, strength: float) -> Tensor:
    return functional.solarize(images, 1 - abs(strength))


def _autocontrast(functional: ModuleType, images: Tensor, strength: float) -> Tensor:
    return functional.autocontrast(images)


def _equalize(functional: ModuleType, images: Tensor, strength: float) -> Tensor:
    return functional.equalize(images)


SIGNED: tuple[Operation, ...] = (
    _shear_x, _shear_y, _translate_x, _translate_y, _rotate, _brightness, _color, _contrast, _sharpness
)  # fmt: skip
"""Operations that go either way, by the same strength, each with probability 0.5."""

OPERATIONS = (*SIGNED, _identity, _posterize, _solarize, _autocontrast, _equalize)


@dataclass(frozen=True, eq=False)
class RandAugment:
    """Changes each image of a batch by operations of its own.

    Attributes:
        operations: of each image, one after the other; drawn from fourteen, so one may come twice.
        magnitude: their strength, from 0 to 30.
        black: the normalised value of black: a scalar, or (C, 1, 1).
        white: the normalised value of white.
    """

    operations: int
    magnitude: float
    black: Tensor
    white: Tensor

    def to(self, device: torch.device) -> Self:
        """Return a copy whose tensors are on the device already."""
        # Half precision cannot tell neighbouring values of a byte apart once they are normalised.
        return replace(self, black=self.black.to(device, torch.float32), white=self.white.to(device, torch.float32))

    def __call__(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """Normalised images (N, C, H, W) -> new ones of the same shape, dtype and memory format.

        Args:
            images: with 1 or 3 channels; not changed.
            generator: on the CPU: every device gets the same draws.
        """
        from torchvision.transforms.v2 import functional  # late: importing it takes as long as importing torch

        black, white = self.black.to(images.device, torch.float32), self.white.to(images.device, torch.float32)
        changed = ((images.float() - black) / (white - black)).clamp_(0, 1)
        drawn = torch.randint(len(OPERATIONS), (self.operations, len(images)), generator=generator)
        signs = 1 - 2 * torch.randint(2, drawn.shape, generator=generator)
        signs[drawn >= len(SIGNED)] = 1
        for operations in (
            drawn + 1
        ) * signs:  # one of each image: its number from 1, negative if it goes the other way
            for signed in operations.unique().tolist():
                index = _on_device(operations == signed, images.device)
                strength = (-1 if signed < 0 else 1) * self.magnitude / STRONGEST
                changed[index] = OPERATIONS[abs(signed) - 1](functional, changed[index], strength)
        normalised = (changed * (white - black) + black).to(images.dtype)
        same = _on_device((drawn == OPERATIONS.index(_identity)).all(0), images.device)
        normalised[same] = images[same]  # which rounding would change a little
        return normalised


def _on_device(mask: Tensor, device: torch.device) -> Tensor:
    """Return the indices of a mask on the CPU; counted before the transfer, which would make a GPU wait."""
    return mask.nonzero().flatten().to(device, non_blocking=True)


def make_randaugment(
    black: Tensor,
    white: Tensor,
    *,
    operations: Annotated[int, Range(0, 100, whole=True)] = 0,
    magnitude: Annotated[float, Range(0, 30)] = 9,
) -> RandAugment | None:
    """Return the RandAugment of images whose black and white have these normalised values; None if it is off."""
    return RandAugment(operations, magnitude, black, white).to(black.device) if operations else None
