"""New samples for a trained model: from a file, a folder of images, or the command line."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from runner.data.image_file import EXTENSIONS
from runner.data.listing import list_names
from runner.data.named_path import NamedPath
from runner.data.paths import find_data_file
from runner.errors import ConfigError
from runner.rundir.folders import parse_path
from runner.runs import new_inputs
from runner.runs.new_images import ImageReader, find_images, is_scaled_to_1
from runner.runs.new_values import KEY, as_tensor, parse_list, read_array, refuse
from runner.saved.input_spec import InputSpec
from runner.util.trees import Tree, tree_map

KINDS = "name a .csv, .npy, .npz or .pt file, an image or a folder of images, or write numbers as [4,5]"
TOKEN_IDS = "input_ids"  # of Hugging Face's tokenizers
LONGEST = 80  # characters of an argument in an error


@dataclass(frozen=True)
class NewSamples:
    """New samples, read batch by batch.

    Attributes:
        names: of the samples: their numbers from 0, or file names.
        load: (first, last + 1) -> raw inputs (n, ...), as the data set of the run returns them.
        one_by_one: whether samples differ in shape, so that each is a batch.
    """

    names: Sequence[str | int]
    load: Callable[[int, int], Tree]
    one_by_one: bool = False

    def batches(self, size: int) -> Iterator[tuple[Sequence[str | int], Tree]]:
        """Yield names and raw inputs of all samples, `size` at a time."""
        size = 1 if self.one_by_one else size
        for first in range(0, len(self.names), size):
            last = min(first + size, len(self.names))
            yield self.names[first:last], self.load(first, last)


def read(value: str, spec: InputSpec) -> NewSamples:
    """Find new samples, and check that a model takes them.

    Args:
        value: a file, a folder, or a list of numbers such as `[4,5]` or `[[1,2],[3,4]]`; of several inputs, also
            `{a:[[1,2]],b:[[3]]}`.
        spec: the inputs that the model takes. A single sample does not need the batch axis, grey images do not need a
            channel axis. If the run had uint8 pixels, integers are pixels from 0 to 255, and floats the same scaled to
            [0, 1]. If it had floats, every number is a raw value; images with values far outside the training range are
            an error, tables of features are not checked.

    Raises:
        ConfigError: there are none, or they have another shape.
    """
    shown = f"{KEY}={value if len(value) <= LONGEST else value[: LONGEST - 3] + '...'}"
    is_list = value.lstrip().startswith(("[", "{"))
    path = Path(value) if is_list else parse_path(value, KEY)
    if spec.table is not None and (is_list or (_exists(path) and path.is_dir())) and not path.is_file():
        raise refuse(shown, "the model was trained on a table, and takes tables", "name a CSV or Parquet file")
    if spec.inputs is not None and spec.table is None:
        return _from_inputs(value, path, spec, shown)
    if is_list and not _exists(path):
        return from_tensor(parse_list(value, shown), spec, shown)
    if _exists(path) and path.is_dir():
        return _from_images(find_images(path, shown), path, spec, shown)
    path = find_data_file(value, KEY)
    if spec.table is not None:
        from runner.runs import new_rows  # late: pandas and scikit-learn take 0.8 s, and only tables need them

        inputs, count = new_rows.read(NamedPath(KEY, shown.partition("=")[2], path), spec.table)
        return NewSamples(range(count), lambda first, last: tree_map(lambda leaf: leaf[first:last], inputs))
    suffix = path.suffix.lower()
    if suffix in EXTENSIONS:
        return _from_images([path], path.parent, spec, shown)
    if suffix in (".csv", ".tsv", ".txt"):
        return from_tensor(read_table(NamedPath(KEY, shown.partition("=")[2], path), spec), spec, shown)
    if suffix in (".npy", ".npz", ".pt"):
        return from_tensor(read_array(path, shown), spec, shown)
    raise refuse(shown, "unknown kind of file", KINDS, topic="choice")


def _from_inputs(value: str, path: Path, spec: InputSpec, shown: str) -> NewSamples:
    """Read samples of several inputs, or of one that is not normalised."""
    if value.lstrip().startswith(("[", "{")) and not _exists(path):
        chunks = new_inputs.read_argument(value, spec, shown)
    else:
        is_other = path.suffix.lower() not in new_inputs.SUFFIXES
        if is_other and any(leaf.name == TOKEN_IDS for leaf in spec.inputs or []):
            names = ", ".join(leaf.name for leaf in spec.inputs or [])
            text = f"the model takes tokens, not texts: {names}"
            instead = (
                "tokenize the texts with the tokenizer of the run, and save these arrays as .npz, or items as .jsonl"
            )
            raise refuse(shown, text, instead, topic="choice")
        path = find_data_file(value, KEY)
        if is_other:
            names = ", ".join(leaf.name for leaf in spec.inputs or [] if leaf.name)
            text = f"the model takes {names or 'whole numbers'}, which this kind of file does not hold"
            raise refuse(shown, text, f"name a file {' '.join(new_inputs.SUFFIXES)}", topic="choice")
        chunks = new_inputs.read_file(path, spec, shown)
    if len(chunks) > 1:  # of different shapes
        return NewSamples(range(len(chunks)), lambda first, _: spec.build(chunks[first]), one_by_one=True)
    (named,) = chunks
    count = len(next(iter(named.values())))
    return NewSamples(
        range(count), lambda first, last: spec.build({name: array[first:last] for name, array in named.items()})
    )


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:  # a list of numbers may exceed the length of a file name
        return False


def read_table(file: NamedPath, spec: InputSpec) -> Tensor:
    """Read the rows of a table: (N, features); for a model of other samples (N, ...) if the count of numbers fits.

    Raises:
        ConfigError: it is not a table of numbers, or lacks a column.
    """
    from runner.data import columns as cells
    from runner.data import csv_0_1_0, table_layout

    features, columns = spec.features, spec.columns
    if features is None or columns is None:
        table = table_layout.read_table(file, index="none")
    elif spec.reading is None:
        return as_tensor(csv_0_1_0.read_new(file, features, columns), str(file))
    else:
        table = table_layout.read_new(file, features, columns, spec.reading)
    if table.rows == 0:
        raise ConfigError(file.problem("no samples, only a header", "add at least one row"))
    if problems := cells.find_faults(table.columns, file):
        raise ConfigError(*problems)
    values = torch.from_numpy(table.numbers(list(table.columns), [np.ones(table.rows, dtype=bool)])[0])
    shape = spec.input_shape
    if values.shape[1:].numel() == torch.Size(shape).numel():
        values = values.reshape(len(values), *shape)
    return values


def _from_images(paths: list[Path], folder: Path, spec: InputSpec, shown: str) -> NewSamples:
    reader = ImageReader(paths, spec, shown)
    return NewSamples([path.relative_to(folder).as_posix() for path in paths], reader.read)


def from_tensor(values: Tensor, spec: InputSpec, shown: str) -> NewSamples:
    """Check numbers (N, ...), or those of a single sample, and convert them to raw inputs of a run: see `read`.

    Raises:
        ConfigError: the model does not take them.
    """
    inputs = _as_raw(_with_batch_axis(values, spec, shown), spec, shown)
    return NewSamples(range(len(inputs)), lambda first, last: inputs[first:last])


def _with_batch_axis(values: Tensor, spec: InputSpec, shown: str) -> Tensor:
    """Add the axes that may be missing.

    Raises:
        ConfigError: the shape is another one.
    """
    shape = torch.Size(spec.input_shape)
    grey = len(shape) == 3 and shape[0] == 1
    if values.shape[1:] == shape and values.ndim:
        inputs = values
    elif values.shape == shape:
        inputs = values.unsqueeze(0)
    elif grey and values.ndim in (2, 3) and values.shape[-2:] == shape[1:]:
        inputs = values.reshape(-1, *shape)
    else:
        one = ", ".join(map(str, shape))
        text = f"the shape is ({', '.join(map(str, values.shape))}), the model takes ({one}), or (N, {one}) for several"
        raise refuse(shown, text, topic="shape")
    if len(inputs) == 0:
        raise refuse(shown, "no samples", "give at least one")
    return inputs


def _as_raw(inputs: Tensor, spec: InputSpec, shown: str) -> Tensor:
    """Convert values to raw inputs of the run: uint8 pixels, which are scaled to [0, 1] later, float32 or float64.

    Raises:
        ConfigError: a value is not finite, or outside the range.
    """
    # NumPy, not torch: it keeps Python's lock, which a server's thread would wait for after each operation.
    values = inputs.numpy()
    low, high = values.min().item(), values.max().item()
    with np.errstate(over="ignore"):  # what float32 cannot hold becomes infinite
        as_floats = values.astype(np.float64 if spec.dtype == "float64" else np.float32, copy=False)
    allowed = f"write integers from 0 to {spec.scale:g}, or floats from 0 to 1"
    if inputs.is_floating_point():
        if not np.isfinite(as_floats).all():
            bad = np.flatnonzero(~np.isfinite(as_floats).reshape(len(as_floats), -1).all(axis=1)).tolist()
            raise refuse(shown, f"values are NaN or infinite in sample {list_names(bad)}", "correct or remove them")
        if spec.dtype == "uint8" and (low < 0 or high > 1):
            raise refuse(shown, f"floats go from {low:g} to {high:g}", allowed, topic="range")
    elif spec.dtype == "uint8":
        if low < 0 or high > spec.scale:
            raise refuse(shown, f"integers go from {low} to {high}", allowed, topic="range")
        return torch.from_numpy(values.astype(np.uint8))
    _check_range(low, high, spec, shown)
    return torch.from_numpy(as_floats)


def _check_range(low: float, high: float, spec: InputSpec, shown: str) -> None:
    """Check that images have the units of the run; for other units a model would still return numbers.

    Pixels that went from 0 to 1 have to stay there. Other values, such as normalised ones, may exceed the training
    range by its width.

    Raises:
        ConfigError: the values are far from those of the run.
    """
    if spec.value_range is None:
        return
    least, most = spec.value_range
    if is_scaled_to_1(spec):
        least, most, margin = 0.0, 1.0, 0.0
    else:
        margin = most - least
    if low < least - margin or high > most + margin:
        text = f"pixels go from {low:g} to {high:g}, and the model was trained on pixels from {least:g} to {most:g}"
        by = f" by {spec.divided_by:g}" if spec.divided_by else ""
        how = f"divide them{by}" if low >= 0 <= least else "scale them as the training values"
        raise refuse(shown, text, how, topic="range")
