"""Long curves are drawn by fewer points, with the same picture: matplotlib takes a microsecond for each."""

import numpy as np
from numpy.typing import NDArray

COLUMNS = 2048
"""Parts of the horizontal axis; a plot is at most about 700 pixels wide."""


def thin(steps: NDArray[np.float64], values: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Reduce a curve to the first, the lowest, the highest and the last point of each column.

    A line through these covers the same pixels as one through all points (M4: Jugel et al., 2014, PVLDB 7, 797-808).

    Args:
        steps: ascending, of shape (N,).
        values: of the same shape. Values that are not finite interrupt the line, if they fill a column.

    Returns:
        The steps and the values, at most 4 for each column; a shorter curve, or one with unordered steps, as it is.
    """
    if len(steps) <= 4 * COLUMNS or bool((steps[1:] < steps[:-1]).any()):
        return steps, values
    edges = np.searchsorted(steps, np.linspace(steps[0], steps[-1], COLUMNS + 1))
    finite = np.isfinite(values)
    low, high = np.where(finite, values, np.inf), np.where(finite, values, -np.inf)
    chosen = {len(steps) - 1}
    for begin, end in zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True):
        if begin < end:
            chosen |= {begin, begin + int(low[begin:end].argmin()), begin + int(high[begin:end].argmax()), end - 1}
    indices = sorted(chosen)
    return steps[indices], values[indices]
