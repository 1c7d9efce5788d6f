"""What a shard holds, and where: read once from the headers of its tar file, and remembered beside it."""

import json
import os
import tarfile
import tempfile
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np

from runner.data.shard_files import DOWNLOADS, ShardError, ShardFile
from runner.util import hub

FORMAT = 1
HIDDEN = Path(".runner", "shards")
BLOCK = tarfile.BLOCKSIZE
RECENT_SECONDS = 2.0  # a file touched so recently may change again within one tick of the file system's clock
LARGEST_VALUE = 1 << 20  # bytes of a file that a target is read from


@dataclass
class ShardIndex:
    """The samples of a shard: files of one name but their endings, one after another.

    Attributes:
        keys: the names of the samples.
        columns: all endings.
        places: offset and size of each sample's file of each column, int64 (samples, columns, 2); -1 without one.
        values: of the targets, if they are numbers or words; else empty.
        size: bytes of the shard.
    """

    keys: list[str]
    columns: list[str]
    places: np.ndarray
    values: list[Any]
    size: int


def read_index(shard: ShardFile, target: str | None) -> ShardIndex:
    """Return the index of a shard: the one that is remembered, unless the shard has changed.

    Args:
        shard: a local one, or one that is downloaded if there is no index of it.
        target: `cls`, or `json.<name>`, whose values the index has; None: no values.

    Raises:
        ShardError: the shard cannot be read.
        Forbidden: it has to be downloaded, within `fetch.forbidden()`.
    """
    state = None if shard.remote else _state_of(shard)
    for place in _places(shard, target):
        with suppress(OSError, ValueError, KeyError, TypeError):
            remembered = json.loads(place.read_text())
            if remembered["format"] == FORMAT and (shard.remote or remembered["state"] == state):
                return _from_json(remembered)
    index = _scan(shard, target)
    if shard.remote or state == _state_of(shard):
        _remember(shard, target, index, state)
    return index


def _state_of(shard: ShardFile) -> list[int]:
    """Return what tells a changed file; a user can set the time of a change, not the last of these."""
    try:
        found = shard.path.stat()
    except OSError as error:
        raise ShardError(f"{shard.name} cannot be read: {error.strerror or error}") from error
    return [found.st_size, found.st_mtime_ns, found.st_ctime_ns]


def _places(shard: ShardFile, target: str | None) -> list[Path]:
    """Return the files that may have the index: beside the shard, or in the user's cache."""
    digest = blake2b(repr((shard.name, target)).encode(errors="surrogateescape"), digest_size=8).hexdigest()
    beside = shard.path.parent / HIDDEN if not shard.remote else shard.path.parent
    return [folder / f"{shard.path.stem}-{digest}.json" for folder in (beside, DOWNLOADS.expanduser() / "indices")]


def _from_json(remembered: Mapping[str, Any]) -> ShardIndex:
    keys, columns = remembered["keys"], remembered["columns"]
    places = np.array(remembered["places"], np.int64).reshape(len(keys), len(columns), 2)
    return ShardIndex(keys, columns, places, remembered["values"], remembered["size"])


def _remember(shard: ShardFile, target: str | None, index: ShardIndex, state: list[int] | None) -> None:
    """Write the index where that is possible; not of a file that may still be written."""
    if state is not None and time.time() - state[2] / 1e9 < RECENT_SECONDS:
        return
    content = {"format": FORMAT, "state": state, **vars(index), "places": index.places.ravel().tolist()}
    for place in _places(shard, target):
        with suppress(OSError):
            place.parent.mkdir(parents=True, exist_ok=True)
            number, temporary = tempfile.mkstemp(dir=place.parent)
            with os.fdopen(number, "w") as file:
                json.dump(content, file)
            os.replace(temporary, place)  # noqa: PTH105
            return


def _scan(shard: ShardFile, target: str | None) -> ShardIndex:
    """Read the headers of a shard, and the files that the targets are read from."""
    split = hub.library("webdataset.tariterators", "data=webdataset", "webdataset").base_plus_ext
    samples: list[tuple[str, dict[str, tuple[int, int]]]] = []
    with os.fdopen(shard.open(), "rb") as file:
        size = os.fstat(file.fileno()).st_size
        try:
            with tarfile.open(fileobj=file, mode="r:") as tar:
                while (member := tar.next()) is not None:
                    tar.members.clear()  # type: ignore[attr-defined]  # else it keeps all
                    key, ending = split(member.name)
                    if not member.isreg() or member.issparse() or key is None or Path(key).name.startswith("__"):
                        continue
                    if not samples or samples[-1][0] != key:
                        samples.append((key, {}))
                    if ending.lower() in samples[-1][1]:
                        raise ShardError(f"{shard.name} has {member.name} twice")
                    samples[-1][1][ending.lower()] = member.offset_data, member.size
                    if member.offset_data + member.size > size:
                        raise ShardError(f"{shard.name} is truncated within {member.name}")
                end = tar.offset
        except (tarfile.TarError, EOFError, ValueError, OSError) as error:
            raise ShardError(f"{shard.name} is not a whole tar file: {error}") from error
        # tarfile takes a damaged header, and the end of the file, for the end of the archive.
        if os.pread(file.fileno(), BLOCK, end) != bytes(BLOCK):
            what = "truncated" if end + BLOCK > size else "damaged"
            raise ShardError(f"{shard.name} is {what} at byte {end:,}, after {len(samples):,} samples")
        if not samples:
            raise ShardError(f"{shard.name} has no samples")
        columns = sorted({ending for _, files in samples for ending in files})
        places = np.full((len(samples), len(columns), 2), -1, np.int64)
        for row, (_, files) in enumerate(samples):
            for ending, place in files.items():
                places[row, columns.index(ending)] = place
        values = [] if target is None else [_value(shard, file.fileno(), key, files, target) for key, files in samples]
    return ShardIndex([key for key, _ in samples], columns, places, values, size)


def _value(shard: ShardFile, number: int, key: str, files: Mapping[str, tuple[int, int]], target: str) -> Any:
    """Return the value of a sample's target."""
    ending, _, path = target.partition(".")
    if ending not in files:
        raise ShardError(f"{shard.name}: sample {key} has no .{ending}")
    offset, size = files[ending]
    decode = hub.library("webdataset.autodecode", "data=webdataset", "webdataset").decoders[ending]
    try:
        value = decode(os.pread(number, min(size, LARGEST_VALUE), offset))
        for name in filter(None, path.split(".")):
            value = value[name]
    except (ValueError, KeyError, TypeError) as error:
        raise ShardError(f"{shard.name}: sample {key} has no {target}: {type(error).__name__}: {error}") from error
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise ShardError(f"{shard.name}: sample {key} has a {target} that is neither a number nor a word")
    return value
