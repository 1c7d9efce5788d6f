"""Helpers for tests of sweeps: a model that can fail, sweeps in separate processes, and readers of their files."""

import gc
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from multiprocessing import forkserver as python_forkserver
from pathlib import Path
from typing import Any

import psutil

from helpers import quick
from runner.cli import main
from runner.runs import code
from runner.sweeps.launchers import forkserver

FATES = '''
import json, os, signal, time

import torch
from hydra.core.hydra_config import HydraConfig
from torch import nn


class Fated(nn.Module):
    """A linear model that fails or waits in training, as `fate` says."""

    def __init__(self, input_shape, num_outputs, fate="fine", seconds=0.0):
        super().__init__()
        self.fate, self.seconds = fate, seconds
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(torch.Size(input_shape).numel(), num_outputs))
        self.begun = None
        self.tensors = []

    def forward(self, inputs):
        if self.training and inputs.device.type != "meta":
            self.act()
        return self.layers(inputs)

    def act(self):
        if self.begun is None:
            self.begun = time.time()
            start = {"gpu": os.environ.get("CUDA_VISIBLE_DEVICES"), "begun": self.begun}
            with open(f"job-{HydraConfig.get().job.num}.json", "w") as file:
                json.dump(start, file)
        if self.fate == "late" and time.time() - self.begun > 1:
            raise ValueError("after a while")
        if self.fate == "raises" and not os.path.exists("fixed"):
            raise ValueError("a mistake of the user's")
        if self.fate == "killed" and not os.path.exists("fixed"):
            os.kill(os.getpid(), signal.SIGKILL)
        if self.fate == "greedy" and not os.path.exists("fixed"):
            while True:
                self.tensors.append(torch.empty(1 << 30))
        if self.fate == "slow" and not os.path.exists("fixed"):
            time.sleep(0.3)
        time.sleep(self.seconds)
'''

MODEL = """# python -m runner --config-dir my_conf model=fated
_target_: fates.Fated
fate: fine # in training
seconds: 0.0 # of each step
"""


def write_fates(folder: Path) -> None:
    """Write a user's model and its config."""
    (folder / "fates.py").write_text(FATES)
    (folder / "my_conf" / "model").mkdir(parents=True)
    (folder / "my_conf" / "model" / "fated.yaml").write_text(MODEL)


def start(folder: Path, *arguments: str, **options: Any) -> subprocess.Popen[str]:
    """Start `python -m runner --multirun ...` in a folder, as a user does."""
    command = [sys.executable, "-m", "runner", "--multirun", *arguments]
    clean = {key: value for key, value in os.environ.items() if not key.startswith(("RUNNER_", "OMP_"))}
    return subprocess.Popen(command, cwd=folder, env=clean, stderr=subprocess.PIPE, text=True, **options)


class Forked:
    """`python -m runner ...` as a fork of a server that has imported everything; its jobs are forks of the same server.

    Its jobs draw no plots: see `quick`.

    Args:
        folder: its working directory.
        arguments: of the command line.
        prepare: called in the process before the command.
    """

    def __init__(self, folder: Path, *arguments: str, prepare: Callable[[], object] | None = None) -> None:
        forkserver.start(["runner.data.digits."], exports_models=True)
        context = multiprocessing.get_context("forkserver")
        self._printed = folder / "printed.txt"
        self._process = context.Process(target=_run_in, args=(folder, self._printed, arguments, prepare))
        self._process.start()

    @property
    def pid(self) -> int:
        assert self._process.pid is not None
        return self._process.pid

    def send_signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def wait(self, timeout: float = 60.0) -> tuple[int | None, str]:
        """Return its exit code (None if it still runs) and its output."""
        self._process.join(timeout)
        return self._process.exitcode, self._printed.read_text()


def _run_in(folder: Path, printed: Path, arguments: Sequence[str], prepare: Callable[[], object] | None = None) -> None:
    os.setsid()
    os.chdir(folder)
    for name in [name for name in os.environ if name.startswith(("RUNNER_", "OMP_"))]:
        del os.environ[name]
    os.dup2(os.open(printed, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 2)
    python_forkserver._forkserver.ensure_running = lambda: None  # the fork uses the server that it comes from
    forkserver._ensure_running = lambda: None
    forkserver.start = lambda *_, **__: None
    gc.freeze()  # as for jobs
    code.imported_files, forkserver.process = quick.files_elsewhere, quick.process
    if prepare is not None:
        prepare()
    sys.argv[1:] = arguments
    main()


def sweep_folder(here: Path) -> Path:
    """Return the folder of the only sweep."""
    (folder,) = (here / "outputs" / "sweeps").iterdir()
    return folder


def results(folder: Path) -> dict[int, dict[str, Any]]:
    """Read the result of each job by its number."""
    paths = folder.glob("[0-9]*/result.json")
    return {int(path.parent.name): json.loads(path.read_text()) for path in paths}


def outcomes(folder: Path) -> dict[int, dict[str, Any]]:
    """Read how each job ended, by its number."""
    return {int(path.parent.name): json.loads(path.read_text()) for path in folder.glob("[0-9]*/job.json")}


def table(folder: Path) -> dict[str, Any]:
    """Read `jobs.json`."""
    content: dict[str, Any] = json.loads((folder / "jobs.json").read_text())
    return content


def wait_for(condition: Callable[[], object], seconds: float = 90.0) -> None:
    """Wait until a condition holds."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "the condition does not hold"
        time.sleep(0.02)


def content(folder: Path, but: Sequence[str] = ()) -> dict[str, bytes]:
    """Read every file in a folder, except in some folders."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not set(path.relative_to(folder).parts) & set(but)
    }


def processes_below(folder: Path) -> list[psutil.Process]:
    """Return the processes whose working directory is a folder, without zombies."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.cwd() == str(folder) and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except psutil.Error:
            continue
    return found


def kill(process: subprocess.Popen[str]) -> None:
    """Send SIGKILL to the process alone: its children notice by themselves."""
    process.send_signal(signal.SIGKILL)
    process.wait()
