"""Downloading the files a data set lacks: once, verified, and never in place of a good file."""

import gzip
import hashlib
import http.client
import logging
import queue
import shutil
import tarfile
import threading
import urllib.request
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from pathlib import Path
from urllib.parse import urlsplit

from filelock import FileLock, Timeout
from tqdm import tqdm

from runner.errors import ConfigError

CHUNK_BYTES = 1 << 16
LOCK_NAME = ".download.lock"
# What the mirrors of one file may stay silent, all together. The first file that none of them serves ends
# the attempt, so this is also what a machine without a network waits for (30 s at most, imports included).
PATIENCE_SECONDS = 12.0

logger = logging.getLogger("runner")


class Forbidden(Exception):
    """Something would have to be downloaded, and this is not the time."""


_forbidden: ContextVar[bool] = ContextVar("_forbidden", default=False)


@contextmanager
def forbidden() -> Iterator[None]:
    """Let `fetch` raise `Forbidden`: to check a config that is known to be wrong, nothing is downloaded."""
    token = _forbidden.set(True)
    try:
        yield
    finally:
        _forbidden.reset(token)


class MirrorError(Exception):
    """One mirror did not deliver one file; the message says why."""


def fetch(
    find_wanted: Callable[[], Mapping[str, str]],
    folder: Path,
    mirrors: Sequence[str],
    checksums: Mapping[str, str],
    patience: float = PATIENCE_SECONDS,
    archive: str | None = None,
) -> None:
    """Download files into a folder, one process at a time; `.gz` files are stored unpacked.

    Where nothing comes of it, the folder is left as it was found, or not made.

    Args:
        find_wanted: returns the files to fetch, each with why ("missing", "damaged: ..."). Called when no
            other process is downloading, which may have brought them in the meantime.
        folder: where they go; made if it isn't there.
        mirrors: URLs of folders, tried in turn.
        checksums: the MD5 sum of each file that the mirrors serve.
        patience: seconds without an answer or data, shared between the mirrors, after which a file is
            given up.
        archive: the one file, a `.tar.gz`, that the mirrors serve with all the others in it. Where it lies in
            the folder already, it is not downloaded.

    Raises:
        ConfigError: if the folder cannot be written, or no mirror delivers one of the files.
        Forbidden: within `forbidden()`.
    """
    if _forbidden.get():
        raise Forbidden
    try:
        with _locked(folder):
            wanted = dict(find_wanted())
            if archive is None:
                _fetch_files(wanted, folder, mirrors, checksums, patience)
            elif wanted:
                _fetch_archive(wanted, archive, folder, mirrors, checksums[archive], patience)
    except MirrorError as error:
        raise ConfigError(_explain(wanted, folder, str(error), archive)) from error
    except OSError as error:
        wanted = dict(find_wanted())
        reason = f"cannot write to {folder} ({error.strerror or error})"
        raise ConfigError(_explain(wanted, folder, reason, archive)) from error


def _fetch_files(
    wanted: Mapping[str, str], folder: Path, mirrors: Sequence[str], checksums: Mapping[str, str], patience: float
) -> None:
    for name, why in wanted.items():
        logger.info("%s in %s is %s: downloading it", name, folder, why)
        served = _fetch_file(name, folder, mirrors, checksums[name], patience / len(mirrors))
        _put_in_place(folder / f"{name}.part", folder / name)
        # The one that works comes first from now on, lest each file waits for a dead one.
        mirrors = sorted(mirrors, key=lambda mirror: mirror != served)


def _fetch_archive(
    wanted: Mapping[str, str], archive: str, folder: Path, mirrors: Sequence[str], md5: str, patience: float
) -> None:
    """Take the files that are wanted, and no others, out of an archive that has them."""
    path = folder / archive
    is_there = path.is_file() and _md5_of(path) == md5
    if not is_there:
        faults = "; ".join(f"{name} is {why}" for name, why in wanted.items())
        logger.info("in %s, %s: downloading %s", folder, faults, archive)
        _fetch_file(archive, folder, mirrors, md5, patience / len(mirrors))
        path = folder / f"{archive}.part"
    try:
        _unpack(path, folder, wanted)
    finally:
        if not is_there:
            path.unlink()


