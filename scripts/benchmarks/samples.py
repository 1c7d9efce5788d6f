"""What the benchmarks train on: MNIST where it lies on disk, or images of its shape; and photographs that are drawn."""

import os
from pathlib import Path

import numpy as np
from PIL import Image

CLASSES = 10
SIDE = 96  # pixels of a drawn photograph


def mnist_root(made_in: Path) -> tuple[str, bool]:
    """Where MNIST's files are, and whether they are real: noise takes a network just as long."""
    for place in (os.environ.get("RUNNER_DATA"), "~/.cache/runner"):
        if place and (Path(place).expanduser() / "MNIST" / "raw" / "train-images-idx3-ubyte").is_file():
            return str(Path(place).expanduser().resolve()), True
    raw = made_in / "MNIST" / "raw"
    raw.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for part, count in (("train", 60_000), ("t10k", 10_000)):
        pixels = rng.integers(0, 256, (count, 28, 28), np.uint8)
        for kind, array in (("images-idx3", pixels), ("labels-idx1", rng.integers(0, CLASSES, count, np.uint8))):
            sizes = np.array(array.shape, ">i4").tobytes()
            (raw / f"{part}-{kind}-ubyte").write_bytes(bytes([0, 0, 8, array.ndim]) + sizes + array.tobytes())
    return str(made_in), False


def photographs(folder: Path, count: int) -> None:
    """Make JPEG files in `folder/<class>/`, as smooth and as noisy as photographs are: some 6 kB each."""
    rng = np.random.default_rng(0)
    for number in range(count):
        coarse = Image.fromarray(rng.integers(0, 256, (8, 8, 3), np.uint8)).resize(
            (SIDE, SIDE), Image.Resampling.BICUBIC
        )
        pixels = np.asarray(coarse, np.int16) + rng.normal(0, 8, (SIDE, SIDE, 3)).astype(np.int16)
        place = folder / f"class{number % CLASSES}"
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(place / f"{number}.jpg", quality=90)
