"""Downloading the files a data set lacks: once, verified, and never in place of a good file."""

import gzip
import hashlib
import http.client
import logging
import queue
import shutil
import threading
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from urllib.parse import urlsplit

from filelock import AcquireReturnProxy, FileLock, Timeout
from tqdm import tqdm

from runner.errors import ConfigError

CHUNK_BYTES = 1 << 16
# What the mirrors of one file may stay silent, all together. The first file that none of them serves ends
# the attempt, so this is also what a machine without a network waits for (30 s at most, imports included).
PATIENCE_SECONDS = 16.0

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
) -> None:
    """Download files into a folder, one process at a time; `.gz` files are stored unpacked.

    Args:
        find_wanted: returns the files to fetch, each with why ("missing", "damaged: ..."). Called when no
            other process is downloading, which may have brought them in the meantime.
        folder: where they go; made if it isn't there.
        mirrors: URLs of folders, tried in turn.
        checksums: each file's MD5 sum, as the mirrors serve it.
        patience: seconds without an answer or data, shared between the mirrors, after which a file is
            given up.

    Raises:
        ConfigError: if the folder cannot be written, or no mirror delivers one of the files.
        Forbidden: within `forbidden()`.
    """
    if _forbidden.get():
        raise Forbidden
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with _acquire(folder):
            wanted = dict(find_wanted())
            for name, why in wanted.items():
                logger.info("%s in %s is %s: downloading it", name, folder, why)
                try:
                    served = _fetch_file(name, folder, mirrors, checksums[name], patience / len(mirrors))
                except MirrorError as error:
                    raise ConfigError(_explain(wanted, folder, str(error))) from error
                # The one that works comes first from now on, lest each file waits for a dead one.
                mirrors = sorted(mirrors, key=lambda mirror: mirror != served)
    except OSError as error:
        wanted = dict(find_wanted())
        reason = f"cannot write to {folder} ({error.strerror or error})"
        raise ConfigError(_explain(wanted, folder, reason)) from error


def _explain(wanted: Mapping[str, str], folder: Path, reason: str) -> str:
    """Return the two lines a user needs who has to get the files in another way."""
    files = ", ".join(name if why == "missing" else f"{name} ({why})" for name, why in wanted.items())
    return (
        f"cannot download {files}: {reason};\n"
        f"put the files into {folder}, write data.root=<another folder>, or data=digits, which needs none"
    )


def _acquire(folder: Path) -> AcquireReturnProxy:
    """Take the folder's lock, saying so if another process has it."""
    lock = FileLock(folder / ".download.lock")
    try:
        return lock.acquire(timeout=0)
    except Timeout:
        logger.warning("waiting for another process, which is downloading into %s", folder)
        return lock.acquire()


def _fetch_file(name: str, folder: Path, mirrors: Sequence[str], md5: str, patience: float) -> str:
    """Bring one file into the folder from the first mirror that has it whole, and return that mirror.

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
            _put_in_place(part, folder / name)
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
