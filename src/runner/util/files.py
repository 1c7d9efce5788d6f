"""Atomic writes: after a crash a file has its old or its new content. Pipes and devices are written to directly."""

import contextlib
import errno
import io
import json
import os
import re
import shutil
import socket
import stat
import tempfile
import threading
import zlib
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

from runner.util.redaction import redact, redact_all

PRIVATE = 0o600
"""The permissions of files with settings, which may name hosts, users and paths: their owner alone reads them."""

_OWN_DESCRIPTOR = re.compile(r"/(?:dev|proc/self)/fd/(\d+)|/dev/std(?:in|out|err)")
_STANDARD = {"/dev/stdin": 0, "/dev/stdout": 1, "/dev/stderr": 2}
_MAX_LINKS = 40  # Linux's own limit

_TEMPORARY = re.compile(r"^\..+\.([0-9a-f]{8})\.(\d{1,9})\.\d+\.tmp")
"""The name of a temporary file: its writer's machine, process and thread."""

_IN_PLACE = (errno.EACCES, errno.EPERM, errno.EROFS, errno.EBUSY, errno.ETXTBSY)
"""Errors after which a file is overwritten in place: its folder is read-only, or the file itself is a mount point."""


@contextlib.contextmanager
def replacing(path: Path, suffix: str = "", private: bool = False) -> Iterator[Path]:
    """Replace the content of a file atomically.

    A regular file is replaced by rename. It keeps its permissions; other hard links to it keep the old content. For a
    symbolic link, the target is replaced, or created if it does not exist. Other files are written to directly: a FIFO,
    a device, `/dev/stdout`, the `>(...)` of a shell.

    Args:
        path: the file.
        suffix: the ending that the yielded path must have.
        private: whether only the owner may read the file; then a link is replaced, not followed.

    Yields:
        A path to write the content to. It becomes the file's content when the block ends without an exception.

    Raises:
        OSError: with the name of `path`; a regular file is unchanged.
    """
    try:
        if private:
            with _beside(path, suffix, PRIVATE) as temporary:
                yield temporary
                _sync(temporary)
                temporary.replace(path)
            return
        number = _own_descriptor(path)
        if number is not None or (path.exists() and not path.is_file()):
            with _in_temporary_folder(suffix) as temporary:
                yield temporary
                _copy_into(temporary, path, number)
            return
        target = Path(os.path.realpath(path))
        if target.is_symlink():
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
        if target.exists() and not os.access(target, os.W_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        with _beside(target, suffix, 0o666) as temporary:
            yield temporary
            _replace(temporary, target)
    except OSError as error:
        raise OSError(error.errno, error.strerror or str(error), str(path)) from error


def _own_descriptor(path: Path) -> int | None:
    """Return the file descriptor of this process that a path names, directly or by links; None if it names none."""
    name = os.path.abspath(path)  # noqa: PTH100 - follows no link
    for _ in range(_MAX_LINKS):
        if match := _OWN_DESCRIPTOR.fullmatch(name):
            return int(match[1]) if match[1] else _STANDARD[name]
        try:
            name = os.path.join(os.path.dirname(name), os.readlink(name))  # noqa: PTH115, PTH118, PTH120
        except OSError:
            return None
    return None


@contextlib.contextmanager
def _beside(target: Path, suffix: str, mode: int) -> Iterator[Path]:
    """Create a temporary file in the target's folder, or in the system's temporary folder if that is not possible."""
    writer = f"{_host()}.{os.getpid()}.{threading.get_ident()}"
    temporary = target.with_name(f".{target.name[:40]}.{writer}.tmp{suffix}")
    try:
        with contextlib.suppress(FileNotFoundError):  # of a process that was killed here
            temporary.unlink()
        os.close(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode))
    except OSError as error:
        if error.errno not in _IN_PLACE or not target.exists():
            raise
        with _in_temporary_folder(suffix) as temporary:
            yield temporary
        return
    try:
        yield temporary
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


@cache
def _host() -> str:
    return f"{zlib.crc32(socket.gethostname().encode()):08x}"


