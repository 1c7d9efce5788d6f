"""What a result that is remembered between runs depends on besides its arguments: code and versions."""

import contextlib
import platform
import sys
from functools import cache
from pathlib import Path

import torch
from torch import nn

from runner import __version__
from runner.util.users_code import imported_files, is_installed, is_runners


def code_state(model: nn.Module) -> list[object]:
    """Return what changes with the user's code and with the versions of all that a model is made of, for JSON."""
    packages = {type(module).__module__.partition(".")[0] for module in model.modules()}
    versions = {name: str(getattr(sys.modules.get(name), "__version__", None)) for name in packages}
    files = {name: file for name, file in imported_files().items() if not is_runners(name)}
    return [
        sorted(versions.items()),
        [__version__, platform.python_version(), str(torch.__version__)],
        sorted((name, str(file), *_state(file)) for name, file in files.items()),
        sorted(_noted),
        _state_of_runner(),
    ]


_noted: set[str] = set()


def note_code(name: str) -> None:
    """Note that code was loaded which is in no file of a module; its name changes with it."""
    _noted.add(name)


@cache
def _state_of_runner() -> list[tuple[str, int, int]]:
    """Return the states of the files of a checkout of runner, imported or not; its version tells if it is installed."""
    files = [] if is_installed(__file__) else sorted(Path(__file__).parents[1].rglob("*.py"))
    return [(str(file), *_state(file)) for file in files]


@cache
def _state(file: Path) -> tuple[int, int]:
    """Return the size and the time of change of a file of code when it was first asked for, near its import."""
    with contextlib.suppress(OSError):
        status = file.stat()
        return status.st_size, status.st_mtime_ns
    return -1, -1
