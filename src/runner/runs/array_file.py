"""Predictions as arrays in a file, for those that a table has no room for."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from runner.errors import ConfigError, Problem
from runner.rundir.folders import display_path, for_shell
from runner.util.files import replacing

ARRAYS = (".npz", ".npy", ".pt")
"""The suffixes of files that hold arrays."""


def write_arrays(path: Path, batches: Sequence[Mapping[str, Tensor]]) -> None:
    """Write predictions by name: as arrays to .npz, as tensors to .pt, a single one to .npy.

    Args:
        path: the file; it appears once it is complete.
        batches: tensors (n, ...) by name, for each batch.

    Raises:
        ConfigError: there are several for an .npy file, batches differ in shape, or the file cannot be written.
    """
    suffix, joined = path.suffix.lower(), _join(path, batches)
    if suffix == ".npy" and len(joined) > 1:
        text = f"output={path.name}: predictions are {len(joined)} arrays: {', '.join(joined)}"
        instead = f"write output={for_shell(display_path(path.with_suffix('.npz')))}"
        raise ConfigError(Problem("output", text, instead, topic="choice"))
    try:
        with replacing(path, suffix) as fresh:
            if suffix == ".pt":
                torch.save(joined, fresh)
                return
            arrays: dict[str, Any] = {
                name: (t.float() if t.dtype == torch.bfloat16 else t).numpy() for name, t in joined.items()
            }
            with fresh.open("wb") as file:
                if suffix == ".npy":
                    np.save(file, next(iter(arrays.values())))
                else:
                    np.savez(file, **arrays)
    except OSError as error:
        text = f"output={path} cannot be written: {error.strerror or error}"
        raise ConfigError(Problem("output", text, "write another file", topic="file")) from error


def _join(path: Path, batches: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    try:
        joined = {name: torch.cat([batch[name] for batch in batches]) for name in batches[0]}
    except RuntimeError as error:
        text = f"output={path.name}: predictions of the samples differ in shape"
        raise ConfigError(Problem("output", text, "predict them one at a time", topic="shape")) from error
    # NumPy has no bfloat16.
    return {name: values.float() if values.dtype == torch.bfloat16 else values for name, values in joined.items()}
