"""The arrays of `data=tensors`: read from nested lists or from files, and converted to tensors of numbers."""

import pickle
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from runner.data.paths import find_data_file, shared_samples
from runner.data.scaling import CHANNELS
from runner.errors import ConfigError, Problem, Topic

PARTS = ("", "val_", "test_")
PAIR = ("inputs", "targets")
NAMES = tuple(part + name for part in PARTS for name in PAIR)


@dataclass(frozen=True)
class Array:
    """An array as the user wrote or stored it.

    Attributes:
        name: `inputs` or `targets`, with the prefix of its part where it is written.
        values: nested lists, a NumPy array or a tensor.
        key: the config key that it comes from.
        given: what the user wrote: `data.inputs`, `data.path=x.npz`.
    """

    name: str
    values: Any
    key: str
    given: str

    @property
    def in_file(self) -> bool:
        """Whether it is stored in a file."""
        return self.given != self.key

    @property
    def label(self) -> str:
        """Its name in problems: `data.inputs`, or `data.path=x.npz: inputs`."""
        return f"{self.given}: {self.name}" if self.in_file else self.given

    def problem(self, text: str, suggestion: str, topic: Topic) -> Problem:
        """Return a problem of this array; the text follows the label."""
        return Problem(self.key, f"{self.label} {text}", suggestion, topic=topic)


@dataclass(frozen=True)
class Arrays:
    """All arrays of a data set.

    Attributes:
        by_name: some of `NAMES`.
        origin: the files that they come from, or `config`.
        notes: phrases about what is not read of `val_path`, and about parts that share samples.
        others: other arrays of `path`, such as groups and weights; None for one that has not one axis.
    """

    by_name: dict[str, Array]
    origin: str
    notes: list[str]
    others: dict[str, list[Any] | None]


def gather(lists: dict[str, Any], path: str | Path | None, val_path: str | Path | None) -> Arrays:
    """Collect the arrays.

    Args:
        lists: nested lists by name.
        path: a file that has all arrays instead.
        val_path: a file whose `inputs` and `targets` are the validation part.

    Raises:
        ConfigError: a file cannot be used, or an array is given twice or not at all.
    """
    if path is not None and lists:
        names = " and ".join(f"data.{name}" for name in lists)
        text = f"data.path={path} and {names} are both set"
        raise ConfigError(Problem("data.path", text, f"leave out data.path, or {names}", topic="conflict"))
    if path is None and not lists:
        instead = (
            "write data.inputs=[[1,2],[3,4]] data.targets=[0,1] data.val_fraction=0, or data.path=<an .npz or .pt file>"
        )
        raise ConfigError(Problem("data", "data=tensors has no samples", instead, topic="missing"))
    files: dict[str, Path] = {}
    notes: list[str] = []
    others: dict[str, Any] = {}
    by_name = {name: Array(name, values, f"data.{name}", f"data.{name}") for name, values in lists.items()}
    if path is not None:
        files["data.path"] = find_data_file(path, "data.path")
        by_name, others = _read(files["data.path"], "data.path", path, NAMES)
    if val_path is not None:
        key = "data.val_path"
        if twice := [by_name[f"val_{name}"].label for name in PAIR if f"val_{name}" in by_name]:
            text = f"{key}={val_path} and {twice[0]} are both set"
            raise ConfigError(Problem(key, text, f"leave out {key}, or {twice[0]}", topic="conflict"))
        files[key] = find_data_file(val_path, key)
        val_arrays, unread = _read(files[key], key, val_path, PAIR)
        by_name |= {f"val_{name}": array for name, array in val_arrays.items()}
        notes += [*shared_samples(files), *not_read(unread, val_path)]
    columns = {name: _as_column(values) for name, values in others.items()}
    return Arrays(by_name, ", ".join(map(str, files.values())) or "config", notes, columns)


def not_read(names: Iterable[str], path: str | Path) -> list[str]:
    """Return a note for each array of a file that nothing reads."""
    return [f"{name} in {Path(path).name}: not read" for name in names]


def _as_column(values: Any) -> list[Any] | None:
    """Return an array with one axis as a list; None if it is anything else."""
    if isinstance(values, Tensor):
        dense = values.layout is torch.strided and not values.is_nested and not values.is_meta
        return values.tolist() if dense and values.ndim == 1 else None
    if isinstance(values, np.ndarray):
        return values.tolist() if values.ndim == 1 else None
    return values if isinstance(values, list) else None


def _read(file: Path, key: str, path: str | Path, names: tuple[str, ...]) -> tuple[dict[str, Array], dict[str, Any]]:
    """Read the arrays of these names, inputs and targets among them, and return what else is in the file."""
    content = _load(file, key)
    if missing := [name for name in PAIR if name not in content]:
        text = f"{key}={path} has no {' and no '.join(missing)}, only {', '.join(map(str, content)) or 'nothing'}"
        raise ConfigError(Problem(key, text, f"store arrays of the names {' and '.join(PAIR)}", topic="missing"))
    arrays = {name: Array(name, content[name], key, f"{key}={path}") for name in names if name in content}
    return arrays, {name: values for name, values in content.items() if name not in names}


