"""`data=image_folder`: a folder with a sub-folder of image files for each class."""

import logging
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from hashlib import blake2b
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, get_worker_info

from runner.data.image_file import EXTENSIONS, MODES, is_image, read_image
from runner.data.paths import find_data_folder
from runner.data.source import Source
from runner.errors import ConfigError, TrainingError

TEST_FRACTION = 0.2
SHOWN = 5  # names in an error
TRIED = 64  # files of each part that are read before anything starts
HASHED_BYTES = 4 << 30  # of each part, whose bytes the fingerprint takes in

# Of ImageNet, as all pretrained models of torchvision expect them.
MEAN = [0.485, 0.456, 0.406]
STD = [0.229, 0.224, 0.225]

logger = logging.getLogger("runner")


def image_folder(
    path: str | Path | None,
    size: int = 224,
    channels: int = 3,
    test_fraction: float | None = None,
    mean: float | list[float] | None = MEAN,
    std: float | list[float] | None = STD,
) -> Source:
    """Take the images of a folder, as photographs are usually kept: `<path>/<class>/.../<file>`.

    With `<path>/train/<class>/...` that is the training part, and `<path>/test`, else `<path>/val`, the test
    part. The classes are the names of the training part's sub-folders, sorted. Files that don't end in one of
    `EXTENSIONS` and names that begin with a dot are passed over.

    Args:
        path: the folder.
        size: images are resized so that the shorter side has so many pixels, and their middle is taken.
        channels: 3 for colours, 1 for grey.
        test_fraction: the share of files that is split off for the test where there is no folder for it,
            always the same ones whatever the run's seed; None is `TEST_FRACTION`.
        mean: subtracted from the pixels, by channel; the default is ImageNet's, and with one channel the
            average of the three.
        std: divides the pixels, by channel; as for the mean.

    Returns:
        Parts are `ImageFiles`: uint8 (channels, size, size) and a class index.

    Raises:
        ConfigError: if the folder cannot be used, or some of `TRIED` files spread over a part cannot be read.
    """
    if path is None:
        raise ConfigError("data.path is not set: data=image_folder reads a folder, such as data.path=photos")
    _check_numbers(size, channels, test_fraction)
    folder = find_data_folder(path, "data.path")
    train_folder, test_folder = _find_parts(folder)
    if test_folder is not None and test_fraction is not None:
        raise ConfigError(
            f"data.test_fraction={test_fraction} contradicts {test_folder}, which is the test part; leave out one"
        )
    classes, files = find_images(train_folder)
    if test_folder is not None:
        test_files = _find_test_images(test_folder, classes)
        test = ImageFiles(test_folder, test_files, size, channels)
    else:
        files, test_files = _split(files, TEST_FRACTION if test_fraction is None else test_fraction)
        test = ImageFiles(train_folder, test_files, size, channels)
    train = ImageFiles(train_folder, files, size, channels)
    _try_some(train, test)
    return Source(
        name="image_folder",
        train=train,
        test=test if len(test) else None,
        mean=_by_channel(mean, channels),
        std=_by_channel(std, channels),
        classes=classes,
        origin=str(folder),
    )


class ImageFiles(Dataset[tuple[Tensor, int]]):
    """Image files, decoded each time they are asked for.

    Attributes:
        folder: where they are.
        names: the path of each below it.
        targets: the class index of each.
        size: of the images, in pixels.
        channels: of the images.
    """

    def __init__(self, folder: Path, files: Sequence[tuple[str, int]], size: int, channels: int) -> None:
        self.folder, self.size, self.channels = folder, size, channels
        self.names = [name for name, _ in files]
        self.targets = [target for _, target in files]

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        """Decode a file into uint8 (channels, size, size).

        Raises:
            TrainingError: it cannot be read; in one line, with its name.
        """
        return read_image(self.folder / self.names[index], self.size, self.channels), self.targets[index]

    def __getitems__(self, indices: Sequence[int]) -> list[tuple[Tensor, int]]:
        """Decode several, in threads unless this is one of several processes already that load."""
        threads = torch.get_num_threads() if get_worker_info() is None else 1
        if threads == 1:
            return [self[index] for index in indices]
        with ThreadPoolExecutor(threads) as pool:
            return list(pool.map(self.__getitem__, indices))

    def fingerprint(self) -> bytes:
        """A hash of everything an item depends on: names, classes, the files' bytes, size and channels.

        Of files beyond the first `HASHED_BYTES`, only name and length go into it.

        Raises:
            ConfigError: a file cannot be read.
        """
        digest = blake2b(repr((self.size, self.channels)).encode())
        paths = [self.folder / name for name in self.names]
        try:
            lengths = [path.stat().st_size for path in paths]
            for entry in zip(self.names, self.targets, lengths, strict=True):
                digest.update(repr(entry).encode())
            whole = int(np.searchsorted(np.cumsum(lengths), HASHED_BYTES, side="right"))
            with ThreadPoolExecutor() as pool:
                for part in pool.map(_hash_files, [paths[i : min(i + 64, whole)] for i in range(0, whole, 64)]):
                    digest.update(part)
        except OSError as error:
            raise ConfigError(f"data.path: {error.filename} cannot be read: {error.strerror}; mend it") from error
        return digest.digest()


