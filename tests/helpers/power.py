"""Simulate a power loss: each process saves what it flushes, and afterwards all files are cut back to that.

A file has the content of its last flush, and nothing if it was never flushed. A rename and a link are lost unless some
file was flushed after them, as with a journal of a file system. SQLite flushes by itself, and its last transaction can
be undone: with `older`, its file is the one from before the last commit.
"""

import json
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

VARIABLE = "RUNNER_TEST_POWER"
"""An environment variable: the folder of the records; processes with it record what they flush."""

NEXT = "next"


def record(records: Path) -> None:
    """Save from now on what this process flushes."""
    os.environ[VARIABLE] = str(records)
    (records / NEXT).mkdir(parents=True, exist_ok=True)
    fsync, replace = os.fsync, os.replace

    def flushed(file: int) -> None:
        fsync(file)
        content = Path(f"/proc/self/fd/{file}").read_bytes()  # what another process appends meanwhile may be in it
        stat = os.fstat(file)
        saved = records / f"{stat.st_ino}.{os.getpid()}.{time.monotonic_ns()}"
        saved.write_bytes(content)
        replace(saved, records / str(stat.st_ino))
        for note in (records / NEXT).iterdir():
            note.unlink(missing_ok=True)

    def replaced(source: Any, target: Any, **_: Any) -> None:
        before = records / f"before.{time.monotonic_ns()}"
        if os.path.exists(target):  # noqa: PTH110
            os.link(target, before)
        note = {"target": os.path.abspath(target), "before": str(before)}  # noqa: PTH100
        replace(source, target)
        (records / NEXT / f"{time.monotonic_ns():020d}").write_text(json.dumps(note))

    os.fsync, os.replace = flushed, replaced  # type: ignore[assignment]
    _save_store_before_commits(records)


def _save_store_before_commits(records: Path) -> None:
    from sqlalchemy import Connection, Engine, event

    @event.listens_for(Engine, "commit")
    def _(connection: Connection) -> None:
        if (file := connection.engine.url.database) and Path(file).exists():
            saved = records / f"store.{os.getpid()}"
            shutil.copy(file, saved)
            os.rename(saved, records / "store")  # noqa: PTH104


def lose(root: Path, records: Path, *, renames: bool = True, older: bool = False, zeros: bool = False) -> None:
    """Cut all files below a folder back to what was flushed; no process may use them.

    Args:
        root: the folder.
        records: that of `record`.
        renames: whether the last renames are lost.
        older: whether the last transaction of the store is lost.
        zeros: whether the part of a journal that was not flushed is zeros with its last lines behind them, not cut.
    """
    for note in sorted((records / NEXT).iterdir(), reverse=True) if renames else ():
        told = json.loads(note.read_text())
        target, before = Path(told["target"]), Path(told["before"])
        target.unlink(missing_ok=True)
        if before.exists():
            os.rename(before, target)  # noqa: PTH104
    for path in [path for path in root.rglob("*") if path.is_file() and not path.is_symlink()]:
        if path.name.startswith("mlflow.db") or "mlartifacts" in path.parts or records in path.parents:
            continue
        content, saved = path.read_bytes(), records / str(path.stat().st_ino)
        flushed = saved.read_bytes() if saved.exists() else b""
        flushed = flushed if content.startswith(flushed) else b""  # the number of a file that was removed
        end = content[len(flushed) :]
        if zeros and path.suffix == ".jsonl":
            flushed += b"\0" * (len(end) // 2) + end[len(end) // 2 :]
        path.write_bytes(flushed)
    if older and (records / "store").exists():
        (store,) = root.rglob("mlflow.db")
        shutil.copy(records / "store", store)
        store.with_name("mlflow.db-journal").unlink(missing_ok=True)


def recorded_by(records: Path, prepare: Callable[[], object]) -> None:
    """Prepare a forked process to record, and whatever else it does."""
    prepare()
    record(records)
