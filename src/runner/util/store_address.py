"""Check the address of a store or a study before anything connects to it."""

import os
import stat
import tempfile
from pathlib import Path

from runner.errors import WRONG_PATHS, Problem, Topic
from runner.util.uri import DATABASES, is_server_address, scheme_of, sqlite_file, without_userinfo

_HEADER = b"SQLite format 3\0"
"""The first bytes of every SQLite file that is not empty."""


def check_address(key: str, uri: str) -> Problem | None:
    """Check that an address is that of a server or a database; it need not exist.

    Args:
        key: the config key or option that holds the address.
        uri: the address.

    Returns:
        The problem; None if there is none.
    """
    scheme = scheme_of(uri)
    typed = f"{key}={without_userinfo(uri)}"
    if scheme in ("http", "https"):
        if is_server_address(uri):
            return None
        return Problem(
            key, f"{typed} is not the address of a server", f"write {key}=http://<host>:<port>", topic="type"
        )
    if scheme not in DATABASES:
        instead = f"{_instead(key)} or {key}=http://<host>:<port>"
        return Problem(key, f"{typed} is not the address of a store", instead, topic="type")
    return check_sqlite(key, uri)


def check_sqlite(key: str, uri: str, creates: bool = False) -> Problem | None:
    """Check that the address of a SQLite store names a file that is a database, or can become one.

    Args:
        key: the config key or option that holds the address.
        uri: the address; one of any other kind passes.
        creates: whether a missing file is created, so that its folder must take files.

    Returns:
        The problem; None if there is none.
    """

    def problem(what: str, topic: Topic = "file") -> Problem:
        return Problem(key, f"{key}={uri}: {what}", _instead(key), topic=topic)

    file = sqlite_file(uri)
    if file is None:
        in_memory = scheme_of(uri) == "sqlite"
        return problem("it names no file", "type") if in_memory else None
    try:
        mode = file.stat().st_mode
        if not stat.S_ISREG(mode):
            return problem(f"{file} is {'a folder' if stat.S_ISDIR(mode) else 'a device or pipe'}, not a file")
        with file.open("rb") as opened:
            header = opened.read(len(_HEADER))
    except FileNotFoundError:
        return problem(why) if creates and (why := _why_not_created(file)) else None
    except OSError as error:
        return problem(f"{file} cannot be read ({error.strerror})")
    if header not in (b"", _HEADER):
        return problem(f"{file} is not a database")
    if creates and not os.access(file, os.W_OK):
        return problem(f"{file} cannot be written")
    return None


def _why_not_created(file: Path) -> str | None:
    """Return why a missing file cannot be created; None if it can, or if only the disk has no room for it now."""
    folder = file.parent
    try:
        folder = next(folder for folder in file.absolute().parents if folder.exists())
        with tempfile.TemporaryFile(dir=folder):
            return None
    except OSError as error:
        return f"no file can be made in {folder} ({error.strerror})" if error.errno in WRONG_PATHS else None


def _instead(key: str) -> str:
    return f"write {key}=sqlite:////<absolute path>.db"
