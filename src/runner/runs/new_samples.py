"""New samples for a trained model: out of a file, a folder of images, or the command line."""

import ast
import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from runner.data.image_file import EXTENSIONS, is_image, read_image, to_8_bits
from runner.data.paths import find_data_file
from runner.errors import ConfigError, TrainingError
from runner.rundir.folders import parse_path
from runner.saved.input_spec import InputSpec

log = logging.getLogger("runner")

KINDS = "a .csv, .npy, .npz or .pt file, an image, a folder of images, or [numbers]"
NAMES_SHOWN = 5

MODES = {1: "L", 3: "RGB", 4: "RGBA"}
"""Pillow's name for images of so many channels."""


@dataclass(frozen=True)
class NewSamples:
    """Samples that are there, and read when they are wanted.

    Attributes:
        names: of the samples: their numbers from 0, or file names.
        load: (first, last + 1) -> raw inputs (n, ...) as a run's data set gives them.
    """

    names: Sequence[str | int]
    load: Callable[[int, int], Tensor]

    def batches(self, size: int) -> Iterator[tuple[Sequence[str | int], Tensor]]:
        """All of them, `size` at a time."""
        for first in range(0, len(self.names), size):
            last = min(first + size, len(self.names))
            yield self.names[first:last], self.load(first, last)


def read(value: str, samples: InputSpec) -> NewSamples:
    """Find new samples, and see that a model takes them.

    Args:
        value: a file, a folder, or a list of numbers such as `[4,5]` or `[[1,2],[3,4]]`.
        samples: what the model takes. One sample may come without the batch axis, grey images without that of
            the channel. Where the run had uint8 pixels, integers are pixels from 0 to 255, and floats the same
            scaled to [0, 1]. Where it had floats, any number is a value as the data set gave them; of images, one far
            from all that it gave is refused. Tables of features may go further.

    Raises:
        ConfigError: there are none, or they have another shape.
    """
    given = f"input={value if len(value) <= 80 else value[:77] + '...'}"
    numbers = value.lstrip().startswith("[")
    path = Path(value) if numbers else parse_path(value, "input")
    if numbers and not _is_there(path):
        return _from_tensor(_parse_list(value, given), samples, given)
    if _is_there(path) and path.is_dir():
        return _from_images(_images_in(path, given), path, samples, given)
    path = find_data_file(value, "input")
    suffix = path.suffix.lower()
    if suffix in EXTENSIONS:
        return _from_images([path], path.parent, samples, given)
    if suffix in (".csv", ".tsv", ".txt"):
        return _from_tensor(_read_table(path, samples, given), samples, given)
    if suffix in (".npy", ".npz", ".pt"):
        return _from_tensor(_read_array(path, given), samples, given)
    raise ConfigError(f"{given} is of no kind that is known here: write {KINDS}")


def _is_there(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:  # a list of numbers may be longer than any file's name
        return False


def _parse_list(value: str, given: str) -> Tensor:
    try:
        numbers = ast.literal_eval(value.strip())
        array = np.array(numbers)
    except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError) as error:
        uneven = "inhomogeneous" in str(error)
        why = "its lists have different lengths" if uneven else "it is not a list of numbers"
        raise ConfigError(f"{given}: {why}; write one sample as [4,5], several as [[1,2],[3,4]]") from error
    return _as_tensor(array, given)


def _read_array(path: Path, given: str) -> Tensor:
    """The array of a file; nothing that could run code is loaded."""
    try:
        if path.suffix.lower() == ".pt":
            content: Any = torch.load(path, map_location="cpu", weights_only=True)
        else:
            content = np.load(path, allow_pickle=False)
            if not isinstance(content, np.ndarray):
                with content:
                    content = dict(content)
    except Exception as error:  # whatever a damaged file, or one with code in it, raises
        raise ConfigError(
            f"{given} cannot be read: it is damaged, or holds more than numbers, which could run code when loaded"
        ) from error
    if isinstance(content, dict):
        if "inputs" not in content and len(content) != 1:
            names = ", ".join(map(str, list(content)[:NAMES_SHOWN])) or "nothing"
            raise ConfigError(f"{given} holds {names}: store the samples alone, or under the name inputs")
        content = content["inputs"] if "inputs" in content else next(iter(content.values()))
    return _as_tensor(content, given)


