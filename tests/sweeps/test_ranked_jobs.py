"""Sweeps whose jobs are runs of two ranks: stopped and resumed, killed, and repeated."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from time import monotonic, sleep

import psutil
import pytest

from helpers.killed import assert_ended_the_same
from runner.rundir import layout

pytestmark = pytest.mark.soak

JOBS = (
    "strategy=ddp", "strategy.nproc_per_node=2", "optimizer.lr=0.1,0.05", "device=cpu", "trainer.epochs=8",
    "data.batch_size=8", "model.dropout=0.3", "trainer.checkpoint_every_steps=10",
)  # fmt: skip


def sweep(here: Path, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "runner", "--multirun", *arguments],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=here, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip


def ranks_of(folder: Path) -> list[psutil.Process]:
    """Return the living processes of jobs whose logs are in a folder."""
    found = []
    for process in psutil.process_iter(["environ", "cwd"]):
        environment = process.info["environ"] or {}
        if "RANK" in environment and process.info["cwd"] == str(folder.parent):
            found.append(process)
    return found


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("whole") / "sweep"
    started = sweep(folder.parent, *JOBS, f"hydra.sweep.dir={folder}")
    _, printed = started.communicate(timeout=200)
    assert started.returncode == 0, printed
    yield folder


def wait_for_checkpoint(folder: Path) -> None:
    while not (folder / "0" / layout.CHECKPOINTS / layout.LAST).exists():
        sleep(0.05)
    sleep(0.5)


@pytest.mark.parametrize("number", (signal.SIGTERM, signal.SIGKILL))
def test_a_stopped_or_killed_sweep_is_resumed_exactly(whole: Path, here: Path, number: int) -> None:
    folder = here / "sweep"
    started = sweep(here, *JOBS, f"hydra.sweep.dir={folder}")
    wait_for_checkpoint(folder)
    before = monotonic()
    started.send_signal(number)
    started.communicate(timeout=60)
    while ranks_of(folder) and monotonic() - before < 40:
        sleep(0.2)
    assert not ranks_of(folder)
    resumed = sweep(here, f"sweep.resume={folder}")
    _, printed = resumed.communicate(timeout=200)
    assert resumed.returncode == 0, printed
    for job in ("0", "1"):
        assert_ended_the_same(folder / job, whole / job)


def test_a_job_is_repeated_by_as_many_ranks(whole: Path) -> None:
    run_id = json.loads((whole / "0" / layout.RESULT).read_text())["run_id"]
    command = [sys.executable, "-m", "runner.reproduce", f"run={run_id}"]
    done = subprocess.run(command, cwd=whole.parent, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    assert "identical" in done.stderr
    assert "strategy ddp, 2 ranks" in done.stderr


def test_a_halving_pauses_all_ranks_of_a_job_and_resumes_them(here: Path) -> None:
    halving = ("hydra/sweeper=halving", "hydra.sweeper.max_epochs=4", "hydra.sweeper.eta=2", "trainer.epochs=4")
    started = sweep(here, *JOBS, *halving, "tracking=off", "data.limit=101", f"hydra.sweep.dir={here}/sweep")
    _, printed = started.communicate(timeout=300)
    assert started.returncode == 0, printed
    results = [json.loads((here / "sweep" / str(job) / layout.RESULT).read_text()) for job in (0, 1)]
    assert sorted((result["status"], result["epochs"]) for result in results)[0] == ("FINISHED", 4)
    assert sorted(result["status"] for result in results) == ["FINISHED", "PAUSED"]
