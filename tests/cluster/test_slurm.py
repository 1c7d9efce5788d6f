"""Sweeps on a real Slurm of one node."""

import json
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from slurm import NEEDS, slurm
from twelve import OF_ALL, TwelveJobs, run

from helpers.killed import EVERYTHING, assert_ended_the_same
from helpers.sweeping import kill, outcomes, results, start, sweep_folder, wait_for, write_fates

pytestmark = NEEDS
ON = "hydra/launcher=slurm"


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    with slurm(tmp_path_factory.mktemp("slurm")) as environment:
        yield environment


def job_id(folder: Path, number: int) -> str:
    """Return the Slurm id of a job."""
    own_id: str = json.loads((folder / str(number) / "slurm.json").read_text())["id"]
    return own_id


def wait_until_requeued(job_id: str) -> None:
    """Wait until a job is requeued, and start it at once: Slurm itself waits two minutes."""

    def queued() -> bool:
        command = ["squeue", "-h", "-r", "-t", "PENDING", "-o", "%i"]
        return job_id in subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()

    wait_for(queued)
    time.sleep(10)  # a job that starts while its node still cleans up fails
    subprocess.run(["scontrol", "update", f"jobid={job_id}", "starttime=now"], check=True)


class TestTwelveJobs(TwelveJobs):
    launcher = (ON, "hydra.launcher.partition=test", "hydra.launcher.cpus_per_task=1")

    def test_it_was_one_array(self, here: Path) -> None:
        (script, *_) = sorted(sweep_folder(here).glob(".submitit/*/*_submission.sh"))
        text = script.read_text()
        assert "--array=0-11%12" in text and "--partition=test" in text and "--cpus-per-task=1" in text

    def test_a_job_takes_the_cores_that_slurm_gives_it(self, here: Path) -> None:
        assert {result["threads"] for result in results(sweep_folder(here)).values()} == {1}


