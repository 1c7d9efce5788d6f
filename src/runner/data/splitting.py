"""Divides a data set: limited, split by seed, normalised by its training samples, fingerprinted."""

from collections.abc import Mapping, Sequence
from hashlib import sha256

import torch
from torch import Tensor

from runner.data import normalize
from runner.data.collate import Divide, divide_pair
from runner.data.division import RANDOM, SPLIT_BY, Division, hold_out
from runner.data.folds import hold_out_fold
from runner.data.named_values import values_of
from runner.data.part import Part
from runner.data.parts import part_of
from runner.data.sampling import SAMPLE_WEIGHT, SHUFFLE, Sampling, weights_of_classes, weights_of_column
from runner.data.source import FittedRows, Rows, Source
from runner.data.split_checks import (
    LABELS,
    check_epoch,
    check_parts,
    check_stream,
    check_streams,
    count_held_out,
    notes_on_streams,
)
from runner.data.splits import Splits, digest
from runner.data.stream_part import StreamPart, is_stream
from runner.data.tensor_part import TensorPart
from runner.errors import ConfigError, Problem
from runner.util import trees
from runner.util.rng import make_generator
from runner.util.trees import Shapes, Tree

TRIED = 4  # samples of a data set that are made a batch before the start

VAL_FRACTION = 0.2  # share of the training part held out if the data set has no validation part


