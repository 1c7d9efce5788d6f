"""`data=tensors`: samples written in the YAML itself, or stored in an `.npz` or `.pt` file."""

import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from runner.config.keys import format_value
from runner.data import numbers
from runner.data.paths import find_data_file, shared_samples
from runner.data.scaling import CHANNELS
from runner.data.source import Source
from runner.errors import ConfigError

PARTS = ("", "val_", "test_")
NAMES = tuple(part + name for part in PARTS for name in ("inputs", "targets"))


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
    old_rules: bool = False,
) -> Source:
    """Take samples from nested lists, or from a file with arrays of the same names.

    Args:
        inputs: the training samples, each a (nested) list of numbers.
        targets: one class index, one number, or a list of numbers for each of them.
        test_inputs: samples to test on, of the same shape; None: no test part.
        test_targets: their targets.
        path: instead of the lists, a file written by `numpy.savez(path, inputs=..., targets=...)` or
            `torch.save({"inputs": ..., "targets": ...}, path)`.
        mean: subtracted from the inputs; None is that of the training samples.
        std: divides the inputs; None is that of the training samples.
        val_inputs: samples to validate on; None: a share of the training samples.
        val_targets: their targets.
        val_path: instead of these two, a file whose `inputs` and `targets` they are.
        classes: how many there are, or their names; None where the targets count them, from 0 and without gaps.
        old_rules: True for a run that version 0.1.0 has saved: float32 from the start.

    Returns:
        Inputs are uint8 (N, ...) where all arrays of inputs are, of images (N, H, W) with an axis of one channel, else
        float32 (N, ...), or float64 if float32 would round them. Targets are int64 for whole numbers and booleans,
        else float32 or float64, (N,) or (N, K).

    Raises:
        ConfigError: if the samples cannot be used.
    """
    given = {
        "inputs": inputs, "targets": targets, "val_inputs": val_inputs, "val_targets": val_targets,
        "test_inputs": test_inputs, "test_targets": test_targets,
    }  # fmt: skip
    arrays, origin, notes = _gather(
        {name: values for name, values in given.items() if values is not None}, path, val_path
    )
    problems = _check_names(arrays)
    found: dict[str, Tensor] = {}
    labels: dict[str, str] = {}
    for name, (label, values) in arrays.items():
        try:
            array = _from_list(values, label) if label == f"data.{name}" else values
            checked = _check_inputs if name.endswith("inputs") else _check_targets
            found[name] = checked(_as_tensor(array, label), label, old_rules)
            labels[name] = label
        except ConfigError as error:
            problems += map(str, error.problems)
    problems += _find_faults(found, labels)
    if problems:
        raise ConfigError(*problems)
    _unify(found, labels, old_rules)
    names = _class_names(classes, [found[name] for name in NAMES if name.endswith("targets") and name in found])
    train, val, test = (
        (found[part + "inputs"], found[part + "targets"]) if part + "inputs" in found else None for part in PARTS
    )
    assert train is not None
    return Source(
        "tensors",
        train,
        test,
        mean,
        std,
        classes=names,
        origin=origin,
        val=val,
        notes=[*_notes(arrays["inputs"][1], *train), *notes],
    )


def _gather(
    lists: dict[str, Any], path: str | Path | None, val_path: str | Path | None
) -> tuple[dict[str, tuple[str, Any]], str, list[str]]:
    """All arrays by name, each with what an error calls it; where they came from; and notes on what is not read."""
    if path is not None and lists:
        names = " and ".join(f"data.{name}" for name in lists)
        raise ConfigError(f"data.path={path} and {names} are both given; leave one or the other out")
    if path is None and not lists:
        raise ConfigError(
            "data=tensors has no samples; write data.inputs=[[1,2],[3,4]] data.targets=[0,1], "
            "or data.path=<an .npz or .pt file>"
        )
    origin, notes = [], []
    arrays = {name: (f"data.{name}", values) for name, values in lists.items()}
    if path is not None:
        file = find_data_file(path, "data.path")
        content = _load(file, "data.path")
        arrays = {name: (f"data.path={path}: {name}", content[name]) for name in NAMES if name in content}
        notes += [f"{name} in {file.name}: not read" for name in content if name not in NAMES]
        if not {"inputs", "targets"} <= set(arrays):
            missing = [name for name in ("inputs", "targets") if name not in arrays]
            there = ", ".join(map(str, content)) or "nothing"
            raise ConfigError(f"data.path={path}: {' and '.join(missing)} missing; there is {there}")
        origin.append(str(file))
    if val_path is not None:
        if twice := [name for name in ("val_inputs", "val_targets") if name in arrays]:
            raise ConfigError(f"data.val_path={val_path} and {arrays[twice[0]][0]} are both given; leave one out")
        file = find_data_file(val_path, "data.val_path")
        if path is not None:
            notes += shared_samples({"data.path": find_data_file(path, "data.path"), "data.val_path": file})
        content = _load(file, "data.val_path")
        if missing := [name for name in ("inputs", "targets") if name not in content]:
            there = ", ".join(map(str, content)) or "nothing"
            raise ConfigError(f"data.val_path={val_path}: {' and '.join(missing)} missing; there is {there}")
        for name in ("inputs", "targets"):
            arrays[f"val_{name}"] = f"data.val_path={val_path}: {name}", content[name]
        notes += [f"{name} in {file.name}: not read" for name in content if name not in ("inputs", "targets")]
        origin.append(str(file))
    return arrays, ", ".join(origin) or "config", notes


