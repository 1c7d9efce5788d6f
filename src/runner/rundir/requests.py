"""Requests to a running sweep: another process puts them into its folder, and the sweep answers there.

A shared disk is all that both need, also where the sweep runs on the head of a cluster.
"""

import os
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from runner.rundir import layout
from runner.rundir.lock import is_locked
from runner.util.files import load_json_or_empty, write_json

STEERED = "stopped by runner.steer"
"""Why a job ended that the user has stopped; the others need not care."""

_ANSWER = ".answer.json"
_POLL_SECONDS = 0.05

ANSWER_SECONDS = 60.0
"""A new job is checked before the answer, which takes seconds on a busy machine."""


def ask(sweep: Path, request: Mapping[str, Any], seconds: float = ANSWER_SECONDS) -> dict[str, Any] | None:
    """Ask a running sweep, and wait for its answer.

    Args:
        sweep: its folder.
        request: what it shall do.
        seconds: that the answer may take.

    Returns:
        The answer; None if there is none in time, or the sweep ends: then it does not obey later either.

    Raises:
        OSError: the folder cannot be written.
    """
    folder = sweep / layout.REQUESTS
    folder.mkdir(exist_ok=True)
    path = folder / f"{time.time_ns()}-{os.getpid()}.json"
    answered = path.with_name(path.stem + _ANSWER)
    write_json(path, dict(request), private=True)
    deadline = time.monotonic() + seconds
    try:
        while not answered.exists():
            if time.monotonic() > deadline or not is_locked(sweep):
                return None
            time.sleep(_POLL_SECONDS)
        return load_json_or_empty(answered)
    finally:
        path.unlink(missing_ok=True)
        answered.unlink(missing_ok=True)


def waiting(sweep: Path) -> Iterator[tuple[Path, dict[str, Any]]]:
    """Yield the requests that have no answer, the oldest first, each with its file."""
    folder = sweep / layout.REQUESTS
    try:
        names = {entry.name for entry in os.scandir(folder)}
    except FileNotFoundError:
        return
    for name in sorted(names):
        stem, dot, kind = name.partition(".")
        if dot and kind == "json" and not name.startswith(".") and stem + _ANSWER not in names:
            yield folder / name, load_json_or_empty(folder / name)


def answer(path: Path, content: Mapping[str, Any]) -> None:
    """Answer a request; nobody may wait any more.

    Raises:
        OSError: the disk is full.
    """
    write_json(path.with_name(path.stem + _ANSWER), dict(content), private=True)


def forget(sweep: Path) -> None:
    """Remove all requests and answers: a sweep that starts again does not obey old ones."""
    folder = sweep / layout.REQUESTS
    if folder.is_symlink():
        folder.unlink()
    elif folder.is_dir():
        for path in folder.iterdir():
            path.unlink(missing_ok=True)
        folder.rmdir()
