"""Objects that are given to `run` and `sweep`: they become files below `objects/` in the folder of all outputs.

Arrays and tables become data files, as `data=tensors` and `data=table` read them. A model, a data set, a function or a
class is pickled, with its code if that is in a notebook or a script, and becomes a `_target_`: see `runner.objects`.
"""

import io
import re
from collections.abc import Mapping, Sequence
from typing import Any

from runner import objects
from runner.errors import ConfigError, Problem, describe_error

PARTS = ("train", "val", "test")
CUSTOM = "custom"
LEFT_OUT = {"train": "", "val": "val_", "test": "test_"}
"""The prefixes of the parts' arrays in a file of `data=tensors`."""


def has_parts(value: Mapping[str, Any]) -> bool:
    """Return whether a mapping has the parts of a data set."""
    return "train" in value and set(value) <= set(PARTS)


def arguments_of(group: str, values: Sequence[Any]) -> list[str]:
    """Return the arguments that choose objects for a group; several are the values of a sweep.

    Raises:
        ConfigError: an object cannot be given, or not be pickled.
    """
    if group == "data" and len(values) == 1 and (arguments := _data_arguments(values[0])) is not None:
        return arguments
    targets = [target_of(group, value) for value in values]
    return [f"{group}={CUSTOM}", f"{group}._target_={','.join(targets)}"]


def target_of(key: str, value: Any) -> str:
    """Pickle an object into a file, and return the `_target_` that names it.

    Raises:
        ConfigError: it cannot be given, or not be pickled.
    """
    return f"{objects.MODULE}.{_pickle(key, value)}"


def _pickle(group: str, value: Any) -> str:
    """Pickle an object into a file, and return its name."""
    import cloudpickle

    value = _checked(group, value)
    name = getattr(value, "__name__", None) or (value.name if group == "data" else type(value).__name__)
    try:
        content = cloudpickle.dumps(value)
    except Exception as error:  # a generator, a lock, an open file
        text = f"{group}: {_word(name)} cannot be pickled: {describe_error(error)}"
        instead = "give its class or a function that makes it, or leave out what cannot be"
        raise ConfigError(Problem(group, text, instead, topic="code")) from error
    return objects.put(_word(name), objects.SUFFIX, content).stem


def _word(name: Any) -> str:
    """Return a name as a part of a module's path."""
    word = re.sub(r"\W+", "_", str(name)).strip("_")[:40]
    return word if word and not word[0].isdigit() else f"object_{word}".rstrip("_")


def _checked(group: str, value: Any) -> Any:
    """Return the object as it is pickled."""
    import torch

    if group in ("optimizer", "scheduler") and not callable(value):
        kind, takes = type(value).__name__, "params" if group == "optimizer" else "optimizer"
        text = f"{group}: this {kind} belongs to another model"
        instead = f"give a class, or a function: {group}=lambda {takes}: {kind}({takes}, ...)"
        raise ConfigError(Problem(group, text, instead, topic="type"))
    if group == "data":
        return _as_source(value)
    if isinstance(value, torch.nn.Module) and any(tensor.device.type != "cpu" for tensor in _tensors(value)):
        import copy

        return copy.deepcopy(value).cpu()
    return value


def _tensors(model: Any) -> list[Any]:
    return [*model.parameters(), *model.buffers()]


def _as_source(value: Any) -> Any:
    """Return a data set as something that the group `data` takes: a `Source`, or what returns one."""
    from runner.data.source import Source

    if isinstance(value, Source) or (callable(value) and not hasattr(value, "__getitem__")):
        return value
    parts = value if isinstance(value, Mapping) and has_parts(value) else {"train": value}
    first = parts["train"]
    return Source(name="data" if isinstance(first, tuple | list | Mapping) else type(first).__name__, **parts)


