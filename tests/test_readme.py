"""Every command of the README runs, taken from the README itself."""

import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import numpy as np
import pytest
import torch

from conftest import REPOSITORY

TEXT = (REPOSITORY / "README.md").read_text(encoding="utf-8")

# What would take minutes is made small, with keys that leave the command's own alone.
SMALL = ["data.limit=200", "trainer.epochs=2"]


def commands() -> list[str]:
    blocks = re.findall(r"```console\n(.*?)```", TEXT, re.DOTALL)
    return [line[2:].split(" #")[0].strip() for block in blocks for line in block.splitlines() if line.startswith("$ ")]


def files() -> dict[str, str]:
    blocks = re.findall(r"```(?:python|yaml)\n# (\S+)\n(.*?)```", TEXT, re.DOTALL)
    return {name: f"# {name}\n{content}" for name, content in blocks}


def idx(path: Path, values: np.ndarray) -> None:
    header = bytes([0, 0, 8, values.ndim]) + np.array(values.shape, dtype=">i4").tobytes()
    path.write_bytes(header + values.astype("u1").tobytes())


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the README's own files, a data set in MNIST's format, and a run to go on with."""
    here = tmp_path_factory.mktemp("readme")
    for name, content in files().items():
        (here / name).parent.mkdir(parents=True, exist_ok=True)
        (here / name).write_text(content)
    data = here / "data"
    data.mkdir()
    made = np.random.default_rng(0)
    for part, samples in (("train", 300), ("t10k", 50)):
        idx(data / f"{part}-images-idx3-ubyte", made.integers(0, 256, (samples, 28, 28)))
        idx(data / f"{part}-labels-idx1-ubyte", np.arange(samples) % 10)
    assert call(here, "python -m runner tracking=off hydra.run.dir=outputs/runs/first trainer.epochs=2").returncode == 0
    return here


def environment(here: Path) -> dict[str, str]:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return os.environ | {"RUNNER_DATA": str(here / "data"), "PATH": path, "RUNNER_OUTPUTS": str(here / "outputs")}


def call(here: Path, command: str, *more: str) -> subprocess.CompletedProcess[str]:
    words = [sys.executable if word == "python" else word for word in command.split()]
    return subprocess.run([*words, *more], cwd=here, env=environment(here), capture_output=True, text=True)


def test_there_are_commands_and_files() -> None:
    assert len(commands()) >= 15
    assert set(files()) == {"shapes.py", "my_conf/model/wide.yaml", "my_conf/data/circles.yaml"}


@pytest.mark.parametrize("command", commands())
def test_command(command: str, place: Path) -> None:
    if command in ("scripts/run", "scripts/test"):
        pytest.skip("makes an environment of its own: it is what runs these tests, from a clean clone")
    if command == "python -m runner.ui":
        answers(place, command)
        return
    whole = re.search(r"--help|runner\.|resume=|cnnn", command)
    small = [] if whole else [override for override in SMALL if override.split("=")[0] not in command]
    done = call(place, command.replace("<run>", "first"), *small)
    if "device=cuda" in command and not torch.cuda.is_available():
        assert done.returncode == 2
        assert done.stderr.startswith("error: device=cuda is not available: ")
    elif "cnnn" in command:
        assert done.returncode == 2
    else:
        assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    if command.startswith("python -m runner resume="):
        result = json.loads((place / "outputs" / "runs" / "first" / "result.json").read_text())
        assert result["epochs"] == 40


def answers(place: Path, command: str) -> None:
    """The UI answers, and ends when it is told to."""
    port = 5057
    assert call(place, "python -m runner debug=fast tracking.log_model=false").returncode == 0
    words = [sys.executable, *command.split()[1:], f"port={port}"]
    silent = {"stderr": subprocess.DEVNULL, "stdout": subprocess.DEVNULL}
    process = subprocess.Popen(words, cwd=place, env=environment(place), **silent)
    try:
        deadline = time.monotonic() + 60
        while True:
            try:
                assert b"MLflow" in urllib.request.urlopen(f"http://127.0.0.1:{port}", timeout=5).read()
                return
            except OSError:
                assert time.monotonic() < deadline
                time.sleep(0.2)
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(20)


@pytest.mark.parametrize("command", re.findall(r"<!-- output: (.*?) -->", TEXT))
def test_the_output_shown_is_what_it_prints(command: str, place: Path) -> None:
    shown = TEXT.split(f"<!-- output: {command} -->")[1].split("```text\n")[1].split("```")[0]
    printed = call(place, command).stderr

    def form(text: str) -> list[str]:
        """Figures, times and dates depend on the machine; words and the order of lines do not."""
        text = re.sub(r"sqlite:\S+,", "sqlite:,", text)
        text = re.sub(r"  best$", "", text, flags=re.MULTILINE)
        figures = re.sub(r"\d[\d.,:_-]*\d|\d", "0", text)
        return [re.sub(r"\s+", " ", line).strip() for line in figures.splitlines() if line != "..."]

    lines = form(printed)
    assert all(line in lines for line in form(shown))