def split(
    source: Source,
    *,
    val_fraction: float | None,
    limit: int | None,
    seed: int,
    scale: float | str = "auto",
    old_rules: bool = False,
    divide: Divide = divide_pair,
    integers_are_numbers: bool = True,
    samples_per_epoch: int | None = None,
    division: Division = RANDOM,
    sampling: Sampling = SHUFFLE,
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
        divide: divides items and batches into inputs and targets: the task's. It is applied once to tensors, and to
            each sample and collated batch of a data set.
        integers_are_numbers: a single input of whole numbers is a measurement, and normalised; otherwise it stays as it
            is, as tokens do. The task decides.
        samples_per_epoch: of a training stream, by `trainer.steps_per_epoch`; None for a pass over it, which then has
            to know its length. All else has its own number of samples.
        division: which samples of the training part are held out.
        sampling: how an epoch is drawn.

    Raises:
        ConfigError: the fraction leaves one of the two without a sample, or contradicts a validation part; parts do
            not fit one another; samples do not make a batch; the inputs do not fit the scale; a setting does not fit
            a stream.
    """
    parts = _parts_of(source, divide, samples_per_epoch)
    check_epoch(source.name, parts["train"], samples_per_epoch)
    check_streams(parts, val_fraction, limit, division, sampling)
    check_parts(source.name, parts, val_fraction, division)
    by_fold = division.folds is not None
    if by_fold and division.fold is None:
        text = f"data.folds={division.folds}: one run validates on one of them"
        raise ConfigError(Problem("data.folds", text, "add data.fold=0, for example", topic="missing"))
    if "val" not in parts and val_fraction is None and not by_fold:
        val_fraction = VAL_FRACTION
    indices: list[Tensor] = []
    if parts["train"].streams:
        chosen, val_fraction = parts, None if "val" in parts else 0
    else:
        chosen, indices = _choose(parts, val_fraction or 0, limit, seed, division, source)
    if chosen["train"].tensors is None:
        chosen["train"].example(TRIED)  # do they make a batch?
    fingerprint = _fingerprint(parts, indices)
    table, raw_test = None, None
    if source.rows is not None:
        raw_test = digest(chosen["test"]) if "test" in chosen else None
        table, chosen = _encode(source.rows, chosen)
    fitted, note = normalize.fit_normalize(source, chosen["train"], scale, old_rules, integers_are_numbers)
    inputs, targets = chosen["train"].sample(0)
    single_target = targets is not None and not trees.is_container(targets)
    all_targets = _known_targets(parts) if single_target and not old_rules else None
    return Splits(
        name=source.name,
        origin=source.origin,
        classes=source.classes,
        train=chosen["train"],
        val=chosen.get("val"),
        test=None if by_fold else chosen.get("test"),
        fold_members=indices[1] if by_fold else None,
        untouched=chosen.get("test") if by_fold else None,
        normalize=fitted,
        input_shape=_shapes_of(inputs),
        fingerprint=fingerprint,
        columns=source.columns,
        target=source.target,
        notes=(*source.notes, *([note] if note else []), *notes_on_streams(parts["train"])),
        white=source.white,
        all_targets=None if all_targets is None else torch.cat(list(all_targets.values())),
        untrained=[] if all_targets is None else _untrained(all_targets),
        val_fraction=val_fraction,
        reading=source.reading,
        features=source.features,
        table=table,
        divided_by=source.divided_by,
        raw_test=raw_test,
        weights=_weights(sampling, chosen["train"], source, indices),
    )


def _encode(rows: Rows, parts: Mapping[str, Part]) -> tuple[FittedRows, dict[str, Part]]:
    """Fit the transformers of a table to the training part alone, and apply them to all parts."""
    known = {name: part for name, part in parts.items() if isinstance(part, TensorPart)}
    fitted = rows.fit(known["train"].tensors[0])
    return fitted, {
        name: TensorPart(fitted.inputs(part.inputs), part.targets, part.places) for name, part in known.items()
    }


def _shapes_of(inputs: Tree) -> Shapes:
    """Return the shapes of one sample, whose leaves may be numbers or arrays."""
    return trees.shapes(trees.tree_map(torch.as_tensor, inputs))


def _parts_of(source: Source, divide: Divide, samples_per_epoch: int | None) -> dict[str, Part]:
    """Return the parts that a source has, in the order train, val, test."""
    samples = {"train": source.train, "val": source.val, "test": source.test}
    parts: dict[str, Part] = {}
    for name, part in samples.items():
        label = f"data={source.name}: the {LABELS[name]} part"
        if is_stream(part):
            check_stream(part, label)
            parts[name] = StreamPart(part, samples_per_epoch if name == "train" else None, divide, source.collate_fn)
        elif name == "train" or part is not None:
            parts[name] = part_of(part, label, divide, source.collate_fn, (source.places or {}).get(name))
    return parts


def _choose(
    parts: Mapping[str, Part], val_fraction: float, limit: int | None, seed: int, division: Division, source: Source
) -> tuple[dict[str, Part], list[Tensor]]:
    """Limit parts, and hold a validation part out of the training part.

    A part keeps the data set's own order: `sampling.epoch_order` shuffles.

    Returns:
        The parts, and the indices of the training and the validation samples in the parts that they come from.
    """
    samples = len(parts["train"])
    order = torch.randperm(samples, generator=make_generator("split", seed))
    order = (torch.arange(samples) if division.split == "sequential" else order)[:limit]
    val_index = _hold_out(parts["train"], order, val_fraction, seed, division, source).sort().values
    train_index = order[~torch.isin(order, val_index)].sort().values
    chosen = {"train": parts["train"].take(train_index)}
    if len(val_index):
        chosen["val"] = parts["train"].take(val_index)
    if "val" in parts:
        chosen["val"], val_index = _limited(parts["val"], limit, make_generator("limit val", seed))
    if "test" in parts:
        limited_by = (
            0 if division.folds is not None else seed
        )  # the folds of all seeds predict the same samples together
        chosen["test"], _ = _limited(parts["test"], limit, make_generator("limit", limited_by))
    return chosen, [train_index, val_index]


def _hold_out(train: Part, order: Tensor, val_fraction: float, seed: int, division: Division, source: Source) -> Tensor:
    """Return the indices of the samples that are held out for validation."""
    count = count_held_out(len(order), val_fraction)
    if not count and division.folds is None:
        return order[:0]
    targets = train.read_targets() if division.split == "stratified" else None
    groups = None
    if division.split_by is not None:
        groups = [str(value) for value in values_of(source, division.split_by, SPLIT_BY)]
    if division.folds is not None:
        return hold_out_fold(order.sort().values, division, targets, groups, seed)
    return hold_out(order, count, division, targets, groups)


def _limited(part: Part, limit: int | None, rng: torch.Generator) -> tuple[Part, Tensor]:
    """Return at most `limit` samples of a part, in its order, and their indices."""
    if limit is None or len(part) <= limit:
        return part, torch.arange(len(part))
    index = torch.randperm(len(part), generator=rng)[:limit].sort().values
    return part.take(index), index


def _weights(sampling: Sampling, train: Part, source: Source, indices: Sequence[Tensor]) -> Tensor | None:
    """Return the weights of the training samples that were chosen."""
    if sampling.sampler == "balanced":
        return weights_of_classes(train.read_targets())
    if sampling.sampler == "weighted" and sampling.sample_weight is not None:
        values = values_of(source, sampling.sample_weight, SAMPLE_WEIGHT)
        return weights_of_column(sampling.sample_weight, [values[index] for index in indices[0].tolist()])
    return None


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
