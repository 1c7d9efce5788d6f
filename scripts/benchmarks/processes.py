"""Run processes and measure their time, memory and output."""

import contextlib
import fcntl
import json
import os
import pty
import resource
import struct
import subprocess
import sys
import tempfile
import termios
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

ROWS, COLUMNS = 24, 100
"""Size of the terminal: a new one has no size, and no progress bar is drawn on it."""

NOT_OURS = ("RUNNER_", "OMP_", "MKL_", "KMP_", "MLFLOW_", "TORCH", "PYTHONDONTWRITE", "PYTHONUNBUFFERED")
"""Prefixes of environment variables that are removed, so that the user's settings do not change the benchmark."""

SAMPLE_SECONDS = 0.1

HERE = Path(__file__).resolve().parent
PYTHON = [sys.executable]


@dataclass(frozen=True)
class Done:
    """A process that ended without an error.

    Attributes:
        seconds: from its start to its end.
        cpu_seconds: of it and its children; useless if another process was measured meanwhile.
        megabytes: peak memory of the process and its children, shared pages counted once (Linux's proportional set
            size); 0 if it was not measured.
        peak: the same, but at least the peak of the largest of them as the kernel noted it (VmHWM): a sample may miss
            a short peak.
        shown: its output.
    """

    seconds: float
    cpu_seconds: float
    megabytes: float
    peak: float
    shown: str


def run(
    command: Sequence[str], folder: Path, environment: Mapping[str, str] | None = None, weigh: bool = False
) -> Done:
    """Run a command in a folder on its own terminal, so that progress bars are drawn.

    Args:
        command: the program and its arguments.
        folder: its working directory.
        environment: additional environment variables.
        weigh: sample its memory, which takes time.

    Raises:
        RuntimeError: it failed; the message has the end of its output.
    """
    terminal, theirs = pty.openpty()
    shown = bytearray()
    reader = threading.Thread(target=_read, args=(terminal, shown), daemon=True)
    reader.start()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", ROWS, COLUMNS, 0, 0))
    clean = {key: value for key, value in os.environ.items() if not key.startswith(NOT_OURS)}
    began, began_cpu = time.perf_counter(), _cpu_seconds_of_children()
    process = subprocess.Popen(
        command, cwd=folder, stdin=theirs, stdout=theirs, stderr=theirs, env=clean | dict(environment or {})
    )
    os.close(theirs)
    megabytes, peak = _watch(process) if weigh else (0.0, 0.0)
    process.wait()
    seconds, cpu_seconds = time.perf_counter() - began, _cpu_seconds_of_children() - began_cpu
    reader.join(1.0)
    os.close(terminal)
    if process.returncode:
        raise RuntimeError(f"{' '.join(command)} failed:\n{shown.decode(errors='replace')[-3000:]}")
    return Done(seconds, cpu_seconds, megabytes, peak, shown.decode(errors="replace"))


def _cpu_seconds_of_children() -> float:
    """Return the CPU time of all children that have ended, and of theirs."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def _watch(process: subprocess.Popen[bytes]) -> tuple[float, float]:
    """Return `megabytes` and `peak` of a process and its children."""
    most, largest, root = 0.0, 0.0, psutil.Process(process.pid)
    while process.poll() is None:
        taken = 0.0
        for one in (root, *_below(root)):
            with contextlib.suppress(psutil.Error, OSError, StopIteration):
                taken += _megabytes(one.pid, "smaps_rollup", "Pss")
                largest = max(largest, _megabytes(one.pid, "status", "VmHWM"))
        most = max(most, taken)
        time.sleep(SAMPLE_SECONDS)
    return most, max(most, largest)


def _megabytes(pid: int, file: str, figure: str) -> float:
    lines = Path(f"/proc/{pid}/{file}").read_text().splitlines()
    return next(float(line.split()[1]) * 1024 / 1e6 for line in lines if line.startswith(f"{figure}:"))


def _below(root: psutil.Process) -> list[psutil.Process]:
    try:
        return root.children(recursive=True)
    except psutil.Error:  # it has just ended
        return []


def whole(
    *arguments: str, folder: Path | None = None, environment: Mapping[str, str] | None = None
) -> dict[str, list[float]]:
    """Measure `python <arguments>` from its start to its end, by default in a temporary folder."""
    with tempfile.TemporaryDirectory() as temporary:
        return {"seconds": [run([*PYTHON, *arguments], folder or Path(temporary), environment).seconds]}


def peer(
    name: str, environment: Mapping[str, str] | None = None, weigh: bool = False, **options: object
) -> dict[str, list[float]]:
    """Run a loop of `loops.py`, or `<module>.<function>`; return its figures and its memory."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "figures.json"
        words = [f"{key}={value}" for key, value in options.items()]
        done = run([*PYTHON, str(HERE / "loops.py"), name, str(file), *words], Path(folder), environment, weigh)
        return {**json.loads(file.read_text()), "megabytes": [done.megabytes], "peak": [done.peak]}


@dataclass(frozen=True)
class Run:
    """A finished run of `python -m runner`.

    Attributes:
        done: its process.
        metrics: each metric's values, in order.
        times: when each was measured, in seconds.
        result: the content of `result.json`.
    """

    done: Done
    metrics: dict[str, list[float]]
    times: dict[str, list[float]]
    result: dict[str, Any]


def runner(
    *overrides: str, folder: Path | None = None, environment: Mapping[str, str] | None = None, weigh: bool = False
) -> Run:
    """Run `python -m runner`, by default in a temporary folder."""
    with tempfile.TemporaryDirectory() as temporary:
        run_folder = Path(temporary) / "run"
        command = [*PYTHON, "-m", "runner", f"hydra.run.dir={run_folder}", *overrides]
        done = run(command, folder or Path(temporary), environment, weigh)
        metrics, times = dict[str, list[float]](), dict[str, list[float]]()
        for line in (run_folder / "metrics.jsonl").read_text().splitlines():
            point = json.loads(line)
            metrics.setdefault(point["name"], []).append(point["value"])
            times.setdefault(point["name"], []).append(point["time"])
        return Run(done, metrics, times, json.loads((run_folder / "result.json").read_text()))


def _read(terminal: int, shown: bytearray) -> None:
    while True:
        try:
            block = os.read(terminal, 1 << 16)
        except OSError:  # the process has closed the terminal
            return
        if not block:
            return
        shown += block
