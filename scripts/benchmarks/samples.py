"""Training data of the benchmarks: MNIST if it is on disk, else noise of its shape; and synthetic photographs."""

import os
import sys
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image

CLASSES = 10
SIDE = 96  # pixels of a synthetic photograph


def has_mnist() -> bool:
    """Whether MNIST is on disk."""
    return _on_disk() is not None


def _on_disk() -> str | None:
    for place in (os.environ.get("RUNNER_DATA"), "~/.cache/runner"):
        if place and (Path(place).expanduser() / "MNIST" / "raw" / "train-images-idx3-ubyte").is_file():
            return str(Path(place).expanduser().resolve())
    return None


@cache
def mnist_root(folder: Path) -> str:
    """Return the folder of MNIST's files; without them, create files of noise, which take a network just as long.

    Args:
        folder: for the noise.
    """
    if (root := _on_disk()) is not None:
        return root
    print("note: MNIST is not on disk (RUNNER_DATA); noise of its shape is used", file=sys.stderr)
    raw = folder / "MNIST" / "raw"
    raw.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for part, count in (("train", 60_000), ("t10k", 10_000)):
        pixels = rng.integers(0, 256, (count, 28, 28), np.uint8)
        for kind, array in (("images-idx3", pixels), ("labels-idx1", rng.integers(0, CLASSES, count, np.uint8))):
            sizes = np.array(array.shape, ">i4").tobytes()
            (raw / f"{part}-{kind}-ubyte").write_bytes(bytes([0, 0, 8, array.ndim]) + sizes + array.tobytes())
    return str(folder)


def photographs(folder: Path, count: int) -> None:
    """Create JPEG files in `folder/<class>/`, as smooth and noisy as photographs, about 6 kB each."""
    rng = np.random.default_rng(0)
    for number in range(count):
        coarse = Image.fromarray(rng.integers(0, 256, (8, 8, 3), np.uint8)).resize(
            (SIDE, SIDE), Image.Resampling.BICUBIC
        )
        pixels = np.asarray(coarse, np.int16) + rng.normal(0, 8, (SIDE, SIDE, 3)).astype(np.int16)
        place = folder / f"class{number % CLASSES}"
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(place / f"{number}.jpg", quality=90)
