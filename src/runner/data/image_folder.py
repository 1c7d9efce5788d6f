"""`data=image_folder`: a folder with a sub-folder of image files for each class."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated

from runner.data import scaling
from runner.data.held_out import (
    TEST_FRACTION,
    check_test_fraction,
    choose_test_samples,
    contradicting_fraction,
    untrained_classes,
)
from runner.data.image_cache import ImageCache
from runner.data.image_check import find_white, try_files
from runner.data.image_file import BYTE, RANGES, is_image
from runner.data.image_files import ImageFiles
from runner.data.image_layout import find_parts
from runner.data.image_search import Files, LeftOut, find_images
from runner.data.image_tree import ImageRoot
from runner.data.listing import list_names
from runner.data.paths import find_data_folder, shared_samples
from runner.data.source import Source
from runner.errors import ConfigError, Problem
from runner.util.ranges import Choice

# ImageNet's, which all pretrained models of torchvision expect.
MEAN = [0.485, 0.456, 0.406]
STD = [0.229, 0.224, 0.225]

TRAIN = "data.path"


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
    cache: Annotated[bool | str, Choice(("auto", True, False))] = "auto",
    old_rules: bool = False,
) -> Source:
    """Load the images of a folder `<path>/<class>/.../<file>`.

    With `<path>/train/<class>/...` that is the training part, `<path>/val` the validation part and `<path>/test` the
    test part; `image_layout.PARTS` has their other names. The classes are the sub-folders of the training part, sorted.
    Files of other extensions than `EXTENSIONS`, hidden names and folders of `image_tree.JUNK` are left out, and noted.

    Args:
        path: the folder.
        size: pixels: the shorter side is resized to it, then the centre square is cropped.
        channels: 3 for colour, 1 for grey.
        test_fraction: the share of files that is held out for the test if there is no folder for it, the same ones for
            every seed; None is `TEST_FRACTION`, or 0 if `path` has a validation part.
        mean: subtracted from the pixels, by channel; ImageNet's, with one channel the average of the three.
        std: divides the pixels, by channel; as the mean.
        val_path: a folder with the same classes to validate on; None: the one in `path`, if it exists.
        test_path: a folder with the same classes to test on; as `val_path`.
        scale: the number that stands for white; `auto` detects it: 255 for 8 bits, otherwise the smallest range of 8,
            10, 12, 14 or 16 bits that holds the tried files; `none` leaves pixels at 0-255.
        classes: the sub-folders that are classes, in the order of their indices; None: all, sorted.
        cache: keep decoded images on the disk: `auto`: if they are read once an epoch, and take at most half of the
            free room; true: always.
        old_rules: as version 0.1.0, for its saved runs: `<path>/val` is the test part if there is no `<path>/test`,
            every link is followed, and pixels of more than 8 bits are read as 16.

    Returns:
        Parts are `ImageFiles`: uint8 (channels, size, size) and a class index.

    Raises:
        ConfigError: if the folder cannot be used, or some of about `TRIED` files of a part cannot be read.
    """
    _check_numbers(path, size, channels, test_fraction)
    assert path is not None
    folder = find_data_folder(path, TRAIN)
    roots = _find_roots(folder, {"val": val_path, "test": test_path}, classes, old_rules)
    if "test" in roots and test_fraction is not None:
        text = f"{roots['test'].path}, which is the test part"
        raise ConfigError(contradicting_fraction(test_fraction, text))
    names, files, left_out = _find_files(roots, classes, old_rules)
    listed = {part: [name for name, _ in its_files] for part, its_files in files.items()}
    if "test" not in roots:
        files |= _hold_out(files["train"], _default_fraction(roots) if test_fraction is None else test_fraction)
    parts = _make_data_sets(roots, files, size, channels)
    white, pixel_notes = _find_range(parts, scale, old_rules)
    if cache and not old_rules:
        _add_caches(parts, listed, required=cache is True)
    described = [] if old_rules else _describe(folder, roots, names, left_out, "test" in parts)
    return Source(
        name="image_folder",
        train=parts["train"],
        test=parts.get("test"),
        mean=_by_channel(mean, channels),
        std=_by_channel(std, channels),
        classes=names,
        origin=str(folder),
        val=parts.get("val"),
        scale=1 if scale == "none" else BYTE,
        white=None if white is None or old_rules else float(white),
        notes=[*described, *pixel_notes],
    )


def _check_numbers(path: str | Path | None, size: int, channels: int, test_fraction: float | None) -> None:
    """Check what can be checked without reading the folder."""
    problems: list[Problem] = []
    if path is None:
        text = f"{TRAIN} is not set, and data=image_folder reads a folder"
        problems.append(Problem(TRAIN, text, f"write {TRAIN}=<folder>", topic="missing"))
    if size < 1:
        text = f"data.size={size} is not a number of pixels"
        problems.append(Problem("data.size", text, "write data.size=224", topic="range"))
    if channels not in (1, 3):
        text = f"data.channels={channels} is neither 3, for colour, nor 1, for grey"
        problems.append(Problem("data.channels", text, "write data.channels=3", topic="choice"))
    problems += check_test_fraction(test_fraction)
    if problems:
        raise ConfigError(*problems)


def _find_roots(
    folder: Path, named: Mapping[str, str | Path | None], classes: list[str] | None, old_rules: bool
) -> dict[str, ImageRoot]:
    """Find the folder of each part: those inside `data.path`, and those that have a key.

    Args:
        folder: `data.path`.
        named: `data.val_path` and `data.test_path`, by part.
        classes: `data.classes`.
        old_rules: as version 0.1.0.

    Raises:
        ConfigError: a part is both, or its folder cannot be used.
    """
    inside = _find_old_parts(folder) if old_rules else find_parts(ImageRoot(TRAIN, folder), classes)
    roots = {part: ImageRoot(TRAIN, path) for part, path in {"train": folder, **inside}.items()}
    for part, path in named.items():
        if path is None:
            continue
        key = f"data.{part}_path"
        if part in inside:
            text = f"{key}={path} contradicts {inside[part]}, which is the {part} part"
            raise ConfigError(Problem(key, text, f"write {key}=null", topic="conflict"))
        roots[part] = ImageRoot(key, find_data_folder(path, key))
    return roots


def _find_old_parts(folder: Path) -> dict[str, Path]:
    """Find the parts as version 0.1.0: a folder `val` is the test part if there is no folder `test`."""
    train = folder / "train"
    if not train.is_dir() or any(is_image(entry.name) for entry in os.scandir(train)):
        return {}
    others = [folder / name for name in ("test", "val") if (folder / name).is_dir()]
    return {"train": train} | ({"test": others[0]} if others else {})


def _find_files(
    roots: Mapping[str, ImageRoot], classes: list[str] | None, old_rules: bool
) -> tuple[list[str], dict[str, Files], LeftOut]:
    """Find the classes of the training part, the files of each part, and what the training part leaves out."""
    names, train_files, left_out = find_images(roots["train"], classes, old_rules)
    files = {"train": train_files}
    for part, root in roots.items():
        if part != "train":
            files[part] = _find_other_files(root, names, classes is not None, old_rules)
    return names, files, left_out


def _find_other_files(root: ImageRoot, classes: list[str], chosen: bool, old_rules: bool) -> Files:
    """Find the files of another part, with the class indices of the training part.

    Args:
        root: its folder.
        classes: of the training part.
        chosen: whether these were chosen; other folders are then left out.
        old_rules: as version 0.1.0.

    Raises:
        ConfigError: they cannot be used.
    """
    own = [name for name in classes if (root.path / name).is_dir()] if chosen else None
    names, files, _ = find_images(root, own, old_rules)
    if unknown := [name for name in names if name not in classes]:
        raise ConfigError(untrained_classes(root.key, f"{root.key}: {root.path}", unknown))
    return [(name, classes.index(names[target])) for name, target in files]


def _default_fraction(roots: Mapping[str, ImageRoot]) -> float:
    """Return the share of test samples: none if `data.path` has a validation part, as its parts are then complete."""
    return 0 if "val" in roots and roots["val"].key == TRAIN else TEST_FRACTION


def _hold_out(files: Files, fraction: float) -> dict[str, Files]:
    """Hold the test part out of the training part."""
    is_test = choose_test_samples(len(files), fraction).tolist()
    pairs = list(zip(files, is_test, strict=True))
    train, test = [file for file, held in pairs if not held], [file for file, held in pairs if held]
    return {"train": train} | ({"test": test} if test else {})


def _make_data_sets(
    roots: Mapping[str, ImageRoot], files: Mapping[str, Files], size: int, channels: int
) -> dict[str, ImageFiles]:
    """Make the data set of each part; a test part that is held out lies in the folder of the training part."""
    data_sets: dict[str, ImageFiles] = {}
    for part, its_files in files.items():
        root = roots.get(part, roots["train"])
        data_sets[part] = ImageFiles(root.path, its_files, size, channels, root.key)
    return data_sets


def _add_caches(parts: Mapping[str, ImageFiles], listed: Mapping[str, Sequence[str]], required: bool) -> None:
    """Give each part a cache of its folder; a test part that is held out has that of the training part.

    Raises:
        ConfigError: a cache is required, and there is no room for it.
    """
    caches = {
        part: ImageCache(images.folder, listed[part], images.size, images.channels, images.white)
        for part, images in parts.items()
        if part in listed
    }
    for part, images in parts.items():
        images.cache = caches.get(part, caches["train"])
        if required:
            images.cache.open(required=True)


def _find_range(
    parts: Mapping[str, ImageFiles], scale: float | str, old_rules: bool
) -> tuple[float | None, Sequence[str]]:
    """Set the number that stands for white in each part, and read some files of it.

    Returns:
        The number, and notes for the user.

    Raises:
        ConfigError: the number is unknown, or a file cannot be read.
    """
    white, notes = (RANGES[-1], []) if old_rules else find_white(list(parts.values()), scale)
    for images in parts.values():
        images.white = white
    largest = try_files(*parts.values())
    if scale == "auto" and white is None and not old_rules:
        scaling.check_bytes(largest)
    return white, notes


def _describe(
    folder: Path, roots: Mapping[str, ImageRoot], names: Sequence[str], left_out: LeftOut, held_out: bool
) -> list[str]:
    """Describe parts, classes and what is left out, for the user to check."""
    classes = f"{len(names)} class{'es' * (len(names) != 1)} ({list_names(names)})"
    keys = {TRAIN if part == "train" else f"data.{part}_path": root.path for part, root in roots.items()}
    return [_describe_parts(folder, roots, held_out), classes, *left_out.phrases(), *shared_samples(keys)]


def _describe_parts(folder: Path, roots: Mapping[str, ImageRoot], held_out: bool) -> str:
    train = roots["train"].path
    if len(roots) == 1 and train == folder:
        return "no folders of parts"
    verbs = {"train": "trains", "val": "validates", "test": "tests"}
    phrases = [f"{roots[part].path.name}/ {verb}" for part, verb in verbs.items() if part in roots]
    if "val" in roots and "test" not in roots:
        phrases.append(f"a share of {train.name}/ tests" if held_out else "no test part")
    return ", ".join(phrases)


def _by_channel(value: float | list[float] | None, channels: int) -> float | list[float] | None:
    """Average a value for three colours if there is one channel."""
    if channels == 1 and isinstance(value, list) and len(value) == 3:
        return sum(value) / 3
    return value
