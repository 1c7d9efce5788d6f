"""PNG files of few colors: a third of the size, and of the time, of those with a color for each pixel."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

PALETTE = 256
FEW = 4096
"""Colors that are drawn with those of a palette. Photographs have more."""


def write_png(pixels: NDArray[np.uint8], file: Path) -> None:
    """Write opaque pixels (H, W, 4) as PNG.

    A plot has a few hundred colors, nearly all at the edges of lines and letters. The rarest may become the nearest of
    the 256 of a palette.
    """
    height, width = pixels.shape[:2]
    flat = np.ascontiguousarray(pixels).view(np.uint32).ravel()
    starts = np.flatnonzero(np.concatenate([[True], flat[1:] != flat[:-1]]))  # of runs of one color
    colors, of_run = np.unique(flat[starts], return_inverse=True)
    if len(colors) > FEW:
        image = Image.fromarray(pixels[..., :3])
    else:
        lengths = np.diff(starts, append=flat.size)
        palette, nearest = _choose(colors.view(np.uint8).reshape(-1, 4)[:, :3], np.bincount(of_run, lengths))
        indices = np.repeat(nearest[of_run], lengths)
        image = Image.frombytes("P", (width, height), indices.tobytes())
        image.putpalette(palette.tobytes())
    image.save(file, compress_level=3)  # 6 takes twice the time and saves a tenth


def _choose(colors: NDArray[np.uint8], pixels: NDArray[Any]) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Return the colors of most pixels (P, 3), and the nearest of them for each color."""
    order = np.argsort(-pixels, kind="stable")
    palette, rest = colors[order[:PALETTE]], order[PALETTE:]
    nearest = np.empty(len(colors), dtype=np.uint8)
    nearest[order[:PALETTE]] = np.arange(len(palette))
    if len(rest):
        wide, others = palette.astype(np.float32), colors[rest].astype(np.float32)
        # A product of matrices may wait for the threads of BLAS for longer than these three take.
        products = sum(np.multiply.outer(others[:, channel], wide[:, channel]) for channel in range(3))
        # The squared distance without the part that is the same for the whole palette.
        nearest[rest] = ((wide**2).sum(axis=1) - 2 * products).argmin(axis=1)
    return palette, nearest
