"""`data=image_folder`: a folder with a sub-folder of image files for each class."""

import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from hashlib import blake2b
from pathlib import Path

import numpy as np
from torch import Tensor
from torch.utils.data import Dataset, get_worker_info

from runner.data import scaling
from runner.data.image_file import BYTE, MODES, RANGES, is_image, look, read_image
from runner.data.image_layout import SHOWN, Files, find_images, find_parts
from runner.data.paths import find_data_folder, shared_samples
from runner.data.source import Source
from runner.errors import ConfigError, TrainingError
from runner.util.cores import usable_cores

TEST_FRACTION = 0.2
TRIED = 64  # files of each part that are read before anything starts
HASHED_BYTES = 4 << 30  # of each part, whose bytes the fingerprint takes in

# Of ImageNet, as all pretrained models of torchvision expect them.
MEAN = [0.485, 0.456, 0.406]
STD = [0.229, 0.224, 0.225]


def image_folder(
    path: str | Path | None,
    size: int = 224,
    channels: int = 3,
    test_fraction: float | None = None,
    mean: float | list[float] | None = MEAN,
    std: float | list[float] | None = STD,
    val_path: str | Path | None = None,
    test_path: str | Path | None = None,
    scale: float | str = "auto",
    classes: list[str] | None = None,
    old_rules: bool = False,
) -> Source:
    """Take the images of a folder, as photographs are usually kept: `<path>/<class>/.../<file>`.

    With `<path>/train/<class>/...` that is the training part, `<path>/val` the validation part and `<path>/test` the
    test part; `image_layout.PARTS` has the other names of these. The classes are the names of the training part's
    sub-folders, sorted. Files that don't end in one of `EXTENSIONS`, names that begin with a dot and folders of
    `image_layout.JUNK` are left out, and said.

    Args:
        path: the folder.
        size: images are resized so that the shorter side has so many pixels, and their middle is taken.
        channels: 3 for colours, 1 for grey.
        test_fraction: the share of files that is split off for the test where there is no folder for it,
            always the same ones whatever the run's seed; None is `TEST_FRACTION`, or 0 where there is a validation
            part in `path`.
        mean: subtracted from the pixels, by channel; the default is ImageNet's, and with one channel the
            average of the three.
        std: divides the pixels, by channel; as for the mean.
        val_path: a folder with the same classes to validate on; None: the one in `path`, if there is one.
        test_path: a folder with the same classes to test on; as for `val_path`.
        scale: the number that stands for white; `auto` takes it from the files: 255 for 8 bits, for others the
            smallest range of 8, 10, 12, 14 or 16 bits that the tried ones fit in; `none` leaves pixels at 0-255.
        classes: the sub-folders that are classes, in the order of their indices; None: all of them, sorted.
        old_rules: as version 0.1.0 did, for a run that it has saved: `<path>/val` is the test part where there is no
            `<path>/test`, every link is followed, and pixels of more than 8 bits are taken for 16.

    Returns:
        Parts are `ImageFiles`: uint8 (channels, size, size) and a class index.

    Raises:
        ConfigError: if the folder cannot be used, or some of `TRIED` files spread over a part cannot be read.
    """
    if path is None:
        raise ConfigError("data.path is not set: data=image_folder reads a folder, such as data.path=photos")
    _check_numbers(size, channels, test_fraction)
    folder = find_data_folder(path, "data.path")
    given = {part: path for part, path in (("val", val_path), ("test", test_path)) if path is not None}
    parts = _part_folders(_find_old_parts(folder) if old_rules else find_parts(folder, classes), given)
    if "test" in parts and test_fraction is not None:
        raise ConfigError(
            f"data.test_fraction={test_fraction} contradicts {parts['test']}, which is the test part; leave out one"
        )
    train_folder = parts.pop("train", folder)
    names, files, left = find_images(train_folder, classes, old_rules)
    found = {"train": (train_folder, files)}
    for part, its_folder in parts.items():
        key = f"data.{part}_path" if part in given else "data.path"
        found[part] = its_folder, _find_other_images(its_folder, names, classes is not None, old_rules, key)
    if "test" not in found:
        if test_fraction is None:  # one that comes with parts has those that it is meant to have
            test_fraction = 0 if "val" in found and "val" not in given else TEST_FRACTION
        files, test_files = _split(files, test_fraction)
        found |= {"train": (train_folder, files)} | ({"test": (train_folder, test_files)} if test_files else {})
    of = {part: ImageFiles(its, its_files, size, channels) for part, (its, its_files) in found.items()}
    white, notes = (RANGES[-1], []) if old_rules else _find_white(list(of.values()), scale)
    for images in of.values():
        images.white = white
    largest = _try_some(*of.values())
    if not old_rules:
        if scale == "auto" and white is None:
            scaling.check_bytes(largest)
        in_words = _parts_in_words(parts, train_folder, folder, held_out="test" in of)
        keys = {f"data.{part}_path": its_folder for part, its_folder in parts.items()}
        shared = shared_samples({"data.path": train_folder, **keys})
        notes = [in_words, _classes_in_words(names), *left.words(), *shared, *notes]
    return Source(
        name="image_folder",
        train=of["train"],
        test=of.get("test"),
        mean=_by_channel(mean, channels),
        std=_by_channel(std, channels),
        classes=names,
        origin=str(folder),
        val=of.get("val"),
        scale=1 if scale == "none" else BYTE,
        white=None if white is None or old_rules else float(white),
        notes=notes,
    )


