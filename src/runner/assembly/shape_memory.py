"""Remember which models have passed the check of shapes, and what it found.

The check loads torch's compiler (900 modules, 0.5 s), as all that runs on the meta device does, and a student starts
the same model again and again.
"""

import contextlib
import hashlib
import json
import platform
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from runner import __version__
from runner.model.probe import Cost
from runner.rundir import layout
from runner.rundir.ownership import is_own_file
from runner.util.files import load_json_or_empty, write_json
from runner.util.users_code import imported_files

MOST = 200
"""Checks that are remembered; the oldest are forgotten."""


def remembered(folder: Path | None, model: nn.Module, asked: Mapping[str, Any], check: Callable[[], Cost]) -> Cost:
    """Return what a check found for the same model and code; check, and remember it, if there was none.

    Only a check that passed is remembered.

    Args:
        folder: of the outputs; None, or one that does not exist, remembers nothing.
        model: on the CPU, as it was made.
        asked: what else the result depends on: the config of the model, the shapes of samples and outputs.
        check: raises ConfigError.
    """
    if folder is None or not folder.is_dir():
        return check()
    try:
        key = fingerprint(model, asked)
    except Exception:  # the user's __repr__ may raise anything
        return check()
    file = folder / layout.SHAPE_CHECKS
    known = load_json_or_empty(file) if is_own_file(file) else {}
    with contextlib.suppress(KeyError, TypeError):  # not known, or damaged
        return Cost(**known[key])
    cost = check()
    with contextlib.suppress(OSError):  # a full disk: it is checked again
        write_json(file, dict([*known.items(), (key, vars(cost))][-MOST:]), private=True)
    return cost


def fingerprint(model: nn.Module, asked: Mapping[str, Any]) -> str:
    """Return what changes with a model, its arguments, the user's code, and the versions of all that it is made of."""
    tensors = [*model.named_parameters(), *model.named_buffers()]
    packages = {type(module).__module__.partition(".")[0] for module in model.modules()}
    versions = {name: str(getattr(sys.modules.get(name), "__version__", None)) for name in packages}
    parts = [
        repr(dict(asked)),
        repr(model),
        [(name, tuple(tensor.shape), str(tensor.dtype)) for name, tensor in tensors],
        sorted(versions.items()),
        [__version__, platform.python_version(), str(torch.__version__)],
        sorted((name, str(file), *_state(file)) for name, file in imported_files().items()),
    ]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def _state(file: Path) -> tuple[int, int]:
    """Return the size and the time of change of a file of code."""
    with contextlib.suppress(OSError):
        status = file.stat()
        return status.st_size, status.st_mtime_ns
    return -1, -1
