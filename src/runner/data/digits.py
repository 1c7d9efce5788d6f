"""`data=digits`: scikit-learn's handwritten digits, part of the package: no download."""

import gzip
import importlib.util
from pathlib import Path

import numpy as np
import torch

from runner.data.source import Source

WHITE = 16  # the largest pixel of scikit-learn's table
TEST_PER_CLASS = 36  # 10 classes: 360 of the 1,797 samples, a fifth


def digits(mean: float | list[float] | None = 0.3058, std: float | list[float] | None = 0.3764) -> Source:
    """Load the 1,797 images of 8x8 pixels, 1,437 for training and 360 for the test.

    The images are the test part of the UCI "Optical Recognition of Handwritten Digits" set
    (https://doi.org/10.24432/C50P49), as scikit-learn ships them.

    Args:
        mean: subtracted from the pixels; the default is the mean of the 1,437 training images.
        std: divides the pixels; the default is the standard deviation of the 1,437 training images.

    Returns:
        Inputs are float32 (N, 1, 8, 8) in [0, 1], targets int64 (N,) in 0..9.
    """
    table = _read_table()
    images = torch.from_numpy(table[:, :-1].astype(np.float32) / WHITE).reshape(-1, 1, 8, 8)
    labels = torch.from_numpy(table[:, -1].astype(np.int64))
    is_test = torch.from_numpy(_choose_test(table[:, -1]))
    return Source(
        name="digits",
        train=(images[~is_test], labels[~is_test]),
        test=(images[is_test], labels[is_test]),
        mean=mean,
        std=std,
        classes=[str(digit) for digit in range(10)],
        origin="scikit-learn",
        divided_by=WHITE,
    )


def _read_table() -> np.ndarray:
    """Return scikit-learn's table (1797, 65): 64 pixels of 0-16 and the label.

    Importing scikit-learn takes longer than training on these images (2-3 s against 1 s on two cores). The data file
    is read without it; `load_digits` is the fallback for a version that has the file elsewhere.
    """
    package = importlib.util.find_spec("sklearn")
    if package and package.origin:
        file = Path(package.origin).parent / "datasets" / "data" / "digits.csv.gz"
        if file.is_file():
            with gzip.open(file, "rt", encoding="ascii") as lines:
                return np.loadtxt(lines, delimiter=",")

    from sklearn.datasets import load_digits

    pixels, labels = load_digits(return_X_y=True)
    return np.column_stack([pixels, labels])


def _choose_test(labels: np.ndarray) -> np.ndarray:
    """Mark `TEST_PER_CLASS` samples of each class, always the same ones.

    The choice does not depend on the run's seed: test metrics of different seeds are compared, and a model must
    never have been trained on another seed's test samples. RandomState, not Generator: NumPy guarantees its stream for
    all versions (NEP 19).
    """
    order = np.random.RandomState(0).permutation(len(labels))
    is_test = np.zeros(len(labels), dtype=bool)
    for digit in np.unique(labels):
        of_class = order[labels[order] == digit]
        is_test[of_class[:TEST_PER_CLASS]] = True
    return is_test
