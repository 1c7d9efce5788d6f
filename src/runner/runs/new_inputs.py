"""New samples of several inputs, or of one that is not normalised, such as tokens: arrays by name, or items one by one.

A file or an argument holds an array (N, ...) for each input; or, as JSON, a list of items. Items of different lengths
are predicted one by one, so that none is padded.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from runner.data.listing import list_names
from runner.errors import did_you_mean
from runner.runs.new_values import as_tensor, load_arrays, refuse
from runner.saved.input_spec import InputSpec, Leaf
from runner.util import trees

SUFFIXES = (".npy", ".npz", ".pt", ".json", ".jsonl")

Named = dict[str, Any]
"""Values by the names of the inputs."""


def read_file(path: Path, spec: InputSpec, shown: str) -> list[dict[str, Tensor]]:
    """Read new samples from a file of arrays, or of JSON.

    Returns:
        Raw inputs by name, in chunks of samples of the same shape.

    Raises:
        ConfigError: the file is damaged, or its samples do not fit the model.
    """
    suffix = path.suffix.lower()
    if suffix in (".json", ".jsonl"):
        return read_content(_read_json(path, suffix == ".jsonl", shown), spec, shown)
    return read_content(load_arrays(path, shown), spec, shown)


def read_argument(value: str, spec: InputSpec, shown: str) -> list[dict[str, Tensor]]:
    """Read new samples from the command line: `{a:[[1,2]],b:[[3]]}`, or a list of items.

    Returns:
        As `read_file`.

    Raises:
        ConfigError: it cannot be read, or its samples do not fit the model.
    """
    try:
        content = json.loads(value)
    except ValueError:
        content = _parse_loosely(value, spec, shown)
    return read_content(content, spec, shown)


def _parse_loosely(value: str, spec: InputSpec, shown: str) -> Any:
    """Parse Hydra's notation, in which names have no quotes."""
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    try:
        return OverridesParser.create().parse_override(f"input={value}").value()
    except HydraException as error:
        raise refuse(shown, "cannot be read", f"write input={_pattern(spec)}", topic="syntax") from error


def _pattern(spec: InputSpec) -> str:
    """Return how to type samples for these inputs."""
    leaves = spec.inputs or []
    if len(leaves) == 1 and not leaves[0].name:
        return "[[1,2],[3,4]]"
    return (
        "{"
        + ",".join(f"{leaf.name}:{'[' * (1 + len(leaf.shape))}...{']' * (1 + len(leaf.shape))}" for leaf in leaves)
        + "}"
    )


def _read_json(path: Path, lines: bool, shown: str) -> Any:
    try:
        text = path.read_text(encoding="utf-8")
        return [json.loads(line) for line in text.splitlines() if line.strip()] if lines else json.loads(text)
    except (OSError, ValueError, RecursionError) as error:
        raise refuse(shown, f"cannot be read as JSON: {error}", "correct it", topic="file") from error


def read_content(content: Any, spec: InputSpec, shown: str) -> list[dict[str, Tensor]]:
    """Convert what a file or an argument holds to raw inputs.

    Args:
        content: arrays by name, or in order; or a list of items that are dicts by name, or lists in order; a single
            array where there is one input.
        spec: the inputs that the model takes.
        shown: the argument, for errors.

    Returns:
        As `read_file`.

    Raises:
        ConfigError: names, shapes or values do not fit the model.
    """
    leaves = spec.inputs or []
    single = len(leaves) == 1 and not leaves[0].name
    if single and isinstance(content, Mapping):
        content = content["inputs"] if "inputs" in content else next(iter(content.values()), [])
    if single:
        values = _array(content, leaves[0], shown)
        if values is not None:
            return [_batch({"": values}, spec, shown)]
        chunks = [_item({"": item}, spec, shown) for item in content]
        return _stacked(chunks, shown)
    items = _items(content, leaves)
    if items is None:
        return [_batch(_by_name(content, spec, shown), spec, shown)]
    return _stacked(
        [_item(_by_name(item, spec, f"{shown}: item {at}"), spec, shown) for at, item in enumerate(items)], shown
    )