def _part_folders(inside: Mapping[str, Path], given: Mapping[str, str | Path]) -> dict[str, Path]:
    """The folder of each part: those inside `data.path`, and those that are named beside it.

    Raises:
        ConfigError: a part is both, or its folder cannot be used.
    """
    for part, path in given.items():
        if part in inside:
            raise ConfigError(
                f"data.{part}_path={path} contradicts {inside[part]}, which is the {part} part; leave out one"
            )
    return {**inside, **{part: find_data_folder(path, f"data.{part}_path") for part, path in given.items()}}


class ImageFiles(Dataset[tuple[Tensor, int]]):
    """Image files, decoded each time they are asked for.

    Attributes:
        folder: where they are.
        names: the path of each below it.
        targets: the class index of each.
        size: of the images, in pixels.
        channels: of the images.
        white: the number that stands for white, see `read_image`.
    """

    white: float | None = None

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
        return read_image(self.folder / self.names[index], self.size, self.channels, self.white), self.targets[index]

    def __getitems__(self, indices: Sequence[int]) -> list[tuple[Tensor, int]]:
        """Decode several, in threads unless this is one of several processes already that load."""
        threads = usable_cores() if get_worker_info() is None else 1
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
            raise ConfigError(
                f"data.path: {error.filename} cannot be read: {error.strerror}; make it readable, or remove it"
            ) from error
        return digest.digest()


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


def _find_old_parts(folder: Path) -> dict[str, Path]:
    """The parts as version 0.1.0 found them: a folder `val` is the test part where there is no folder `test`."""
    train = folder / "train"
    if not train.is_dir() or any(is_image(entry.name) for entry in os.scandir(train)):
        return {}
    others = [folder / name for name in ("test", "val") if (folder / name).is_dir()]
    return {"train": train} | ({"test": others[0]} if others else {})


def _find_other_images(folder: Path, classes: list[str], chosen: bool, old_rules: bool, key: str) -> Files:
    """The files of a part, with the class indices of the training part; where classes were chosen, of these alone.

    Raises:
        ConfigError: they cannot be used; it names the key that the part is from.
    """
    there = [name for name in classes if (folder / name).is_dir()] if chosen else None
    try:
        names, files, _ = find_images(folder, there, old_rules)
    except ConfigError as error:
        raise ConfigError(*(str(problem).replace("data.path", key) for problem in error.problems)) from error
    unknown = [name for name in names if name not in classes]
    if unknown:
        raise ConfigError(
            f"{key}: {folder} has classes that the training part lacks: {', '.join(unknown[:SHOWN])}; rename"
            " them, or move them to the training part"
        )
    return [(name, classes.index(names[target])) for name, target in files]


def _parts_in_words(parts: dict[str, Path], train: Path, folder: Path, held_out: bool) -> str:
    if not parts and train == folder:
        return "no folders of parts"
    shown = [f"{path.name}/ {verb}" for part, path, verb in (
        ("train", train, "trains"), ("val", parts.get("val"), "validates"), ("test", parts.get("test"), "tests"),
    ) if path is not None]  # fmt: skip
    if "val" in parts and "test" not in parts:
        shown.append(f"a share of {train.name}/ tests" if held_out else "no test part")
    return ", ".join(shown)


