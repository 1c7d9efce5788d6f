"""`data=tensors`: samples written in the YAML itself, or stored in an `.npz` or `.pt` file."""

import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from runner.data.paths import find_data_file
from runner.data.source import Source
from runner.errors import ConfigError

NAMES = ("inputs", "targets", "test_inputs", "test_targets")
CHANNELS = (1, 3, 4)  # grey, RGB, RGB with transparency


def tensors(
    inputs: list | None = None,
    targets: list | None = None,
    test_inputs: list | None = None,
    test_targets: list | None = None,
    path: str | Path | None = None,
    mean: float | list[float] | None = 0.0,
    std: float | list[float] | None = 1.0,
) -> Source:
    """Take samples from nested lists, or from a file with arrays of the same four names.

    Args:
        inputs: the training samples, each a (nested) list of numbers.
        targets: one class index, one number, or a list of numbers for each of them.
        test_inputs: samples to test on, of the same shape; None: no test part.
        test_targets: their targets.
        path: instead of the lists, a file written by `numpy.savez(path, inputs=..., targets=...)` or
            `torch.save({"inputs": ..., "targets": ...}, path)`.
        mean: subtracted from the inputs; None is that of the training samples.
        std: divides the inputs; None is that of the training samples.

    Returns:
        Inputs are float32 (N, ...), or uint8 (N, C, H, W) where a file has uint8 arrays of that shape or
        (N, H, W). Targets are int64 for integers and booleans, else float32, (N,) or (N, K).

    Raises:
        ConfigError: if the samples cannot be used.
    """
    lists = {"inputs": inputs, "targets": targets, "test_inputs": test_inputs, "test_targets": test_targets}
    given = {name: values for name, values in lists.items() if values is not None}
    if path is not None and given:
        names = " and ".join(f"data.{name}" for name in given)
        raise ConfigError(f"data.path={path} and {names} are both given; leave one or the other out")
    if path is None and not given:
        raise ConfigError(
            "data=tensors has no samples; write data.inputs=[[1,2],[3,4]] data.targets=[0,1], "
            "or data.path=<an .npz or .pt file>"
        )

    if path is None:
        prefix, origin, convert = "data.", "config", _from_list
    else:
        file = find_data_file(path, "data.path")
        given = _load(file)
        prefix, origin, convert = f"data.path={path}: ", str(file), _from_array
    problems = _check_names(given, prefix)
    parts: dict[str, Tensor] = {}
    for name in NAMES:
        if name in given:
            try:
                numbers = convert(given[name], prefix + name)
                parts[name] = (_as_inputs if name.endswith("inputs") else _as_targets)(numbers, prefix + name)
            except ConfigError as error:
                problems += error.problems
    problems += _find_faults(parts, prefix)
    if problems:
        raise ConfigError(*problems)

    train = parts["inputs"], parts["targets"]
    test = None
    if "test_inputs" in parts:
        test = parts["test_inputs"], parts["test_targets"]
        if train[1].dtype != test[1].dtype:  # [0, 1] and [0.5]: numbers, of which some are whole
            train, test = (train[0], train[1].float()), (test[0], test[1].float())
    return Source("tensors", train, test, mean, std, origin=origin)


def _load(file: Path) -> dict[str, Any]:
    """Read the arrays of a file; never anything that could run code."""
    if file.suffix not in (".npz", ".pt"):
        raise ConfigError(f"data.path={file} must end in .npz or .pt (a table in text is data=csv)")
    try:
        if file.suffix == ".npz":
            with np.load(file, allow_pickle=False) as archive:
                return dict(archive)
        content = torch.load(file, map_location="cpu", weights_only=True)
    except (ValueError, pickle.UnpicklingError) as error:
        raise ConfigError(
            f"data.path={file} holds pickled objects, which could run code when loaded, or is not what its "
            "name says; store arrays of numbers or tensors only"
        ) from error
    except (OSError, EOFError, RuntimeError, TypeError, AttributeError, zipfile.BadZipFile) as error:
        reason = str(error).strip().split("\n")[0]
        raise ConfigError(f"data.path={file} is damaged or cannot be read: {reason}") from error
    if not isinstance(content, dict):
        raise ConfigError(
            f"data.path={file} holds a {type(content).__name__}; store a dict: "
            "torch.save({'inputs': ..., 'targets': ...}, path)"
        )
    return content