def _data_arguments(value: Any) -> list[str] | None:
    """Return the arguments for arrays or tables; None if the data are something else."""
    parts = value if isinstance(value, Mapping) and has_parts(value) else _divide(value)
    if parts is None:
        return None
    if all(_is_frame(part) for part in parts.values()):
        return _table(parts)
    if not all(isinstance(part, tuple | list) and len(part) == 2 for part in parts.values()):
        return None
    if all(_is_frame(inputs) for inputs, _ in parts.values()):
        return _table({name: _join(inputs, targets) for name, (inputs, targets) in parts.items()})
    if all(_is_array(inputs) and _is_array(targets) for inputs, targets in parts.values()):
        return _arrays(parts)
    return None


def are_lists(value: Any) -> bool:
    """Return whether data are a tuple of lists, `(x, y)`, which a config could hold too."""
    return isinstance(value, tuple) and all(isinstance(part, list) for part in value) and _divide(value) is not None


def _divide(value: Any) -> dict[str, Any] | None:
    """Return the parts of `(x, y)`, of `(x, y, x_test, y_test)` or of a table; None of anything else."""
    if _is_frame(value):
        return {"train": value}
    if isinstance(value, tuple | list) and len(value) in (2, 4) and all(map(_is_array, value)):
        pairs = [tuple(value[place : place + 2]) for place in range(0, len(value), 2)]
        return dict(zip(("train", "test"), pairs, strict=False))
    return None


def _is_frame(value: Any) -> bool:
    return hasattr(value, "to_parquet") and hasattr(value, "columns")


def _is_array(value: Any) -> bool:
    if isinstance(value, list):
        return bool(value) and isinstance(value[0], int | float | list | str | bool)
    return hasattr(value, "__array__") or _is_frame(value)


def _join(inputs: Any, targets: Any) -> Any:
    """Return a table whose last column has the targets."""
    name = getattr(targets, "name", None) or "target"
    values = targets.to_numpy() if hasattr(targets, "to_numpy") else targets
    return inputs.assign(**{str(name): values})


def _table(parts: Mapping[str, Any]) -> list[str]:
    """Write tables as Parquet files."""
    keys = {"train": "data.path", "val": "data.val_path", "test": "data.test_path"}
    arguments = ["data=table"]
    for part, frame in parts.items():
        file = io.BytesIO()
        frame.rename(columns=str).to_parquet(file, index=False)
        arguments.append(f"{keys[part]}={objects.put('table', '.parquet', file.getvalue())}")
    return arguments


def _arrays(parts: Mapping[str, Any]) -> list[str]:
    """Write arrays as a file; texts among the targets become classes."""
    import torch

    arrays = {
        f"{LEFT_OUT[part]}{name}": _as_array(values)
        for part, pair in parts.items()
        for name, values in zip(("inputs", "targets"), pair, strict=True)
    }
    classes = _classes({name: values for name, values in arrays.items() if name.endswith("targets")})
    if classes is not None:
        places = {name: place for place, name in enumerate(classes)}
        arrays |= {
            name: torch.tensor([places[str(label)] for label in values])
            for name, values in arrays.items()
            if name.endswith("targets")
        }
    file = io.BytesIO()
    torch.save({name: torch.as_tensor(values).detach().cpu().clone() for name, values in arrays.items()}, file)
    from runner.api.arguments import format_value

    named = [] if classes is None else [f"data.classes={format_value(classes)}"]
    return ["data=tensors", f"data.path={objects.put('tensors', '.pt', file.getvalue())}", *named]


def _as_array(values: Any) -> Any:
    """Return a tensor, or a NumPy array."""
    import numpy as np
    import torch

    if isinstance(values, torch.Tensor):
        return values
    return np.ascontiguousarray(values.to_numpy() if hasattr(values, "to_numpy") else values)


def _classes(targets: Mapping[str, Any]) -> list[str] | None:
    """Return the names of the classes, if targets are texts."""
    if not all(str(getattr(values.dtype, "kind", "")) in ("O", "U", "S") for values in targets.values()):
        return None  # numbers, also those of a tensor, whose dtype has no kind
    return sorted({str(label) for values in targets.values() for label in values})
