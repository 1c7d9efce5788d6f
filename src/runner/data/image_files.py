"""The data set of image files."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from hashlib import blake2b
from pathlib import Path

import numpy as np
from torch import Tensor
from torch.utils.data import Dataset, get_worker_info

from runner.data.image_cache import ImageCache
from runner.data.image_file import RANGES, ImageError, UnknownRange, read_image
from runner.data.image_tree import unreadable
from runner.errors import ConfigError, Problem, TrainingError
from runner.util.cores import usable_cores

TRIED = 64  # files of each part that are read before anything starts
HASHED_BYTES = 4 << 30  # bytes of each part that go into the fingerprint


class ImageFiles(Dataset[tuple[Tensor, int]]):
    """Image files, decoded each time they are read, or once if there is a cache.

    Attributes:
        folder: the folder that holds them.
        names: the path of each file below it.
        targets: the class index of each file.
        size: of the images, in pixels.
        channels: of the images.
        key: the config key that names the folder, for errors.
        white: the number that stands for white, see `read_image`.
        cache: of decoded images; None if there is none.
    """

    white: float | None = None
    cache: ImageCache | None = None

    def __init__(
        self, folder: Path, files: Sequence[tuple[str, int]], size: int, channels: int, key: str = "data.path"
    ) -> None:
        self.folder, self.size, self.channels, self.key = folder, size, channels, key
        self.names = [name for name, _ in files]
        self.targets = [target for _, target in files]

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        """Decode a file into uint8 (channels, size, size).

        Raises:
            TrainingError: it cannot be read; in one line, with its path.
        """
        try:
            if self.cache is None:
                return self.read(index), self.targets[index]
            return self.cache.read(self.names[index], partial(self.read, index)), self.targets[index]
        except ImageError as error:
            raise TrainingError(str(self.problem(index, error))) from error

    def __getitems__(self, indices: Sequence[int]) -> list[tuple[Tensor, int]]:
        """Decode several files, in threads unless this is a worker process of a loader."""
        threads = usable_cores() if get_worker_info() is None else 1
        if threads == 1:
            return [self[index] for index in indices]
        if self.cache is None:
            with ThreadPoolExecutor(threads) as pool:
                return list(pool.map(self.__getitem__, indices))
        found = {index: self.cache.find(self.names[index]) for index in indices}  # faster than threads are started
        missing = [index for index, image in found.items() if image is None]
        if missing:
            with ThreadPoolExecutor(threads) as pool:
                found |= {
                    index: image for index, (image, _) in zip(missing, pool.map(self.__getitem__, missing), strict=True)
                }
        return [(image, self.targets[index]) for index in indices if (image := found[index]) is not None]

    def prepare_epochs(self) -> None:
        """Open the cache, if there is one: the samples are about to be read once an epoch."""
        if self.cache is not None:
            self.cache.open(required=False)

    def read(self, index: int) -> Tensor:
        """Decode a file into uint8 (channels, size, size).

        Raises:
            ImageError: it cannot be read.
        """
        return read_image(self.folder / self.names[index], self.size, self.channels, self.white)

    def problem(self, index: int, error: ImageError) -> Problem:
        """Make the problem of a file that cannot be read."""
        text = f"{self.key}: {self.folder / self.names[index]} cannot be read ({error})"
        if isinstance(error, UnknownRange):
            return Problem("data.scale", text, "write data.scale=<the number of white>", topic="data")
        return Problem(self.key, text, "replace it, or move it away", topic="file")

    def sample_indices(self) -> range:
        """Return the indices of about `TRIED` files, evenly spaced."""
        return range(0, len(self), max(1, -(-len(self) // TRIED)))

    def fingerprint(self) -> bytes:
        """Hash everything that an item depends on: names, classes, bytes of the files, size and channels.

        Of files beyond the first `HASHED_BYTES`, only name and length are hashed.

        Raises:
            ConfigError: a file cannot be read.
        """
        scaled = () if self.white in (None, RANGES[-1]) else (self.white,)
        digest = blake2b(repr((self.size, self.channels, *scaled)).encode())
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
            raise ConfigError(unreadable(self.key, error)) from error
        return digest.digest()


def _hash_files(paths: Sequence[Path]) -> bytes:
    digest = blake2b()
    for path in paths:
        with path.open("rb") as file:
            while chunk := file.read(1 << 20):
                digest.update(chunk)
    return digest.digest()