def _explain(wanted: Mapping[str, str], folder: Path, reason: str, archive: str | None) -> str:
    """Return what a user needs who has to get the files in another way."""
    files = ", ".join(name if why == "missing" else f"{name} ({why})" for name, why in wanted.items())
    missing = archive or "the files"
    return (
        f"cannot download {files}: {reason}; put {missing} into {folder}, write data.root=<another folder>, or"
        " data=digits, which needs none"
    )


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Be the only process that downloads into a folder; made if it isn't there, removed again if nothing came.

    The lock's file goes as well, while it is held: one who has it open finds out that it has lost its name, and
    begins anew (filelock does so from 3.21 on); so does one whose folder is gone.
    """
    lock, made = FileLock(folder / LOCK_NAME), list[Path]()
    timeout = 0.0
    while not lock.is_locked:
        made = [parent for parent in (folder, *folder.parents) if not parent.exists()] or made
        folder.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire(timeout=timeout)
        except Timeout:
            logger.warning("waiting for another process, which is downloading into %s", folder)
            timeout = -1.0  # for as long as it takes
        except FileNotFoundError:
            continue  # that process got nothing, and has removed the folder
    try:
        yield
    finally:
        with suppress(OSError):  # Windows keeps an open file
            (folder / LOCK_NAME).unlink()
        lock.release()
        with suppress(OSError):  # not empty: the files are there, or another process is at it
            for parent in made:
                parent.rmdir()


def _fetch_file(name: str, folder: Path, mirrors: Sequence[str], md5: str, patience: float) -> str:
    """Bring one file, as `<name>.part`, from the first mirror that has it whole, and return that mirror.

    Raises:
        MirrorError: if none has it; the message gives each one's reason.
        OSError: if the folder cannot be written.
    """
    part = folder / f"{name}.part"  # a fixed name: what a killed download leaves is overwritten by the next
    reasons = []
    for mirror in mirrors:
        try:
            _download(f"{mirror.rstrip('/')}/{name}", part, md5, patience)
        except MirrorError as error:
            reasons.append(f"{urlsplit(mirror).netloc or mirror}: {error}")
            logger.info("%s: %s", mirror, error)
            part.unlink(missing_ok=True)
        else:
            return mirror
    raise MirrorError("; ".join(reasons))


def _download(url: str, part: Path, md5: str, patience: float) -> None:
    """Download a URL into a file and verify its checksum.

    Raises:
        MirrorError: if the network or the mirror fails, or what came is not what was asked for.
        OSError: if the file cannot be written.
    """
    digest = hashlib.md5(usedforsecurity=False)
    with _open_url(url, patience) as response, part.open("wb") as file:
        size = response.length or 0
        # disable=None: no bar unless standard error is a terminal
        with tqdm(total=size or None, desc=part.stem, unit="B", unit_scale=True, disable=None) as bar:
            while chunk := _read_chunk(response):
                file.write(chunk)
                digest.update(chunk)
                bar.update(len(chunk))
        received = file.tell()
    if received < size:
        raise MirrorError(f"the connection ended after {received:,} of {size:,} bytes")
    if digest.hexdigest() != md5:
        raise MirrorError(f"wrong checksum (MD5 {digest.hexdigest()}, expected {md5})")


def _open_url(url: str, patience: float) -> http.client.HTTPResponse:
    """Send the request and wait for the answer's header.

    In a thread, because urllib's own timeout bounds neither the look-up of the name nor a host with many
    addresses, each of which gets the whole timeout.
    """
    answer: queue.SimpleQueue[http.client.HTTPResponse | Exception] = queue.SimpleQueue()

    def ask() -> None:
        try:
            answer.put(urllib.request.urlopen(url, timeout=patience))
        except Exception as error:
            answer.put(error)

    threading.Thread(target=ask, daemon=True).start()
    try:
        response = answer.get(timeout=patience)
    except queue.Empty:
        raise MirrorError(f"no answer within {patience:.0f} s") from None
    if isinstance(response, Exception):
        raise MirrorError(_describe(response)) from response
    return response


def _read_chunk(response: http.client.HTTPResponse) -> bytes:
    try:
        return response.read(CHUNK_BYTES)
    except (OSError, http.client.HTTPException) as error:
        raise MirrorError(_describe(error)) from error


def _describe(error: Exception) -> str:
    """Return the innermost reason in its own words: `Connection refused`, `HTTP Error 404: Not Found`."""
    reason = getattr(error, "reason", None)  # of an URLError, which only wraps it
    if isinstance(reason, Exception):
        error = reason
    return (isinstance(error, OSError) and error.strerror) or str(error) or type(error).__name__


def _put_in_place(part: Path, target: Path) -> None:
    """Give a whole download its name, unpacked if it is a `.gz`."""
    if target.suffix == ".gz":
        target = target.with_suffix("")
        unpacked = part.with_suffix(".unpacked")
        with gzip.open(part) as source, unpacked.open("wb") as file:
            shutil.copyfileobj(source, file)
        part.unlink()
        part = unpacked
    part.replace(target)


def _unpack(archive: Path, folder: Path, names: Iterable[str]) -> None:
    """Take files out of a `.tar.gz`, each put in place when it is whole.

    Raises:
        MirrorError: it lacks one of them.
        OSError: if the folder cannot be written.
    """
    with tarfile.open(archive, "r:gz") as tar:
        for name in names:
            try:
                content = tar.extractfile(name)
            except KeyError:
                content = None
            if content is None:
                raise MirrorError(f"{archive.name} has no file {name}")
            target = folder / name
            part = target.with_name(f"{target.name}.part")
            target.parent.mkdir(exist_ok=True)
            with content, part.open("wb") as file:
                shutil.copyfileobj(content, file)
            part.replace(target)


def _md5_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
