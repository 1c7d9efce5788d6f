"""`data=mnist`: handwritten digits in four IDX files, read from disk or downloaded once."""

from hashlib import md5
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from runner.data.fetch import ROOT, check_fetched, check_root, fetch, unreadable_file
from runner.data.idx import IdxError, read_idx
from runner.data.published import published
from runner.data.source import Source
from runner.errors import ConfigError, Problem

# Each file's name without `.gz`, and its number of dimensions: images (N, H, W), labels (N,).
FILES = {
    "train-images-idx3-ubyte": 3,
    "train-labels-idx1-ubyte": 1,
    "t10k-images-idx3-ubyte": 3,
    "t10k-labels-idx1-ubyte": 1,
}

# These data sets have the same files; the MD5 sum of the original test labels identifies each.
ORIGINALS = {"073c3904dfbd3e141ff8aa01cfde6b15": "MNIST", "8dea97a4e78c1bd1b5a6e8efbb870b6e": "FashionMNIST"}


def mnist(
    root: str | Path,
    mean: float | list[float] | None = 0.1307,
    std: float | list[float] | None = 0.3081,
) -> Source:
    """Load MNIST: 60,000 images of 28x28 pixels for training, 10,000 for the test.

    Args:
        root: a folder with torchvision's layout (`MNIST/raw/` below it) or with the IDX files directly in
            it, gzipped or not. Existing files are used; only missing or damaged ones are downloaded.
        mean: subtracted from the pixels; by default that of the training images.
        std: divides the pixels; by default that of the training images.

    Returns:
        Inputs are uint8 (N, 1, 28, 28), targets int64 (N,) in 0..9.

    Raises:
        ConfigError: if the files cannot be downloaded, or do not belong together.
    """
    classes = [str(digit) for digit in range(10)]
    train, test, folder = load_four_files(root, "MNIST", len(classes))
    return Source("mnist", train, test, mean, std, classes, origin=str(folder), scale=255)


def load_four_files(
    root: str | Path, layout: str, num_classes: int
) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor], Path]:
    """Load the training and the test part of a data set in MNIST's four files.

    Args:
        root: the folder of the files, or the one to download them into.
        layout: the class of `torchvision.datasets` whose folder, mirrors and checksums are used: `MNIST`.
        num_classes: labels are 0 to `num_classes - 1`.

    Returns:
        The training part and the test part, each images (N, 1, H, W) uint8 and labels (N,) int64, and the
        folder of the files.

    Raises:
        ConfigError: if the files cannot be downloaded, or do not belong together.
    """
    root = check_root(root)
    # torchvision's layout comes first, but a folder with all files is preferred to one that lacks some.
    progress: dict[Path, tuple[int, int]] = {}
    for folder in (root / layout / "raw", root):
        arrays, faults = _read_files(folder)
        if not faults:
            break
        progress[folder] = len(arrays), sum(fault != "missing" for fault in faults.values())
    else:
        folder = max(progress, key=lambda candidate: progress[candidate])
        arrays = _fetch_and_read(folder, layout)

    _check_original(folder, arrays, layout, root)
    problems: list[Problem] = []
    parts = []
    for part in ("train", "t10k"):
        images, labels = arrays[f"{part}-images-idx3-ubyte"], arrays[f"{part}-labels-idx1-ubyte"]
        if text := _find_mismatch(part, images, labels, num_classes):
            problems.append(_mismatched(folder, text))
        parts.append((torch.from_numpy(images).unsqueeze(1), torch.from_numpy(labels.astype(np.int64))))
    if parts[0][0].shape[1:] != parts[1][0].shape[1:]:
        sizes = [f"{images.shape[2]}x{images.shape[3]}" for images, _ in parts]
        problems.append(_mismatched(folder, f"the training images are {sizes[0]}, the test images {sizes[1]}"))
    if problems:
        raise ConfigError(*problems)
    return parts[0], parts[1], folder


def _check_original(folder: Path, arrays: dict[str, np.ndarray], layout: str, root: Path) -> None:
    """Check that the files are not those of another data set with the same names."""
    labels = arrays["t10k-labels-idx1-ubyte"].tobytes()
    original = ORIGINALS.get(md5(labels, usedforsecurity=False).hexdigest(), layout)
    if original != layout:
        text = f"{ROOT}={root}: the files in {folder} are those of {original}, not of {layout}"
        raise ConfigError(Problem(ROOT, text, "name another folder", topic="data"))


def _fetch_and_read(folder: Path, layout: str) -> dict[str, np.ndarray]:
    """Download the missing files of a folder, then read all."""
    dataset = published("mnist", layout)
    fetch(
        lambda: {f"{stem}.gz": fault for stem, fault in _read_files(folder)[1].items()},
        folder,
        mirrors=dataset["mirrors"],
        checksums=dict(dataset["resources"]),
    )
    arrays, faults = _read_files(folder)
    check_fetched(folder, faults)
    return arrays


def _read_files(folder: Path) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Read the complete files of a folder; return them, and of the others whether they are missing or damaged."""
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
                raise ConfigError(unreadable_file(path, error)) from error
            else:
                del faults[stem]
                break
    return arrays, faults


def _find_mismatch(part: str, images: np.ndarray, labels: np.ndarray, num_classes: int) -> str:
    """Describe why images and labels do not belong together; empty if they do."""
    if len(images) != len(labels):
        return f"{part} has {len(images):,} images but {len(labels):,} labels"
    if images.size == 0:
        return f"{part} has no images"
    if labels.max() >= num_classes:
        return f"{part} has labels up to {labels.max()}, and there are {num_classes} classes"
    return ""


def _mismatched(folder: Path, text: str) -> Problem:
    suggestion = f"move these files away to download them, or write {ROOT}=<another folder>"
    return Problem(ROOT, f"{folder}: {text}", suggestion, topic="data")
