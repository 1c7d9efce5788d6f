"""Download the missing files of a data set: once, verified, and never over a good file."""

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

from runner.data.paths import full_path
from runner.errors import ConfigError, Problem, Topic

CHUNK_BYTES = 1 << 16
LOCK_NAME = ".download.lock"
# The mirrors of one file may be silent for so long, together. The first file that no mirror serves ends
# the attempt, so a machine without a network waits no longer (30 s at most, imports included).
PATIENCE_SECONDS = 12.0
ROOT = "data.root"

logger = logging.getLogger("runner")


class Forbidden(Exception):
    """A file has to be downloaded, and downloads are forbidden at the moment."""


_forbidden: ContextVar[bool] = ContextVar("_forbidden", default=False)


@contextmanager
def forbidden() -> Iterator[None]:
    """Let `fetch` raise `Forbidden`: nothing is downloaded for a config that is known to be wrong."""
    token = _forbidden.set(True)
    try:
        yield
    finally:
        _forbidden.reset(token)


def require_allowed() -> None:
    """Check that something may be downloaded.

    Raises:
        Forbidden: within `forbidden()`.
    """
    if _forbidden.get():
        raise Forbidden


class MirrorError(Exception):
    """A mirror did not deliver a file; the message is the reason."""


def fetch(
    find_faults: Callable[[], Mapping[str, str]],
    folder: Path,
    mirrors: Sequence[str],
    checksums: Mapping[str, str],
    patience: float = PATIENCE_SECONDS,
    archive: str | None = None,
) -> None:
    """Download files into a folder, one process at a time; `.gz` files are stored unpacked.

    If that fails, the folder is left as it was, or is not created.

    Args:
        find_faults: returns the files to download, each with the reason ("missing", "damaged: ..."). It is called
            while no other process is downloading, because one may have brought them in the meantime.
        folder: the files are stored in it; created if it does not exist.
        mirrors: URLs of folders, tried in turn.
        checksums: the MD5 sum of each file that the mirrors serve.
        patience: seconds without an answer or data, shared between the mirrors, after which the
            download of a file is abandoned.
        archive: the only file that the mirrors serve, a `.tar.gz` with all others in it. If it lies in the
            folder already, it is not downloaded.

    Raises:
        ConfigError: if the folder cannot be written, or no mirror delivers one of the files.
        Forbidden: within `forbidden()`.
    """
    require_allowed()
    try:
        with _locked(folder):
            faults = dict(find_faults())
            if archive is None:
                _fetch_files(faults, folder, mirrors, checksums, patience)
            elif faults:
                _fetch_archive(faults, archive, folder, mirrors, checksums[archive], patience)
    except MirrorError as error:
        raise ConfigError(_explain(faults, folder, str(error), archive, "unavailable")) from error
    except OSError as error:
        reason = f"cannot write to {folder} ({error.strerror or error})"
        raise ConfigError(_explain(find_faults(), folder, reason, archive, "file")) from error


def _fetch_files(
    faults: Mapping[str, str], folder: Path, mirrors: Sequence[str], checksums: Mapping[str, str], patience: float
) -> None:
    for name, why in faults.items():
        logger.info("%s in %s is %s: downloading it", name, folder, why)
        served = _fetch_file(name, folder, mirrors, checksums[name], patience / len(mirrors))
        _put_in_place(folder / f"{name}.part", folder / name)
        # The mirror that works comes first from now on, so that no further file waits for a dead one.
        mirrors = sorted(mirrors, key=lambda mirror: mirror != served)


def _fetch_archive(
    faults: Mapping[str, str], archive: str, folder: Path, mirrors: Sequence[str], md5: str, patience: float
) -> None:
    """Extract these files, and no others, from an archive."""
    path = folder / archive
    is_there = path.is_file() and _md5_of(path) == md5
    if not is_there:
        reasons = "; ".join(f"{name} is {why}" for name, why in faults.items())
        logger.info("in %s, %s: downloading %s", folder, reasons, archive)
        _fetch_file(archive, folder, mirrors, md5, patience / len(mirrors))
        path = folder / f"{archive}.part"
    try:
        _unpack(path, folder, faults)
    finally:
        if not is_there:
            path.unlink()


