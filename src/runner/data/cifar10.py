"""`data=cifar10`: small photographs in six files of pickled arrays, read from disk or, once, downloaded."""

import pickle
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from torch import Tensor

from runner.data.fetch import fetch
from runner.data.paths import full_path
from runner.data.published import published
from runner.data.source import Source
from runner.errors import ConfigError

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
            directly in it. What is there is used, whoever made it; only what is missing or damaged is
            downloaded, or taken from `cifar-10-python.tar.gz` where that lies in the folder.
        mean: subtracted from the pixels, by channel; the default is the 50,000 training images' own.
        std: divides the pixels, by channel; the default is the 50,000 training images' own.

    Returns:
        Inputs are uint8 (N, 3, 32, 32), targets int64 (N,) in 0..9.

    Raises:
        ConfigError: if the files cannot be had, or hold something else.
    """
    if root is None or not str(root).strip():
        raise ConfigError("data.root is empty: write data.root=<the folder that has the files, or gets them>")
    root = full_path(root, "data.root")
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
    """Download what the folder in `parent` lacks, then read all of it."""
    dataset = published("cifar", "CIFAR10")
    fetch(
        lambda: {f"{FOLDER}/{name}": fault for name, fault in _read_files(parent / FOLDER)[1].items()},
        parent,
        mirrors=[dataset["url"].removesuffix(dataset["filename"])],
        checksums={dataset["filename"]: dataset["tgz_md5"]},
        archive=dataset["filename"],
    )
    batches, faults = _read_files(parent / FOLDER)
    if faults:
        raise ConfigError(
            *(f"{parent / FOLDER / name}: {fault}, although it was just fetched" for name, fault in faults.items())
        )
    return batches


def _read_files(folder: Path) -> tuple[dict[str, Any], dict[str, str]]:
    """Read the whole files of a folder, and say of each other one whether it is missing or damaged."""
    batches: dict[str, Any] = {}
    faults: dict[str, str] = {}
    for name in (*TRAIN_FILES, TEST_FILE):
        try:
            with (folder / name).open("rb") as file:
                batches[name] = read_arrays(file)
        except (FileNotFoundError, NotADirectoryError):
            faults[name] = "missing"
        except OSError as error:
            raise ConfigError(
                f"cannot read {folder / name}: {error.strerror or error}; mend it, or write data.root=<folder>"
            ) from error
        except Exception as error:  # half a pickle, or none, fails in any way
            faults[name] = f"damaged: {str(error) or type(error).__name__}"
    return batches, faults


def read_arrays(file: IO[bytes]) -> Any:
    """Unpickle arrays and plain values, and nothing else: a pickle can call whatever it names.

    Raises:
        pickle.UnpicklingError: it asks for something else, or is damaged; other exceptions if it is.
    """
    return _ArrayUnpickler(file, encoding="latin1").load()  # as Python 2 wrote the original


class _ArrayUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        # `numpy.core` of the original is `numpy._core` now.
        found = _ARRAY_MAKERS.get((module.replace("numpy._core", "numpy.core"), name))
        if found is None:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, which no array needs")
        return found


_ARRAY = np.empty(0, np.uint8)
_ARRAY_MAKERS: dict[tuple[str, str], Any] = {
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
    ("numpy.core.multiarray", "_reconstruct"): _ARRAY.__reduce_ex__(2)[0],
    ("numpy.core.numeric", "_frombuffer"): _ARRAY.__reduce_ex__(5)[0],
    ("_codecs", "encode"): lambda text, _: text.encode("latin1"),  # bytes, as Python 3 writes them for Python 2
}


def _check(batch: Any, path: Path) -> tuple[Tensor, Tensor]:
    """The images and labels of a file that can be read, whoever made it.

    Raises:
        ConfigError: it holds something else. It is not replaced, as a damaged file is: somebody wanted it so.
    """
    advice = "move the file away to download it, or write data.root=<another folder>"
    if not (isinstance(batch, dict) and {"data", "labels"} <= batch.keys()):
        raise ConfigError(f"{path} has no data and labels, so it is no file of CIFAR-10; {advice}")
    pixels, values = batch["data"], int(np.prod(SHAPE))
    if not (isinstance(pixels, np.ndarray) and pixels.dtype == np.uint8 and pixels.shape[1:] == (values,)):
        raise ConfigError(f"{path}: its data are no uint8 array of (images, {values}); {advice}")
    labels = np.asarray(batch["labels"])
    if labels.shape != (len(pixels),) or labels.dtype.kind not in "iu" or len(pixels) == 0:
        raise ConfigError(f"{path} has {len(pixels):,} images, which needs as many whole numbers as labels; {advice}")
    if not 0 <= labels.min() <= labels.max() < len(CLASSES):
        raise ConfigError(f"{path} has labels from {labels.min()} to {labels.max()}, where 0 to 9 are; {advice}")
    pixels = np.require(pixels, requirements=["C", "W"])  # as torch wants them
    return torch.from_numpy(pixels.reshape(-1, *SHAPE)), torch.from_numpy(labels.astype(np.int64))
