"""A data set divided: limited, split by seed, normalised by its training samples, fingerprinted."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset, Subset

from runner.data import scaling
from runner.data.source import Part, Source
from runner.data.table_layout import Reading
from runner.errors import ConfigError, TrainingError
from runner.util.rng import generator

Batch = tuple[Tensor, Tensor]

SAMPLED = 64  # samples that the fingerprint of a data set takes in, where it brings none of its own
MEASURED = 1024  # samples that mean and std are computed from, where samples are loaded one by one
VAL_FRACTION = 0.2  # share of the training part held out, where the data set has no validation part
WIDE = (torch.float64, torch.int32, torch.int64, torch.uint32, torch.uint64)  # whose values float32 may round


@dataclass(frozen=True)
class Normalize:
    """Scales uint8 images to [0, 1], subtracts the mean and divides by the standard deviation.

    Attributes:
        mean, std: broadcast to a sample, float64.
        scale: what uint8 inputs are divided by first; all others are scaled already.
        wide: inputs have more digits than float32 holds: all is computed in float64, and rounded once, at the end.
    """

    mean: Tensor
    std: Tensor
    scale: float = scaling.BYTE
    wide: bool = False

    def to(self, device: torch.device, dtype: torch.dtype) -> "Normalize":
        """The same, with what it needs already where the inputs will be: a GPU waits for each copy."""
        return replace(self, mean=self.mean.to(device, dtype), std=self.std.to(device, dtype))

    def __call__(self, inputs: Tensor, dtype: torch.dtype) -> Tensor:
        """Raw inputs (N, ...) -> normalised ones of the same shape."""
        raw_images = inputs.dtype == torch.uint8 and self.scale != 1
        # One copy, of which all data sets of images would otherwise have three for a moment.
        scaled = inputs.to(torch.float64 if self.wide else dtype, copy=True)
        if raw_images:
            scaled.div_(self.scale)
        # A step each: fused, they may round differently for a batch than for the whole set.
        return scaled.sub_(self.mean.to(scaled)).div_(self.std.to(scaled)).to(dtype)


@dataclass(frozen=True)
class Splits:
    """A data set divided, still raw and on the CPU.

    Attributes:
        train: the samples trained on.
        val: the data set's own, or held out of the training part; None with `val_fraction=0`.
        test: the test part; None if the data set has none.
        normalize: from raw inputs to what the model sees.
        input_shape: of one sample.
        fingerprint: hash of contents and split.
        columns, target, reading: of the table that the samples came from, if they did.
        notes: short phrases about what was guessed from the data.
        white: of images that were read from files with more than 8 bits a pixel, the number that stands for white.
        all_targets: of all samples, whatever the limit; None where the data set lists none, or for a run of 0.1.0.
        untrained: whole targets of the data set's own validation and test parts that its training part lacks.
        val_fraction: the share of the training part that was held out; None where the data set has its own.
    """

    name: str
    origin: str
    classes: Sequence[str] | None
    train: Part
    val: Part | None
    test: Part | None
    normalize: Normalize
    input_shape: tuple[int, ...]
    fingerprint: str
    columns: Sequence[str] | None = None
    target: str | None = None
    notes: Sequence[str] = ()
    white: float | None = None
    all_targets: Tensor | None = None
    untrained: Sequence[int] = ()
    val_fraction: float | None = None
    reading: Reading | None = None

    def targets(self) -> Tensor:
        """The targets of all parts."""
        return torch.cat([_targets(part) for part in (self.train, self.val, self.test) if part is not None])

    def nbytes(self, dtype: torch.dtype) -> int:
        """Memory that all inputs take at most once they are held for training in that type.

        What a map-style data set gives as uint8 is held as that.
        """
        samples = sum(size(part) for part in (self.train, self.val, self.test))
        if not isinstance(self.train, tuple) and _first(self.train)[0].dtype == torch.uint8:
            dtype = torch.uint8
        return samples * int(torch.Size(self.input_shape).numel()) * dtype.itemsize


def split(
    source: Source,
    *,
    val_fraction: float | None,
    limit: int | None,
    seed: int,
    scale: float | str = "auto",
    old_rules: bool = False,
) -> Splits:
    """Limit a source's parts and, where it has no validation part, hold one out of the training part.

    Args:
        source: what the data set's function returned.
        val_fraction: share of the (limited) training part held out, at random by the seed; None is `VAL_FRACTION`, or
            none where the source has a validation part.
        limit: at most so many samples of each part, at random by the seed.
        seed: the run's.
        scale: `data.scale`: see `scaling.choose`.
        old_rules: scale and normalise as version 0.1.0 did, for a run that it has saved.

    Raises:
        ConfigError: the fraction leaves one of the two without a sample, or contradicts a validation part; parts do
            not fit one another; the inputs are not of the scale.
    """
    _check_parts(source, val_fraction)
    if source.val is None and val_fraction is None:
        val_fraction = VAL_FRACTION
    order = torch.randperm(size(source.train), generator=generator("split", seed))[:limit]
    held_out = _held_out(len(order), val_fraction or 0)
    # Sorted: a part keeps the data set's own order, the order of training is another function's affair.
    val_index, train_index = order[:held_out].sort().values, order[held_out:].sort().values
    train, val = take(source.train, train_index), take(source.train, val_index) if held_out else None
    if source.val is not None:
        val, val_index = _limited(source.val, limit, generator("limit val", seed))
    test = source.test
    if test is not None:
        test, _ = _limited(test, limit, generator("limit", seed))
    digest = sha256()
    for part in (source.train, source.test):
        _hash(part, digest)
    if source.val is not None:
        digest.update(b"val")
        _hash(source.val, digest)
    for index in (train_index, val_index):
        digest.update(index.numpy().tobytes())
    normalize, note = _normalize(source, train, scale, old_rules)
    return Splits(
        name=source.name,
        origin=source.origin,
        classes=source.classes,
        train=train,
        val=val,
        test=test,
        normalize=normalize,
        input_shape=tuple(_first(train)[0].shape),
        fingerprint=digest.hexdigest()[:32],
        columns=source.columns,
        target=source.target,
        notes=(*source.notes, *([note] if note else [])),
        white=source.white,
        all_targets=None if old_rules else _all_targets(source),
        untrained=[] if old_rules else _untrained(source),
        val_fraction=val_fraction,
        reading=source.reading,
    )


def _check_parts(source: Source, val_fraction: float | None) -> None:
    """See that parts have samples, and those of one shape.

    Raises:
        ConfigError: they do not, or a share is to be held out although there is a validation part.
    """
    if size(source.train) == 0:
        raise ConfigError(f"data={source.name} has no training samples")
    if source.val is not None and val_fraction is not None:
        raise ConfigError(
            f"data.val_fraction={val_fraction:g}: data={source.name} has a validation part of its own; leave it out, or"
            " write data.val_fraction=null"
        )
    shape = _first(source.train)[0].shape
    for name, part in (("validation", source.val), ("test", source.test)):
        if part is None:
            continue
        if size(part) == 0:
            raise ConfigError(f"data={source.name}: its {name} part has no samples; give some, or None for the part")
        other = _first(part)[0].shape
        if other != shape:
            raise ConfigError(
                f"data={source.name}: the samples of its {name} part are of shape {tuple(other)}, those of the training"
                f" part {tuple(shape)}; make them agree"
            )


def _held_out(samples: int, val_fraction: float) -> int:
    held_out = round(samples * val_fraction)
    if val_fraction > 0 and held_out == 0:
        raise ConfigError(
            f"data.val_fraction={val_fraction:g} of {samples} training samples is none: write data.val_fraction=0,"
            " or a larger one"
        )
    if held_out == samples:
        raise ConfigError(
            f"data.val_fraction={val_fraction:g} leaves no training sample of {samples}: write a smaller one"
        )
    return held_out


def _limited(part: Part, limit: int | None, made: torch.Generator) -> tuple[Part, Tensor]:
    """At most so many samples of a part, in its order, and their indices."""
    if limit is None or size(part) <= limit:
        return part, torch.arange(size(part))
    index = torch.randperm(size(part), generator=made)[:limit].sort().values
    return take(part, index), index


def size(part: Part | None) -> int:
    """How many samples a part has."""
    if part is None:
        return 0
    return len(part[0]) if isinstance(part, tuple) else len(part)  # type: ignore[arg-type]


def take(part: Part, index: Tensor) -> Part:
    """The samples of a part at the indices."""
    if isinstance(part, tuple):
        return part[0][index], part[1][index]
    return Subset(part, index.tolist())


def _first(part: Part) -> Batch:
    return (part[0][0], part[1][0]) if isinstance(part, tuple) else _read(part, 0)


def _read(part: Dataset[Any], index: int) -> Batch:
    try:
        return part[index]
    except TrainingError as error:  # no training yet
        raise ConfigError(str(error)) from error


def _targets(part: Part) -> Tensor:
    if isinstance(part, tuple):
        return part[1]
    if isinstance(part, Subset) and hasattr(part.dataset, "targets"):
        return torch.as_tensor(part.dataset.targets)[list(part.indices)]
    if hasattr(part, "targets"):
        return torch.as_tensor(part.targets)
    return torch.stack([torch.as_tensor(part[i][1]) for i in range(size(part))])


def _all_targets(source: Source) -> Tensor | None:
    """Of all parts; None if one of them has to be read for its targets."""
    parts = [part for part in (source.train, source.val, source.test) if part is not None]
    if not all(isinstance(part, tuple) or hasattr(part, "targets") for part in parts):
        return None
    return torch.cat([_targets(part) for part in parts])


def _untrained(source: Source) -> list[int]:
    """The classes of other parts that training lacks; none where targets are no classes, or have to be read."""
    if _all_targets(source) is None:
        return []
    train, *others = (_targets(part) for part in (source.train, source.val, source.test) if part is not None)
    if train.is_floating_point() or train.ndim != 1:
        return []
    return sorted({target for part in others for target in part.unique().tolist()} - set(train.unique().tolist()))


def _normalize(source: Source, train: Part, setting: float | str, old_rules: bool) -> tuple[Normalize, str | None]:
    """What raw inputs become, and a phrase about what was guessed."""
    sample = torch.as_tensor(_first(train)[0])
    seen = train[0] if isinstance(train, tuple) else None
    shape, raw_images = sample.shape, sample.dtype == torch.uint8
    features = 0 if len(shape) != 2 or old_rules else 1  # of sequences (steps, features), the last axis
    if old_rules:
        scale, note = scaling.BYTE if raw_images else 1.0, None
    elif source.scale is not None and setting == "auto":
        scale, note = source.scale, None
    else:
        if not isinstance(train, tuple) and setting == "auto" and scaling.is_image(sample.dtype, shape):
            seen = torch.stack([torch.as_tensor(image).max() for image, _ in _spread(train, SAMPLED)])
        scale, note = scaling.choose(setting, seen, sample)
    mean, std = source.mean, source.std
    if mean is None or std is None:
        if isinstance(train, tuple):
            measured = _measure(train[0], scale, features)
        else:
            measured = _measure_some(train, scale, features)
        mean = measured[0].tolist() if mean is None else mean
        std = torch.where(measured[1] > 0, measured[1], 1.0).tolist() if std is None else std
    normalize = Normalize(
        _by_feature("mean", mean, shape, features),
        _by_feature("std", std, shape, features),
        scale=scale if raw_images else scaling.BYTE,
        wide=sample.dtype in WIDE and not old_rules,
    )
    if scale != 1 and not raw_images:  # (x / scale - mean) / std, of values that are held and served as they are
        normalize = replace(normalize, mean=normalize.mean * scale, std=normalize.std * scale)
    return normalize, note


def _measure(inputs: Tensor, scale: float, features: int) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation over everything but the channel of an image, or the feature of a row."""
    values = _scaled(inputs, scale)
    axes = tuple(axis for axis in range(values.ndim) if axis != 1 + features)
    return values.mean(axes), values.std(axes, correction=0)


