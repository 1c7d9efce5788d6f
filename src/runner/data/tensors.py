"""`data=tensors`: samples written in the YAML itself, or stored in an `.npz` or `.pt` file."""

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from runner.config.keys import format_value
from runner.data import numbers
from runner.data.arrays import NAMES, PARTS, Array, convert, find_missing, gather, not_read
from runner.data.image_file import RANGES
from runner.data.scaling import is_image
from runner.data.source import Source
from runner.errors import ConfigError, Problem, Topic


def tensors(
    inputs: list | None = None,
    targets: list | None = None,
    test_inputs: list | None = None,
    test_targets: list | None = None,
    path: str | Path | None = None,
    mean: float | list[float] | None = 0.0,
    std: float | list[float] | None = 1.0,
    val_inputs: list | None = None,
    val_targets: list | None = None,
    val_path: str | Path | None = None,
    classes: int | list[str] | None = None,
    scale: float | str = "none",
    old_rules: bool = False,
) -> Source:
    """Take samples from nested lists, or from a file with arrays of the same names.

    Args:
        inputs: the training samples, each a (nested) list of numbers.
        targets: one class index, one number, or a list of numbers for each of them.
        test_inputs: samples to test on, of the same shape; None: no test part.
        test_targets: their targets.
        path: instead of the lists, a file written by `numpy.savez(path, inputs=..., targets=...)` or
            `torch.save({"inputs": ..., "targets": ...}, path)`. Other arrays with one value for each training sample
            can be named in `data.split_by` and `data.sample_weight`.
        mean: subtracted from the inputs; None is that of the training samples.
        std: divides the inputs; None is that of the training samples.
        val_inputs: samples to validate on; None: a share of the training samples.
        val_targets: their targets.
        val_path: instead of these two, a file whose `inputs` and `targets` are the validation part.
        classes: how many there are, or their names; None if the targets count them, from 0 and without gaps.
        scale: `data.scale`, which is only named here: uint8 images are scaled later; of others `auto` scales nothing.
        old_rules: True for a run that version 0.1.0 has saved: float32 from the start.

    Returns:
        Inputs are uint8 (N, ...) if all arrays of inputs are, of images (N, H, W) with an axis of one channel, else
        float32 (N, ...), or float64 if float32 would round them. Targets are int64 for whole numbers and booleans,
        else float32 or float64, (N,) or (N, K).

    Raises:
        ConfigError: the samples cannot be used.
    """
    lists = dict(zip(NAMES, (inputs, targets, val_inputs, val_targets, test_inputs, test_targets), strict=True))
    arrays = gather({name: values for name, values in lists.items() if values is not None}, path, val_path)
    samples = _convert_all(arrays.by_name, old_rules)
    parts = {
        part: (samples[f"{part}inputs"], samples[f"{part}targets"]) for part in PARTS if f"{part}inputs" in samples
    }
    beside = {name: column for name, column in arrays.others.items() if len(column or ()) == len(parts[""][1])}
    use = [f"{', '.join(beside)}: for data.split_by and data.sample_weight"] if beside else []
    unread = not_read([name for name in arrays.others if name not in beside], path or "")
    raw = getattr(arrays.by_name["inputs"].values, "dtype", None)
    return Source(
        "tensors",
        train=parts[""],
        test=parts.get("test_"),
        mean=mean,
        std=std,
        classes=_class_names(classes, [targets for _, targets in parts.values()]),
        origin=arrays.origin,
        val=parts.get("val_"),
        notes=[*_notes(raw, *parts[""], scale), *use, *unread, *arrays.notes],
        arrays=beside,
    )


def _convert_all(arrays: dict[str, Array], old_rules: bool) -> dict[str, Tensor]:
    """Convert all arrays: the inputs of all parts to one type, and the targets of all parts.

    Raises:
        ConfigError: with all problems.
    """
    problems = find_missing(arrays)
    converted: dict[str, Tensor] = {}
    for name, array in arrays.items():
        try:
            converted[name] = convert(array, old_rules)
        except ConfigError as error:
            problems += error.problems
    problems += _check_values(converted, arrays)
    problems += _check_parts(converted, arrays)
    if problems:
        raise ConfigError(*problems)
    for kind, unchanged in (("inputs", torch.uint8), ("targets", torch.int64)):
        alike = {name: values for name, values in converted.items() if name.endswith(kind)}
        if any(values.dtype != unchanged for values in alike.values()):
            dtype = torch.float32 if old_rules else _choose_float(alike, arrays)
            converted |= {name: values.to(dtype) for name, values in alike.items()}
    return converted


def _choose_float(tensors: Mapping[str, Tensor], arrays: Mapping[str, Array]) -> torch.dtype:
    """Return float32, or float64 if float32 would round a value.

    Raises:
        ConfigError: float64 would round whole numbers.
    """
    if all(numbers.is_exact(values, torch.float32) for values in tensors.values()):
        return torch.float32
    rounded = [arrays[name] for name, values in tensors.items() if not numbers.is_exact(values, torch.float64)]
    if rounded:
        text = "has whole numbers beyond 2^53, which float64 would round"
        raise ConfigError(*(array.problem(text, "subtract an offset", "range") for array in rounded))
    return torch.float64


