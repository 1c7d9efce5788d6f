"""Whether the folders in a folder of images are parts, such as train and test, or classes."""

import re
from collections.abc import Sequence
from pathlib import Path

from runner.config.keys import format_value
from runner.data.image_tree import ImageRoot, has_images, holds_images, leads_up, list_names_in
from runner.data.listing import list_folders
from runner.errors import ConfigError

PARTS = {
    "train": ("train", "training"),
    "val": ("val", "valid", "validation", "dev"),
    "test": ("test", "testing", "eval"),
}
"""The names of folders that are parts, in lower case."""

IMAGES = {"images", "image", "imgs", "img", "jpegimages", "pictures"}
ANSWERS = {
    "masks", "mask", "labels", "label", "annotations", "annotation", "segmentation", "segmentations",
    "segmentationclass", "gt", "groundtruth", "targets",
}  # fmt: skip
"""Names of two folders of one data set of which the second has an answer to each image of the first."""

CLASSES = "data.classes"
WRITTEN = 10  # a suggestion has at most so many names


def find_parts(root: ImageRoot, classes: Sequence[str] | None = None) -> dict[str, Path]:
    """Find the folders of the parts; none if the folder holds classes.

    A folder that is named as a part and has images directly in it is a class of that name.

    Args:
        root: the folder to look in.
        classes: the names of the classes, if they are set.

    Raises:
        ConfigError: it is ambiguous which they are.
    """
    with root.reading():
        names = [n for n in list_names_in(root.path) if (root.path / n).is_dir() and not leads_up(root.path, n)]
        if classes is not None and set(classes) <= set(names):
            return {}
        holders = [name for name in names if not holds_images(root.path / name)]
    parts: dict[str, Path] = {}
    for name in holders:
        part = next((part for part, known in PARTS.items() if name.lower() in known), None)
        if part in parts:
            text = f"{root.path} has {parts[part].name}/ and {name}/, which are both the {part} part"
            raise ConfigError(root.problem(text, "rename one"))
        if part is not None:
            parts[part] = root.path / name
    if not parts:
        _check_not_parts(root, names, holders)
        if classes is None:
            check_classes(root, names)
        _check_not_divided(root, holders)
        return {}
    _check_complete(root, names, parts)
    return parts


def _check_not_parts(root: ImageRoot, names: Sequence[str], holders: Sequence[str]) -> None:
    """Check that at most one folder with images directly in it is named as a part."""
    known = {word for words in PARTS.values() for word in words}
    flat = [name for name in names if name not in holders and name.lower() in known]
    if len(flat) > 1:
        text = f"{list_folders(flat)} of {root.path} are named as parts, and have images directly in them"
        suggestion = f"{_write_classes(flat)} if they are classes, or put the images of each class into a folder of it"
        raise ConfigError(root.problem(text, suggestion, key=CLASSES))


def _check_not_divided(root: ImageRoot, holders: Sequence[str]) -> None:
    """Check that folders without images of their own do not look like parts."""
    known = {word for words in PARTS.values() for word in words}
    alike = [name for name in holders if known & set(re.findall("[a-z]+", name.lower()))]
    if alike or (alike := _divided_alike(root.path, holders)):
        text = f"it is ambiguous whether {list_folders(alike)} of {root.path} are parts or classes"
        parts = "name parts train, val and test, or by data.path, data.val_path and data.test_path"
        raise ConfigError(root.problem(text, f"{_write_classes(alike)} if they are classes; {parts}", key=CLASSES))


def _check_complete(root: ImageRoot, names: Sequence[str], parts: dict[str, Path]) -> None:
    """Check that there is a training part, and that no folder beside the parts has images."""
    part_names = [path.name for path in parts.values()]
    others = [name for name in names if name not in part_names and has_images(root.path / name)]
    if others:
        text = f"{root.path} has {list_folders(part_names)} beside {list_folders(others)}, which are not parts"
        raise ConfigError(root.problem(text, "move these away, or name a folder that has only classes"))
    if "train" not in parts:
        text = f"{root.path} has {list_folders(part_names)}, but no train/"
        raise ConfigError(root.problem(text, "name a folder that has one"))


def check_classes(root: ImageRoot, classes: Sequence[str]) -> None:
    """Check that folders are classes, judging by their names and their content.

    Raises:
        ConfigError: they may be something else.
    """
    images, answers = ([name for name in classes if name.lower() in words] for words in (IMAGES, ANSWERS))
    if images and answers:
        text = (
            f"{list_folders([*images, *answers])} of {root.path} look like images and an answer to each, and"
            " data=image_folder needs a folder per class"
        )
        raise ConfigError(root.problem(text, f"{_write_classes(classes)} if they are classes", key=CLASSES))
    if len(classes) == 1 and not holds_images(folder := root.path / classes[0]):
        below = [name for name in list_names_in(folder) if has_images(folder / name)]
        if below:
            text = f"{root.path} has only one folder, {classes[0]}/, with {list_folders(below)} in it"
            raise ConfigError(root.problem(text, f"write {root.key}={folder}"))


def _write_classes(names: Sequence[str]) -> str:
    """Suggest names as classes; of more than `WRITTEN` names, write a placeholder."""
    return f"write {CLASSES}={format_value(list(names)) if len(names) <= WRITTEN else '[<their names>]'}"


def _divided_alike(folder: Path, holders: Sequence[str]) -> list[str]:
    """List the folders that share two or more sub-folders of images with another one, as parts do."""
    below = {name: {sub for sub in list_names_in(folder / name) if has_images(folder / name / sub)} for name in holders}
    return [name for name in holders if any(len(below[name] & below[other]) > 1 for other in holders if other != name)]