def _explain(faults: Mapping[str, str], folder: Path, reason: str, archive: str | None, topic: Topic) -> Problem:
    """Make the problem of files that cannot be downloaded, with other ways to get them."""
    files = ", ".join(name if why == "missing" else f"{name} ({why})" for name, why in faults.items())
    return Problem(
        ROOT,
        f"cannot download {files}: {reason}",
        f"put {archive or 'the files'} into {folder}, write {ROOT}=<another folder>, or write data=digits, which needs"
        " no download",
        topic=topic,
    )


def check_root(root: str | Path | None) -> Path:
    """Return the absolute path of the folder that has the files, or is to get them.

    Raises:
        ConfigError: it is empty.
    """
    if root is None or not str(root).strip():
        raise ConfigError(Problem(ROOT, f"{ROOT} is empty", f"write {ROOT}=data", topic="missing"))
    return full_path(root, ROOT)


def unreadable_file(path: Path, error: OSError) -> Problem:
    """Make the problem of a file that exists and cannot be read."""
    text = f"cannot read {path}: {error.strerror or error}"
    return Problem(ROOT, text, f"make it readable, or write {ROOT}=<another folder>", topic="file")


def check_fetched(folder: Path, faults: Mapping[str, str]) -> None:
    """Check that no file is missing or damaged after a download.

    Raises:
        ConfigError: with a problem for each.
    """
    if faults:
        suggestion = f"write {ROOT}=<another folder>"
        texts = [f"{folder / name}: {fault}, although it was just downloaded" for name, fault in faults.items()]
        raise ConfigError(*(Problem(ROOT, text, suggestion, topic="data") for text in texts))


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Lock a folder for one downloading process. It is created if it does not exist, and removed if it stays empty.

    The file of the lock is removed while the lock is held: a process that has it open notices that it was unlinked, and
    starts again (filelock does so from 3.21 on); so does a process whose folder is gone.
    """
    lock, created = FileLock(folder / LOCK_NAME), list[Path]()
    timeout = 0.0
    while not lock.is_locked:
        created = [parent for parent in (folder, *folder.parents) if not parent.exists()] or created
        folder.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire(timeout=timeout)
        except Timeout:
            logger.warning("waiting for another process that is downloading into %s", folder)
            timeout = -1.0  # no limit
        except FileNotFoundError:
            continue  # that process failed, and has removed the folder
    try:
        yield
    finally:
        with suppress(OSError):  # Windows does not remove an open file
            (folder / LOCK_NAME).unlink()
        lock.release()
        with suppress(OSError):  # not empty: it has the files, or another process is downloading
            for parent in created:
                parent.rmdir()


def _fetch_file(name: str, folder: Path, mirrors: Sequence[str], md5: str, patience: float) -> str:
    """Download a file as `<name>.part` from the first mirror that delivers it, and return that mirror.

    Raises:
        MirrorError: if none does; the message has the reason of each.
        OSError: if the folder cannot be written.
    """
    part = folder / f"{name}.part"  # a fixed name: the next download overwrites what a killed one leaves
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
        MirrorError: if the network or the mirror fails, or the content is wrong.
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
    """Send the request and wait for the header of the response.

    In a thread, because the timeout of urllib limits neither the name lookup nor a host with many addresses, of which
    each gets the full timeout.
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
    """Return the innermost reason: `Connection refused`, `HTTP Error 404: Not Found`."""
    reason = getattr(error, "reason", None)  # of an URLError, which only wraps it
    if isinstance(reason, Exception):
        error = reason
    return (isinstance(error, OSError) and error.strerror) or str(error) or type(error).__name__


def _put_in_place(part: Path, target: Path) -> None:
    """Give a complete download its name; a `.gz` is unpacked."""
    if target.suffix == ".gz":
        target = target.with_suffix("")
        unpacked = part.with_suffix(".unpacked")
        with gzip.open(part) as source, unpacked.open("wb") as file:
            shutil.copyfileobj(source, file)
        part.unlink()
        part = unpacked
    part.replace(target)


def _unpack(archive: Path, folder: Path, names: Iterable[str]) -> None:
    """Extract files from a `.tar.gz`; each gets its name when it is complete.

    Raises:
        MirrorError: one of them is not in it.
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