def _check_values(tensors: Mapping[str, Tensor], arrays: Mapping[str, Array]) -> list[Problem]:
    """Return a problem for each tensor that is not finite, and for parts that are empty or of different lengths."""
    problems = []
    for name, values in tensors.items():
        if values.is_floating_point() and (count := numbers.count_not_finite(values)):
            text = f"has {count} NaN or infinite values"
            problems.append(arrays[name].problem(text, "remove these samples", "data"))
    for part in PARTS:
        inputs, targets = part + "inputs", part + "targets"
        if inputs not in tensors or targets not in tensors:
            continue
        lengths = len(tensors[inputs]), len(tensors[targets])
        if lengths[0] != lengths[1]:
            text = f"has {lengths[0]} samples, {targets} has {lengths[1]}"
            problems.append(arrays[inputs].problem(text, "give one target for each sample", "shape"))
        elif tensors[inputs].numel() == 0:
            problems.append(arrays[inputs].problem("has no values", "give at least one sample", "data"))
    return problems


def _check_parts(tensors: Mapping[str, Tensor], arrays: Mapping[str, Array]) -> list[Problem]:
    """Return a problem for each tensor that does not fit that of the training part."""
    problems = []
    for name, values in tensors.items():
        kind = name.removeprefix("val_").removeprefix("test_")
        if name == kind or kind not in tensors:
            continue
        shape, other = tuple(tensors[kind].shape[1:]), tuple(values.shape[1:])
        types = tensors[kind].dtype, values.dtype
        if shape != other:
            text = f"has samples of shape {other}, {kind} has samples of shape {shape}"
            problems.append(arrays[name].problem(text, "give them the same shape", "shape"))
        elif kind == "inputs" and (types[0] == torch.uint8) != (types[1] == torch.uint8):
            text = f"is {types[1]}, inputs is {types[0]}"
            problems.append(arrays[name].problem(text, "store both with the same type", "type"))
    return problems


def _class_names(classes: int | list[str] | None, targets: list[Tensor]) -> list[str] | None:
    """Return the names of all classes; None if none are given.

    Raises:
        ConfigError: they do not fit the targets.
    """
    if classes is None:
        return None
    names = [str(number) for number in range(classes)] if isinstance(classes, int) else classes

    def refuse(text: str, suggestion: str, topic: Topic) -> ConfigError:
        return ConfigError(
            Problem("data.classes", f"data.classes={format_value(classes)} {text}", suggestion, topic=topic)
        )

    if len(names) < 2 or len(set(names)) < len(names):
        instead = "write data.classes=2 or more, or a list of two or more different names"
        raise refuse("is not two or more different classes", instead, "range")
    if any(part.is_floating_point() or part.ndim != 1 for part in targets):
        instead = "store them so, or write data.classes=null"
        raise refuse("needs targets of one whole number for each sample", instead, "conflict")
    low, high = (int(bound(torch.stack([bound(part) for part in targets]))) for bound in (torch.min, torch.max))
    if low < 0:
        raise refuse(f"needs targets from 0, they are {low} to {high}", "store them as 0, 1, ...", "data")
    if high >= len(names):
        instead = f"write data.classes={high + 1}" if isinstance(classes, int) else f"name {high + 1} classes"
        raise refuse(f"allows targets 0 to {len(names) - 1}, they are {low} to {high}", instead, "range")
    return names


def _notes(raw: object, inputs: Tensor, targets: Tensor, scale: float | str) -> list[str]:
    """Return phrases about how the samples were understood.

    Args:
        raw: the type of the inputs as stored; None for lists.
        inputs: converted.
        targets: converted.
        scale: `data.scale`.
    """
    kind, stored = (str(dtype).removeprefix("torch.") for dtype in (inputs.dtype, raw))
    shape = inputs.shape[1:]
    converted = f"{kind} inputs" if raw is None or stored == kind else f"{stored} inputs, converted to {kind}"
    notes = [] if kind == "uint8" else [f"{converted}{_scaled(stored, inputs, scale)}"]
    if len(shape) == 2:
        notes.append(f"sequences of {shape[0]} steps of {shape[1]} features")
    if targets.is_floating_point():
        notes.append(f"targets: {str(targets.dtype).removeprefix('torch.')} numbers")
    else:
        notes.append(f"targets: whole numbers from {int(targets.min())} to {int(targets.max())}")
    return notes


def _scaled(stored: str, inputs: Tensor, scale: float | str) -> str:
    """Say whether inputs other than uint8 are scaled; whole numbers in the shape of images may be pixels or not.

    Args:
        stored: the type of the inputs as stored.
        inputs: converted.
        scale: `data.scale`.
    """
    if not isinstance(scale, str):
        return ""
    pixels = stored.startswith(("int", "uint")) and is_image(torch.uint8, inputs.shape[1:])
    white = next((white for white in RANGES if inputs.max() <= white), None) if pixels and scale == "auto" else None
    if white is None:
        return ": not scaled"
    stored_as = " and store them as (N, 1, height, width)" if inputs.ndim == 3 else ""
    return f": not scaled; if they are images, write data.scale={white:g}{stored_as}"
