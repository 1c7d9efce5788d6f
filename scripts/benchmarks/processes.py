"""Processes that are measured: their seconds, their memory, and what they tell."""

import json
import os
import pty
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent


@dataclass
class Done:
    """A process that has ended well.

    Attributes:
        seconds: from its start to its end.
        megabytes: the most that lay in memory at once, of itself and of each process that it waited for.
        told: the JSON that it printed, or that a run left as its result.
    """

    seconds: float
    megabytes: float
    told: dict[str, Any]


def run(command: Sequence[str], folder: Path) -> Done:
    """Run a command on a terminal of its own, so that progress bars are drawn.

    Raises:
        RuntimeError: it failed; with the last of what it printed.
    """
    terminal, side = pty.openpty()
    printed = bytearray()
    reader = threading.Thread(target=_read, args=(terminal, printed), daemon=True)
    reader.start()
    began = time.perf_counter()
    process = subprocess.Popen(command, cwd=folder, stdin=side, stderr=side, stdout=subprocess.PIPE, env=_environment())
    os.close(side)
    assert process.stdout is not None
    output = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - began
    process.returncode = os.waitstatus_to_exitcode(status)
    reader.join(1.0)
    if process.returncode:
        raise RuntimeError(f"{' '.join(command)} failed:\n{printed.decode(errors='replace')[-2000:]}")
    return Done(seconds, usage.ru_maxrss / 1024, json.loads(output) if output.strip() else {})


def peer(name: str, **options: object) -> Done:
    """Run one of the loops of `loops.py`."""
    with tempfile.TemporaryDirectory() as folder:
        arguments = [f"{key}={value}" for key, value in options.items()]
        return run([sys.executable, str(HERE / "loops.py"), name, *arguments], Path(folder))


def runner(*overrides: str, folder: Path | None = None) -> Done:
    """Run `python -m runner`, and take its result; in a folder that is thrown away, if none is given."""
    with tempfile.TemporaryDirectory() as temporary:
        place = folder or Path(temporary)
        made = place / "measured"
        done = run([sys.executable, "-m", "runner", f"hydra.run.dir={made}", *overrides], place)
        done.told = json.loads((made / "result.json").read_text())
        subprocess.run(["rm", "-r", str(made)], check=True)
        return done


def _environment() -> dict[str, str]:
    return {key: value for key, value in os.environ.items() if not key.startswith(("RUNNER_", "OMP_"))}


def _read(terminal: int, printed: bytearray) -> None:
    while True:
        try:
            block = os.read(terminal, 1 << 16)
        except OSError:  # nobody writes any more
            return
        if not block:
            return
        printed += block
