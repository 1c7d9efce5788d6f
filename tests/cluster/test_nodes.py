"""Jobs of several nodes on a real Slurm, whose two nodes are on this machine."""

import json
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from slurm import NEEDS, slurm
from test_slurm import job_id, wait_until_requeued
from twelve import run

from helpers.killed import assert_ended_the_same
from helpers.sweeping import outcomes, processes_below, results, start, sweep_folder, wait_for

pytestmark = NEEDS

TRAINED = (
    "data.limit=101", "data.batch_size=16", "model.hidden=[16]", "model.dropout=0.2", "optimizer=adamw",
    "scheduler=warmup_cosine", "device=cpu", "device.threads=1", "trainer.checkpoint_every_steps=2", "tracking=off",
)  # fmt: skip
LONG = (*TRAINED, "trainer.epochs=60")
ENDLESS = (*TRAINED, "trainer.epochs=100000")
ONE_EACH = ("strategy=ddp", "strategy.nproc_per_node=1", "hydra/launcher=slurm", "hydra.launcher.nodes=2")


@pytest.fixture(scope="module", autouse=True)
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with slurm(tmp_path_factory.mktemp("slurm"), nodes=2) as environment, pytest.MonkeyPatch.context() as patch:
        patch.setenv("SLURM_CONF", environment["SLURM_CONF"])
        yield


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Run the same job on this machine alone, without an interruption."""
    here = tmp_path_factory.mktemp("whole")
    code, printed = run(here, *LONG, "strategy=ddp", "strategy.nproc_per_node=2", "seed=1", "sweep.jobs=1")
    assert code == 0, printed
    return sweep_folder(here) / "0"


def with_checkpoint(here: Path) -> Path:
    """Wait until the only job has a checkpoint; return its folder."""
    wait_for(lambda: len(list(here.glob("outputs/sweeps/*/0/checkpoints/last.pt"))) == 1)
    return sweep_folder(here) / "0"


def rank(number: int, here: Path) -> psutil.Process:
    """Return the process of a rank of the job below a folder."""
    for process in psutil.process_iter():
        try:
            if process.cwd().startswith(str(here)) and process.environ().get("RANK") == str(number):
                return process
        except psutil.Error:
            continue
    raise AssertionError(f"there is no rank {number}")


def is_over(here: Path) -> bool:
    """Return whether Slurm has no job, and nothing is left of any."""
    queue = subprocess.run(["squeue", "-h", "-r"], capture_output=True, check=True).stdout
    return not queue and not processes_below(here)


class TestAJobOfTwoNodes:
    def test_is_one_run_like_that_of_one_machine(self, tmp_path: Path, whole: Path) -> None:
        code, printed = run(tmp_path, *LONG, *ONE_EACH, "seed=1")
        assert code == 0, printed
        folder = sweep_folder(tmp_path) / "0"
        assert_ended_the_same(folder, whole)
        assert results(folder.parent)[0]["ranks"] == 2
        assert (folder / "ranks" / "1.log").read_text().count("epoch 60/60") == 1
        (script,) = folder.parent.glob(".submitit/*/*_submission.sh")
        assert "--nodes=2" in script.read_text() and "--ntasks-per-node=1" in script.read_text()
        wait_for(lambda: is_over(tmp_path), 30)

    def test_may_have_several_ranks_each_and_be_one_of_several(self, tmp_path: Path) -> None:
        code, printed = run(tmp_path, *TRAINED, *ONE_EACH, "strategy.nproc_per_node=2", "seed=1,2", "trainer.epochs=2")
        assert code == 0, printed
        assert [result["ranks"] for result in results(sweep_folder(tmp_path)).values()] == [4, 4]
        (script,) = sweep_folder(tmp_path).glob(".submitit/*/*_submission.sh")
        assert "--cpus-per-task=2" in script.read_text()

    @pytest.mark.parametrize(
        "command",
        [["scontrol", "requeue"], ["scancel", "--signal=TERM"], ["scancel", "--signal=USR2"]],
        ids=["requeued", "preempted", "warned"],
    )
    def test_is_interrupted_and_ends_bit_identical(self, tmp_path: Path, whole: Path, command: list[str]) -> None:
        sweep = start(tmp_path, *LONG, *ONE_EACH, "seed=1")
        folder = with_checkpoint(tmp_path)
        subprocess.run([*command, job_id(folder.parent, 0)], check=True)
        wait_until_requeued(job_id(folder.parent, 0))
        _, printed = sweep.communicate(timeout=300)
        assert sweep.returncode == 0, printed
        assert (folder / "run.log").read_text().count("resumed ") == 1
        assert_ended_the_same(folder, whole)

    @pytest.mark.parametrize(
        ("number", "error"),
        [(signal.SIGKILL, "rank 1 has ended without an error"), (signal.SIGSTOP, "rank 1 was silent")],
    )
    def test_loses_a_rank_which_is_named(self, tmp_path: Path, number: int, error: str) -> None:
        sweep = start(tmp_path, *ENDLESS, *ONE_EACH, "seed=1")
        folder = with_checkpoint(tmp_path)
        os.kill(rank(1, tmp_path).pid, number)
        _, printed = sweep.communicate(timeout=240)
        assert sweep.returncode == 1, printed
        assert json.loads((folder / "result.json").read_text())["error"].startswith(error)
        wait_for(lambda: is_over(tmp_path), 60)

    def test_loses_rank_0_and_leaves_nothing_behind(self, tmp_path: Path) -> None:
        sweep = start(tmp_path, *ENDLESS, *ONE_EACH, "seed=1")
        folder = with_checkpoint(tmp_path)
        rank(0, tmp_path).kill()
        _, printed = sweep.communicate(timeout=100)
        assert sweep.returncode == 1, printed
        assert outcomes(folder.parent)[0]["status"] in ("FAILED", "KILLED")
        wait_for(lambda: is_over(tmp_path), 60)

    def test_is_asked_to_stop_and_writes_a_checkpoint(self, tmp_path: Path) -> None:
        sweep = start(tmp_path, *ENDLESS, *ONE_EACH, "seed=1")
        folder = with_checkpoint(tmp_path)
        sweep.send_signal(signal.SIGINT)
        _, printed = sweep.communicate(timeout=100)
        assert sweep.returncode == 130, printed
        assert json.loads((folder / "result.json").read_text())["status"] == "KILLED"
        wait_for(lambda: is_over(tmp_path), 30)


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (("strategy=single", "strategy.nproc_per_node=null"), "add strategy=ddp"),
        (("hydra.launcher.nodes=0",), "hydra.launcher.nodes=0"),
        (("hydra.launcher.use_srun=false",), "leave out use_srun=false"),
        (("hydra.launcher.additional_parameters={nodes:2}",), "write hydra.launcher.nodes=2"),
    ],
)
def test_what_is_refused_before_anything_starts(tmp_path: Path, more: tuple[str, ...], words: str) -> None:
    code, printed = run(tmp_path, *TRAINED, *ONE_EACH, "seed=1,2", *more)
    assert code == 2 and words in printed and "Traceback" not in printed, printed
    assert not (tmp_path / "outputs" / "sweeps").exists()
