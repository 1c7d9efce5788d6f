"""Images as matplotlib takes them."""

import numpy as np
from numpy.typing import NDArray
from torch import Tensor


def range_of(images: Tensor) -> tuple[float, float]:
    """Return what is black and what is white in images: 0 and 1, or 0 and 255, or the smallest and largest value."""
    if not images.dtype.is_floating_point:
        return 0.0, 255.0
    raw = images.float().nan_to_num()
    low, high = float(raw.min()), float(raw.max())
    return (low, high) if low < -0.01 or high > 1.01 else (0.0, 1.0)


def displayable(images: Tensor, bounds: tuple[float, float]) -> NDArray[np.float32]:
    """Convert images (n, C, H, W) to (n, H, W) or (n, H, W, 3) with values from 0 to 1.

    Args:
        images: on any device.
        bounds: the values that are black and white; see `range_of`.
    """
    low, high = bounds
    raw = (images.float().cpu().nan_to_num() - low) / (high - low)
    # For other numbers of channels (satellites, spectra) show the mean.
    arranged = raw.permute(0, 2, 3, 1) if raw.shape[1] == 3 else raw.mean(dim=1)
    return arranged.clamp(0, 1).numpy()