def _load(file: Path, key: str) -> dict[str, Any]:
    """Read the arrays of a file; never anything that could run code."""
    if file.suffix not in (".npz", ".pt"):
        raise ConfigError(f"{key}={file} must end in .npz or .pt (a table in text is data=csv)")
    try:
        if file.suffix == ".npz":
            with np.load(file, allow_pickle=False) as archive:
                return dict(archive)
        content = torch.load(file, map_location="cpu", weights_only=True)
    except (ValueError, pickle.UnpicklingError) as error:
        raise ConfigError(
            f"{key}={file} holds pickled objects, which could run code when loaded, or is not what its "
            "name says; store arrays of numbers or tensors only"
        ) from error
    except (OSError, EOFError, RuntimeError, TypeError, AttributeError, zipfile.BadZipFile) as error:
        reason = str(error).strip().split("\n")[0]
        raise ConfigError(f"{key}={file} is damaged or cannot be read: {reason}") from error
    if not isinstance(content, dict):
        raise ConfigError(
            f"{key}={file} holds a {type(content).__name__}; store a dict: "
            "torch.save({'inputs': ..., 'targets': ...}, path)"
        )
    return content


def _check_names(arrays: Mapping[str, Any]) -> list[str]:
    """Say which of the names are missing: the first two are needed, of the others either both or none."""
    wanted = [part + name for part in PARTS for name in ("inputs", "targets") if part == "" or _any_of(part, arrays)]
    missing = [name for name in wanted if name not in arrays]
    if not missing:
        return []
    prefix = next(iter(arrays.values()))[0].rpartition(" ")[0]
    prefix = f"{prefix} " if prefix else "data."
    return [f"{prefix}{' and '.join(missing)} missing; there is {', '.join(arrays)}"]


def _any_of(part: str, arrays: Mapping[str, Any]) -> bool:
    return any(part + name in arrays for name in ("inputs", "targets"))


def _from_list(values: list[Any], label: str) -> np.ndarray:
    """Turn nested lists into an array."""
    try:
        return np.array(values)
    except ValueError as error:
        lengths = [len(item) if isinstance(item, list) else 0 for item in values]
        odd = next((i for i, length in enumerate(lengths) if length != lengths[0]), None)
        where = "" if odd is None else f": item {odd + 1} has {lengths[odd]} values, item 1 has {lengths[0]}"
        raise ConfigError(f"{label} is ragged{where}; give every sample the same shape") from error


def _as_tensor(values: Any, label: str) -> Tensor:
    """An array of real numbers as a tensor of the same type."""
    short = isinstance(values, Tensor) and values.is_floating_point() and values.dtype.itemsize < 2  # float8: no sums
    if isinstance(values, Tensor) and not (values.is_complex() or values.is_quantized or short):
        if values.layout is not torch.strided or values.is_nested or values.is_meta:
            kind = "meta" if values.is_meta else "nested" if values.is_nested else str(values.layout)
            raise ConfigError(f"{label} is a {kind.removeprefix('torch.')} tensor; store a dense one")
        return values.detach().contiguous()
    if isinstance(values, np.ndarray) and values.dtype.kind in "biuf":
        if values.dtype.kind == "f" and values.dtype.itemsize > 8:  # a longer float, which torch has not
            values = values.astype(np.float64)
        return torch.from_numpy(np.array(values, values.dtype.newbyteorder("="), order="C"))
    kind = getattr(values, "dtype", type(values).__name__)
    raise ConfigError(f"{label} must be numbers only, not {kind}; write integers or decimals")


def _check_inputs(values: Tensor, label: str, old_rules: bool) -> Tensor:
    """Samples (N, ...); uint8 ones that are grey images (N, H, W) as (N, 1, H, W)."""
    if values.ndim < 2:
        raise ConfigError(f"{label} must be a list of samples, each a list itself: [[1, 2], [3, 4]], or [[1], [2]]")
    pixels = values.dtype == torch.uint8
    last = values.ndim == 4 and values.shape[1] not in CHANNELS and values.shape[3] in CHANNELS
    if last and (pixels or not old_rules):
        raise ConfigError(f"{label} has the shape {tuple(values.shape)}; store images as (N, channels, height, width)")
    if old_rules and pixels and values.ndim not in (3, 4):
        return values.float()
    return values.unsqueeze(1) if pixels and values.ndim == 3 else values