def _measure_some(train: Dataset[Any], scale: float, features: int) -> tuple[Tensor, Tensor]:
    """The same of about `MEASURED` samples, one in memory at a time."""
    moments = []
    for inputs, _ in _spread(train, MEASURED):
        values = _scaled(torch.as_tensor(inputs), scale)
        values = values.movedim(features, 0) if values.ndim else values.reshape(1)
        values = values.reshape(len(values), -1)
        moments.append(torch.stack([values.mean(1), values.square().mean(1)]))
    mean, square = torch.stack(moments).mean(0)
    variance = square - mean.square()
    return mean, torch.where(variance > 1e-12 * square, variance, 0.0).sqrt()  # below it, rounding errors


def _scaled(inputs: Tensor, scale: float) -> Tensor:
    """As numbers, images scaled to [0, 1]."""
    return inputs.to(torch.float64, copy=True).div_(scale)


def _by_feature(name: str, value: float | list[float], shape: torch.Size, features: int) -> Tensor:
    """A number, or one by channel or feature, which lie along that axis of a sample."""
    tensor = torch.tensor(value, dtype=torch.float64)
    if name == "std" and bool((tensor <= 0).any()):
        raise ConfigError(f"data.std={value}: write numbers above 0")
    if tensor.ndim == 0 or tensor.numel() == 1:
        return tensor.reshape(())
    count = shape[features] if shape else 1
    if tensor.numel() != count:
        raise ConfigError(
            f"data.{name} has {tensor.numel()} values, the samples have {count} channels or features: write one"
            f" value{f', or {count}' if count > 1 else ''}"
        )
    return tensor.reshape(-1, *[1] * (len(shape) - 1 - features))


def _hash(part: Part | None, digest: Any) -> None:
    """Feed the contents, or what stands for them.

    Tensors go in whole. A data set that loads sample by sample may have a method `fingerprint() -> bytes`, of all
    it holds; without one its length and `SAMPLED` samples spread over it stand for it.
    """
    if part is None:
        return
    if isinstance(part, tuple):
        for tensor in part:
            digest.update(repr((tensor.dtype, tuple(tensor.shape))).encode())
            digest.update(tensor.contiguous().numpy().data)
        return
    if hasattr(part, "fingerprint"):
        digest.update(part.fingerprint())
        return
    digest.update(repr(size(part)).encode())
    for inputs, target in _spread(part, SAMPLED):
        digest.update(torch.as_tensor(inputs).contiguous().numpy().data)
        wanted = torch.as_tensor(target)
        digest.update(repr(float(target)).encode() if wanted.numel() == 1 else wanted.contiguous().numpy().data)


def _spread(part: Dataset[Any], count: int) -> Iterator[Any]:
    """About so many samples of a data set, evenly spread over it."""
    for index in range(0, size(part), max(1, size(part) // count)):
        yield _read(part, index)