def _load(file: Path, key: str) -> dict[str, Any]:
    """Read a file without unpickling anything that could run code."""
    given = f"{key}={file}"
    if file.suffix not in (".npz", ".pt"):
        instead = "convert it; for a table in text write data=csv"
        raise ConfigError(Problem(key, f"{given} must end in .npz or .pt", instead, topic="file"))
    try:
        if file.suffix == ".npz":
            # NumPy leaves a file open that it has opened itself if the archive is damaged.
            with file.open("rb") as opened, np.load(opened, allow_pickle=False) as archive:
                return dict(archive)
        content = torch.load(file, map_location="cpu", weights_only=True)
    except (ValueError, pickle.UnpicklingError) as error:
        text = f"{given} has pickled objects, which could run code when loaded, or is not a {file.suffix} file"
        raise ConfigError(Problem(key, text, "store arrays of numbers or tensors only", topic="file")) from error
    except Exception as error:  # torch reads bytes that are no pickle as its instructions, and any of them may fail
        reason = f"cannot be read: {error.strerror}" if isinstance(error, OSError) else f"is not a {file.suffix} file"
        text = f"{given} {reason}, or is damaged"
        raise ConfigError(Problem(key, text, "write the file again, or name another", topic="file")) from error
    if not isinstance(content, dict):
        text = f"{given} contains a {type(content).__name__}, not a dict"
        instead = "store it by torch.save({'inputs': ..., 'targets': ...}, path)"
        raise ConfigError(Problem(key, text, instead, topic="file"))
    return content


def find_missing(arrays: dict[str, Array]) -> list[Problem]:
    """Return a problem for each missing array: inputs and targets are needed, of another part both or neither."""
    parts = [part for part in PARTS if part == "" or any(part + name in arrays for name in PAIR)]
    problems = []
    for name in (part + name for part in parts for name in PAIR):
        if name in arrays:
            continue
        first, present = next(iter(arrays.values())), ", ".join(arrays)
        if first.in_file:
            text, instead = f"{first.given} has {present}, but no {name}", "store inputs and targets of each part"
            problems.append(Problem(first.key, text, instead, topic="missing"))
        else:
            key, instead = f"data.{name}", f"write data.{name}=[...] with one item for each sample"
            problems.append(Problem(key, f"{key} is missing, there is {present}", instead, topic="missing"))
    return problems


def convert(array: Array, old_rules: bool) -> Tensor:
    """Return an array as a tensor with the axes of inputs or of targets.

    Args:
        array: inputs or targets.
        old_rules: follow the rules of version 0.1.0.

    Raises:
        ConfigError: it is not an array of numbers, or has another shape.
    """
    values = _as_tensor(_from_lists(array), array)
    return _to_inputs(values, array, old_rules) if array.name.endswith("inputs") else _to_targets(values, array)


def _from_lists(array: Array) -> Any:
    """Return nested lists as a NumPy array, and anything else as it is."""
    if array.in_file:
        return array.values
    try:
        return np.array(array.values)
    except ValueError as error:
        lengths = [len(item) if isinstance(item, list) else 0 for item in array.values]
        odd = next((i for i, length in enumerate(lengths) if length != lengths[0]), None)
        where = "" if odd is None else f": item {odd + 1} has {lengths[odd]} values, item 1 has {lengths[0]}"
        raise ConfigError(array.problem(f"is ragged{where}", "give every sample the same shape", "shape")) from error


def _as_tensor(values: Any, array: Array) -> Tensor:
    """Return an array of real numbers as a tensor of the same type."""
    if isinstance(values, Tensor) and (values.layout is not torch.strided or values.is_nested or values.is_meta):
        kind = "meta" if values.is_meta else "nested" if values.is_nested else str(values.layout)
        text = f"is a {kind.removeprefix('torch.')} tensor"
        raise ConfigError(array.problem(text, "store a dense tensor", "type"))
    if isinstance(values, Tensor) and _has_real_numbers(values):
        return values.detach().contiguous()
    if isinstance(values, np.ndarray) and values.dtype.kind in "biuf":
        if values.dtype.kind == "f" and values.dtype.itemsize > 8:  # torch has no longer floats
            values = values.astype(np.float64)
        return torch.from_numpy(np.array(values, values.dtype.newbyteorder("="), order="C"))
    kind = getattr(values, "dtype", type(values).__name__)
    kind = "text" if isinstance(kind, np.dtype) and kind.kind in "US" else kind
    raise ConfigError(array.problem(f"must contain numbers only, not {kind}", "use integers or decimals", "type"))


def _has_real_numbers(values: Tensor) -> bool:
    float8 = values.is_floating_point() and values.dtype.itemsize < 2  # torch cannot add these
    return not (values.is_complex() or values.is_quantized or float8)


def _to_inputs(values: Tensor, array: Array, old_rules: bool) -> Tensor:
    """Return samples (N, ...); uint8 ones that are grey images (N, H, W) as (N, 1, H, W)."""
    if values.ndim < 2:
        text, instead = "must be a list of samples, each of them a list", "write [[1,2],[3,4]], or [[1],[2]]"
        raise ConfigError(array.problem(text, instead, "shape"))
    pixels = values.dtype == torch.uint8
    last = values.ndim == 4 and values.shape[1] not in CHANNELS and values.shape[3] in CHANNELS
    if last and (pixels or not old_rules):
        text = f"has shape {tuple(values.shape)}"
        raise ConfigError(array.problem(text, "store images as (N, channels, height, width)", "shape"))
    if old_rules and pixels and values.ndim not in (3, 4):
        return values.float()
    return values.unsqueeze(1) if pixels and values.ndim == 3 else values


def _to_targets(values: Tensor, array: Array) -> Tensor:
    """Return targets (N,) or (N, K), whole numbers as int64."""
    if values.ndim not in (1, 2):
        text = "must have one number, or one list of numbers, for each sample"
        raise ConfigError(array.problem(text, "write [0,1], or [[0.5,1],[2,3]]", "shape"))
    if values.is_floating_point():
        return values
    whole = values.to(torch.int64)
    if values.dtype == torch.uint64 and bool((whole < 0).any()):
        raise ConfigError(array.problem("has whole numbers beyond 2^63", "store smaller ones", "range"))
    return whole
