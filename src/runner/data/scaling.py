"""`data.scale`: the number that raw inputs are divided by before they are normalised, by one rule for all data sets."""

from collections.abc import Sequence

import torch
from torch import Tensor

from runner.data.dataset_part import SAMPLED
from runner.data.part import Part
from runner.errors import ConfigError, Problem
from runner.util import trees

CHANNELS = (1, 3, 4)  # grey, RGB, RGB with transparency
BYTE = 255.0
FEW = 16  # images without a higher value use a smaller range than a byte: masks (1), scikit-learn's digits (16)


def is_image(dtype: torch.dtype, shape: Sequence[int]) -> bool:
    """Whether samples of this type and shape are images of bytes: uint8 (H, W), or (C, H, W) with 1, 3 or 4 channels.

    All other whole numbers (counts, tokens, planes of a board) are values and stay as they are.
    """
    return dtype == torch.uint8 and (len(shape) == 2 or (len(shape) == 3 and shape[0] in CHANNELS))


def choose_scale(setting: float | str, train: Part, sample: Tensor) -> tuple[float, str | None]:
    """Choose the number that raw inputs are divided by.

    Args:
        setting: `data.scale`: `auto` divides images of bytes by 255, `none` divides nothing, a number everything.
        train: the training samples.
        sample: the inputs of one of them.

    Returns:
        The divisor, and a note for the user; None if nothing was guessed.

    Raises:
        ConfigError: the training samples exceed the given range, or use so little of a byte's range that they are
            probably not scaled by it.
    """
    if not isinstance(setting, str):
        if train.tensors is not None and (highest := largest(train)) > setting:
            text = f"data.scale={setting:g}: the training samples have values up to {highest:g}"
            raise ConfigError(
                Problem("data.scale", text, f"write data.scale={highest:g} or more, or none", topic="range")
            )
        return float(setting), None
    if sample.dtype != torch.uint8 or setting == "none":
        return 1.0, None
    if not is_image(sample.dtype, sample.shape):
        return 1.0, "uint8 values, not images: not scaled"
    check_bytes(largest(train))
    return BYTE, "uint8 images: divided by 255"


def check_bytes(largest: float) -> None:
    """Check that images of bytes use more than a little of a byte's range, unlike masks and label maps.

    Args:
        largest: the largest value of the training images, or of some of them.

    Raises:
        ConfigError: they do not.
    """
    if 0 < largest <= FEW:
        text = f"data.scale=auto: the training images are uint8, but have no value above {largest:g}"
        instead = f"write data.scale={largest:g} if that is white, data.scale=255, or data.scale=none"
        raise ConfigError(Problem("data.scale", text, instead, topic="data"))


def largest(part: Part, number: int = 0) -> float:
    """The largest value of an input, by its number among several: of all in memory, or of some that are read."""
    return max(trees.leaves(inputs)[number].max().item() for inputs in part.some_inputs(SAMPLED))
