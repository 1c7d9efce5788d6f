"""Sweeps on a Ray that they start themselves, and on a running cluster."""

import importlib.util
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from twelve import OF_ALL, TwelveJobs, run

from helpers.bowl import SEARCH, SPACE, write_bowl
from helpers.sweeping import kill, outcomes, processes_below, results, start, sweep_folder, table, wait_for, write_fates

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="ray is not installed: pip install -e '.[ray]'"),
]


@pytest.fixture(scope="module")
def environment() -> dict[str, str]:
    return {}


class TestTwelveJobs(TwelveJobs):
    launcher = ("hydra/launcher=ray", "hydra.launcher.ray.init.num_cpus=2")


@pytest.fixture(scope="module")
def cluster() -> Iterator[str]:
    """Yield the address of a Ray cluster that runs before and after the sweeps."""
    ray = [sys.executable, "-m", "ray.scripts.scripts"]
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    head = ["start", "--head", "--node-ip-address=127.0.0.1", f"--port={address.split(':')[1]}", "--num-cpus=2"]
    subprocess.run([*ray, *head, "--include-dashboard=false"], capture_output=True, check=True)
    os.environ["RAY_AUTH_MODE"] = "token"  # the cluster requires a token, which it has left in the home folder
    try:
        yield address
    finally:
        del os.environ["RAY_AUTH_MODE"]
        subprocess.run([*ray, "stop", "--force"], capture_output=True, check=False)


class TestOnACluster:
    def test_a_worker_that_dies_is_replaced_and_its_job_resumes(self, tmp_path: Path, cluster: str) -> None:
        write_fates(tmp_path)
        sweep = start(
            tmp_path, *OF_ALL, "model.fate=good,fine", "model.seconds=0.1", "trainer.epochs=12",
            "hydra/launcher=ray", f"hydra.launcher.ray.init.address={cluster}", "trainer.checkpoint_every_epochs=1",
        )  # fmt: skip
        wait_for(lambda: len(list(tmp_path.glob("outputs/sweeps/*/[01]/checkpoints/last.pt"))) == 2)
        node = json.loads((sweep_folder(tmp_path) / "0" / "node.json").read_text())
        os.kill(node["process"], signal.SIGKILL)
        _, printed = sweep.communicate(timeout=200)
        assert sweep.returncode == 0, printed
        folder = sweep_folder(tmp_path)
        assert {result["epochs"] for result in results(folder).values()} == {12}
        assert "resumed" in (folder / "0" / "run.log").read_text()
        assert "resumed" not in (folder / "1" / "run.log").read_text()

    def test_asked_to_stop_the_jobs_write_checkpoints(self, tmp_path: Path, cluster: str) -> None:
        write_fates(tmp_path)
        sweep = start(
            tmp_path, *OF_ALL, "model.fate=a,b,c", "model.seconds=0.1", "trainer.epochs=100",
            "hydra/launcher=ray", f"hydra.launcher.ray.init.address={cluster}",
        )  # fmt: skip
        wait_for(lambda: len(list(tmp_path.glob("outputs/sweeps/*/?/metrics.jsonl"))) == 2)
        sweep.send_signal(signal.SIGINT)
        _, printed = sweep.communicate(timeout=100)
        assert sweep.returncode == 130, printed
        folder = sweep_folder(tmp_path)
        assert {fate["status"] for fate in outcomes(folder).values()} == {"KILLED"} and len(outcomes(folder)) == 3
        assert len(list(folder.glob("?/checkpoints/last.pt"))) == 2
        assert not [
            p
            for p in psutil.process_iter(["cmdline"])
            if "runner.sweeps.launchers.supervisor" in " ".join(p.info["cmdline"] or [])
        ]

    def test_the_sweep_is_killed_and_so_are_its_jobs_which_resume_from_their_checkpoints(
        self, tmp_path: Path, cluster: str
    ) -> None:
        write_fates(tmp_path)
        sweep = start(
            tmp_path, *OF_ALL, "model.fate=a,b", "model.seconds=0.1", "trainer.epochs=20",
            "hydra/launcher=ray", f"hydra.launcher.ray.init.address={cluster}",
        )  # fmt: skip
        wait_for(lambda: len(list(tmp_path.glob("outputs/sweeps/*/[01]/checkpoints/last.pt"))) == 2)
        kill(sweep)
        wait_for(lambda: not processes_below(tmp_path), 30)
        assert results(sweep_folder(tmp_path)) == {}, "Ray does not ask"
        code, printed = run(tmp_path, f"sweep.resume={sweep_folder(tmp_path)}")
        assert code == 0, printed
        assert {result["epochs"] for result in results(sweep_folder(tmp_path)).values()} == {20}
        assert "resumed" in (sweep_folder(tmp_path) / "0" / "run.log").read_text()

    def test_a_search_is_pruned_and_its_slots_are_filled_again(self, tmp_path: Path, cluster: str) -> None:
        write_bowl(tmp_path)
        code, printed = run(
            tmp_path, *SEARCH[1:], *SPACE, "hydra.sweeper.n_trials=9", "trainer.epochs=60", "model.seconds=0.05",
            "sweep.jobs=2", "hydra/launcher=ray", f"hydra.launcher.ray.init.address={cluster}", "tracking=off",
        )  # fmt: skip
        assert code == 0, printed
        rows = table(sweep_folder(tmp_path))["jobs"]
        assert len(rows) == 9 and {row["status"] for row in rows} == {"FINISHED"}
        pruned = {row["job"] for row in rows if row["why"].startswith("pruned after epoch")}
        assert pruned and all(results(sweep_folder(tmp_path))[number]["epochs"] < 60 for number in pruned)

    def test_jobs_at_a_time_are_limited(self, tmp_path: Path, cluster: str) -> None:
        write_fates(tmp_path)
        code, printed = run(
            tmp_path, *OF_ALL, "model.fate=a,b", "hydra/launcher=ray", f"hydra.launcher.ray.init.address={cluster}",
            "sweep.jobs=1",
        )  # fmt: skip
        assert code == 0, printed
        assert "1 job at a time, as Ray has room" in printed
        folder = sweep_folder(tmp_path)
        begun = [json.loads((tmp_path / f"job-{number}.json").read_text())["begun"] for number in range(2)]
        assert begun[1] > (folder / "0" / "result.json").stat().st_mtime

    def test_what_ray_refuses(self, tmp_path: Path) -> None:
        on = ("optimizer.lr=0.1,0.2", "hydra/launcher=ray")
        for wrong, words in (
            (("hydra.launcher.ray.init.num_cpus=many",), "hydra/launcher=ray: "),
            (("hydra.launcher.ray.remote.num_gpus=0", "device=cuda"), "hydra.launcher.ray.remote.num_gpus=1"),
            (("hydra.launcher.ray.remote.num_gpus=1",), "1 CPU, 1 GPU"),
            (("hydra/sweeper=optuna",), "sweep.jobs=4"),
        ):
            code, printed = run(tmp_path, *on, *wrong)
            assert code == 2 and words in printed and "Traceback" not in printed, printed
            assert not (tmp_path / "outputs" / "sweeps").exists()
