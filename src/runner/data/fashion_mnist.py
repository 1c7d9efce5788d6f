"""`data=fashion_mnist`: images of clothes in MNIST's four files, read from disk or downloaded once."""

from pathlib import Path

from runner.data.mnist import load_four_files
from runner.data.source import Source

CLASSES = ("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot")


def fashion_mnist(
    root: str | Path,
    mean: float | list[float] | None = 0.2860,
    std: float | list[float] | None = 0.3530,
) -> Source:
    """Load Fashion-MNIST: 60,000 images of 28x28 pixels for training, 10,000 for the test.

    Args:
        root: a folder with torchvision's layout (`FashionMNIST/raw/` below it) or with the IDX files directly
            in it, gzipped or not, as in Debian's package `dataset-fashion-mnist`. Existing files are used;
            only missing or damaged ones are downloaded.
        mean: subtracted from the pixels; by default that of the training images.
        std: divides the pixels; by default that of the training images.

    Returns:
        Inputs are uint8 (N, 1, 28, 28), targets int64 (N,) in 0..9.

    Raises:
        ConfigError: if the files cannot be downloaded, or do not belong together.
    """
    train, test, folder = load_four_files(root, "FashionMNIST", len(CLASSES))
    return Source("fashion_mnist", train, test, mean, std, list(CLASSES), origin=str(folder), scale=255)