def _as_tensor(values: Any, given: str) -> Tensor:
    """uint8, int64, float32 or float64; yes and no are 1.0 and 0.0."""
    if isinstance(values, Tensor):
        values = values.detach()
        values = values.float() if values.dtype == torch.bfloat16 else values  # which NumPy has not
        values = values.numpy()
    kind = getattr(getattr(values, "dtype", None), "kind", None)
    if kind not in ("b", "i", "u", "f"):
        raise ConfigError(f"{given} must hold numbers only, not {getattr(values, 'dtype', type(values).__name__)}")
    if values.dtype == np.uint8:
        return torch.from_numpy(np.array(values))
    if kind == "f":
        return torch.from_numpy(values.astype(np.float64 if values.dtype.itemsize >= 8 else np.float32))
    return torch.from_numpy(values.astype(np.float32 if kind == "b" else np.int64))


def _read_table(path: Path, samples: InputSpec, given: str) -> Tensor:
    """The rows of a table, (N, features) or, for a model of other samples, (N, ...) of as many numbers."""
    from runner.data import columns as cells
    from runner.data import csv_0_1_0, table_layout

    features, columns = samples.features, samples.columns
    if features is None or columns is None:
        table = table_layout.read_table(path, given, index="none")
    elif samples.reading is None:
        return _as_tensor(csv_0_1_0.read_new(path, given, features, columns), given)
    else:
        table = table_layout.read_new(path, given, features, columns, samples.reading)
    if table.rows == 0:
        raise ConfigError(f"{given} has no samples, only a header: give one at least")
    if problems := cells.find_faults(table.columns, given):
        raise ConfigError(*problems)
    values = torch.from_numpy(table.numbers(list(table.columns)))
    shape = samples.input_shape
    if values.shape[1:].numel() == torch.Size(shape).numel():
        values = values.reshape(len(values), *shape)
    return values


def _list(names: Sequence[str]) -> str:
    return ", ".join(map(str, list(names)[:NAMES_SHOWN])) + (", ..." if len(names) > NAMES_SHOWN else "")


def _from_tensor(values: Tensor, samples: InputSpec, given: str) -> NewSamples:
    inputs = _as_raw(_with_batch_axis(values, samples, given), samples, given)
    return NewSamples(range(len(inputs)), lambda first, last: inputs[first:last])


def _with_batch_axis(values: Tensor, samples: InputSpec, given: str) -> Tensor:
    shape = torch.Size(samples.input_shape)
    grey = len(shape) == 3 and shape[0] == 1
    if values.shape[1:] == shape and values.ndim:
        inputs = values
    elif values.shape == shape:
        inputs = values.unsqueeze(0)
    elif grey and values.ndim in (2, 3) and values.shape[-2:] == shape[1:]:
        inputs = values.reshape(-1, *shape)
    else:
        wanted = ", ".join(map(str, shape))
        raise ConfigError(
            f"{given} has the shape ({', '.join(map(str, values.shape))}), the model takes ({wanted}) for one sample,"
            f" or (N, {wanted}) for several"
        )
    if len(inputs) == 0:
        raise ConfigError(f"{given} has no samples: give one at least")
    return inputs


def _as_raw(inputs: Tensor, samples: InputSpec, given: str) -> Tensor:
    """As the run's data set gives samples: uint8 pixels, which are scaled to [0, 1] later, float32 or float64."""
    low, high = inputs.min().item(), inputs.max().item()
    as_floats = inputs.double() if samples.dtype == "float64" else inputs.float()
    if inputs.is_floating_point():
        if not bool(as_floats.isfinite().all()):
            bad = (~as_floats.isfinite()).flatten(1).any(1).nonzero().flatten().tolist()
            raise ConfigError(f"{given} has values that are NaN or infinite, in sample {_list(list(map(str, bad)))}")
        if samples.dtype == "uint8" and (low < 0 or high > 1):
            raise ConfigError(
                f"{given} has values from {low:g} to {high:g}: pixels are floats from 0 to 1, or integers from 0 to 255"
            )
    elif samples.dtype == "uint8":
        if low < 0 or high > samples.scale:
            raise ConfigError(
                f"{given} has values from {low} to {high}: pixels are integers from 0 to {samples.scale:g}, or floats"
                " from 0 to 1"
            )
        return inputs.to(torch.uint8)
    _check_range(low, high, samples, given)
    return as_floats