def _check_names(given: Mapping[str, Any], prefix: str) -> list[str]:
    """Say which of the names are missing: the first two are needed, the other two go together."""
    wanted = NAMES if any(name in given for name in NAMES[2:]) else NAMES[:2]
    missing = [name for name in wanted if name not in given]
    if not missing:
        return []
    return [f"{prefix}{' and '.join(missing)} missing; there is {', '.join(map(str, given)) or 'nothing'}"]


def _from_list(values: list[Any], label: str) -> Tensor:
    """Turn nested lists into int64 or float32."""
    try:
        array = np.array(values)
    except ValueError as error:
        lengths = [len(item) if isinstance(item, list) else 0 for item in values]
        odd = next((i for i, length in enumerate(lengths) if length != lengths[0]), None)
        where = "" if odd is None else f": item {odd + 1} has {lengths[odd]} values, item 1 has {lengths[0]}"
        raise ConfigError(f"{label} is ragged{where}; give every sample the same shape") from error
    return _from_array(array, label)


def _from_array(values: Any, label: str) -> Tensor:
    """Turn an array or a tensor into uint8 if it is that, else int64 or float32."""
    if isinstance(values, Tensor) and not values.is_complex():
        values = values.detach()
        if values.is_floating_point():
            return values.float().contiguous()
        return (values if values.dtype == torch.uint8 else values.long()).contiguous()
    if isinstance(values, np.ndarray):
        if values.dtype == np.uint8:
            return torch.from_numpy(values)
        if values.dtype.kind in "biu":
            return torch.from_numpy(values.astype(np.int64))
        if values.dtype.kind == "f":
            with np.errstate(over="ignore"):  # becomes infinite, which is an error later
                return torch.from_numpy(values.astype(np.float32))
    kind = getattr(values, "dtype", type(values).__name__)
    raise ConfigError(f"{label} must be numbers only, not {kind}; write integers or decimals")


def _as_inputs(numbers: Tensor, label: str) -> Tensor:
    """Return uint8 images (N, C, H, W), or float32 samples (N, ...)."""
    if numbers.ndim < 2:
        raise ConfigError(f"{label} must be a list of samples, each a list itself: [[1, 2], [3, 4]], or [[1], [2]]")
    if numbers.dtype == torch.uint8 and numbers.ndim == 3:
        return numbers.unsqueeze(1)
    if numbers.dtype == torch.uint8 and numbers.ndim == 4:
        if numbers.shape[1] not in CHANNELS and numbers.shape[3] in CHANNELS:
            raise ConfigError(
                f"{label} has the shape {tuple(numbers.shape)}; store images as (N, channels, height, width)"
            )
        return numbers
    return numbers.float()


def _as_targets(numbers: Tensor, label: str) -> Tensor:
    """Return int64 or float32 (N,) or (N, K)."""
    if numbers.ndim not in (1, 2):
        raise ConfigError(f"{label} must have one number, or one list of numbers, for each sample")
    return numbers.long() if numbers.dtype == torch.uint8 else numbers


def _find_faults(parts: Mapping[str, Tensor], prefix: str) -> list[str]:
    """Say what is wrong with the numbers, and which parts don't fit one another."""
    problems = []
    for name, tensor in parts.items():
        count = int((~tensor.isfinite()).sum()) if tensor.is_floating_point() else 0
        if count:
            problems.append(f"{prefix}{name} has {count} NaN or infinite values; remove these samples")
    for inputs, targets in (NAMES[:2], NAMES[2:]):
        if inputs not in parts or targets not in parts:
            continue
        lengths = len(parts[inputs]), len(parts[targets])
        if lengths[0] != lengths[1]:
            problems.append(
                f"{prefix}{inputs} has {lengths[0]} samples but {targets} has {lengths[1]}; give one for each"
            )
        elif lengths[0] == 0 or parts[inputs].numel() == 0:
            problems.append(f"{prefix}{inputs} has no values; give at least one sample")
    for name in NAMES[:2]:
        if name in parts and f"test_{name}" in parts:
            train, test = parts[name], parts[f"test_{name}"]
            if train.shape[1:] != test.shape[1:]:
                shapes = [tuple(part.shape[1:]) for part in (train, test)]
                problems.append(
                    f"{prefix}test_{name} has samples of shape {shapes[1]}, {name} of {shapes[0]}; make them agree"
                )
            elif name == "inputs" and train.dtype != test.dtype:
                problems.append(f"{prefix}test_inputs is {test.dtype}, inputs is {train.dtype}; store both alike")
    return problems