class TestAPreemptedJob:
    @pytest.fixture(scope="class")
    @staticmethod
    def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
        """Run the same two jobs without an interruption."""
        here = tmp_path_factory.mktemp("whole")
        code, printed = run(here, *EVERYTHING, "trainer.epochs=100", "tracking=off", "seed=1,2")
        assert code == 0, printed
        return sweep_folder(here)

    @pytest.mark.parametrize(
        "command",
        [["scontrol", "requeue"], ["scancel", "--signal=TERM"], ["scancel", "--signal=USR2"]],
        ids=["requeued", "preempted", "warned"],
    )
    def test_it_ends_bit_identical(
        self,
        tmp_path: Path,
        environment: dict[str, str],
        whole: Path,
        command: list[str],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.setenv("SLURM_CONF", environment["SLURM_CONF"])
        sweep = start(tmp_path, *EVERYTHING, "trainer.epochs=100", "tracking=off", "seed=1,2", ON)
        wait_for(lambda: len(list(tmp_path.glob("outputs/sweeps/*/[01]/checkpoints/last.pt"))) == 2)
        folder = sweep_folder(tmp_path)
        interrupted, other = 1, 0  # the last job of an array has the id of the array
        subprocess.run([*command, job_id(folder, interrupted)], check=True)
        wait_until_requeued(job_id(folder, interrupted))
        _, printed = sweep.communicate(timeout=300)
        assert sweep.returncode == 0, printed
        resumed = [(folder / str(n) / "run.log").read_text().count("resumed ") for n in (interrupted, other)]
        assert resumed == [1, 0], "it was interrupted and resumed"
        for number in ("0", "1"):
            assert_ended_the_same(folder / number, whole / number)


@pytest.fixture
def slow(tmp_path: Path, environment: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> tuple[str, ...]:
    monkeypatch.setenv("SLURM_CONF", environment["SLURM_CONF"])
    write_fates(tmp_path)
    return (*OF_ALL, "model.seconds=0.1", "trainer.epochs=15", ON)


class TestFates:
    def test_cancelled_by_hand_it_is_a_killed_row(self, tmp_path: Path, slow: tuple[str, ...]) -> None:
        sweep = start(tmp_path, *slow, "model.fate=a,b")
        wait_for(lambda: len(list(tmp_path.glob("outputs/sweeps/*/[01]/metrics.jsonl"))) == 2)
        folder = sweep_folder(tmp_path)
        subprocess.run(["scancel", job_id(folder, 1)], check=True)
        _, printed = sweep.communicate(timeout=200)
        assert sweep.returncode == 1, printed
        assert outcomes(folder)[0]["status"] == "FINISHED"
        assert outcomes(folder)[1]["status"] == "KILLED" and "cancelled" in outcomes(folder)[1]["why"]

    def test_it_runs_out_of_time_too_often(self, tmp_path: Path, slow: tuple[str, ...]) -> None:
        """Slurm warns 100 s before its two minutes are over, which is almost at once."""
        sweep = start(
            tmp_path, *slow, "trainer.epochs=1000", "model.fate=a,b", "hydra.launcher.timeout_min=2",
            "hydra.launcher.signal_delay_s=100", "hydra.launcher.max_num_timeout=1",
        )  # fmt: skip
        wait_for(
            lambda: sum("timeouts" in p.read_text() for p in tmp_path.glob("outputs/sweeps/*/[01]/slurm.json")) == 2
        )
        folder = sweep_folder(tmp_path)
        for number in range(2):
            wait_until_requeued(job_id(folder, number))
        _, printed = sweep.communicate(timeout=400)
        assert sweep.returncode == 1, printed
        assert {fate["status"] for fate in outcomes(folder).values()} == {"KILLED"}
        assert " 2 times (hydra.launcher.timeout_min" in outcomes(folder)[0]["why"]
        assert list(folder.glob("0/checkpoints/last.pt"))

    def test_the_sweep_is_killed_and_its_jobs_are_followed_by_the_next(
        self, tmp_path: Path, slow: tuple[str, ...], environment: dict[str, str]
    ) -> None:
        sweep = start(tmp_path, *slow, "model.fate=a,b,c,d")
        wait_for(lambda: len(list(tmp_path.glob("outputs/sweeps/*/[01]/metrics.jsonl"))) == 2)
        kill(sweep)
        folder = sweep_folder(tmp_path)
        ids = [job_id(folder, number) for number in range(4)]
        code, printed = run(tmp_path, f"sweep.resume={folder}")
        assert code == 0, printed
        assert [job_id(folder, number) for number in range(4)] == ids, "none was submitted again"
        assert {result["epochs"] for result in results(folder).values()} == {15}
        assert not any("resumed " in (folder / str(n) / "run.log").read_text() for n in range(4))

    def test_asked_to_stop_running_jobs_write_checkpoints_and_others_leave_the_queue(
        self, tmp_path: Path, slow: tuple[str, ...]
    ) -> None:
        sweep = start(tmp_path, *slow, "model.fate=a,b,c", "trainer.epochs=1000")
        wait_for(lambda: len(list(tmp_path.glob("outputs/sweeps/*/[01]/metrics.jsonl"))) == 2)
        sweep.terminate()
        _, printed = sweep.communicate(timeout=100)
        assert sweep.returncode == 143, printed
        folder = sweep_folder(tmp_path)
        assert {fate["status"] for fate in outcomes(folder).values()} == {"KILLED"}
        assert len(list(folder.glob("?/checkpoints/last.pt"))) == 2
        wait_for(lambda: not subprocess.run(["squeue", "-h", "-r"], capture_output=True, check=True).stdout, 30)

    def test_an_error_of_sbatch_is_in_the_table(self, tmp_path: Path, slow: tuple[str, ...]) -> None:
        code, printed = run(tmp_path, *slow, "model.fate=a,b", "hydra.launcher.partition=none_such")
        assert code == 1 and "Traceback" not in printed
        assert {fate["status"] for fate in outcomes(sweep_folder(tmp_path)).values()} == {"FAILED"}
        assert "nvalid partition" in outcomes(sweep_folder(tmp_path))[0]["why"]

    @pytest.mark.parametrize(
        ("setting", "words"),
        [
            ("timeout_min=null", "hydra.launcher.timeout_min=null"),
            ("max_num_timeout=abc", "hydra.launcher.max_num_timeout=abc"),
            ("timeout_min=2", "timeout_min=2"),
            ("additional_parameters={ntasks:2}", "hydra.launcher.ntasks"),
            ("submitit_folder=null", "hydra.launcher.submitit_folder=null"),
        ],
    )
    def test_a_setting_that_is_not_valid_is_refused_before_anything_starts(
        self, tmp_path: Path, slow: tuple[str, ...], setting: str, words: str
    ) -> None:
        for more in ((), ("sweep.dry_run=true",)):
            code, printed = run(tmp_path, *slow, "model.fate=a,b", f"hydra.launcher.{setting}", *more)
            assert code == 2 and words in printed and "Traceback" not in printed, printed
        assert not (tmp_path / "outputs" / "sweeps").exists()

    def test_it_can_be_resumed_on_this_machine(self, tmp_path: Path, slow: tuple[str, ...]) -> None:
        """Started on Slurm and resumed on this machine, with files for its nodes left behind."""
        own = ("hydra.launcher.partition=test", "hydra.launcher.setup=hostname")
        sweep = start(tmp_path, *slow, "model.fate=a,b", *own)
        wait_for(lambda: len(list(tmp_path.glob("outputs/sweeps/*/[01]/checkpoints/last.pt"))) == 2)
        sweep.terminate()
        sweep.communicate(timeout=100)
        folder = sweep_folder(tmp_path)
        (folder / "0" / ".end").touch()
        code, printed = run(tmp_path, f"sweep.resume={folder}", "hydra/launcher=local")
        assert code == 0, printed
        assert {result["epochs"] for result in results(folder).values()} == {15}

    def test_no_credentials_are_written(self, tmp_path: Path, slow: tuple[str, ...]) -> None:
        uri = "tracking.uri=http://someone:secret-word@127.0.0.1:9"
        code, printed = run(
            tmp_path, *slow, "model.fate=a,b", "trainer.epochs=1", "tracking=server", uri, "tracking.wait=1"
        )
        assert code == 0, printed
        found = [path for path in tmp_path.rglob("*") if path.is_file() and b"secret-word" in path.read_bytes()]
        assert found == []
