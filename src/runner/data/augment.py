"""`data.augment`: what is changed at random in the batches that are trained on."""

import inspect
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Any, Self

import torch
from torch import Tensor

from runner.data.dataset_part import SAMPLED
from runner.data.image_augment import ImageAugment
from runner.data.mixing import Mixing, make_mix
from runner.data.randaugment import make_randaugment
from runner.data.scaling import BYTE
from runner.data.splits import Splits
from runner.errors import ConfigError, Problem, Topic, did_you_mean
from runner.util import trees
from runner.util.ranges import Choice, Range
from runner.util.rng import derive_seed

KEY = "data.augment"
SINGLE = ("crop", "flip", "rotation", "erasing")
"""The augmentations with a single value; the others have keys."""


@dataclass(frozen=True, eq=False)
class Augment:
    """Changes the batches of a training epoch.

    Attributes:
        images: changes each image for itself; None leaves that out.
        mixing: mixes the samples of a batch with each other; None leaves that out.
    """

    images: ImageAugment | None = None
    mixing: Mixing | None = None

    def to(self, device: torch.device, dtype: torch.dtype) -> Self:
        """Return a copy whose tensors are on the device already, for inputs of this type."""
        images, mixing = self.images and self.images.to(device, dtype), self.mixing and self.mixing.to(dtype)
        return replace(self, images=images, mixing=mixing)

    def __call__(self, inputs: Tensor, targets: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Augment a batch; what is given is not changed.

        Args:
            inputs: normalised, on any device.
            targets: prepared by the loss.
            generator: on the CPU, seeded for this batch and not used before.

        Returns:
            New inputs of the same shape, dtype and memory format, and the targets; see `Mixing` for mixed ones.
        """
        if self.images is not None:
            inputs = self.images(inputs, generator)
        if self.mixing is not None:  # its draws do not depend on how much the images have drawn
            inputs, targets = self.mixing(inputs, targets, derive_seed("mix", generator.initial_seed()))
        return inputs, targets


def make_augment(
    splits: Splits,
    *,
    crop: Annotated[int, Range(0, whole=True)] = 0,
    flip: Annotated[bool, Choice((True, False))] = False,
    rotation: Annotated[float, Range(0, 180)] = 0.0,
    erasing: Annotated[float, Range(0, 1)] = 0.0,
    randaugment: Mapping[str, Any] | None = None,
    mixup: Mapping[str, Any] | None = None,
    cutmix: Mapping[str, Any] | None = None,
    **others: object,
) -> Augment | None:
    """Return the augmentation of a data set's training samples; None if all are off.

    The keys of `randaugment` are those of `make_randaugment`; of `mixup` and `cutmix`, those of `make_mix`.

    Raises:
        ConfigError: the samples are not images, or are smaller than the shift; or a key is unknown.
    """
    nested = {"randaugment": randaugment, "mixup": mixup, "cutmix": cutmix}
    problems = [_unknown("", name, (*SINGLE, *nested)) for name in others]
    for name, keys in nested.items():
        problems += _check_keys(name, keys)
    if problems:
        raise ConfigError(*problems)
    mixes = {name: make_mix(**nested[name] or {}) for name in ("mixup", "cutmix")}
    operations = (randaugment or {}).get("operations", 0)
    needing = {
        "crop=": crop, "flip=": flip, "rotation=": rotation, "erasing=": erasing, "randaugment.operations=": operations,
        "cutmix.alpha=": mixes["cutmix"] and mixes["cutmix"].alpha,
    }  # fmt: skip
    needing = {key: value for key, value in needing.items() if value}
    mixing = Mixing(mixes["mixup"], mixes["cutmix"]) if any(mixes.values()) else None
    if not needing and mixing is None:
        return None
    if needing:
        _check_images(splits, needing)
        _check_crop(crop, splits.input_shape)
    if mixes["mixup"]:
        _check_numbers(splits)
    black = splits.normalize(torch.zeros_like(splits.normalize.mean), torch.float64)
    changes = None if not operations else make_randaugment(black, _white(splits), **randaugment or {})
    images = ImageAugment(crop, flip, rotation, erasing, changes, black)
    return Augment(images if images.active else None, mixing)


def _unknown(parent: str, name: str, known: Iterable[str]) -> Problem:
    key, kind = f"{KEY}{parent}.{name}", f"argument of {parent[1:]}" if parent else "augmentation"
    return Problem(key, f"{key}: unknown {kind}", did_you_mean(name, known), topic="unknown")


def _check_keys(name: str, keys: object) -> list[Problem]:
    """Check the names of the keys below `data.augment.<name>`; the config's limits check their values."""
    known = [*inspect.signature(make_randaugment if name == "randaugment" else make_mix).parameters]
    known = [key for key in known if key not in ("black", "white")]
    if keys is None or isinstance(keys, Mapping):
        return [_unknown(f".{name}", key, known) for key in keys or () if key not in known]
    key = f"{KEY}.{name}"
    text = f"{key}={str(keys).lower()} has no keys"
    return [Problem(key, text, f"write {key}.{known[0]}=<value>", topic="type")]


def _check_images(splits: Splits, needing: Mapping[str, float]) -> None:
    """Check that samples are images, and that targets need not be changed with them.

    Args:
        splits: has the samples.
        needing: what needs that, such as `crop=`, with its value.
    """
    inputs, targets = splits.train.sample(0)
    shape, several = splits.input_shape, trees.is_container(inputs)
    topic: Topic = "shape"
    if several or len(shape) != 3:
        has = "several inputs" if several else f"shape {tuple(shape)}"
        reason = f"needs images (C, H, W), the samples have {has}"
    elif any(tuple(torch.as_tensor(leaf).shape[-2:]) == tuple(shape[1:]) for leaf in trees.leaves(targets)):
        reason, topic = "changes images, but not their targets, which are masks of the same size", "conflict"
    else:
        return
    problems = []
    for setting, value in needing.items():
        key, off = f"{KEY}.{setting[:-1]}", "false" if value is True else "0"
        text = f"{key}={str(value).lower()} {reason}"
        problems.append(Problem(key, text, f"write {key}={off}", topic=topic))
    raise ConfigError(*problems)


def _check_numbers(splits: Splits) -> None:
    """Check that inputs are a single tensor of numbers, which can be averaged."""
    inputs = splits.train.sample(0)[0]
    key = f"{KEY}.mixup.alpha"
    if trees.is_container(inputs):
        text = f"{key}: mixup needs a single input, the samples have several"
    elif not splits.normalize.dtypes([torch.as_tensor(inputs)], torch.float32)[0].is_floating_point:
        text = f"{key}: mixup averages numbers, the inputs are indices"
    else:
        return
    raise ConfigError(Problem(key, text, f"write {key}=0", topic="conflict"))


def _check_crop(crop: int, shape: tuple[int, ...]) -> None:
    if crop and crop >= min(shape[1:]):
        key, largest = f"{KEY}.crop", min(shape[1:]) - 1
        text = f"{key}={crop} may shift an image of {shape[1]}x{shape[2]} out of sight"
        raise ConfigError(Problem(key, text, f"write {key}={largest} or less", topic="range"))


def _white(splits: Splits) -> Tensor:
    """Return the normalised value of white, for RandAugment.

    Images of bytes know it; of others it is `Splits.white`, or the largest value of the training images, or of some.

    Raises:
        ConfigError: the images are neither grey nor coloured, or have values below 0.
    """
    key, off = f"{KEY}.randaugment.operations", f"write {KEY}.randaugment.operations=0"
    channels, normalize = splits.input_shape[0], splits.normalize
    if channels not in (1, 3):
        text = f"{key}: RandAugment needs images of 1 or 3 channels, these have {channels}"
        raise ConfigError(Problem(key, text, off, topic="shape"))
    if splits.train.sample(0)[0].dtype == torch.uint8:
        white = BYTE if normalize.scale == 1 else 1.0
    else:
        some = [(float(inputs.min()), float(inputs.max())) for inputs in splits.train.some_inputs(SAMPLED)]
        least, largest = min(low for low, _ in some), max(high for _, high in some)
        if least < 0 or largest <= 0:
            text = f"{key}: RandAugment takes 0 as black, but the images have values from {least:g} to {largest:g}"
            raise ConfigError(Problem(key, text, off, topic="data"))
        white = splits.white or largest
    return normalize(torch.full_like(normalize.mean, white), torch.float64)
