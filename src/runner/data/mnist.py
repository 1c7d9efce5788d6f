"""`data=mnist`: handwritten digits in four IDX files, read from disk or, once, downloaded."""

from hashlib import md5
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from runner.data.fetch import fetch
from runner.data.idx import IdxError, read_idx
from runner.data.paths import full_path
from runner.data.published import published
from runner.data.source import Source
from runner.errors import ConfigError

# Each file's name without `.gz`, and its number of dimensions: images (N, H, W), labels (N,).
FILES = {
    "train-images-idx3-ubyte": 3,
    "train-labels-idx1-ubyte": 1,
    "t10k-images-idx3-ubyte": 3,
    "t10k-labels-idx1-ubyte": 1,
}

# The data sets that come in such files look alike; the MD5 sums of the originals' test labels tell them apart.
ORIGINALS = {"073c3904dfbd3e141ff8aa01cfde6b15": "MNIST", "8dea97a4e78c1bd1b5a6e8efbb870b6e": "FashionMNIST"}


def mnist(
    root: str | Path,
    mean: float | list[float] | None = 0.1307,
    std: float | list[float] | None = 0.3081,
) -> Source:
    """Load MNIST: 60,000 images of 28x28 pixels for training, 10,000 for the test.

    Args:
        root: a folder with torchvision's layout (`MNIST/raw/` below it) or with the IDX files directly in
            it, gzipped or not. What is there is used; only what is missing or damaged is downloaded.
        mean: subtracted from the pixels; the default is the training images' own.
        std: divides the pixels; the default is the training images' own.

    Returns:
        Inputs are uint8 (N, 1, 28, 28), targets int64 (N,) in 0..9.

    Raises:
        ConfigError: if the files cannot be had, or don't belong together.
    """
    classes = [str(digit) for digit in range(10)]
    train, test, folder = load_four_files(root, "MNIST", len(classes))
    return Source("mnist", train, test, mean, std, classes, origin=str(folder), scale=255)


def load_four_files(
    root: str | Path, layout: str, num_classes: int
) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor], Path]:
    """Load the training and the test part of a data set that comes in MNIST's four files.

    Args:
        root: the folder that has the files, or gets them.
        layout: the class of `torchvision.datasets` whose folder, mirrors and checksums apply: `MNIST`.
        num_classes: labels are 0 to `num_classes - 1`.

    Returns:
        The training part and the test part, each images (N, 1, H, W) uint8 and labels (N,) int64, and the
        folder they were found in.

    Raises:
        ConfigError: if the files cannot be had, or don't belong together.
    """
    if root is None or not str(root).strip():
        raise ConfigError("data.root is empty: write data.root=<the folder that has the files, or gets them>")
    root = full_path(root, "data.root")

    # torchvision's layout comes first, but a folder that has all files wins over one that lacks some.
    progress: dict[Path, tuple[int, int]] = {}
    for folder in (root / layout / "raw", root):
        arrays, faults = _read_files(folder)
        if not faults:
            break
        progress[folder] = len(arrays), sum(fault != "missing" for fault in faults.values())
    else:
        folder = max(progress, key=lambda candidate: progress[candidate])
        arrays = _fetch_and_read(folder, layout)

    there = ORIGINALS.get(md5(arrays["t10k-labels-idx1-ubyte"].tobytes(), usedforsecurity=False).hexdigest(), layout)
    if there != layout:
        raise ConfigError(
            f"data.root={root}: the files in {folder} are those of {there}, not of {layout}; name another"
        )
    problems: list[str] = []
    parts = []
    for part in ("train", "t10k"):
        images, labels = arrays[f"{part}-images-idx3-ubyte"], arrays[f"{part}-labels-idx1-ubyte"]
        problems += _check_part(part, images, labels, num_classes)
        parts.append((torch.from_numpy(images).unsqueeze(1), torch.from_numpy(labels.astype(np.int64))))
    if parts[0][0].shape[1:] != parts[1][0].shape[1:]:
        sizes = [f"{images.shape[2]}x{images.shape[3]}" for images, _ in parts]
        problems.append(f"the training images are {sizes[0]}, the test images {sizes[1]}")
    if problems:
        advice = "move these files away to download them, or write data.root=<another folder>"
        raise ConfigError(*(f"{folder}: {problem}; {advice}" for problem in problems))
    return parts[0], parts[1], folder


def _fetch_and_read(folder: Path, layout: str) -> dict[str, np.ndarray]:
    """Download what the folder lacks, then read all of it."""
    dataset = published("mnist", layout)
    fetch(
        lambda: {f"{stem}.gz": fault for stem, fault in _read_files(folder)[1].items()},
        folder,
        mirrors=dataset["mirrors"],
        checksums=dict(dataset["resources"]),
    )
    arrays, faults = _read_files(folder)
    if faults:
        raise ConfigError(
            *(f"{folder / stem}: {fault}, although it was just fetched" for stem, fault in faults.items())
        )
    return arrays


def _read_files(folder: Path) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Read the whole files of a folder, and say of each other one whether it is missing or damaged."""
    arrays: dict[str, np.ndarray] = {}
    faults: dict[str, str] = {}
    for stem, ndim in FILES.items():
        faults[stem] = "missing"
        for path in (folder / stem, folder / f"{stem}.gz"):
            try:
                arrays[stem] = read_idx(path, ndim)
            except (FileNotFoundError, NotADirectoryError):
                continue
            except IdxError as error:
                faults[stem] = f"damaged: {error}"
            except OSError as error:
                raise ConfigError(
                    f"cannot read {path}: {error.strerror or error}; mend it, or write data.root=<folder>"
                ) from error
            else:
                del faults[stem]
                break
    return arrays, faults


def _check_part(part: str, images: np.ndarray, labels: np.ndarray, num_classes: int) -> list[str]:
    """Say what is wrong with whole files that don't belong together."""
    if len(images) != len(labels):
        return [f"{part} has {len(images):,} images but {len(labels):,} labels"]
    if images.size == 0:
        return [f"{part} has no images"]
    if labels.max() >= num_classes:
        return [f"{part} has labels up to {labels.max()}, where there are {num_classes} classes"]
    return []