def _lives(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # someone else's
        return True
    return True


def remove_leftovers(folder: Path) -> None:
    """Remove what processes of this machine have left in a folder that were killed while they replaced a file."""
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            found = _TEMPORARY.search(entry.name)
            if found and found[1] == _host() and not _lives(int(found[2])):
                Path(entry).unlink(missing_ok=True)


@contextlib.contextmanager
def _in_temporary_folder(suffix: str) -> Iterator[Path]:
    """Yield the path of a file to write, in a folder of the system's temporary folder."""
    with tempfile.TemporaryDirectory(prefix="runner-") as folder:
        yield Path(folder) / f"content{suffix}"


def _sync(file: Path) -> None:
    with file.open("rb") as opened:
        os.fsync(opened.fileno())


def _replace(temporary: Path, target: Path) -> None:
    _sync(temporary)
    with contextlib.suppress(OSError):  # the target does not exist yet, or belongs to another user
        before = target.stat()
        temporary.chmod(stat.S_IMODE(before.st_mode))
        os.chown(temporary, before.st_uid, before.st_gid)
    try:
        temporary.replace(target)
    except OSError as error:
        if error.errno not in (*_IN_PLACE, errno.EXDEV):
            raise
        _copy_into(temporary, target, None)


def _copy_into(temporary: Path, path: Path, number: int | None) -> None:
    """Write a file's content to an existing file, or to a descriptor from its current position."""
    file = os.dup(number) if number is not None else os.open(path, os.O_WRONLY | os.O_TRUNC | os.O_CLOEXEC)
    with temporary.open("rb") as source, os.fdopen(file, "wb") as target:
        shutil.copyfileobj(source, target)


def open_to_append(path: Path, mode: int = 0o666) -> int:
    """Open a file of a run's folder to append to it, or create it. A link is not followed.

    Args:
        path: the file.
        mode: its permissions; an existing file gets `PRIVATE` if that is asked for.

    Returns:
        The descriptor.

    Raises:
        OSError: the file cannot be opened, or is a link or a FIFO.
    """
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
    file = _regular(os.open(path, flags, mode), path)
    if mode == PRIVATE:
        with contextlib.suppress(OSError):  # of another user
            os.fchmod(file, mode)
    return file


def write_atomically(path: Path, text: str, private: bool = False) -> None:
    """Replace a text file with `replacing`, with secrets redacted. Its folder is created if it does not exist.

    Raises:
        OSError: with the file's name; the file is unchanged.
    """
    write_redacted(path, redact(text), private)


def write_redacted(path: Path, text: str, private: bool = False) -> None:
    """Replace a text file as `write_atomically` does; the text has no secrets any more."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with contextlib.suppress(OSError):  # someone else's, in the folder of a run: writing to it would wait for ever
        if stat.S_ISFIFO(path.lstat().st_mode):
            path.unlink()
    with replacing(path, private=private) as temporary:
        # A file's name in the text may contain bytes that are not UTF-8.
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace")


def hard_link(source: Path, target: Path) -> None:
    """Make the target a hard link to the source, atomically; a copy if the file system has no links."""
    temporary = target.with_name(f".{target.name}.tmp")
    temporary.unlink(missing_ok=True)
    try:
        os.link(source, temporary)
    except OSError:  # a file system without links
        shutil.copy2(source, temporary)
    temporary.replace(target)
    temporary.unlink(missing_ok=True)  # a rename onto another link to the same file does nothing


def keep_newest(folder: Path, pattern: str, most: int) -> None:
    """Delete the files of a folder that were changed or touched the longest time ago, until so many are left."""
    files = list(folder.glob(pattern))
    if len(files) > most:
        for file in sorted(files, key=lambda file: file.lstat().st_mtime)[: len(files) - most]:
            file.unlink(missing_ok=True)


def write_json(path: Path, content: Any, private: bool = False) -> None:
    """Replace a JSON file as `write_atomically` does. Only texts are redacted, never numbers."""
    write_redacted(path, json.dumps(redact_all(content), indent=2) + "\n", private)


def open_to_read(path: Path) -> io.BufferedReader:
    """Open a file of a run's folder, where someone else may have put a FIFO, for which opening would wait for ever.

    Raises:
        OSError: the file cannot be read, or is no regular file.
    """
    return io.BufferedReader(io.FileIO(_regular(os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK), path)))


def _regular(number: int, path: Path) -> int:
    if not stat.S_ISREG(os.fstat(number).st_mode):
        os.close(number)
        raise OSError(errno.EINVAL, "not a regular file", str(path))
    return number


def read_text(path: Path, errors: str = "strict") -> str:
    """Return the text of a file of a run's folder; see `open_to_read`.

    Raises:
        OSError: the file cannot be read, or is no regular file.
        UnicodeDecodeError: it is not UTF-8.
    """
    with open_to_read(path) as file:
        return file.read().decode("utf-8", errors)


def load_json(path: Path) -> dict[str, Any]:
    """Read the mapping in a JSON file.

    Raises:
        OSError: the file cannot be read.
        ValueError: its content is not a JSON mapping.
    """
    try:
        content = json.loads(read_text(path))
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    if not isinstance(content, dict):
        raise ValueError("its content is not a mapping")
    return content


def load_json_or_empty(path: Path) -> dict[str, Any]:
    """Read the mapping in a JSON file; an empty one if the file cannot be read or has other content."""
    try:
        return load_json(path)
    except (OSError, ValueError):
        return {}
