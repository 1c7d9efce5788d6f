"""Checks of the parts of a data set: that they have samples, of one shape, and that streams can be used."""

from collections.abc import Mapping

import torch
from torch.utils.data import DataLoader

from runner.data.division import RANDOM, Division
from runner.data.part import Part
from runner.data.sampling import Sampling
from runner.data.source import Samples, saves_itself
from runner.data.stream_part import StreamPart
from runner.errors import ConfigError, Problem, Topic
from runner.util import trees
from runner.util.trees import Shapes

LABELS = {"train": "training", "val": "validation", "test": "test"}  # of parts in problems


def check_stream(stream: Samples, label: str) -> None:
    """Check that a stream yields samples, and can be read again.

    Raises:
        ConfigError: it does not, or cannot.
    """
    if isinstance(stream, DataLoader):
        text = f"{label} is a DataLoader, which makes batches; runner makes them by data.batch_size and num_workers"
        raise ConfigError(Problem("data", text, "return its data set", topic="code"))
    if hasattr(stream, "__next__") and not saves_itself(stream):
        text = f"{label} is of type {type(stream).__name__}, an iterator, which can be read only once"
        instead = "return an object whose __iter__ starts from the beginning"
        raise ConfigError(Problem("data", text, instead, topic="code"))


def check_epoch(name: str, train: Part, samples_per_epoch: int | None) -> None:
    """Check that an epoch has a length, and only one.

    Raises:
        ConfigError: it has not.
    """
    key = "trainer.steps_per_epoch"
    if not train.streams and samples_per_epoch is not None:
        text = f"{key}: an epoch of data={name} is a pass over its {len(train):,} training samples, which are no stream"
        raise ConfigError(Problem(key, text, f"write {key}=null, or trainer.max_steps=<steps>", topic="conflict"))
    if train.streams and not len(train):
        text = f"data={name} is a stream without a length: how long is an epoch?"
        raise ConfigError(Problem(key, text, f"write {key}=1000, for example", topic="missing"))


def check_streams(
    parts: Mapping[str, Part], val_fraction: float | None, limit: int | None, division: Division, sampling: Sampling
) -> None:
    """Check that nothing is asked of a stream that needs indices, and that the other settings fit one another.

    Raises:
        ConfigError: something is.
    """
    problems = sampling.problems("a stream has its own order" if parts["train"].streams else "")
    if parts["train"].streams:
        problems += division.problems("a stream cannot be divided")
    elif ("val" in parts or val_fraction == 0) and division.folds is None:
        problems += division.problems("no validation samples are held out of the training part")
    if parts["train"].streams and val_fraction:
        key = "data.val_fraction"
        text, instead = f"{key}={val_fraction:g}: a stream cannot be divided", "and return Source(val=...)"
        problems.append(Problem(key, text, f"write {key}=null, {instead}", topic="conflict"))
    if limit is not None and any(part.streams for part in parts.values()):
        key = "data.limit"
        text, instead = f"{key}={limit}: a stream has no samples to choose from", "or trainer.steps_per_epoch=<steps>"
        problems.append(Problem(key, text, f"write {key}=null, {instead}", topic="conflict"))
    if problems:
        raise ConfigError(*problems)


def notes_on_streams(train: Part) -> list[str]:
    """Say how a stream is resumed."""
    if not isinstance(train, StreamPart):
        return []
    if train.saves():
        return ["a stream: its place is in the checkpoints"]
    return ["a stream: a resumed run reads it again up to its place"]


def check_parts(name: str, parts: Mapping[str, Part], val_fraction: float | None, division: Division = RANDOM) -> None:
    """Check that parts have samples, and all of them the same shape.

    Raises:
        ConfigError: they do not, or samples should be held out although there is a validation part.
    """
    if "val" in parts and division.folds is not None:
        text = f"data.folds={division.folds}: data={name} has its own validation part"
        instead = "leave one of them out: each fold is the validation part once"
        raise ConfigError(Problem("data.folds", text, instead, topic="conflict"))
    if len(parts["train"]) == 0 and not parts["train"].streams:
        raise unusable(name, "the training part has no samples", "add some", "data")
    if "val" in parts and val_fraction is not None:
        key = "data.val_fraction"
        text = f"{key}={val_fraction:g}: data={name} has its own validation part"
        raise ConfigError(Problem(key, text, f"write {key}=null", topic="conflict"))
    shape = _compared_shapes(parts["train"])
    for part in ("val", "test"):
        if part not in parts:
            continue
        if len(parts[part]) == 0 and not parts[part].streams:
            text = f"the {LABELS[part]} part has no samples"
            raise unusable(name, text, "add some, or return None for the part", "data")
        other = _compared_shapes(parts[part])
        if other != shape:
            text = f"samples have shape {other} in the {LABELS[part]} part, {shape} in the training part"
            raise unusable(name, text, "give them the same shape", "shape")


def _compared_shapes(part: Part) -> Shapes:
    """Return the shapes of a part's first sample; where a `collate_fn` may pad it, only how many axes it has."""
    inputs = trees.tree_map(torch.as_tensor, part.sample(0)[0])
    if not part.collates:
        return trees.shapes(inputs)
    return trees.shapes(trees.tree_map(lambda leaf: torch.empty([0] * leaf.ndim), inputs))


def unusable(name: str, text: str, suggestion: str, topic: Topic) -> ConfigError:
    """Return the error of a data set that cannot be used."""
    return ConfigError(Problem("data", f"data={name}: {text}", suggestion, topic=topic))


def count_held_out(samples: int, val_fraction: float) -> int:
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
