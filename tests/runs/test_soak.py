"""What the other tests show once, again and again, and at moments that nobody has chosen: `scripts/soak`."""

import os
import random
import re
import signal
import time
from pathlib import Path

import psutil
import pytest

from helpers.sweeping import content, processes_below, results, start, sweep_folder, wait_for
from runner.tracking.store import connect, local_uri

pytestmark = pytest.mark.soak

TIMES = range(10)


def statuses(here: Path) -> tuple[list[str], list[str]]:
    """How MLflow says that sweeps and their jobs ended."""
    client = connect(local_uri(here / "outputs"))
    experiment = client.get_experiment_by_name("runner").experiment_id
    runs = client.search_runs([experiment], max_results=1000)
    jobs = [run.info.status for run in runs if "mlflow.parentRunId" in run.data.tags]
    return [run.info.status for run in runs if "mlflow.parentRunId" not in run.data.tags], jobs


@pytest.mark.parametrize("time_", TIMES)
def test_twelve_jobs_on_a_store_that_does_not_exist(time_: int, tmp_path: Path) -> None:
    axes = ("model=mlp,cnn", "optimizer.lr=0.1,0.03,0.01", "data.batch_size=32,64")
    sweep = start(tmp_path, *axes, "trainer.epochs=2")
    _, printed = sweep.communicate(timeout=300)
    assert sweep.returncode == 0, printed
    assert statuses(tmp_path) == (["FINISHED"], ["FINISHED"] * 12)
    assert len(results(sweep_folder(tmp_path))) == 12


@pytest.mark.parametrize("seed", TIMES)
def test_everything_killed_at_a_random_moment(seed: int, tmp_path: Path) -> None:
    axes = ("optimizer.lr=0.1,0.03,0.01", "data.batch_size=32,64")
    sweep = start(tmp_path, *axes, "trainer.epochs=60", "tracking.log_model=false")
    wait_for(lambda: list(tmp_path.glob("outputs/sweeps/*/sweep.json")))
    moment = random.Random(seed).uniform(0.0, 12.0)
    time.sleep(moment)
    for process in [*processes_below(tmp_path), psutil.Process(sweep.pid)]:
        try:
            os.kill(process.pid, signal.SIGKILL)
        except ProcessLookupError:
            continue
    sweep.communicate()
    folder = sweep_folder(tmp_path)
    finished = {number for number, result in results(folder).items() if result["status"] == "FINISHED"}
    before = {number: content(folder / str(number), but=(".tracking",)) for number in finished}
    again = start(tmp_path, f"sweep.resume={folder}")
    _, printed = again.communicate(timeout=200)
    assert again.returncode == 0, printed
    ran = {int(number) for number in re.findall(r"^\s*\d/\d  job (\d)", printed, re.MULTILINE)}
    assert ran == set(range(6)) - finished, f"killed after {moment:.2f} s"
    for number, files in before.items():
        now = content(folder / str(number), but=(".tracking",))
        # The one thing that may come later: the run's id, where the kill came before MLflow had given it.
        changed = {name for name in files if files[name] != now[name]}
        assert changed <= {"result.json"} and all(b'"run_id": null' in files[name] for name in changed)
    assert {(r["status"], r["epochs"]) for r in results(folder).values()} == {("FINISHED", 60)}
    assert statuses(tmp_path) == (["FINISHED"], ["FINISHED"] * 6)
    client = connect(local_uri(tmp_path / "outputs"))
    for result in results(folder).values():
        points = client.get_metric_history(result["run_id"], "val/loss")
        assert [point.step for point in points] == list(range(1, 61)), "no point twice, none missing"
    wait_for(lambda: not processes_below(tmp_path), 20)
