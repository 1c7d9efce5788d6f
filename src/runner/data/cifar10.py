"""`data=cifar10`: small photographs in six files of pickled arrays, read from disk or downloaded once."""

import pickle
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from torch import Tensor

from runner.data.fetch import ROOT, check_fetched, check_root, fetch, unreadable_file
from runner.data.published import published
from runner.data.source import Source
from runner.errors import ConfigError, Problem

FOLDER = "cifar-10-batches-py"  # in the archive, and in torchvision's layout
TRAIN_FILES = tuple(f"data_batch_{number}" for number in range(1, 6))
TEST_FILE = "test_batch"
CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
SHAPE = (3, 32, 32)

MEAN = [0.4914, 0.4822, 0.4465]  # of the 50,000 training images, pixels in [0, 1]
STD = [0.2470, 0.2435, 0.2616]


def cifar10(
    root: str | Path,
    mean: float | list[float] | None = MEAN,
    std: float | list[float] | None = STD,
) -> Source:
    """Load CIFAR-10: 50,000 images of 32x32 pixels for training, 10,000 for the test (Krizhevsky 2009).

    Args:
        root: a folder with torchvision's layout (`cifar-10-batches-py/` below it), or with the six files
            directly in it. Existing files are used; only missing or damaged ones are downloaded, or taken
            from `cifar-10-python.tar.gz` if that lies in the folder.
        mean: subtracted from the pixels, by channel; by default that of the 50,000 training images.
        std: divides the pixels, by channel; by default that of the 50,000 training images.

    Returns:
        Inputs are uint8 (N, 3, 32, 32), targets int64 (N,) in 0..9.

    Raises:
        ConfigError: if the files cannot be downloaded, or hold something else.
    """
    root = check_root(root)
    for folder in (root / FOLDER, root):
        batches, faults = _read_files(folder)
        if not faults:
            break
    else:
        parent = root.parent if root.name == FOLDER else root
        folder, batches = parent / FOLDER, _fetch_and_read(parent)
    parts = {name: _check(batch, folder / name) for name, batch in batches.items()}
    train = [parts[name] for name in TRAIN_FILES]
    images, labels = torch.cat([images for images, _ in train]), torch.cat([labels for _, labels in train])
    return Source(
        "cifar10", (images, labels), parts[TEST_FILE], mean, std, list(CLASSES), origin=str(folder), scale=255
    )


def _fetch_and_read(parent: Path) -> dict[str, Any]:
    """Download the missing files of the folder in `parent`, then read all."""
    dataset = published("cifar", "CIFAR10")
    fetch(
        lambda: {f"{FOLDER}/{name}": fault for name, fault in _read_files(parent / FOLDER)[1].items()},
        parent,
        mirrors=[dataset["url"].removesuffix(dataset["filename"])],
        checksums={dataset["filename"]: dataset["tgz_md5"]},
        archive=dataset["filename"],
    )
    batches, faults = _read_files(parent / FOLDER)
    check_fetched(parent / FOLDER, faults)
    return batches


def _read_files(folder: Path) -> tuple[dict[str, Any], dict[str, str]]:
    """Read the complete files of a folder; return them, and of the others whether they are missing or damaged."""
    batches: dict[str, Any] = {}
    faults: dict[str, str] = {}
    for name in (*TRAIN_FILES, TEST_FILE):
        try:
            with (folder / name).open("rb") as file:
                batches[name] = read_arrays(file)
        except (FileNotFoundError, NotADirectoryError):
            faults[name] = "missing"
        except OSError as error:
            raise ConfigError(unreadable_file(folder / name, error)) from error
        except Exception as error:  # a damaged pickle can raise anything
            faults[name] = f"damaged: {str(error) or type(error).__name__}"
    return batches, faults


def read_arrays(file: IO[bytes]) -> Any:
    """Unpickle arrays and plain values only: a pickle could call any function that it names.

    Raises:
        pickle.UnpicklingError: it names another function or class, or is damaged; a damaged pickle may also raise
            other exceptions.
    """
    return _ArrayUnpickler(file, encoding="latin1").load()  # Python 2 wrote the original


class _ArrayUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        # `numpy.core` in the original is `numpy._core` in current versions.
        maker = _ARRAY_MAKERS.get((module.replace("numpy._core", "numpy.core"), name))
        if maker is None:
            raise pickle.UnpicklingError(f"it refers to {module}.{name}, which an array does not need")
        return maker


_ARRAY = np.empty(0, np.uint8)
_ARRAY_MAKERS: dict[tuple[str, str], Any] = {
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
    ("numpy.core.multiarray", "_reconstruct"): _ARRAY.__reduce_ex__(2)[0],
    ("numpy.core.numeric", "_frombuffer"): _ARRAY.__reduce_ex__(5)[0],
    ("_codecs", "encode"): lambda text, _: text.encode("latin1"),  # Python 3 writes bytes for Python 2 in this way
}


def _check(batch: Any, path: Path) -> tuple[Tensor, Tensor]:
    """Return the images and labels of a file that was read.

    Raises:
        ConfigError: it holds something else. Unlike a damaged file it is not replaced: the user may have put it there.
    """

    def refuse(text: str) -> ConfigError:
        suggestion = f"move the file away to download it, or write {ROOT}=<another folder>"
        return ConfigError(Problem(ROOT, f"{path}: {text}", suggestion, topic="data"))

    if not (isinstance(batch, dict) and {"data", "labels"} <= batch.keys()):
        raise refuse("it has no data and labels, so it is not a file of CIFAR-10")
    pixels, values = batch["data"], int(np.prod(SHAPE))
    if not (isinstance(pixels, np.ndarray) and pixels.dtype == np.uint8 and pixels.shape[1:] == (values,)):
        raise refuse(f"its data is not a uint8 array of shape (images, {values})")
    labels = np.asarray(batch["labels"])
    if labels.shape != (len(pixels),) or labels.dtype.kind not in "iu" or len(pixels) == 0:
        raise refuse(f"it has {len(pixels):,} images, which need as many integers as labels")
    if not 0 <= labels.min() <= labels.max() < len(CLASSES):
        raise refuse(f"it has labels from {labels.min()} to {labels.max()}, outside of 0 to {len(CLASSES) - 1}")
    pixels = np.require(pixels, requirements=["C", "W"])  # torch needs a contiguous, writable array
    return torch.from_numpy(pixels.reshape(-1, *SHAPE)), torch.from_numpy(labels.astype(np.int64))
