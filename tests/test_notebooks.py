"""Cells of notebooks: `!python -m runner ...` has a terminal, whose page knows the beginning of a line alone."""

import json
import os
import pty
import subprocess
import sys
import sysconfig
import threading
import venv
from pathlib import Path

import pytest

from runner.util.terminal import can_redraw_lines

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


def page(text: str) -> list[str]:
    """The lines that a notebook shows of a cell's output: what comes after a carriage return overwrites."""
    lines = []
    for line in text.replace("\r\n", "\n").split("\n"):
        seen = ""
        for part in line.split("\r"):
            seen = part + seen[len(part) :]
        lines.append(seen.rstrip())
    return lines


@pytest.mark.soak
def test_a_sweep_in_a_cell_is_complete_and_never_moves_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RUNNER_OUTPUTS", raising=False)
    code, shown = cell(tmp_path, "-m", "seed=1,2", "data.limit=100", "trainer.epochs=2", "hydra.sweep.dir=sweep")
    assert code == 0, shown
    assert "\x1b" not in shown and "2/2  job" in shown
    lines = page(shown)
    assert "sweep      2 jobs: seed=1,2" in lines and not any("checking" in line for line in lines)
    for number in ("0", "1"):
        assert json.loads((tmp_path / "sweep" / number / "result.json").read_text())["status"] == "FINISHED"
        assert (tmp_path / "sweep" / number / "plots" / "loss.png").is_file()
        assert (tmp_path / "sweep" / number / "model" / "MLmodel").is_file()


def test_a_run_in_a_cell_is_complete(tmp_path: Path) -> None:
    code, shown = cell(tmp_path, "tracking=off", "data.limit=60", "trainer.epochs=1", "hydra.run.dir=run")
    assert code == 0 and "\x1b" not in shown, shown
    assert any(line.startswith("epoch 1/1") for line in page(shown))
    assert json.loads((tmp_path / "run" / "result.json").read_text())["status"] == "FINISHED"
    assert (tmp_path / "run" / "plots" / "loss.png").is_file()


@pytest.mark.parametrize(
    ("variables", "expected"),
    [({}, True), ({"JPY_PARENT_PID": "1"}, False), ({"TERM": "dumb"}, False), ({"TERM": "xterm"}, True)],
)
def test_which_terminals_move_up(monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], expected: bool) -> None:
    for name in ("JPY_PARENT_PID", "TERM"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert can_redraw_lines() is expected


EXECUTE = """
import json, sys, nbformat
from nbclient import NotebookClient

cells = [nbformat.v4.new_code_cell(source) for source in json.loads(sys.argv[1])]
notebook = nbformat.v4.new_notebook(cells=cells)
NotebookClient(notebook, timeout=300, kernel_name="python3").execute()
nbformat.write(notebook, "executed.ipynb")
"""


@pytest.fixture(scope="module")
def kernel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python of an environment with a kernel and no torch, which comes from the package index."""
    folder = tmp_path_factory.mktemp("kernel")
    venv.create(folder, with_pip=True)
    python = folder / "bin" / "python"
    command = [python, "-m", "pip", "install", "--quiet", "ipykernel>=6.29,<8", "nbclient>=0.10,<1"]
    if (done := subprocess.run(command, capture_output=True, text=True)).returncode:
        pytest.skip(f"ipykernel and nbclient cannot be installed: {done.stderr.strip()[-200:]}")
    assert subprocess.run([python, "-c", "import torch"], capture_output=True).returncode == 1
    return python


@pytest.mark.soak
@pytest.mark.parametrize("own", [False, True], ids=["another environment", "the environment of runner"])
def test_an_executed_notebook(own: bool, kernel: Path, here: Path) -> None:
    ours = Path(__file__).parents[1]
    modules = [str(ours / "src"), sysconfig.get_path("purelib")]
    told = {"PYTHONPATH": os.pathsep.join(modules if own else modules[:1])}
    python, short = kernel if own else sys.executable, "data.limit=200 trainer.epochs=3"
    commands = [
        f"{python} -m runner {short} hydra.run.dir=run",
        f"{python} -m runner --multirun {short} seed=1,2,3 sweep.jobs=2 hydra.sweep.dir=sweep",
        f"{python} -m runner 'model.hidden=[2500,2500]' trainer.epochs=4 tracking=off hydra.run.dir=long",
        f"{python} -m runner.evaluate run=run",
    ]
    cells = [cell for command in commands for cell in (f"!{command}", "print(_exit_code)")]
    subprocess.run([kernel, "-c", EXECUTE, json.dumps(cells)], cwd=here, env=os.environ | told, check=True)
    executed = json.loads((here / "executed.ipynb").read_text())["cells"]
    shown = ["".join("".join(output["text"]) for output in cell["outputs"]) for cell in executed]
    assert shown[1::2] == ["0\n"] * len(commands), shown
    assert not any("\x1b" in text or "Traceback" in text for text in shown)
    for folder in ("run", "sweep/0", "sweep/1", "sweep/2"):
        assert json.loads((here / folder / "result.json").read_text())["status"] == "FINISHED"
        assert (here / folder / "plots" / "loss.png").is_file()
        assert (here / folder / "model" / "MLmodel").is_file()
    run, sweep, long, _ = map(page, shown[::2])
    assert [line[:9] for line in run if line.startswith("epoch")] == [f"epoch {number}/3" for number in (1, 2, 3)]
    assert sweep[0] == "sweep      3 jobs: seed=1,2,3"
    assert [line[:8] for line in sweep if line[1:3] == "/3"] == [f"{number}/3  job" for number in (1, 2, 3)]
    assert len((here / "sweep" / "jobs.csv").read_text().splitlines()) == 4
    assert sum("FINISHED" in line for line in sweep) == 3
    assert [line[:9] for line in long if line.startswith("epoch")] == [f"epoch {number}/4" for number in range(1, 5)]
    assert shown[4].replace("\r\n", "").count("\r") < 100, "a page may save every refresh of a bar"
