"""Sweeps whose jobs start more than once, or depend on each other, on a real Ray and a real Slurm of one node."""

import importlib.util
import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from slurm import missing, slurm
from twelve import run

from helpers.killed import assert_ended_the_same
from helpers.sweeping import kill, results, start, sweep_folder, table, wait_for, write_fates
from runner.steer import main as steer
from runner.tracking.store import connect, local_uri

pytestmark = pytest.mark.cluster

RAY = ("hydra/launcher=ray", "hydra.launcher.ray.init.num_cpus=2")
SLURM = ("hydra/launcher=slurm", "hydra.launcher.partition=test", "hydra.launcher.cpus_per_task=1")
SMALL = ("data.limit=200", "model.hidden=[8]", "tracking.log_model=false")
HALVING = (
    "hydra/sweeper=halving", "hydra.sweeper.eta=2", "hydra.sweeper.max_epochs=16", "--config-dir", "my_conf",
    "model=fated", "model.seconds=0.05", "data.limit=200", "tracking.log_model=false", "optimizer.lr=0.3,0.1,0.03,0.01",
)  # fmt: skip


@pytest.fixture(scope="module", params=["ray", "slurm"])
def cluster(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[str, tuple[str, ...], dict[str, str]]]:
    """Yield the name of the cluster, the arguments that choose it, and the variables by which it is found."""
    if request.param == "ray":
        if importlib.util.find_spec("ray") is None:
            pytest.skip("ray is not installed: pip install -e '.[ray]'")
        yield "ray", RAY, {}
        return
    if missing() or importlib.util.find_spec("submitit") is None:
        pytest.skip("no Slurm here, or no submitit")
    with slurm(tmp_path_factory.mktemp("slurm")) as environment:
        yield "slurm", SLURM, environment


Cluster = tuple[str, tuple[str, ...], dict[str, str]]


def started(here: Path, on: Cluster, *arguments: str) -> tuple[Path, str]:
    """Run a sweep to its end; return its folder and its output."""
    code, printed = run(here, *arguments, *on[1], environment=on[2])
    assert code == 0, printed
    return sweep_folder(here), printed


