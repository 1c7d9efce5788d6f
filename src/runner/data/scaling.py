"""`data.scale`: what raw numbers are divided by before they are normalised, by one rule for all data sets."""

from collections.abc import Sequence

import torch
from torch import Tensor

from runner.errors import ConfigError

CHANNELS = (1, 3, 4)  # grey, RGB, RGB with transparency
BYTE = 255.0
FEW = 16  # images that hold no value above it have a smaller range than a byte: masks (1), scikit-learn's digits (16)


def is_image(dtype: torch.dtype, shape: Sequence[int]) -> bool:
    """Whether samples of this type and shape are images of bytes: uint8 (H, W), or (C, H, W) with 1, 3 or 4 channels.

    All other whole numbers (counts, tokens, planes of a board) are values, which stay as they are.
    """
    return dtype == torch.uint8 and (len(shape) == 2 or (len(shape) == 3 and shape[0] in CHANNELS))


def choose(setting: float | str, inputs: Tensor | None, sample: Tensor) -> tuple[float, str | None]:
    """What raw numbers are divided by.

    Args:
        setting: `data.scale`: `auto` divides images of bytes by 255, `none` nothing, a number everything.
        inputs: of the training part (N, ...), or the largest value of some of its images (N,); None if not known.
        sample: one of them.

    Returns:
        The divisor, and a phrase for the user; None if nothing was guessed.

    Raises:
        ConfigError: the training samples go beyond the range that was given, or use so little of a byte's that it is
            not theirs.
    """
    largest = None if inputs is None else inputs.max().item()
    if not isinstance(setting, str):
        if largest is not None and largest > setting:
            raise ConfigError(
                f"data.scale={setting:g}: the training samples go up to {largest:g}; write their whole range, or none"
            )
        return float(setting), None
    if sample.dtype != torch.uint8 or setting == "none":
        return 1.0, None
    if not is_image(sample.dtype, sample.shape):
        return 1.0, "uint8 values that are no images: not scaled"
    if largest is not None:
        check_bytes(largest)
    return BYTE, "uint8 images: divided by 255"


def check_bytes(largest: float) -> None:
    """See that images of bytes use more than a little of a byte's range, as masks and maps of labels do not.

    Args:
        largest: the largest value of the training images, or of some of them.

    Raises:
        ConfigError: they do not.
    """
    if 0 < largest <= FEW:
        raise ConfigError(
            f"data.scale=auto: the training images are uint8, but hold no value above {largest:g}: write data.scale="
            f"{largest:g} if that is white, or 255, or none"
        )