def _check_targets(values: Tensor, label: str, old_rules: bool) -> Tensor:
    """Targets (N,) or (N, K), whole numbers as int64."""
    if values.ndim not in (1, 2):
        raise ConfigError(f"{label} must have one number, or one list of numbers, for each sample")
    if values.is_floating_point():
        return values
    whole = values.to(torch.int64)
    if values.dtype == torch.uint64 and bool((whole < 0).any()):
        raise ConfigError(f"{label} has whole numbers beyond 2^63; write smaller ones")
    return whole


def _unify(found: dict[str, Tensor], labels: Mapping[str, str], old_rules: bool) -> None:
    """Give the inputs of all parts one type, and the targets of all parts."""
    for kind, stays in (("inputs", torch.uint8), ("targets", torch.int64)):
        names = [name for name in found if name.endswith(kind)]
        if all(found[name].dtype == stays for name in names):
            continue
        parts = [found[name] for name in names]
        if old_rules:
            parts = [part.float() for part in parts]
        else:
            parts = numbers.as_floats(parts, [labels[name] for name in names])
        found.update(zip(names, parts, strict=True))


def _find_faults(found: Mapping[str, Tensor], labels: Mapping[str, str]) -> list[str]:
    """Say what is wrong with the numbers, and which parts don't fit one another."""
    problems = []
    for name, values in found.items():
        if values.is_floating_point() and (count := numbers.not_finite(values)):
            problems.append(f"{labels[name]} has {count} NaN or infinite values; remove these samples")
    for part in PARTS:
        inputs, targets = part + "inputs", part + "targets"
        if inputs not in found or targets not in found:
            continue
        lengths = len(found[inputs]), len(found[targets])
        if lengths[0] != lengths[1]:
            problems.append(
                f"{labels[inputs]} has {lengths[0]} samples but {targets} has {lengths[1]}; give one for each"
            )
        elif lengths[0] == 0 or found[inputs].numel() == 0:
            problems.append(f"{labels[inputs]} has no values; give at least one sample")
    for name in found:
        first = name.removeprefix("val_").removeprefix("test_")
        if name == first or first not in found:
            continue
        train, other = found[first], found[name]
        if train.shape[1:] != other.shape[1:]:
            problems.append(
                f"{labels[name]} has samples of shape {tuple(other.shape[1:])}, {first} of {tuple(train.shape[1:])};"
                " make them agree"
            )
        elif first == "inputs" and (train.dtype == torch.uint8) != (other.dtype == torch.uint8):
            problems.append(f"{labels[name]} is {other.dtype}, inputs is {train.dtype}; store both alike")
    return problems


def _class_names(classes: int | list[str] | None, targets: list[Tensor]) -> list[str] | None:
    """The names of all classes; None if none are given.

    Raises:
        ConfigError: the targets are not theirs.
    """
    if classes is None:
        return None
    names = [str(number) for number in range(classes)] if isinstance(classes, int) else classes
    given = f"data.classes={format_value(classes)}"
    if len(names) < 2 or len(set(names)) < len(names):
        raise ConfigError(f"{given}: write how many classes there are, at least 2, or a list of different names")
    if any(part.is_floating_point() or part.ndim != 1 for part in targets):
        raise ConfigError(f"{given}: the targets are not one whole number a sample; store them so, or leave it out")
    low, high = (int(bound(torch.stack([bound(part) for part in targets]))) for bound in (torch.min, torch.max))
    if low < 0 or high >= len(names):
        raise ConfigError(f"{given}: targets are 0 to {len(names) - 1}, but there are {low} to {high}")
    return names


def _notes(given: Any, inputs: Tensor, targets: Tensor) -> list[str]:
    """What the samples were taken for; `given` are the inputs as they were, lists or an array."""
    kind, was = (str(getattr(one, "dtype", "")).removeprefix("torch.") for one in (inputs, given))
    shape = inputs.shape[1:]
    taken = f"{was} inputs, taken as {kind}" if was not in ("", kind) else f"{kind} inputs"
    notes = [] if kind == "uint8" else [f"{taken}: not scaled"]
    if len(shape) == 2:
        notes.append(f"sequences of {shape[0]} steps of {shape[1]} features")
    if targets.is_floating_point():
        notes.append(f"targets: {str(targets.dtype).removeprefix('torch.')} numbers")
    else:
        notes.append(f"targets: whole numbers from {int(targets.min())} to {int(targets.max())}")
    return notes
