"""Numbers of new samples: from the command line, or from a file of arrays."""

import ast
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from runner.data.listing import list_names
from runner.errors import ConfigError, Problem, Topic

KEY = "input"


def refuse(shown: str, text: str, suggestion: str = "", *, topic: Topic = "data") -> ConfigError:
    """Make the error of an input: its text is `<shown>: <text>`.

    Args:
        shown: the argument, `input=new.csv`; shortened if it is long.
        text: what is wrong.
        suggestion: what to do.
        topic: its kind.
    """
    return ConfigError(Problem(KEY, f"{shown}: {text}", suggestion, topic=topic))


def parse_list(value: str, shown: str) -> Tensor:
    """Parse a list of numbers, such as `[4,5]` or `[[1,2],[3,4]]`.

    Raises:
        ConfigError: it is not one.
    """
    try:
        numbers = ast.literal_eval(value.strip())
        array = np.array(numbers)
    except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError) as error:
        ragged = "inhomogeneous" in str(error)  # NumPy's word, and a ValueError like the others
        text = "the lists have different lengths" if ragged else "not a list of numbers"
        raise refuse(shown, text, "write one sample as [4,5], several as [[1,2],[3,4]]", topic="type") from error
    return as_tensor(array, shown)


def load_arrays(path: Path, shown: str) -> Any:
    """Load what a .npy, .npz or .pt file holds; nothing that could run code.

    Returns:
        An array; of an .npz file a dict of arrays; of a .pt file whatever was saved.

    Raises:
        ConfigError: the file is damaged, or holds something else.
    """
    try:
        if path.suffix.lower() == ".pt":
            return torch.load(path, map_location="cpu", weights_only=True)
        with path.open("rb") as file:  # NumPy leaves open what it has opened itself if an archive is damaged
            content = np.load(file, allow_pickle=False)
            if isinstance(content, np.ndarray):
                return content
            with content:
                return dict(content)
    except Exception as error:  # a damaged file, or one with code in it, can raise anything
        text = "cannot be read: it is damaged, or holds more than numbers, which could run code when loaded"
        raise refuse(shown, text, "save the samples as an array of numbers", topic="file") from error


def read_array(path: Path, shown: str) -> Tensor:
    """Read a single array from a .npy, .npz or .pt file.

    Raises:
        ConfigError: the file is damaged, or holds something else.
    """
    content = load_arrays(path, shown)
    if isinstance(content, dict):
        if "inputs" not in content and len(content) != 1:
            text = f"the file holds {list_names(list(content)) or 'nothing'}"
            raise refuse(shown, text, "save only the samples, or save them under the name inputs")
        content = content["inputs"] if "inputs" in content else next(iter(content.values()))
    return as_tensor(content, shown)


def as_tensor(values: Any, shown: str) -> Tensor:
    """Convert numbers to uint8, int64, float32 or float64; true and false to 1.0 and 0.0.

    Raises:
        ConfigError: they are not numbers.
    """
    if isinstance(values, Tensor):
        values = values.detach()
        values = values.float() if values.dtype == torch.bfloat16 else values  # NumPy does not have it
        values = values.numpy()
    kind = getattr(getattr(values, "dtype", None), "kind", None)
    if kind not in ("b", "i", "u", "f"):
        text = f"needs numbers only, not {getattr(values, 'dtype', type(values).__name__)}"
        raise refuse(shown, text, "save the samples as an array of numbers", topic="type")
    if values.dtype == np.uint8:
        return torch.from_numpy(np.array(values))
    if kind == "f":
        return torch.from_numpy(values.astype(np.float64 if values.dtype.itemsize >= 8 else np.float32))
    if kind == "u" and values.size and values.max() > np.iinfo(np.int64).max:
        return torch.from_numpy(values.astype(np.float64))
    return torch.from_numpy(values.astype(np.float32 if kind == "b" else np.int64))