def find_images(folder: Path) -> tuple[list[str], list[tuple[str, int]]]:
    """The classes of a folder, and its image files, each with the index of its class; both sorted.

    Raises:
        ConfigError: there is no class, or one without images.
    """
    try:
        entries = sorted(entry.name for entry in os.scandir(folder) if not entry.name.startswith("."))
        classes = [name for name in entries if (folder / name).is_dir()]
        files = [(name, index) for index, label in enumerate(classes) for name in _walk(folder, label)]
    except OSError as error:
        raise ConfigError(f"data.path: {error.filename} cannot be read: {error.strerror}; mend it") from error
    if not classes:
        direct = "; its images lie directly in it" if any(map(is_image, entries)) else ""
        raise ConfigError(f"data.path: {folder} has no sub-folders{direct}: make one for each class, named after it")
    filled = {target for _, target in files}
    empty = [label for index, label in enumerate(classes) if index not in filled]
    if empty:
        names = ", ".join(empty[:SHOWN]) + (", ..." if len(empty) > SHOWN else "")
        raise ConfigError(
            f"data.path: {folder} has sub-folders without images ({' '.join(EXTENSIONS)}): {names}; move them away"
        )
    return classes, files


def _walk(folder: Path, label: str) -> list[str]:
    """The image files below `folder/label`, by their paths below `folder`, in an order that is always the same."""
    found = []
    for parent, folders, names in os.walk(folder / label, followlinks=True):
        folders[:] = [name for name in folders if not name.startswith(".")]
        below = Path(parent).relative_to(folder).as_posix()
        found += [f"{below}/{name}" for name in names if is_image(name)]
    return sorted(found)


def _check_numbers(size: int, channels: int, test_fraction: float | None) -> None:
    problems = []
    if size < 1:
        problems.append(f"data.size={size} is no number of pixels: write data.size=224")
    if channels not in MODES:
        problems.append(f"data.channels={channels}: write 3 for colours, or 1 for grey")
    if test_fraction is not None and not 0 <= test_fraction < 1:
        problems.append(f"data.test_fraction={test_fraction} must be at least 0 and below 1, such as 0.2")
    if problems:
        raise ConfigError(*problems)


def _find_parts(folder: Path) -> tuple[Path, Path | None]:
    """The folder of the training part and, if it has one of its own, of the test part.

    A folder `train` with images directly in it is a class of that name.
    """
    train = folder / "train"
    if not train.is_dir() or any(is_image(entry.name) for entry in os.scandir(train)):
        return folder, None
    others = [folder / name for name in ("test", "val") if (folder / name).is_dir()]
    if len(others) == 2:
        logger.warning("%s is not used: validation samples are held out of %s by data.val_fraction", others[1], train)
    return train, others[0] if others else None


def _find_test_images(folder: Path, classes: list[str]) -> list[tuple[str, int]]:
    """The test part's files, with the class indices of the training part."""
    names, files = find_images(folder)
    unknown = [name for name in names if name not in classes]
    if unknown:
        raise ConfigError(
            f"data.path: {folder} has classes that the training part lacks: {', '.join(unknown[:SHOWN])}; rename"
            " them, or move them to the training part"
        )
    return [(name, classes.index(names[target])) for name, target in files]


def _split(files: list[tuple[str, int]], test_fraction: float) -> tuple[list[tuple[str, int]], list[tuple[str, int]]]:
    """Split the same files off at every run: figures of different seeds are compared with one another."""
    if test_fraction and len(files) < 2:
        raise ConfigError("data.path has one image, which cannot be split; write data.test_fraction=0")
    count = min(max(round(len(files) * test_fraction), 1), len(files) - 1) if test_fraction else 0
    # RandomState, not Generator: NumPy promises its stream for all versions (NEP 19).
    is_test = np.random.RandomState(0).permutation(len(files)) < count
    pairs = list(zip(files, is_test.tolist(), strict=True))
    return [file for file, chosen in pairs if not chosen], [file for file, chosen in pairs if chosen]


def _try_some(*parts: ImageFiles) -> None:
    """Read some files of each part, spread over it.

    Raises:
        ConfigError: with a sentence for each that cannot be read.
    """

    def problem(part: ImageFiles, index: int) -> str | None:
        try:
            part[index]
        except TrainingError as error:
            return str(error)
        return None

    some = [(part, index) for part in parts for index in range(0, len(part), max(1, -(-len(part) // TRIED)))]
    with ThreadPoolExecutor(torch.get_num_threads()) as pool:
        problems = [words for words in pool.map(problem, *zip(*some, strict=True)) if words]
    if len(problems) > SHOWN:
        more = f"data.path: {len(problems) - SHOWN} more of the {len(some)} files tried cannot be read either"
        problems = [*problems[:SHOWN], more]
    if problems:
        raise ConfigError(*problems)


def _by_channel(value: float | list[float] | None, channels: int) -> float | list[float] | None:
    """What is given for three colours is averaged for grey."""
    if channels == 1 and isinstance(value, list) and len(value) == 3:
        return sum(value) / 3
    return value


def _hash_files(paths: Sequence[Path]) -> bytes:
    digest = blake2b()
    for path in paths:
        with path.open("rb") as file:
            while chunk := file.read(1 << 20):
                digest.update(chunk)
    return digest.digest()
