"""Cells of notebooks: `!python -m runner ...` has a terminal, whose page knows the beginning of a line alone."""

import json
import os
import pty
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from runner.console import moves_up

KERNEL = {"JPY_PARENT_PID": "1", "MPLBACKEND": "module://matplotlib_inline.backend_inline", "TERM": "xterm-color"}


def cell(folder: Path, *arguments: str) -> tuple[int, str]:
    """The exit code and the output of `!python -m runner <arguments>`, as a kernel runs it."""
    terminal, theirs = pty.openpty()
    shown = bytearray()

    def read() -> None:
        try:
            while block := os.read(terminal, 1 << 16):
                shown.extend(block)
        except OSError:  # its end
            return

    reader = threading.Thread(target=read)
    reader.start()
    command = [sys.executable, "-m", "runner", *arguments]
    done = subprocess.run(command, cwd=folder, env=os.environ | KERNEL, stdin=theirs, stdout=theirs, stderr=theirs)
    os.close(theirs)
    reader.join()
    os.close(terminal)
    return done.returncode, shown.decode()


def test_a_sweep_in_a_cell_is_complete_and_never_moves_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RUNNER_OUTPUTS", raising=False)
    code, shown = cell(tmp_path, "-m", "seed=1,2", "data.limit=100", "trainer.epochs=2", "hydra.sweep.dir=sweep")
    assert code == 0, shown
    assert "\x1b[A" not in shown and "2/2  job" in shown
    for number in ("0", "1"):
        assert json.loads((tmp_path / "sweep" / number / "result.json").read_text())["status"] == "FINISHED"
        assert (tmp_path / "sweep" / number / "plots" / "loss.png").is_file()
        assert (tmp_path / "sweep" / number / "model" / "MLmodel").is_file()


@pytest.mark.parametrize(
    ("variables", "expected"),
    [({}, True), ({"JPY_PARENT_PID": "1"}, False), ({"TERM": "dumb"}, False), ({"TERM": "xterm"}, True)],
)
def test_which_terminals_move_up(monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], expected: bool) -> None:
    for name in ("JPY_PARENT_PID", "TERM"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert moves_up() is expected