def _items(content: Any, leaves: Sequence[Leaf]) -> Sequence[Any] | None:
    """Return the items if this is a list of them; None if it holds arrays."""
    if not isinstance(content, list) or not content:
        return None
    if all(isinstance(item, Mapping) for item in content):
        return content
    in_order = all(isinstance(item, list | tuple) and len(item) == len(leaves) for item in content)
    deep = in_order and all(
        _depth(part) == len(leaf.shape) for item in content for part, leaf in zip(item, leaves, strict=True)
    )
    return content if deep else None


def _depth(value: Any) -> int:
    if isinstance(value, list | tuple):
        return 1 + (_depth(value[0]) if value else 0)
    return int(getattr(value, "ndim", 0))


def _by_name(content: Any, spec: InputSpec, shown: str) -> Named:
    """Return values by the names of the inputs.

    Raises:
        ConfigError: a name is missing, or unknown.
    """
    wanted = [leaf.name for leaf in spec.inputs or []]
    if isinstance(content, Mapping):
        given = _flat(content)
        in_order = [f"arr_{number}" for number in range(len(wanted))]  # of np.savez without names
        if list(given) == in_order and not set(in_order) & set(wanted) and spec.shapes.__class__ is tuple:
            given = dict(zip(wanted, given.values(), strict=True))
    elif isinstance(content, list | tuple) and len(content) == len(wanted):
        given = dict(zip(wanted, content, strict=True))
    elif isinstance(content, list | tuple):
        text = f"{len(content)} arrays, the model takes {len(wanted)}: {', '.join(wanted)}"
        raise refuse(shown, text, f"write {_pattern(spec)}", topic="shape")
    else:
        text = f"a single array, the model takes {', '.join(wanted)}"
        raise refuse(shown, text, "save an .npz file with an array for each", topic="shape")
    if missing := [name for name in wanted if name not in given]:
        verb = "is" if len(missing) == 1 else "are"
        text = f"{list_names(missing)} {verb} missing, it has {list_names(list(given)) or 'nothing'}"
        raise refuse(shown, text, f"name all of {', '.join(wanted)}", topic="missing")
    if unknown := [name for name in given if name not in wanted and name.partition(".")[0] not in spec.ignored]:
        hint = did_you_mean(unknown[0], wanted)
        raise refuse(shown, f"the model does not take {list_names(unknown)}", hint, topic="unknown")
    return {name: given[name] for name in wanted}


def _flat(content: Mapping[Any, Any]) -> Named:
    """Return the arrays in a mapping by the names of leaves: `boxes.1` for the second of `boxes`."""
    flat: Named = {}
    for name, value in content.items():
        if isinstance(value, Mapping):
            flat |= {f"{name}.{inner}": part for inner, part in _flat(value).items()}
        elif isinstance(value, tuple) or (isinstance(value, list) and value and isinstance(value[0], Tensor)):
            flat |= {f"{name}.{number}": part for number, part in enumerate(value)}
        else:
            flat[str(name)] = value
    return flat


def _array(values: Any, leaf: Leaf, shown: str) -> Tensor | None:
    """Return values as a tensor; None if they are lists of different lengths."""
    if not isinstance(values, Tensor | np.ndarray):
        if isinstance(values, list | tuple) and values and isinstance(values[0], Tensor | np.ndarray):
            shapes = {tuple(value.shape) for value in values}
            values = np.stack([np.asarray(value) for value in values]) if len(shapes) == 1 else None
            if values is None:
                return None
        try:
            values = np.array(values)
        except ValueError:  # NumPy: inhomogeneous
            return None
        values = values.astype(np.float32) if values.size == 0 else values
    return _typed(as_tensor(values, _named(shown, leaf)), leaf, shown)


