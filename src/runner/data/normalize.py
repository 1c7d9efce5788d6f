"""Normalisation: mean and standard deviation of the training samples, and the object that applies them."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from runner.data import scaling
from runner.data.parts import Part
from runner.data.source import Source
from runner.errors import ConfigError, Problem

WIDE = (torch.float64, torch.int32, torch.int64, torch.uint32, torch.uint64)  # types whose values float32 may round


@dataclass(frozen=True)
class Normalize:
    """Scales uint8 images to [0, 1], subtracts the mean and divides by the standard deviation.

    Attributes:
        mean, std: broadcast to a sample, float64.
        scale: divides uint8 inputs first; all other inputs are scaled already.
        wide: inputs have more digits than float32 holds: everything is computed in float64 and rounded once, at the
            end.
    """

    mean: Tensor
    std: Tensor
    scale: float = scaling.BYTE
    wide: bool = False

    def to(self, device: torch.device, dtype: torch.dtype) -> "Normalize":
        """Return a copy whose tensors are on the device already: a GPU waits for each transfer."""
        return replace(self, mean=self.mean.to(device, dtype), std=self.std.to(device, dtype))

    def __call__(self, inputs: Tensor, dtype: torch.dtype) -> Tensor:
        """Raw inputs (N, ...) -> normalised ones of the same shape."""
        raw_images = inputs.dtype == torch.uint8 and self.scale != 1
        # A single copy; without in-place operations, a data set of images would be in memory three times for a moment.
        scaled = inputs.to(torch.float64 if self.wide else dtype, copy=True)
        if raw_images:
            scaled.div_(self.scale)
        # Not fused: fused operations may round differently for a batch than for the whole set.
        return scaled.sub_(self.mean.to(scaled)).div_(self.std.to(scaled)).to(dtype)


def fit_normalize(source: Source, train: Part, setting: float | str, old_rules: bool) -> tuple[Normalize, str | None]:
    """Choose scale, mean and standard deviation.

    Args:
        source: has some of the three, or leaves them to be computed.
        train: the training samples, from which the others are computed.
        setting: `data.scale`.
        old_rules: follow the rules of version 0.1.0.

    Returns:
        What normalises raw inputs, and a note on what was guessed; None if nothing was.

    Raises:
        ConfigError: scale, mean or standard deviation do not fit the samples.
    """
    sample = torch.as_tensor(train.sample(0)[0])
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


def _along(name: str, value: float | list[float], shape: torch.Size, axis: int) -> Tensor:
    """Return a number as a scalar, or one number for each channel or feature in a shape that broadcasts to a sample."""
    key, tensor = f"data.{name}", torch.tensor(value, dtype=torch.float64)
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
