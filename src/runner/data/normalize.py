"""Normalisation: mean and standard deviation of the training samples, and the object that applies them.

Only a single tensor of numbers is normalised. Of several inputs, each is cast: images of bytes are scaled, floats get
the type of the run, and whole numbers, which may be tokens or indices, stay what they are.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from runner.data import scaling
from runner.data.part import Part
from runner.data.source import Source
from runner.errors import ConfigError, Problem
from runner.util import trees
from runner.util.trees import Tree

WIDE = (torch.float64, torch.int32, torch.int64, torch.uint32, torch.uint64)  # types whose values float32 may round


@dataclass(frozen=True)
class Normalize:
    """Scales uint8 images to [0, 1], subtracts the mean and divides by the standard deviation.

    Attributes:
        mean, std: broadcast to a sample, float64.
        scale: divides uint8 inputs first; all other inputs are scaled already.
        wide: inputs have more digits than float32 holds: everything is computed in float64 and rounded once, at the
            end.
        scales: of each input, if they are cast instead: the divisor of an image of bytes, None for all others. None:
            inputs are a single tensor, which is normalised.
    """

    mean: Tensor
    std: Tensor
    scale: float = scaling.BYTE
    wide: bool = False
    scales: tuple[float | None, ...] | None = None

    def to(self, device: torch.device, dtype: torch.dtype) -> "Normalize":
        """Return a copy whose tensors are on the device already: a GPU waits for each transfer."""
        return replace(self, mean=self.mean.to(device, dtype), std=self.std.to(device, dtype))

    def dtypes(self, inputs: Sequence[Tensor], dtype: torch.dtype) -> list[torch.dtype]:
        """Return the types that raw inputs have once they are normalised."""
        scales = self.scales or [1.0] * len(inputs)
        return [
            dtype if scale is not None or values.is_floating_point() else values.dtype
            for values, scale in zip(inputs, scales, strict=True)
        ]

    def __call__(self, inputs: Tree, dtype: torch.dtype) -> Tree:
        """Raw inputs (N, ...) -> normalised ones of the same shapes."""
        if self.scales is not None:
            if isinstance(inputs, Tensor):
                return _cast(inputs, self.scales[0], dtype)
            values, structure = trees.flatten(inputs)
            present = iter(self.scales)
            cast = [None if value is None else _cast(value, next(present), dtype) for value in values]
            return trees.unflatten(cast, structure)
        raw_images = inputs.dtype == torch.uint8 and self.scale != 1
        # A single copy; without in-place operations, a data set of images would be in memory three times for a moment.
        scaled = inputs.to(torch.float64 if self.wide else dtype, copy=True)
        if raw_images:
            scaled.div_(self.scale)
        # Not fused: fused operations may round differently for a batch than for the whole set.
        return scaled.sub_(self.mean.to(scaled)).div_(self.std.to(scaled)).to(dtype)


def _cast(values: Tensor, scale: float | None, dtype: torch.dtype) -> Tensor:
    """Cast floats, scale an image of bytes, leave whole numbers."""
    if scale is not None:
        return values.to(dtype).div_(scale)
    return values.to(dtype) if values.is_floating_point() else values


def fit_normalize(
    source: Source, train: Part, setting: float | str, old_rules: bool, integers_are_numbers: bool = True
) -> tuple[Normalize, str | None]:
    """Choose scale, mean and standard deviation.

    Args:
        source: has some of the three, or leaves them to be computed.
        train: the training samples, from which the others are computed.
        setting: `data.scale`.
        old_rules: follow the rules of version 0.1.0.
        integers_are_numbers: a single tensor of whole numbers is normalised as a measurement; otherwise it stays.

    Returns:
        What normalises raw inputs, and a note on what was guessed; None if nothing was.

    Raises:
        ConfigError: scale, mean or standard deviation do not fit the samples.
    """
    inputs = train.sample(0)[0]
    if trees.is_container(inputs):
        return _fit_casts(source, train, setting)
    sample = torch.as_tensor(inputs)
    if not integers_are_numbers and not sample.is_floating_point():
        return _fit_casts(source, train, setting)
    shape, raw_images = sample.shape, sample.dtype == torch.uint8
    axis = 0 if len(shape) != 2 or old_rules else 1  # of a sample: its channels, or the features of (steps, features)
    note = None
    if old_rules:
        scale = scaling.BYTE if raw_images else 1.0
    elif source.scale is not None and setting == "auto":
        scale = source.scale
    else:
        scale, note = scaling.choose_scale(setting, train, sample)
    mean, std = source.mean, source.std
    if mean is None or std is None:
        measured = train.moments(scale, axis)
        mean = measured[0].tolist() if mean is None else mean
        std = torch.where(measured[1] > 0, measured[1], 1.0).tolist() if std is None else std
    normalize = Normalize(
        _along("mean", mean, shape, axis),
        _along("std", std, shape, axis),
        scale=scale if raw_images else scaling.BYTE,
        wide=sample.dtype in WIDE and not old_rules,
    )
    if scale != 1 and not raw_images:  # (inputs / scale - mean) / std, of inputs that are stored and served unscaled
        normalize = replace(normalize, mean=normalize.mean * scale, std=normalize.std * scale)
    return normalize, note


def _fit_casts(source: Source, train: Part, setting: float | str) -> tuple[Normalize, str | None]:
    """Choose for each input whether it is scaled as an image.

    A mask or a label map is bytes too, but has no value above `scaling.FEW`: it stays whole numbers.
    """
    for name, neutral in (("mean", 0), ("std", 1)):
        if (value := getattr(source, name)) not in (None, neutral):
            key = f"data.{name}"
            text = f"{key}={value}: only a single input of numbers is normalised"
            raise ConfigError(Problem(key, text, f"write {key}={neutral}", topic="conflict"))
    if not isinstance(setting, str):
        text = f"data.scale={setting:g}: only a single input of numbers is divided by a number"
        raise ConfigError(Problem("data.scale", text, "write data.scale=auto, or none", topic="conflict"))
    scales: list[float | None] = []
    for number, (_, leaf) in enumerate(trees.named_leaves(train.sample(0)[0])):
        sample = torch.as_tensor(leaf)
        image = setting == "auto" and scaling.is_image(sample.dtype, sample.shape)
        scaled = image and scaling.largest(train, number) > scaling.FEW
        scales.append((source.scale or scaling.BYTE) if scaled else None)
    zero, one = torch.zeros((), dtype=torch.float64), torch.ones((), dtype=torch.float64)
    divisors = [scale for scale in scales if scale is not None]
    note = f"uint8 images: divided by {divisors[0]:g}" if divisors else None
    return Normalize(zero, one, scale=divisors[0] if divisors else 1.0, scales=tuple(scales)), note


def _along(name: str, value: float | list[float], shape: torch.Size, axis: int) -> Tensor:
    """Return a number as a scalar, or one number for each channel or feature in a shape that broadcasts to a sample."""
    key, tensor = f"data.{name}", torch.tensor(value, dtype=torch.float64)
    if not bool(tensor.isfinite().all()):
        neutral = {"mean": 0, "std": 1}[name]
        raise ConfigError(Problem(key, f"{key}={value} is not finite", f"write {key}={neutral}", topic="range"))
    if name == "std" and bool((tensor <= 0).any()):
        raise ConfigError(Problem(key, f"{key}={value} must be above 0", f"write {key}=1", topic="range"))
    if tensor.ndim == 0 or tensor.numel() == 1:
        return tensor.reshape(())
    count = shape[axis] if shape else 1
    if tensor.numel() != count:
        text = f"{key} has {tensor.numel()} values, but the samples have {count} channels or features"
        instead = f"write one value{f', or {count}' if count > 1 else ''}"
        raise ConfigError(Problem(key, text, instead, topic="shape"))
    return tensor.reshape(-1, *[1] * (len(shape) - 1 - axis))
