"""A data set divided: limited, split by seed, normalised by its training samples, fingerprinted."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256

import torch
from torch import Tensor

from runner.data import normalize
from runner.data.normalize import Normalize
from runner.data.parts import Part, part_of
from runner.data.source import Source
from runner.data.table_layout import Reading
from runner.errors import ConfigError, Problem, Topic
from runner.util.rng import make_generator

VAL_FRACTION = 0.2  # share of the training part held out if the data set has no validation part

LABELS = {"train": "training", "val": "validation", "test": "test"}  # of parts in problems


@dataclass(frozen=True)
class Splits:
    """A data set divided, still raw and on the CPU.

    Attributes:
        name: of the data set.
        origin: where the samples come from: a path, a package.
        classes: the names of the classes 0, 1, ...; None if they have none.
        train: the samples trained on.
        val: the data set's own, or held out of the training part; None with `val_fraction=0`.
        test: the test part; None if the data set has none.
        normalize: from raw inputs to the model's inputs.
        input_shape: of one sample.
        fingerprint: hash of contents and split.
        columns: all columns of the table that the samples come from; None without a table.
        target: the column that is predicted.
        notes: short phrases about what was guessed from the data.
        white: the number that stands for white in image files with more than 8 bits a pixel.
        all_targets: of all samples, without the limit; None if the data set does not list them, or for a run of 0.1.0.
        untrained: integer targets of the data set's own validation and test parts that its training part lacks.
        val_fraction: the share of the training part that was held out; None if the data set has a validation part.
        reading: how the table was read; None if as runner 0.1.0 did, or without a table.
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

    @property
    def sizes(self) -> dict[str, int]:
        """The number of samples of `train`, `val` and `test`; 0 for a part that the data set does not have."""
        parts = {"train": self.train, "val": self.val, "test": self.test}
        return {name: 0 if part is None else len(part) for name, part in parts.items()}

    def targets(self) -> Tensor:
        """Return the targets of all parts."""
        return torch.cat([part.read_targets() for part in (self.train, self.val, self.test) if part is not None])

    def nbytes(self, dtype: torch.dtype) -> int:
        """Return the bytes that all inputs need at most when they are held in memory for training.

        Args:
            dtype: of normalised inputs; what a map-style data set returns as uint8 is held as uint8.
        """
        if self.train.tensors is None and self.train.sample(0)[0].dtype == torch.uint8:
            dtype = torch.uint8
        return sum(self.sizes.values()) * int(torch.Size(self.input_shape).numel()) * dtype.itemsize


def split(
    source: Source,
    *,
    val_fraction: float | None,
    limit: int | None,
    seed: int,
    scale: float | str = "auto",
    old_rules: bool = False,
) -> Splits:
    """Limit a source's parts and, if it has no validation part, hold one out of the training part.

    Args:
        source: what the data set's function returned.
        val_fraction: share of the (limited) training part held out, at random by the seed; None is `VAL_FRACTION`, or
            nothing if the source has a validation part.
        limit: largest number of samples of each part, chosen at random by the seed.
        seed: the run's.
        scale: `data.scale`: see `scaling.choose_scale`.
        old_rules: scale and normalise as version 0.1.0 did, for a run that it has saved.

    Raises:
        ConfigError: the fraction leaves one of the two without a sample, or contradicts a validation part; parts do
            not fit one another; the inputs do not fit the scale.
    """
    parts = _parts_of(source)
    _check_parts(source.name, parts, val_fraction)
    if "val" not in parts and val_fraction is None:
        val_fraction = VAL_FRACTION
    chosen, indices = _choose(parts, val_fraction or 0, limit, seed)
    fingerprint = _fingerprint(parts, indices)
    fitted, note = normalize.fit_normalize(source, chosen["train"], scale, old_rules)
    all_targets = None if old_rules else _known_targets(parts)
    return Splits(
        name=source.name,
        origin=source.origin,
        classes=source.classes,
        train=chosen["train"],
        val=chosen.get("val"),
        test=chosen.get("test"),
        normalize=fitted,
        input_shape=tuple(chosen["train"].sample(0)[0].shape),
        fingerprint=fingerprint,
        columns=source.columns,
        target=source.target,
        notes=(*source.notes, *([note] if note else [])),
        white=source.white,
        all_targets=None if all_targets is None else torch.cat(list(all_targets.values())),
        untrained=[] if all_targets is None else _untrained(all_targets),
        val_fraction=val_fraction,
        reading=source.reading,
    )


