"""Tensors that are divided between ranks, in files of torch's distributed checkpoints: each rank writes its parts.

They lie in a folder beside the checkpoint that names it, which has everything else. Any number of ranks, and a single
process, reads them. No code is run: torch pickles the list of what is in which file, which is read without calling
anything but the classes of that list.
"""

import pickle
import warnings
import zlib
from collections.abc import Iterable, Mapping
from pathlib import Path, PosixPath
from typing import IO, Any

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import Tensor
from torch.distributed.checkpoint import metadata as listed
from torch.distributed.tensor import DTensor

from runner.util.files import open_to_read

LIST = ".metadata"
"""The name that torch gives to the list of what is in which file."""

BLOCK = 1 << 20

warnings.filterwarnings("ignore", "torch.distributed is disabled, unavailable or uninitialized", UserWarning)

Files = dict[str, list[int]]
"""The size and the checksum of each file."""


class ShardsError(Exception):
    """Shards are damaged, or missing; the message names the file."""


def write(folder: Path, tensors: Mapping[str, DTensor], group: dist.ProcessGroup) -> Files:
    """Write this rank's parts; all ranks call it.

    Args:
        folder: of the parts alone; made here.
        tensors: by their names, the same on all ranks.
        group: of all ranks, in which nothing else happens meanwhile.

    Returns:
        The files of all ranks.

    Raises:
        OSError: a rank cannot write its parts.
    """
    try:
        dcp.save(dict(tensors), storage_writer=dcp.FileSystemWriter(folder), process_group=group)
    except dcp.CheckpointException as failed:
        error, _ = next(iter(failed.failures.values()))
        raise OSError(*error.args) if isinstance(error, OSError) else OSError(str(error)) from failed
    own: Files = {path.name: sums(path) for path in _written(folder, group.rank())}
    everyones: list[Any] = [None] * group.size()
    dist.all_gather_object(everyones, own, group)
    return {name: of_file for files in everyones for name, of_file in files.items()}


def _written(folder: Path, rank: int) -> Iterable[Path]:
    yield from folder.glob(f"__{rank}_*")
    if rank == 0:
        yield folder / LIST


def sums(path: Path) -> list[int]:
    """Return the size and the checksum of a file."""
    size = sum_ = 0
    with open_to_read(path) as file:
        while block := file.read(BLOCK):
            size, sum_ = size + len(block), zlib.crc32(block, sum_)
    return [size, sum_]


def check(folder: Path, files: Files) -> None:
    """Check that the files are those that were written.

    Raises:
        ShardsError: one is not, or is missing.
    """
    for name, expected in files.items():
        try:
            damaged = Path(name).name != name or sums(folder / name) != expected
        except OSError:
            damaged = True
        if damaged:
            raise ShardsError(f"{folder.name}/{name}")


def read(folder: Path, tensors: dict[str, Tensor]) -> None:
    """Read tensors, whole ones or this rank's parts; no rank waits for another.

    Args:
        folder: of files that `check` has found to be intact.
        tensors: by their names; they get the values.

    Raises:
        ShardsError: the files do not have them.
    """
    try:
        reader = _Reader(folder)
    except Exception as error:  # the unpickler raises many types
        raise ShardsError(f"{folder.name}/{LIST}: {error}") from error
    try:
        dcp.load(tensors, storage_reader=reader, no_dist=True)
    except dcp.CheckpointException as failed:
        reason, _ = next(iter(failed.failures.values()))
        raise ShardsError(f"{folder.name}: {reason}") from failed


class _Reader(dcp.FileSystemReader):
    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        with open_to_read(folder / LIST) as file:
            self._listed = _Unpickler(file).load()
        if not isinstance(self._listed, listed.Metadata):
            raise pickle.UnpicklingError("it is no list of tensors")
        for stored in (self._listed.storage_data or {}).values():
            if Path(stored.relative_path).name != stored.relative_path:
                raise pickle.UnpicklingError("it names a file elsewhere")

    def read_metadata(self, *_: Any, **__: Any) -> listed.Metadata:
        return self._listed


class _Unpickler(pickle.Unpickler):
    """Makes what a list of tensors consists of, and nothing else: a pickle could call any function that it names."""

    def __init__(self, file: IO[bytes]) -> None:
        super().__init__(file)

    def find_class(self, module: str, name: str) -> Any:
        if module == listed.__name__ and name in (*listed.__all__, "_MEM_FORMAT_ENCODING"):
            return super().find_class(module, name)
        if (module, name) == (dcp.FileSystemWriter.__module__, "_StorageInfo"):
            return super().find_class(module, name)
        if module == "torch" and isinstance(getattr(torch, name, None), torch.dtype):
            return getattr(torch, name)
        if (module, name) in _PLAIN:
            return _PLAIN[module, name]
        raise pickle.UnpicklingError(f"it refers to {module}.{name}, which a list of tensors does not need")


_PLAIN: dict[tuple[str, str], Any] = {
    ("torch", "Size"): torch.Size,
    ("torch.serialization", "_get_layout"): {str(torch.strided): torch.strided}.__getitem__,
    ("pathlib", "PosixPath"): PosixPath,
}