class TestHalving:
    def test_killed_and_resumed_it_ends_like_one_that_was_not(
        self, tmp_path: Path, cluster: Cluster, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """On Slurm the jobs that run survive the sweep: each is followed to its rung, and starts again for the next."""
        _, on, environment = cluster
        for key, value in environment.items():
            monkeypatch.setenv(key, value)
        here, whole = tmp_path / "killed", tmp_path / "whole"
        for folder in (here, whole):
            folder.mkdir()
            write_fates(folder)
        sweep = start(here, *HALVING, *on)
        wait_for(lambda: len(list(here.glob("outputs/sweeps/*/?/metrics.jsonl"))) >= 2)
        kill(sweep)
        folder = sweep_folder(here)
        code, printed = run(here, f"sweep.resume={folder}", environment=environment)
        assert code == 0, printed
        undisturbed, _ = started(whole, ("local", (), {}), *HALVING)
        rows = [
            {row["job"]: (row["status"], row["why"], row["val/loss"], row["epoch"]) for row in table(each)["jobs"]}
            for each in (folder, undisturbed)
        ]
        assert rows[0] == rows[1]
        assert sorted(result["epochs"] for result in results(folder).values()) == [1, 1, 2, 16]
        for number in range(4):
            assert_ended_the_same(folder / str(number), undisturbed / str(number))
        client = connect(local_uri(here / "outputs"))
        for result in results(folder).values():
            logged = client.get_run(result["run_id"])
            steps = [point.step for point in client.get_metric_history(result["run_id"], "val/loss")]
            assert steps == list(range(1, result["epochs"] + 1))
            assert logged.info.status == ("FINISHED" if result["status"] == "FINISHED" else "KILLED")
            assert ("paused" in logged.data.tags) == (result["status"] == "PAUSED")


def test_seeds_in_stages(tmp_path: Path, cluster: Cluster) -> None:
    alike = ("data.batch_size=16,17", "sweep.seeds=auto", "sweep.max_seeds=6", "tracking=off", "trainer.epochs=2")
    folder, _ = started(tmp_path, cluster, *alike, *SMALL)
    ended = results(folder)
    assert len(ended) == 12 and {result["status"] for result in ended.values()} == {"FINISHED"}
    began = {number: (folder / str(number) / "config.yaml").stat().st_mtime for number in ended}
    over = max((folder / str(number) / "result.json").stat().st_mtime for number in ended if number % 6 < 4)
    assert all(began[number] > over for number in ended if number % 6 >= 4), "they wait for the look"


def test_points_of_a_zip_that_are_filtered_with_seeds(tmp_path: Path, cluster: Cluster) -> None:
    axis = "pair=zip(optimizer.lr=[0.1,0.03,0.01],data.batch_size=[16,32,64])"
    some = ("sweep.where=data.batch_size < 64", "sweep.seeds=3", "tracking=off", "trainer.epochs=1")
    folder, printed = started(tmp_path, cluster, axis, *some, *SMALL)
    assert {result["status"] for result in results(folder).values()} == {"FINISHED"} and len(results(folder)) == 6
    assert (folder / "verdict.json").exists() and "verdict" in printed


def test_folds(tmp_path: Path, cluster: Cluster) -> None:
    folder, _ = started(tmp_path, cluster, "data.folds=3", "trainer.epochs=1", "data.limit=200", "model.hidden=[8]")
    assert {result["status"] for result in results(folder).values()} == {"FINISHED"} and len(results(folder)) == 3
    assert len((folder / "out_of_fold.csv").read_text().splitlines()) == 201
    assert "loss" in json.loads((folder / "folds.json").read_text())["test"]


def test_jobs_of_two_ranks(tmp_path: Path, cluster: Cluster) -> None:
    ranks = ("strategy=ddp", "strategy.nproc_per_node=2", "device=cpu")
    folder, _ = started(tmp_path, cluster, "optimizer.lr=0.1,0.05", "trainer.epochs=2", *ranks, *SMALL)
    assert {result["status"] for result in results(folder).values()} == {"FINISHED"}
    assert [json.loads((folder / job / "result.json").read_text())["ranks"] for job in "01"] == [2, 2]
    assert all((folder / job / "ranks" / "1.log").read_text().count("epoch 2/2") == 1 for job in "01")


def test_steered(tmp_path: Path, cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    _, on, environment = cluster
    for key, value in environment.items():
        monkeypatch.setenv(key, value)
    write_fates(tmp_path)
    slow = ("--config-dir", "my_conf", "model=fated", "model.seconds=0.05", "trainer.epochs=20", "data.limit=200")
    sweep = start(tmp_path, *slow, "optimizer.lr=0.3,0.1", "tracking=off", *on)
    wait_for(lambda: list(tmp_path.glob("outputs/sweeps/*/0/metrics.jsonl")))
    folder = sweep_folder(tmp_path)
    asked = time.monotonic()
    assert steer([f"sweep={folder}", "stop=0"]) == 0
    wait_for(lambda: (folder / "0" / "result.json").exists())
    print(f"stopped after {time.monotonic() - asked:.1f} s")
    assert results(folder)[0]["status"] == "KILLED" and results(folder)[0]["epochs"] < 20
    wait_for(lambda: (folder / "0" / "job.json").exists())
    assert steer([f"sweep={folder}", "clone=1", "trainer.epochs=1", "model.seconds=0"]) == 0
    assert steer([f"sweep={folder}", "go_on=0"]) == 0
    assert sweep.wait(120) == 0
    assert {number: result["epochs"] for number, result in results(folder).items()} == {0: 20, 1: 20, 2: 1}
