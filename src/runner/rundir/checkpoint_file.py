"""Read checkpoints: tensors and primitives in a zip container, and a folder of shards where weights are divided."""

import contextlib
import pickle
import shutil
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from runner import __version__
from runner.errors import first_line
from runner.rundir.folders import display_path
from runner.util.files import open_to_read
from runner.util.nested import replace_tensors
from runner.util.primitives import decode

FORMAT, OF_SHARDS = 2, 3
"""The format that is written, and that of a checkpoint whose divided tensors are in a folder of their own. All formats
from 1 are read. 2 added the `OPTIONAL` keys."""

KEYS = ("model", "optimizer", "scheduler", "scaler", "ema", "rng", "progress", "format")
OPTIONAL = ("buffers", "loss", "task", "data", "preprocessing", "callbacks")
"""Left out if they are empty."""

SHARDS = "shards"
"""The key of a checkpoint whose divided tensors are in a folder: it has the folder's name, and the sums of its files.

In their places it has tensors on `meta`; the files name them by their paths.
"""


class CheckpointError(Exception):
    """A checkpoint is missing, or not one of runner; the message names the file."""


class DamagedError(CheckpointError):
    """A checkpoint is damaged; an older one may be intact."""


def load(path: Path, mapped: bool = False, whole: bool = True) -> dict[str, Any]:
    """Load a checkpoint onto the CPU; checksums are verified and no code is run.

    Args:
        path: the file.
        mapped: whether its tensors are pages of the file, of which the system keeps in memory what it has room for: for
            a state that is copied, or only looked at, and then dropped.
        whole: read the shards of divided tensors; otherwise these have no values, and the shards are not looked at.

    Raises:
        CheckpointError: it is damaged, or holds more than tensors and primitives.
    """
    refused = f"{display_path(path)} holds more than tensors and plain values, which could run code when loaded"
    try:
        open_to_read(path).close()
        # torch.load accepts a container with damaged contents, so the checksums are verified here.
        with zipfile.ZipFile(path) as container:
            damaged = container.testzip()
        if damaged:
            raise DamagedError(f"{display_path(path)} is damaged ({damaged})")
        state = _content(path, mapped)
    except FileNotFoundError:
        raise CheckpointError(f"{display_path(path)} does not exist") from None
    except DamagedError:
        raise
    except (zipfile.BadZipFile, OSError, EOFError, RuntimeError) as error:
        if _is_pickle(path):
            raise CheckpointError(refused) from error
        raise DamagedError(f"{display_path(path)} is damaged ({first_line(error)})") from error
    except Exception as error:  # the unpickler raises many types for a payload that is more than tensors
        raise CheckpointError(refused) from error
    if not isinstance(state, dict) or not is_checkpoint(state):
        raise CheckpointError(f"{display_path(path)} is not a checkpoint of runner")
    return decode_checkpoint(state, path, whole)


def _content(path: Path, mapped: bool) -> Any:
    if mapped:
        with contextlib.suppress(RuntimeError, OSError):  # a file system that maps no files
            return torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    return torch.load(path, map_location="cpu", weights_only=True)


def is_checkpoint(content: Mapping[str, Any]) -> bool:
    """Whether the content of a file is a checkpoint, of any format."""
    return set(KEYS) <= set(content) and isinstance(content["format"], int)


def decode_checkpoint(content: Mapping[str, Any], path: Path, whole: bool = True) -> dict[str, Any]:
    """Decode the content of a checkpoint into the state that was saved, with the original types; see `load`.

    Raises:
        CheckpointError: a newer runner wrote it.
    """
    if content["format"] > OF_SHARDS:
        raise CheckpointError(
            f"{display_path(path)} has format {content['format']}, runner {__version__} reads formats 1 to {OF_SHARDS}:"
            f" install a newer runner{_required_version(content)}"
        )
    if SHARDS in content and whole:
        content = with_shards(content, path)
    return {key: decode(part) for key, part in content.items()}


def with_shards(content: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """Return the content of a checkpoint with the whole tensors that it has in a folder of shards.

    Raises:
        DamagedError: a file of them is damaged, or missing.
    """
    from runner.rundir import shards  # importing torch's takes half a second

    folder, files = path.parent / Path(content[SHARDS]["folder"]).name, content[SHARDS]["files"]
    whole: dict[str, Tensor] = {}

    def placed(tensor: Tensor, name: str) -> Tensor:
        return whole.setdefault(name, torch.empty_like(tensor, device="cpu")) if tensor.is_meta else tensor

    placed_in = replace_tensors({key: part for key, part in content.items() if key != SHARDS}, placed)
    try:
        shards.check(folder, files)
        shards.read(folder, whole)
    except shards.ShardsError as error:
        raise DamagedError(f"{display_path(path)} is damaged ({error})") from error
    return dict(placed_in)


def remove_unnamed_shards(folder: Path) -> None:
    """Remove the folders of shards that no checkpoint names: earlier ones, and one that a killed run has begun."""
    if not (found := list(folder.glob(f"{SHARDS}-*"))):
        return
    named: set[str] = set()
    for path in folder.glob("last*.pt"):
        try:
            named.add(load(path, mapped=True, whole=False).get(SHARDS, {}).get("folder", ""))
        except CheckpointError:  # it may be read again later
            return
    for one in found:
        if one.name not in named:
            shutil.rmtree(one, ignore_errors=True)


def _required_version(state: Mapping[str, Any]) -> str:
    """Name the version that a newer checkpoint requires, if it has one."""
    version = state.get("version")
    return f", version {version}" if isinstance(version, str) else ""


def _is_pickle(path: Path) -> bool:
    """Whether it is a bare pickle without a container, as older versions of torch wrote."""
    try:
        with open_to_read(path) as file:
            return file.read(1) == pickle.PROTO
    except OSError:
        return False