def _classes_in_words(names: Sequence[str]) -> str:
    more = ", ..." if len(names) > SHOWN else ""
    return f"{len(names)} class{'es' * (len(names) != 1)} ({', '.join(names[:SHOWN])}{more})"


def _find_white(parts: Sequence[ImageFiles], scale: float | str) -> tuple[float | None, list[str]]:
    """The number that stands for white, and what to say of it.

    Raises:
        ConfigError: it is not clear which it is.
    """
    if not isinstance(scale, str):
        return float(scale), []

    def seen(path: Path) -> tuple[str, float] | None:
        try:
            return look(path)
        except Exception:  # whatever a decoder makes of a damaged file, which is told of when it is tried
            return None

    paths = [part.folder / part.names[index] for part in parts for index in _some(part)]
    with ThreadPoolExecutor(usable_cores()) as pool:
        looks = [(path, *found) for path, found in zip(paths, pool.map(seen, paths), strict=True) if found]
    deep = [found for found in looks if found[1] != "8-bit"]
    if not deep:
        return None, []
    path, kind, most = max(deep, key=lambda found: found[2])
    some = f"data.path: {path} and {len(deep) - 1} more" if len(deep) > 1 else f"data.path: {path}"
    if kind == "16-bit colour" and most <= RANGES[-2]:
        raise ConfigError(f"{some} have colours of 16 bits, but use less than 14 of them; save them with 8 bits")
    if scale == "none":
        raise ConfigError(f"data.scale=none: {path} has more than 8 bits a pixel ({kind}); write data.scale={most:g}")
    if kind == "16-bit colour":
        return None, ["16-bit colours: the upper 8 bits"]
    if any(kind == "float" for _, kind, _ in deep):
        return None, []  # refused one by one
    white = next((limit for limit in RANGES if most <= limit), None)
    if white is None:
        raise ConfigError(
            f"{some}: pixels go up to {most:,.0f}, of which white is not known: write data.scale={most:.0f}"
        )
    return float(white), [f"{kind} files that hold 0 to {most:,.0f}: scaled by {white:,}"]


def _some(part: ImageFiles) -> range:
    """The indices of files that are tried, spread over a part."""
    return range(0, len(part), max(1, -(-len(part) // TRIED)))


def _split(files: list[tuple[str, int]], test_fraction: float) -> tuple[list[tuple[str, int]], list[tuple[str, int]]]:
    """Split the same files off at every run: figures of different seeds are compared with one another."""
    if test_fraction and len(files) < 2:
        raise ConfigError("data.path has one image, which cannot be split; write data.test_fraction=0")
    count = min(max(round(len(files) * test_fraction), 1), len(files) - 1) if test_fraction else 0
    # RandomState, not Generator: NumPy promises its stream for all versions (NEP 19).
    is_test = np.random.RandomState(0).permutation(len(files)) < count
    pairs = list(zip(files, is_test.tolist(), strict=True))
    return [file for file, chosen in pairs if not chosen], [file for file, chosen in pairs if chosen]


def _try_some(*parts: ImageFiles) -> int:
    """Read some files of each part, spread over it.

    Returns:
        The largest pixel of those of the first part, which is the training part.

    Raises:
        ConfigError: with a sentence for each that cannot be read.
    """

    def tried(part: ImageFiles, index: int) -> str | int:
        try:
            return int(part[index][0].max())
        except TrainingError as error:
            return str(error)

    some = [(part, index) for part in parts for index in _some(part)]
    with ThreadPoolExecutor(usable_cores()) as pool:
        found = list(pool.map(tried, *zip(*some, strict=True)))
    problems = [words for words in found if isinstance(words, str)]
    if len(problems) > SHOWN:
        more = f"data.path: {len(problems) - SHOWN} more of the {len(some)} files tried cannot be read either"
        problems = [*problems[:SHOWN], more]
    if problems:
        raise ConfigError(*problems)
    return max(int(pixel) for pixel in found[: len(_some(parts[0]))])


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