def _parts_of(source: Source) -> dict[str, Part]:
    """Return the parts that a source has, in the order train, val, test."""
    parts = {"train": part_of(source.train, f"data={source.name}: the {LABELS['train']} part")}
    for name, samples in (("val", source.val), ("test", source.test)):
        if samples is not None:
            parts[name] = part_of(samples, f"data={source.name}: the {LABELS[name]} part")
    return parts


def _check_parts(name: str, parts: Mapping[str, Part], val_fraction: float | None) -> None:
    """Check that parts have samples, and all of them the same shape.

    Raises:
        ConfigError: they do not, or a share should be held out although there is a validation part.
    """
    if len(parts["train"]) == 0:
        raise _unusable(name, "the training part has no samples", "add some", "data")
    if "val" in parts and val_fraction is not None:
        key = "data.val_fraction"
        text = f"{key}={val_fraction:g}: data={name} has its own validation part"
        raise ConfigError(Problem(key, text, f"write {key}=null", topic="conflict"))
    shape = parts["train"].sample(0)[0].shape
    for part in ("val", "test"):
        if part not in parts:
            continue
        if len(parts[part]) == 0:
            text = f"the {LABELS[part]} part has no samples"
            raise _unusable(name, text, "add some, or return None for the part", "data")
        other = parts[part].sample(0)[0].shape
        if other != shape:
            text = f"samples have shape {tuple(other)} in the {LABELS[part]} part, {tuple(shape)} in the training part"
            raise _unusable(name, text, "give them the same shape", "shape")


def _unusable(name: str, text: str, suggestion: str, topic: Topic) -> ConfigError:
    return ConfigError(Problem("data", f"data={name}: {text}", suggestion, topic=topic))


def _choose(
    parts: Mapping[str, Part], val_fraction: float, limit: int | None, seed: int
) -> tuple[dict[str, Part], list[Tensor]]:
    """Limit parts, and hold a validation part out of the training part.

    A part keeps the data set's own order: `loading.epoch_order` shuffles.

    Returns:
        The parts, and the indices of the training and the validation samples in the parts that they come from.
    """
    order = torch.randperm(len(parts["train"]), generator=make_generator("split", seed))[:limit]
    held_out = _held_out(len(order), val_fraction)
    val_index, train_index = order[:held_out].sort().values, order[held_out:].sort().values
    chosen = {"train": parts["train"].take(train_index)}
    if held_out:
        chosen["val"] = parts["train"].take(val_index)
    if "val" in parts:
        chosen["val"], val_index = _limited(parts["val"], limit, make_generator("limit val", seed))
    if "test" in parts:
        chosen["test"], _ = _limited(parts["test"], limit, make_generator("limit", seed))
    return chosen, [train_index, val_index]


def _held_out(samples: int, val_fraction: float) -> int:
    """Return how many training samples are held out for validation."""
    held_out = round(samples * val_fraction)
    key = "data.val_fraction"
    if val_fraction > 0 and held_out == 0:
        text, instead = f"is less than one of {samples} training samples", f"write {key}=0, or a larger fraction"
    elif held_out == samples:
        text, instead = f"leaves none of {samples} training samples", f"write {key}=0, or a smaller fraction"
    else:
        return held_out
    raise ConfigError(Problem(key, f"{key}={val_fraction:g} {text}", instead, topic="range"))


def _limited(part: Part, limit: int | None, rng: torch.Generator) -> tuple[Part, Tensor]:
    """Return at most `limit` samples of a part, in its order, and their indices."""
    if limit is None or len(part) <= limit:
        return part, torch.arange(len(part))
    index = torch.randperm(len(part), generator=rng)[:limit].sort().values
    return part.take(index), index


def _fingerprint(parts: Mapping[str, Part], indices: Sequence[Tensor]) -> str:
    """Hash the contents of whole parts, and the indices that were chosen."""
    digest = sha256()
    for name in ("train", "test", "val"):
        if name in parts:
            digest.update(b"val" if name == "val" else b"")
            parts[name].hash_into(digest)
    for index in indices:
        digest.update(index.numpy().tobytes())
    return digest.hexdigest()[:32]


def _known_targets(parts: Mapping[str, Part]) -> dict[str, Tensor] | None:
    """Return the targets of whole parts; None if samples of one of them have to be read for its targets."""
    targets = {name: part.known_targets() for name, part in parts.items()}
    known = {name: values for name, values in targets.items() if values is not None}
    return known if len(known) == len(targets) else None


def _untrained(targets: Mapping[str, Tensor]) -> list[int]:
    """Return the classes of other parts that training lacks; none if targets are not classes."""
    train, *others = targets.values()
    if train.is_floating_point() or train.ndim != 1:
        return []
    return sorted({target for part in others for target in part.unique().tolist()} - set(train.unique().tolist()))
