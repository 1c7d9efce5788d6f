"""`energy/kwh` of whole runs and sweeps, on a machine whose counter goes on by the same energy at each reading."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from conftest import Called, run_folder
from helpers.metered import STEP, metered, unmetered
from helpers.sweeping import results, sweep_folder, table
from runner.comparison.find import find
from runner.comparison.table import compare, rows
from runner.rundir import journal, layout
from runner.rundir.energy import METRIC, save, saved
from runner.sweeps.jobs import Job
from runner.sweeps.results.energy import energy_of, log_energy
from runner.sweeps.results.table import Row, Table
from runner.tracking.store import connect, local_uri

Runner = Callable[..., Called]

QUICK = ("data.limit=200", "model.hidden=[8]", "tracking.log_model=false")


def logged(folder: Path) -> dict[int, float]:
    points, _ = journal.read(folder / layout.JOURNAL, names=(METRIC,))
    return {point.step: point.value for point in points}


@pytest.fixture
def measurable(runner: Runner, monkeypatch: pytest.MonkeyPatch) -> Runner:
    metered(monkeypatch)
    return runner


@pytest.fixture
def unmeasurable(runner: Runner, monkeypatch: pytest.MonkeyPatch) -> Runner:
    unmetered(monkeypatch)
    return runner


class TestARun:
    @pytest.mark.usefixtures("delivery_here")
    def test_epoch_by_epoch_in_the_journal_mlflow_and_the_result_and_on_after_a_resume(
        self, measurable: Runner, here: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        called = measurable(*QUICK, "trainer.epochs=2")
        folder = run_folder(here)
        assert logged(folder) == {1: STEP, 2: 2 * STEP}
        assert json.loads((folder / "result.json").read_text())[METRIC] == 2 * STEP
        assert "energy     0.5000 kWh of training" in called.err.splitlines()
        assert measurable(f"resume={folder}", "trainer.epochs=3").code == 0
        assert logged(folder) == {1: STEP, 2: 2 * STEP, 3: 3 * STEP}
        result = json.loads((folder / "result.json").read_text())
        assert result[METRIC] == saved(folder) == 3 * STEP, "of all training, whichever epoch is the best"
        history = connect(local_uri(here / "outputs")).get_metric_history(result["run_id"], METRIC)
        assert [(point.step, point.value) for point in history] == [*logged(folder).items()]
        unmetered(monkeypatch)
        assert measurable(f"resume={folder}").code == 0
        kept = json.loads((folder / "result.json").read_text())[METRIC]
        assert kept == saved(folder) == 3 * STEP, "nothing was trained, and this machine need not measure it"

    def test_no_checkpoint_has_it(self, measurable: Runner, here: Path) -> None:
        import torch

        assert measurable(*QUICK, "tracking=off", "trainer.epochs=1").code == 0
        progress = torch.load(run_folder(here) / "checkpoints" / "last.pt", weights_only=True)["progress"]
        assert not any("energy" in name or "kwh" in name for name in progress)

    def test_without_a_counter_run_log_alone_says_so(self, unmeasurable: Runner, here: Path) -> None:
        called = unmeasurable(*QUICK, "tracking=off", "trainer.epochs=1")
        folder = run_folder(here)
        assert called.code == 0 and "energy" not in called.err
        (line,) = [line for line in (folder / "run.log").read_text().splitlines() if " energy " in line]
        assert "not measured: this machine shows no energy counter of its CPU" in line
        assert METRIC not in json.loads((folder / "result.json").read_text()) and not logged(folder)
        assert not (folder / layout.ENERGY).exists()

    def test_it_decides_no_best_epoch(self, measurable: Runner) -> None:
        called = measurable(*QUICK, f"trainer.monitor={METRIC}")
        assert called.code == 2 and called.about == [("trainer.monitor", "choice")]
        suggestion = called.problems[0].suggestion
        assert suggestion == "write trainer.monitor=val/loss, and rank the jobs of a sweep by sweep.metric=energy/kwh"


class TestASweep:
    @pytest.mark.usefixtures("delivery_here")
    def test_it_is_an_objective_beside_another_and_the_sum_of_the_sweep(self, measurable: Runner, here: Path) -> None:
        arguments = ("trainer.epochs=3,1", "sweep.jobs=1")
        called = measurable("-m", *QUICK, *arguments, f"sweep.metric=[{METRIC},val/loss]")
        assert called.code == 0
        folder = sweep_folder(here)
        assert {number: found[METRIC] for number, found in results(folder).items()} == {0: 3 * STEP, 1: STEP}
        found = table(folder)
        assert found["objectives"][0] == {"metric": METRIC, "direction": "min"}
        assert found["jobs"][0]["job"] == 1 and 1 in found["front"] and found["jobs"][0][METRIC] == STEP
        assert "energy     1.0000 kWh of training in all jobs" in called.err.splitlines()
        assert [row[METRIC] for row in rows(compare(find(None, str(folder), None)))] == [3 * STEP, STEP]
        parent = connect(local_uri(here / "outputs")).get_run(results(folder)[0]["parent_run_id"])
        assert logged(folder) == {1: 4 * STEP} and parent.data.metrics == {METRIC: 4 * STEP}, "the sum over its jobs"

    def test_a_machine_without_counters_is_refused_before_the_start(self, unmeasurable: Runner, here: Path) -> None:
        called = unmeasurable("-m", *QUICK, "seed=1,2", f"sweep.metric=[val/accuracy,{METRIC}]")
        assert called.code == 2 and called.about == [("sweep.metric", "unavailable")]
        assert len(called.errors) == 1 and not (here / "outputs" / "sweeps").exists()


class TestTheSum:
    @staticmethod
    def sweep(folder: Path, *jobs: tuple[str, Any]) -> Table:
        """Make a sweep of jobs with a status and the kilowatt-hours of their folders; `...` leaves out the file."""
        rows = []
        for number, (status, kwh) in enumerate(jobs):
            (folder / str(number)).mkdir()
            if kwh is not ...:
                save(folder / str(number), kwh)
            rows.append(Row(Job(number, "", {}, ()), folder / str(number), status))
        return Table([], rows)

    def test_jobs_that_failed_and_failed_attempts_have_used_energy_too(self, tmp_path: Path) -> None:
        found = self.sweep(tmp_path, ("FINISHED", 1.0), ("KILLED", 2.0), ("FAILED", ...), ("NOT STARTED", ...))
        for name, kwh in (("1_1", 4.0), ("1_2", 8.0), ("11_1", 100.0)):
            (tmp_path / "failed_attempts" / name).mkdir(parents=True)
            save(tmp_path / "failed_attempts" / name, kwh)
        assert energy_of(found) == 15.0

    @pytest.mark.parametrize("unknown", [..., None])
    def test_a_finished_job_that_was_not_measured_leaves_it_unknown(self, tmp_path: Path, unknown: Any) -> None:
        assert energy_of(self.sweep(tmp_path, ("FINISHED", 1.0), ("FINISHED", unknown))) is None

    def test_nothing_measured_is_nothing_logged(self, tmp_path: Path) -> None:
        found = self.sweep(tmp_path, ("FAILED", ...))
        log_energy(tmp_path, found)
        assert energy_of(found) is None and not (tmp_path / layout.JOURNAL).exists()

    def test_a_sweep_that_is_resumed_logs_the_newest_sum_last(self, tmp_path: Path) -> None:
        found = self.sweep(tmp_path, ("KILLED", 1.0))
        log_energy(tmp_path, found)
        save(tmp_path / "0", 3.0)
        log_energy(tmp_path, found)
        assert logged(tmp_path) == {1: 1.0, 2: 3.0}