def _named(shown: str, leaf: Leaf) -> str:
    return f"{shown}: {leaf.name}" if leaf.name else shown


def _typed(values: Tensor, leaf: Leaf, shown: str) -> Tensor:
    """Convert values to the type of an input.

    Raises:
        ConfigError: they are not whole, not finite, or outside its range.
    """
    kind, where = leaf.kind, _named(shown, leaf)
    floats = values.is_floating_point()
    if floats and not bool(values.isfinite().all()):
        raise refuse(where, "values are NaN or infinite", "correct or remove them")
    if kind.is_floating_point:
        return values.to(kind)
    low, high = (bound.item() for bound in values.aminmax()) if values.numel() else (0, 0)
    if leaf.scale is not None and floats and values.numel():
        if low < 0 or high > 1:
            instead = f"write integers from 0 to {leaf.scale:g}, or floats from 0 to 1"
            raise refuse(where, f"floats go from {low:g} to {high:g}", instead, topic="range")
        return values * leaf.scale
    if floats and not bool((values == values.round()).all()):
        raise refuse(where, "needs whole numbers", "save it as integers", topic="type")
    most: tuple[float, float] = (0, 1) if kind == torch.bool else (torch.iinfo(kind).min, torch.iinfo(kind).max)
    if leaf.scale is not None:
        most = (0, leaf.scale)
    if low < most[0] or high > most[1]:
        raise refuse(
            where, f"integers go from {low} to {high}", f"write integers from {most[0]} to {most[1]:g}", topic="range"
        )
    return values.to(kind)


def _item(named: Named, spec: InputSpec, shown: str) -> dict[str, Tensor]:
    """Return one item as a batch of one."""
    batch = {}
    for leaf in spec.inputs or []:
        values = _array(named[leaf.name], leaf, shown)
        if values is None:
            raise refuse(_named(shown, leaf), "the lists have different lengths", topic="shape")
        batch[leaf.name] = values.unsqueeze(0)
    return _batch(batch, spec, shown)


def _batch(named: Named, spec: InputSpec, shown: str) -> dict[str, Tensor]:
    """Check arrays (N, ...), or those of a single sample, against the shapes of the model's inputs.

    Raises:
        ConfigError: they do not fit.
    """
    leaves = spec.inputs or []
    values: dict[str, Tensor] = {}
    for leaf in leaves:
        array = _array(named[leaf.name], leaf, shown)
        if array is None:
            instead = "save items of different lengths as a list of items, in a .json file"
            raise refuse(_named(shown, leaf), "the lists have different lengths", instead, topic="shape")
        values[leaf.name] = array
    if all(values[leaf.name].ndim == len(leaf.shape) for leaf in leaves):
        values = {name: array.unsqueeze(0) for name, array in values.items()}
    for leaf in leaves:
        shape, wanted = tuple(values[leaf.name].shape), tuple(leaf.shape)
        if len(shape) != 1 + len(wanted) or (not spec.ragged and shape[1:] != wanted):
            one = ", ".join("any" if spec.ragged else str(size) for size in wanted)
            given = ", ".join(map(str, shape))
            raise refuse(
                _named(shown, leaf),
                f"the shape is ({given}), the model takes (N{', ' if one else ''}{one})",
                topic="shape",
            )
    try:
        count = trees.first_axis(values)
    except trees.UnevenTree as error:
        raise refuse(shown, str(error), "save the same number of samples for each", topic="shape") from error
    if not count:
        raise refuse(shown, "no samples", "give at least one")
    return values


def _stacked(items: list[dict[str, Tensor]], shown: str) -> list[dict[str, Tensor]]:
    """Join items of one shape into one chunk; leave those of different shapes apart."""
    if not items:
        raise refuse(shown, "no samples", "give at least one")
    first = {name: values.shape for name, values in items[0].items()}
    if any({name: values.shape for name, values in item.items()} != first for item in items):
        return items
    return [{name: torch.cat([item[name] for item in items]) for name in first}]
