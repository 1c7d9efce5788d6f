"""The shards of `data=webdataset`: tar files on the disk, or at addresses that are downloaded once.

The notation of names and addresses is that of the library webdataset.
"""

import http.client
import os
import shutil
import urllib.request
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any

from filelock import FileLock

from runner.data import fetch
from runner.data.paths import full_path
from runner.errors import ConfigError, Problem, describe_error
from runner.util import hub

DOWNLOADS = Path("~/.cache/runner/shards")
TIMEOUT_SECONDS = 60.0  # without an answer, or data
PACKED = (".gz", ".tgz", ".bz2", ".xz", ".zst")


class ShardError(Exception):
    """A shard cannot be read; the message is one line that names it."""


@dataclass(frozen=True)
class ShardFile:
    """A shard.

    Attributes:
        name: its path, or its address.
        path: where it lies, or will lie once it is downloaded.
        remote: it has an address.
        limit: bytes of all downloaded shards, beyond which those that were not used for the longest time are removed;
            None: there is no limit.
    """

    name: str
    path: Path
    remote: bool = False
    limit: int | None = None

    def open(self) -> int:
        """Return a descriptor of the file; it is downloaded if it is not there.

        Raises:
            ShardError: it cannot be had.
        """
        try:
            while True:
                self.fetch()
                with suppress(FileNotFoundError):  # another process may have removed it meanwhile
                    number = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
                    if self.remote:
                        os.utime(self.path)
                    return number
                if not self.remote:
                    raise ShardError(f"{self.name} is missing")
        except OSError as error:
            raise ShardError(f"{self.name} cannot be read: {error.strerror or error}") from error

    def fetch(self) -> None:
        """Download the shard if it is not there; several processes wait for the one that does.

        Raises:
            ShardError: that fails.
            Forbidden: within `fetch.forbidden()`.
        """
        if not self.remote or self.path.exists():
            return
        fetch.require_allowed()
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{self.path}.lock"):
            if self.path.exists():
                return
            part = self.path.with_suffix(".part")
            try:
                with part.open("wb") as file:
                    self._download(file)
                part.replace(self.path)
            except (OSError, http.client.HTTPException, ValueError) as error:
                part.unlink(missing_ok=True)
                raise ShardError(f"{self.name} cannot be downloaded: {describe_error(error)}") from error
        self._make_room()

    def _download(self, file: Any) -> None:
        if not self.name.startswith(("http://", "https://")):
            gopen = _library("webdataset.gopen")
            with gopen.gopen(self.name, "rb") as stream:  # by the programs for s3:, gs:, hf: and others
                shutil.copyfileobj(stream, file)
            return
        with urllib.request.urlopen(self.name, timeout=TIMEOUT_SECONDS) as answer:
            shutil.copyfileobj(answer, file)
            announced = answer.headers.get("Content-Length")
        if announced is not None and int(announced) != file.tell():
            raise OSError(f"{file.tell():,} of {int(announced):,} bytes came")

    def _make_room(self) -> None:
        """Remove the downloads that were not used for the longest time; processes that have them open go on."""
        if self.limit is None:
            return
        found = sorted(((path.stat(), path) for path in _downloads().glob("*/*.tar")), key=lambda one: one[0].st_mtime)
        excess = sum(stat.st_size for stat, _ in found) - self.limit
        for stat, path in found:
            if excess > 0 and path != self.path:
                path.unlink(missing_ok=True)
                excess -= stat.st_size


def list_shards(path: str | Sequence[str] | None, key: str, limit: int | None = None) -> list[ShardFile]:
    """List the shards that a config key names.

    Args:
        path: a file, a folder of `.tar` files, an address, any of them with braces (`{000..009}`), or a list of these.
        key: the config key, for problems.
        limit: see `ShardFile`.

    Raises:
        ConfigError: there are none, or some do not exist.
    """
    if path is None or not path:
        text = f"{key} is not set, and data=webdataset reads tar files"
        raise ConfigError(Problem(key, text, f"write {key}=shards/train-{{000000..000009}}.tar", topic="missing"))
    expand = _library("webdataset.shardlists").expand_urls
    shards: list[ShardFile] = []
    for named in [path] if isinstance(path, str) else path:
        try:
            names = expand(str(named))
        except ValueError as error:
            raise ConfigError(
                Problem(key, f"{key}={named}: {describe_error(error)}", "correct it", topic="file")
            ) from error
        for name in names:
            shards += [_remote(name, limit)] if _is_address(name) else _local(name, key)
    _check(shards, key)
    return shards


def _is_address(name: str) -> bool:
    return "://" in name or name.startswith("pipe:")


def _remote(name: str, limit: int | None) -> ShardFile:
    digest = blake2b(name.encode(), digest_size=8).hexdigest()
    return ShardFile(name, _downloads() / digest / "shard.tar", True, limit)


def _local(name: str, key: str) -> list[ShardFile]:
    path = full_path(name.removeprefix("file:"), key)
    paths = sorted(path.glob("*.tar")) if path.is_dir() else [path]
    if not paths:
        raise ConfigError(Problem(key, f"{key}: {path} has no .tar files", "name a folder that has", topic="file"))
    return [ShardFile(str(path), path) for path in paths]


def _check(shards: Sequence[ShardFile], key: str) -> None:
    """Check that all shards exist, are not compressed, and are named once."""
    names = [shard.name for shard in shards]
    if packed := [name for name in names if name.lower().endswith(PACKED)]:
        text = f"{key}: {packed[0]} is compressed, and samples are read anywhere in a shard"
        raise ConfigError(Problem(key, text, "unpack it to a .tar file", topic="file"))
    if missing := [shard for shard in shards if not shard.remote and not shard.path.is_file()]:
        more = f" and {len(missing) - 1} more of {len(shards)} shards do" if len(missing) > 1 else " does"
        text = f"{key}: {missing[0].path}{more} not exist"
        raise ConfigError(Problem(key, text, "correct the names, or their numbers", topic="file"))
    if twice := next((name for name in names if names.count(name) > 1), None) if len(set(names)) < len(names) else None:
        raise ConfigError(Problem(key, f"{key} names {twice} twice", "name each shard once", topic="conflict"))


def _downloads() -> Path:
    return DOWNLOADS.expanduser()


def _library(name: str) -> Any:
    """Import a module of the library webdataset.

    Raises:
        ConfigError: it is not installed.
    """
    hub.library("webdataset", "data=webdataset", "webdataset")
    return hub.library(name, "data=webdataset", "webdataset")