def _check_range(low: float, high: float, samples: InputSpec, given: str) -> None:
    """Refuse images in other units than those of the run, of which a model makes something all the same.

    Pixels that went from 0 to 1 cannot be anything else. Other values, such as normalised ones, may go beyond those
    that were seen, by as much as lies between these.

    Raises:
        ConfigError: the values are far from those of the run.
    """
    if samples.value_range is None:
        return
    least, most = samples.value_range
    if _to_1(samples):
        least, most, margin = 0.0, 1.0, 0.0
    else:
        margin = most - least
    if low < least - margin or high > most + margin:
        how = "divide them" if low >= 0 <= least else "scale them as those were"
        raise ConfigError(
            f"{given}: pixels go from {low:g} to {high:g}, the model was trained on pixels from {least:g} to"
            f" {most:g}: {how}"
        )


def _to_1(samples: InputSpec) -> bool:
    """Whether the images of the run were floats from 0 to 1."""
    return samples.value_range is not None and samples.value_range[0] >= 0 and samples.value_range[1] <= 1


def _images_in(folder: Path, given: str) -> list[Path]:
    found = [path for path in sorted(folder.rglob("*")) if is_image(path.name) and path.is_file()]
    if not found:
        raise ConfigError(f"{given} has no images in it ({' '.join(EXTENSIONS)}): write {KINDS}")
    return found


def _from_images(paths: list[Path], folder: Path, samples: InputSpec, given: str) -> NewSamples:
    if not samples.images or samples.input_shape[0] not in MODES:
        shape = ", ".join(map(str, samples.input_shape))
        raise ConfigError(f"{given} is an image, the model takes samples of shape ({shape}): write {KINDS}")
    _, height, width = samples.input_shape
    if samples.value_range is not None and not _to_1(samples) and samples.data != "image_folder":
        least, most = samples.value_range
        raise ConfigError(
            f"{given} is an image, whose pixels are read as numbers from 0 to 1, the model was trained on values from"
            f" {least:g} to {most:g}: write them into a .npy file, scaled as those were"
        )
    resized = 0

    def load(first: int, last: int) -> Tensor:
        nonlocal resized
        found = []
        for path in paths[first:last]:
            image, size = _read_image(path, samples.input_shape, samples.white)
            # Those of an image_folder were resized for training too.
            if size != (width, height) and samples.data != "image_folder":
                resized += 1
                if resized == 1:
                    log.info(
                        "resized    to %dx%d pixels: %s and others that have not that size", width, height, path.name
                    )
            found.append(image)
        return torch.stack(found)

    return NewSamples([path.relative_to(folder).as_posix() for path in paths], load)


def _read_image(path: Path, shape: Sequence[int], white: float | None) -> tuple[Tensor, tuple[int, int]]:
    """uint8 (C, H, W), as training reads image files, and the width and height that it had."""
    from PIL import Image

    channels, height, width = shape
    try:
        if height != width or channels == 4:
            return _read_any(path, channels, height, width, white)
        with Image.open(path) as file:
            size = file.size
        return read_image(path, height, channels, white), size
    except TrainingError as error:
        text = str(error).replace("data.path: ", "input: ", 1).partition(": write data.scale")
        raise ConfigError(text[0] + (": save it with 8 bits a pixel" if text[1] else "")) from error
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:  # Pillow's own are of these kinds
        raise ConfigError(f"input: {path} cannot be read as an image ({error}): replace it, or move it away") from error


def _read_any(
    path: Path, channels: int, height: int, width: int, white: float | None
) -> tuple[Tensor, tuple[int, int]]:
    """The same for images that `read_image` has not: those that are not square, and those with transparency.

    The largest part of the middle that has the right proportions is taken, and resized.
    """
    from PIL import Image, ImageOps

    with Image.open(path) as file:
        image = to_8_bits(ImageOps.exif_transpose(file), white).convert(MODES[channels])
    size = image.size
    pixels = torch.from_numpy(np.array(image)).reshape(size[1], size[0], channels).permute(2, 0, 1)
    # The shorter side, measured in the wanted sides, decides.
    across, down = max(1, min(size[0], size[1] * width // height)), max(1, min(size[1], size[0] * height // width))
    left, top = (size[0] - across) // 2, (size[1] - down) // 2
    middle = pixels[:, top : top + down, left : left + across].unsqueeze(0)
    if (across, down) != (width, height):
        middle = functional.interpolate(middle, (height, width), mode="bilinear", antialias=True)
    return middle[0].contiguous(), size
