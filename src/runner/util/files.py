"""Files that are either the old ones or the new ones, whatever happens in between; and what is no file stays so."""

import contextlib
import errno
import json
import os
import re
import shutil
import stat
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from runner.util.uri import redact, redact_all

_OWN_DESCRIPTOR = re.compile(r"/(?:dev|proc/self)/fd/(\d+)|/dev/std(?:in|out|err)")
_STANDARD = {"/dev/stdin": 0, "/dev/stdout": 1, "/dev/stderr": 2}
_MOST_LINKS = 40  # as many as Linux follows

_IN_PLACE = (errno.EACCES, errno.EPERM, errno.EROFS, errno.EBUSY, errno.ETXTBSY)
"""A folder that takes no new file, or a file that is mounted by itself: what may be written is the file alone."""


@contextlib.contextmanager
def replacing(path: Path, suffix: str = "") -> Iterator[Path]:
    """Give a file a new content, whole or not at all.

    A regular file is replaced by rename; it keeps its permissions, and other hard links to it their content. Of a link
    it is the target that is replaced, or made where there is none yet. What is no regular file is written into: a
    FIFO, a device, `/dev/stdout`, the `>(...)` of a shell.

    Args:
        path: of the file.
        suffix: that the path which is given has to end in.

    Yields:
        A path to write the content to. It becomes the file's when the block is left without an exception.

    Raises:
        OSError: with the name of `path`; a regular file is as it was.
    """
    try:
        number = _own_descriptor(path)
        if number is not None or (path.exists() and not path.is_file()):
            with _beside_nothing(suffix) as fresh:
                yield fresh
                _copy_into(fresh, path, number)
            return
        target = Path(os.path.realpath(path))
        if target.is_symlink():
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
        if target.exists() and not os.access(target, os.W_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        with _beside(target, suffix) as fresh:
            yield fresh
            _replace(fresh, target)
    except OSError as error:
        raise OSError(error.errno, error.strerror or str(error), str(path)) from error


def _own_descriptor(path: Path) -> int | None:
    """The file descriptor of this process that a path names, by links maybe; None if it names none."""
    place = os.path.abspath(path)  # noqa: PTH100 - follows no link
    for _ in range(_MOST_LINKS):
        if found := _OWN_DESCRIPTOR.fullmatch(place):
            return int(found[1]) if found[1] else _STANDARD[place]
        try:
            place = os.path.join(os.path.dirname(place), os.readlink(place))  # noqa: PTH115, PTH118, PTH120
        except OSError:
            return None
    return None


@contextlib.contextmanager
def _beside(target: Path, suffix: str) -> Iterator[Path]:
    """A temporary file in the folder of the target, or elsewhere where that takes none."""
    fresh = target.with_name(f".{target.name[:40]}.{os.getpid()}.{threading.get_ident()}.tmp{suffix}")
    try:
        os.close(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o666))
    except OSError as error:
        if error.errno not in _IN_PLACE or not target.exists():
            raise
        with _beside_nothing(suffix) as fresh:
            yield fresh
        return
    try:
        yield fresh
    finally:
        with contextlib.suppress(OSError):
            fresh.unlink(missing_ok=True)


@contextlib.contextmanager
def _beside_nothing(suffix: str) -> Iterator[Path]:
    """A temporary file in the system's folder for them."""
    with tempfile.TemporaryDirectory(prefix="runner-") as folder:
        yield Path(folder) / f"content{suffix}"


def _replace(fresh: Path, target: Path) -> None:
    with fresh.open("rb") as file:
        os.fsync(file.fileno())
    with contextlib.suppress(OSError):  # there is no file yet, or its owner is another
        was = target.stat()
        fresh.chmod(stat.S_IMODE(was.st_mode))
        os.chown(fresh, was.st_uid, was.st_gid)
    try:
        fresh.replace(target)
    except OSError as error:
        if error.errno not in (*_IN_PLACE, errno.EXDEV):
            raise
        _copy_into(fresh, target, None)


def _copy_into(fresh: Path, path: Path, number: int | None) -> None:
    """Write a file's content into what is there, from its beginning or, for a descriptor, from where that is."""
    file = os.dup(number) if number is not None else os.open(path, os.O_WRONLY | os.O_TRUNC | os.O_CLOEXEC)
    with fresh.open("rb") as source, os.fdopen(file, "wb") as target:
        shutil.copyfileobj(source, target)


def write_atomically(path: Path, text: str) -> None:
    """Replace a file's content, without the secrets in it, see `replacing`; its folder is made if there is none.

    Raises:
        OSError: with the file's name; it is as it was.
    """
    _write(path, redact(text))


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as fresh:
        # Names of files may be no UTF-8.
        fresh.write_text(text, encoding="utf-8", errors="backslashreplace")


def hard_link(source: Path, target: Path) -> None:
    """Let target be the same file as source, at once or not at all."""
    fresh = target.with_name(f".{target.name}.tmp")
    fresh.unlink(missing_ok=True)
    try:
        os.link(source, fresh)
    except OSError:  # a file system without links
        shutil.copy2(source, fresh)
    fresh.replace(target)


def write_json(path: Path, content: Any) -> None:
    """Replace a JSON file, see `write_atomically`; numbers are never taken for secrets."""
    _write(path, json.dumps(redact_all(content), indent=2) + "\n")


def load_json(path: Path) -> dict[str, Any]:
    """The mapping in a JSON file.

    Raises:
        OSError: it cannot be read.
        ValueError: it holds something else.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    if not isinstance(content, dict):
        raise ValueError("it holds no mapping")
    return content


def load_json_or_empty(path: Path) -> dict[str, Any]:
    """The mapping in a JSON file; an empty one where there is none that can be read."""
    try:
        return load_json(path)
    except (OSError, ValueError):
        return {}
