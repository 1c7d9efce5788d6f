"""Decoded images in a memory-mapped file, so that a folder of images is decoded once and not each epoch.

The file lies in `.runner` of the data's own folder or, if that cannot be written, in the user's cache. It has a place
for each image of the folder, and a record of the file that was decoded: its size, when it was changed, when the file
system last touched it, and a checksum of the pixels. An image whose file or pixels differ from the record is decoded
again.

Processes share a cache without locks. It comes into being by a rename; an image is written before its record, and two
processes that decode the same file write the same bytes. Whatever else they may leave behind fails the checksum.
"""

import logging
import os
import shutil
import tempfile
import time
import zlib
from collections.abc import Callable, Sequence
from contextlib import suppress
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from runner.errors import ConfigError, Problem

log = logging.getLogger("runner")

FORMAT = 1  # of the files, and of what `read_image` returns: another number, and all caches are made again
HIDDEN = ".runner"
USERS = Path("~/.cache/runner/images")
ROOM = 0.5  # of the free disk, which a cache may take with `data.cache=auto`
UNUSED_SECONDS = 24 * 3600  # after which the cache of another list of the same files is removed
RECENT_SECONDS = 2.0  # a file touched so recently may change again within one tick of the file system's clock
RECORD = np.dtype([("file", np.uint8, 16), ("checksum", np.uint32), ("filled", np.uint32)])


