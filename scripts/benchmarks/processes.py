"""Processes that are measured: their seconds, their memory, and what they tell."""

import json
import os
import pty
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
PYTHON = [sys.executable]


@dataclass(frozen=True)
class Done:
    """A process that has ended well.

    Attributes:
        seconds: from its start to its end.
        megabytes: the most that lay in memory at once, of itself or of a process that it waited for.
    """

    seconds: float
    megabytes: float


def run(command: Sequence[str], folder: Path, environment: Mapping[str, str] | None = None) -> Done:
    """Run a command in a folder, on a terminal of its own, so that progress bars are drawn.

    Args:
        command: the program and its arguments.
        folder: to be in.
        environment: what it finds in its environment besides what is there.

    Raises:
        RuntimeError: it failed; with the last of what it showed.
    """
    terminal, theirs = pty.openpty()
    shown = bytearray()
    reader = threading.Thread(target=_read, args=(terminal, shown), daemon=True)
    reader.start()
    clean = {key: value for key, value in os.environ.items() if not key.startswith(("RUNNER_", "OMP_"))}
    began = time.perf_counter()
    process = subprocess.Popen(
        command, cwd=folder, stdin=theirs, stdout=theirs, stderr=theirs, env=clean | dict(environment or {})
    )
    os.close(theirs)
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - began
    process.returncode = os.waitstatus_to_exitcode(status)
    reader.join(1.0)
    os.close(terminal)
    if process.returncode:
        raise RuntimeError(f"{' '.join(command)} failed:\n{shown.decode(errors='replace')[-3000:]}")
    return Done(seconds, usage.ru_maxrss / 1024)


def whole(*arguments: str, folder: Path | None = None) -> dict[str, float]:
    """The seconds that `python <arguments>` takes from its start to its end, in a folder that may be thrown away."""
    with tempfile.TemporaryDirectory() as temporary:
        return {"seconds": run([*PYTHON, *arguments], folder or Path(temporary)).seconds}


def peer(name: str, environment: Mapping[str, str] | None = None, **options: object) -> dict[str, float]:
    """What one of the loops of `loops.py` tells, and its memory."""
    with tempfile.TemporaryDirectory() as folder:
        told = Path(folder) / "told.json"
        words = [f"{key}={value}" for key, value in options.items()]
        done = run([*PYTHON, str(HERE / "loops.py"), name, str(told), *words], Path(folder), environment)
        return {**json.loads(told.read_text()), "megabytes": done.megabytes}


@dataclass(frozen=True)
class Run:
    """A run of `python -m runner` that is over.

    Attributes:
        done: its process.
        result: its `result.json`.
        metrics: each metric's values, in order.
    """

    done: Done
    result: dict[str, Any]
    metrics: dict[str, list[float]]


def runner(*overrides: str, folder: Path | None = None, environment: Mapping[str, str] | None = None) -> Run:
    """Do a run, in a folder that is thrown away if none is given."""
    with tempfile.TemporaryDirectory() as temporary:
        made = Path(temporary) / "run"
        command = [*PYTHON, "-m", "runner", f"hydra.run.dir={made}", *overrides]
        done = run(command, folder or Path(temporary), environment)
        metrics: dict[str, list[float]] = {}
        for line in (made / "metrics.jsonl").read_text().splitlines():
            point = json.loads(line)
            metrics.setdefault(point["name"], []).append(point["value"])
        return Run(done, json.loads((made / "result.json").read_text()), metrics)


def _read(terminal: int, shown: bytearray) -> None:
    while True:
        try:
            block = os.read(terminal, 1 << 16)
        except OSError:  # nobody writes any more
            return
        if not block:
            return
        shown += block