class ImageCache:
    """The decoded images of a folder.

    Args:
        root: the folder of the images.
        names: the paths of all of them below it.
        size: of the images, in pixels.
        channels: of the images.
        white: see `read_image`.
    """

    def __init__(self, root: Path, names: Sequence[str], size: int, channels: int, white: float | None) -> None:
        self.root, self.names, self.shape = root, names, (channels, size, size)
        self._white = white
        self.folder: Path | None = None
        self._places: dict[str, int] = {}
        self._files: tuple[np.ndarray, np.ndarray, tuple[int, int] | None] | None = None

    @property
    def nbytes(self) -> int:
        """The size of a full cache."""
        return len(self.names) * (int(np.prod(self.shape)) + RECORD.itemsize)

    def open(self, required: bool) -> None:
        """Find the cache, or begin one; log where, or why there is none.

        Args:
            required: `data.cache=true`: it may take all of the free disk.

        Raises:
            ConfigError: it is required, and there is no room for it.
        """
        if self.folder is not None:
            return
        size, problem = f"{self.nbytes / 1e6:,.0f} MB", ""
        for place in (self.root / HIDDEN, USERS.expanduser() / blake2b(bytes(self.root), digest_size=8).hexdigest()):
            try:
                self.folder, problem = self._find(place, 1.0 if required else ROOM)
            except OSError as error:
                problem = f"{place}: {error.strerror}"
            if self.folder is not None:
                log.info("cache      decoded images stay in %s (up to %s)", self.folder, size)
                return
        if required:
            text = f"data.cache=true: no room for {size} of decoded images: {problem}"
            raise ConfigError(Problem("data.cache", text, "write data.cache=auto", topic="unavailable"))
        log.info("cache      none: %s of decoded images; %s", size, problem)

    def _find(self, place: Path, room: float) -> tuple[Path | None, str]:
        """Return the folder of the cache at a place, made if there is room for it; or why not."""
        parameters, names = self._keys()
        folder = place / f"images-{parameters}-{names}"
        if not folder.exists():
            place.mkdir(parents=True, exist_ok=True)
            self._remove_unused(place, f"images-{parameters}-", keep=folder)
        free, missing = shutil.disk_usage(place).free, self.nbytes
        if folder.exists():
            missing -= (folder / "pixels").stat().st_blocks * 512
            if not os.access(folder / "pixels", os.W_OK) and not self._is_full(folder):
                return None, f"{folder} cannot be written"
        if missing > room * free:
            return None, f"{free / 1e6:,.0f} MB free in {place}"
        if not folder.exists():
            self._make(folder)
        with suppress(OSError):
            os.utime(folder)
        return folder, ""

    def _keys(self) -> tuple[str, str]:
        """Return hashes of what an image is decoded by, and of the list of images."""
        import PIL
        from PIL import features

        libraries = (PIL.__version__, *map(features.version, ("jpg", "zlib", "webp")), torch.__version__)
        decoded_by = (FORMAT, self.shape, self._white, libraries, torch.backends.cpu.get_cpu_capability())
        hashed = (repr(decoded_by).encode(), "\0".join(self.names).encode(errors="surrogateescape"))
        parameters, names = (blake2b(part, digest_size=6).hexdigest() for part in hashed)
        return parameters, names

    def _make(self, folder: Path) -> None:
        """Make an empty cache: sparse files, which take room as they are filled."""
        made = Path(tempfile.mkdtemp(prefix="new-", dir=folder.parent))
        try:
            made.chmod(0o777 & ~_umask())
            for name, bytes_of_one in (("pixels", int(np.prod(self.shape))), ("records", RECORD.itemsize)):
                with (made / name).open("wb") as file:
                    file.truncate(len(self.names) * bytes_of_one)
            made.rename(folder)
        except OSError:
            shutil.rmtree(made, ignore_errors=True)
            if not folder.exists():  # another process may have made it
                raise

    def _remove_unused(self, place: Path, prefix: str, keep: Path) -> None:
        """Remove caches of the same folder as it was before, if nobody has opened them for a day."""
        for other in place.glob("*"):
            if other != keep and other.name.startswith((prefix, "new-")):
                with suppress(OSError):
                    if time.time() - other.stat().st_mtime > UNUSED_SECONDS:
                        shutil.rmtree(other, ignore_errors=True)

    def _is_full(self, folder: Path) -> bool:
        return bool(np.fromfile(folder / "records", RECORD)["filled"].all())

    def read(self, name: str, decode: Callable[[], Tensor]) -> Tensor:
        """Return an image from the cache; otherwise decode it, and keep it for the next time.

        Args:
            name: the path of the file below the folder.
            decode: returns the image as uint8 (channels, size, size); what it raises is raised here.
        """
        image = self.find(name)
        if image is not None:
            return image
        before = self._state_of(name)
        image = decode()
        if before is not None and (files := self._open_files()) is not None and files[2] is not None:
            place = self._places.get(name)
            if place is not None:
                self._write(place, name, before, image, files[2])
        return image

    def find(self, name: str) -> Tensor | None:
        """Return an image from the cache; None if it is not there, or its file has changed."""
        if (files := self._open_files()) is None or (place := self._places.get(name)) is None:
            return None
        pixels, records, _ = files
        record = records[place]
        if not record["filled"] or (state := self._state_of(name)) is None or record["file"].tobytes() != state[0]:
            return None
        copied = pixels[place].copy()  # checked and returned is the copy: others may write meanwhile
        return torch.from_numpy(copied) if zlib.adler32(copied.data) == record["checksum"] else None

    def _write(self, place: int, name: str, before: tuple[bytes, float], image: Tensor, files: tuple[int, int]) -> None:
        """Write an image, and then its record, unless its file may have changed since it was decoded."""
        state, touched = before
        if time.time() - touched < RECENT_SECONDS or self._state_of(name) != before:
            return
        values = np.ascontiguousarray(image.numpy())
        record = np.zeros(1, RECORD)
        record["file"], record["checksum"], record["filled"] = (
            np.frombuffer(state, np.uint8),
            zlib.adler32(values.data),
            1,
        )
        try:
            for number, array in zip(files, (values, record), strict=True):
                if os.pwrite(number, array.data.cast("B"), place * array.nbytes) != array.nbytes:
                    return
        except OSError:  # the disk is full: what is in the cache is still used
            self._files = None if self._files is None else (*self._files[:2], None)

    def _open_files(self) -> tuple[np.ndarray, np.ndarray, tuple[int, int] | None] | None:
        """Map the files of the cache, once in each process; None if there are none."""
        if self._files is None and self.folder is not None:
            paths = self.folder / "pixels", self.folder / "records"
            try:
                pixels = np.asarray(np.memmap(paths[0], np.uint8, "r", shape=(len(self.names), *self.shape)))
                records = np.asarray(np.memmap(paths[1], RECORD, "r", shape=(len(self.names),)))
            except (OSError, ValueError):  # it has been removed, or is that of another program
                self.folder = None
                return None
            writes = None
            with suppress(OSError):
                one, other = (os.open(path, os.O_WRONLY | os.O_CLOEXEC) for path in paths)
                writes = one, other
            self._places = {name: place for place, name in enumerate(self.names)}
            self._files = pixels, records, writes
        return self._files

    def _state_of(self, name: str) -> tuple[bytes, float] | None:
        """Return a hash of what tells a changed file, and when the file system last touched it; None if it is gone.

        A user can set the time of a change, not the time at which the file system made it.
        """
        try:
            found = os.stat(f"{self.root}/{name}")  # noqa: PTH116 - a Path takes three times as long as this
        except OSError:
            return None
        seen = repr((name, found.st_size, found.st_mtime_ns, found.st_ctime_ns)).encode(errors="surrogateescape")
        return blake2b(seen, digest_size=16).digest(), found.st_ctime

    def __getstate__(self) -> dict[str, Any]:
        """Leave out what belongs to this process."""
        return {**vars(self), "_files": None}


def _umask() -> int:
    """Return the mask of new files, which can be read only by setting it."""
    mask = os.umask(0)
    os.umask(mask)
    return mask
