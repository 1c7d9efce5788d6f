"""`hydra/sweeper=optuna`: proposing trials one by one, pruning, saving and resuming."""

import errno
import json
import math
import os
import re
import signal
import sqlite3
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import optuna
import pytest
import sqlalchemy
from omegaconf import DictConfig
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

from conftest import Called
from helpers.bowl import SEARCH, SPACE, TRAINED, write_bowl
from helpers.delivered import copy_store
from helpers.faults import at_call, inject
from helpers.problems import about
from helpers.sweeping import Forked, outcomes, processes_below, results, sweep_folder, table, wait_for
from runner.comparison.objectives import Objective
from runner.comparison.runs import from_folder, from_mlflow
from runner.config.compose import Composer
from runner.errors import ConfigError, Problem
from runner.rundir.folders import shell_path
from runner.rundir.manifest import Manifest
from runner.sweeps.jobs import Job, JobOutcome, JobSpec
from runner.sweeps.launchers import pool
from runner.sweeps.launchers.local import Local
from runner.sweeps.launchers.slots import Slot
from runner.sweeps.plan import grid, patience
from runner.sweeps.plan.folds import over_folds
from runner.sweeps.plan.optuna_plan import plan
from runner.sweeps.plan.optuna_search import OptunaSearch
from runner.sweeps.plan.optuna_study import STUDY, truncate_partial_line
from runner.sweeps.plan.plan import Plan
from runner.sweeps.plan.space import Space
from runner.sweeps.plan.where import make_space
from runner.tracking.store import connect, local_uri
from runner.util.redaction import redact
from runner.util.stopping import Stop

LOSS = [Objective("val/loss", "min")]
LATE = "uploaded   the rest; jobs.csv and jobs.json now have all run ids"
"""Printed instead of the run ids, where the store was slower than the sweep."""
Runner = Callable[..., Called]


def study(folder: Path) -> optuna.Study:
    storage = JournalStorage(JournalFileBackend(str(folder / STUDY)))
    return optuna.load_study(study_name=folder.name, storage=storage)


def states(folder: Path) -> list[str]:
    return [trial.state.name for trial in study(folder).trials]


@pytest.fixture
def composer() -> Composer:
    return Composer()


def search(composer: Composer, *arguments: str, n_trials: int = 20, seed: int = 0, **options: Any) -> OptunaSearch:
    sampler = optuna.samplers.TPESampler(seed=seed)
    pruner, where = options.pop("pruner", None), options.pop("where", None)
    found = plan(make_space(composer, arguments, where=where), n_trials, sampler, pruner, None, None).method
    assert isinstance(found, OptunaSearch)
    return found


class TestSpace:
    @pytest.mark.parametrize(
        ("argument", "distribution", "probes"),
        [
            ("optimizer.lr=tag(log,interval(1e-4,1e-1))", optuna.distributions.FloatDistribution(1e-4, 0.1, log=True),
             ["0.0001", "0.1"]),
            ("optimizer.lr=interval(0.1,0.5)", optuna.distributions.FloatDistribution(0.1, 0.5), ["0.1", "0.5"]),
            ("data.batch_size=int(interval(8,64))", optuna.distributions.IntDistribution(8, 64), ["8", "64"]),
            ("data.batch_size=range(16,65,16)", optuna.distributions.IntDistribution(16, 64, step=16),
             ["16", "32", "48", "64"]),
            ("data.batch_size=16,64,32", optuna.distributions.CategoricalDistribution(["16", "64", "32"]),
             ["16", "64", "32"]),
            ("model.hidden=choice([8],[16,8])", optuna.distributions.CategoricalDistribution(["[8]", "[16,8]"]),
             ["[8]", "[16,8]"]),
            ("model=choice(mlp,cnn)", optuna.distributions.CategoricalDistribution(["mlp", "cnn"]), ["mlp", "cnn"]),
        ],
    )  # fmt: skip
    def test_axes(self, composer: Composer, argument: str, distribution: Any, probes: list[str]) -> None:
        found = search(composer, argument)
        (axis,) = found.axes.values()
        assert axis.distribution == distribution
        assert [job.overrides[-1].partition("=")[2] for job in found.probes(0)] == probes

    @pytest.mark.parametrize(
        ("values", "keys"),
        [
            ("tag(log,interval(1e-4,1e-1))", ("optimizer.lr",)),
            ("tag(log,choice(0.1,0.2))", ("optimizer.lr",)),
            ("interval(1e-4,1e-1)", ()),
        ],
    )
    def test_axes_to_be_drawn_by_their_logarithm(self, composer: Composer, values: str, keys: tuple[str, ...]) -> None:
        assert plan(make_space(composer, [f"optimizer.lr={values}"]), 3, None, None, None, None).log_axes == keys

    def test_probes_have_every_value_once_and_both_ends(self, composer: Composer) -> None:
        jobs = search(composer, "seed=1", "data.batch_size=16,32,64", "optimizer.lr=interval(0.1,0.5)").probes(7)
        assert [job.number for job in jobs] == [7, 8, 9]
        assert [tuple(job.point.values()) for job in jobs] == [("16", "0.1"), ("32", "0.5"), ("64", "0.5")]
        assert all(job.overrides[0] == "seed=1" for job in jobs)

    @pytest.mark.parametrize(
        ("arguments", "options", "problem", "suggestion"),
        [
            (("seed=1",), {}, ("hydra/sweeper", "missing"), "optimizer.lr=tag(log,interval(1e-4,1e-1))"),
            (("optimizer.lr=tag(log,interval(0,1))",), {}, ("optimizer.lr", "range"), "optimizer.lr=interval(0.0,1.0)"),
            (("optimizer.lr=interval(1,0.1)",), {}, ("optimizer.lr", "range"), "optimizer.lr=interval(0.1,1.0)"),
            (
                ("optimizer.lr=interval(0.1,1)",),
                {"n_trials": 0},
                ("hydra.sweeper.n_trials", "range"),
                "a whole number of at least 1",
            ),
            (("resume=a,b", "optimizer.lr=interval(0.1,1)"), {}, ("resume", "conflict"), "leave it out"),
        ],
    )
    def test_what_cannot_be_searched(
        self,
        composer: Composer,
        arguments: tuple[str, ...],
        options: dict[str, Any],
        problem: tuple[str, str],
        suggestion: str,
    ) -> None:
        with pytest.raises(ConfigError) as raised:
            search(composer, *arguments, **options)
        assert about(raised) == [problem]
        assert suggestion in raised.value.problems[0].suggestion


class TestStudy:
    def value(self, point: dict[str, str]) -> float:
        return (float(point["model.x"]) - 0.3) ** 2 + (float(point["model.y"]) - 0.7) ** 2

    def best_of(self, found: OptunaSearch, folder: Path) -> float:
        folder.mkdir()
        found.open(folder, LOSS)
        values = []
        while (job := found.ask(len(values))) is not None:
            values.append(self.value(job.point))
            found.tell(job, JobOutcome("FINISHED", "", 1.0), [values[-1]])
        return min(values)

    @pytest.mark.parametrize("seeds", [5, pytest.param(10, marks=pytest.mark.soak)])
    def test_it_finds_better_than_a_grid_of_the_same_size(self, seeds: int, composer: Composer, tmp_path: Path) -> None:
        """The same is done with whole sweeps by `scripts/soak tests/sweeps/test_optuna.py`."""
        axes = ("model.x=0.0,0.25,0.5,0.75,1.0", "model.y=0.0,0.25,0.5,0.75,1.0")
        of_grid = min(self.value(job.point) for job in grid.plan(make_space(composer, axes)).jobs)
        wins = [
            self.best_of(search(composer, *SPACE, n_trials=25, seed=seed), tmp_path / str(seed)) < of_grid
            for seed in range(seeds)
        ]
        assert sum(wins) >= 0.8 * seeds

    def test_a_study_is_extended_and_has_the_reported_results(self, composer: Composer, tmp_path: Path) -> None:
        first = search(composer, *SPACE, n_trials=4)
        first.open(tmp_path, LOSS)
        jobs = [job for number in range(3) if (job := first.ask(number)) is not None]
        first.tell(jobs[0], JobOutcome("FINISHED", "", 1.0), [0.5])
        first.tell(jobs[1], JobOutcome("FAILED", "an error", 1.0), None)
        again = search(composer, *SPACE, n_trials=6)
        again.open(tmp_path, LOSS, jobs=3)
        assert again.remaining == 3
        again.tell(jobs[2], JobOutcome("FINISHED", "", 1.0), [0.25])  # it ran when the first sweep was killed
        assert states(tmp_path) == ["COMPLETE", "FAIL", "COMPLETE"]
        assert study(tmp_path).best_value == 0.25
        with pytest.raises(ConfigError) as raised:
            search(composer, *SPACE).open(tmp_path, [Objective("val/loss", "max")])
        assert about(raised) == [("sweep.direction", "conflict")]

    def test_a_trial_that_was_being_created_when_the_sweep_was_killed_is_used(
        self, composer: Composer, tmp_path: Path
    ) -> None:
        first = search(composer, *SPACE, n_trials=3)
        first.open(tmp_path, LOSS)
        half = study(tmp_path).ask()
        half.suggest_float("model.x", 0.0, 1.0)
        again = search(composer, *SPACE, n_trials=3)
        again.open(tmp_path, LOSS)
        jobs = [again.ask(number) for number in range(4)]
        assert [job is not None for job in jobs] == [True, True, True, False]
        assert jobs[0] is not None and float(jobs[0].point["model.x"]) == pytest.approx(
            half.params["model.x"], rel=1e-5
        )
        assert {len(trial.params) for trial in study(tmp_path).trials} == {2}
        assert [trial.user_attrs["runner.job"] for trial in study(tmp_path).trials] == [0, 1, 2]

    def test_a_trial_without_a_number_has_failed(self, composer: Composer, tmp_path: Path) -> None:
        found = search(composer, *SPACE)
        found.open(tmp_path, LOSS)
        for number, outcome in enumerate((JobOutcome("FINISHED", "", 1.0), JobOutcome("KILLED", "SIGKILL", 1.0))):
            job = found.ask(number)
            assert job is not None
            found.tell(job, outcome, None)
        job = found.ask(2)
        assert job is not None
        found.tell(job, JobOutcome("KILLED", "stopped by SIGINT", 1.0, by_request=True), [0.1])
        assert states(tmp_path) == ["FAIL", "FAIL", "RUNNING"]  # the last one is resumed with the sweep

    def test_a_point_that_is_left_out_is_no_trial(self, composer: Composer, tmp_path: Path) -> None:
        found = search(composer, *SPACE, n_trials=6, where="model.x + model.y < 0.7")
        assert all(sum(map(float, job.point.values())) < 0.7 for job in found.probes(0))
        found.open(tmp_path, LOSS)
        jobs = [job for number in range(9) if (job := found.ask(number)) is not None]
        assert len(jobs) == 6 and found.remaining == 0
        assert all(sum(map(float, job.point.values())) < 0.7 for job in jobs)
        assert set(states(tmp_path)) == {"FAIL", "RUNNING"} and states(tmp_path).count("RUNNING") == 6
        again = search(composer, *SPACE, n_trials=7, where="model.x + model.y < 0.7")
        again.open(tmp_path, LOSS, jobs=6)
        assert again.remaining == 1

    def test_a_filter_that_leaves_nothing(
        self, composer: Composer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with pytest.raises(ConfigError) as raised:
            search(composer, "seed=1,2,3", where="seed > 3")
        assert about(raised) == [("sweep.where", "conflict")]
        monkeypatch.setattr("runner.sweeps.plan.optuna_trials.REJECTED_IN_A_ROW", 3)
        found = search(composer, "seed=range(0,500)", where="seed == 1 or seed == 400")
        found.open(tmp_path, LOSS)
        assert found.ask(0) is None and found.remaining == 0 and not found.is_waiting

    def test_several_keys_are_one_categorical(self, composer: Composer, tmp_path: Path) -> None:
        found = search(composer, "pair=zip(model=[mlp,cnn,mlp],optimizer.lr=[0.1,0.01,0.1])", n_trials=4)
        assert found.axes["pair"].distribution == optuna.distributions.CategoricalDistribution(
            ["(mlp,0.1)", "(cnn,0.01)"]
        )
        found.open(tmp_path, LOSS)
        job = found.ask(0)
        assert job is not None and job.overrides in {
            ("model=mlp", "optimizer.lr=0.1"),
            ("model=cnn", "optimizer.lr=0.01"),
        }

    def test_a_trial_is_a_configuration_and_its_value_the_mean_over_its_seeds(
        self, composer: Composer, tmp_path: Path
    ) -> None:
        found = search(composer, *SPACE, "seed=0,1,2", n_trials=2)
        assert found.repetitions == 3 and {job.point["seed"] for job in found.probes(0)} == {"0"}
        found.open(tmp_path, LOSS)
        assert found.remaining == 6
        jobs = [job for number in range(9) if (job := found.ask(number)) is not None]
        assert [job.point["seed"] for job in jobs] == ["0", "1", "2"] * 2
        assert len({job.point["model.x"] for job in jobs[:3]}) == 1 and found.remaining == 0
        for job, value in zip(jobs[:3], (0.1, 0.2, 0.6), strict=True):
            assert states(tmp_path)[0] == "RUNNING"
            found.tell(job, JobOutcome("FINISHED", "", 1.0), [value])
        assert study(tmp_path).best_value == pytest.approx(0.3)
        for job, status in zip(jobs[3:], ("FINISHED", "FAILED", "FINISHED"), strict=True):
            found.tell(job, JobOutcome(status, "", 1.0), [0.1])
        assert states(tmp_path) == ["COMPLETE", "FAIL"]

    def test_its_value_is_the_mean_over_the_folds_of_its_seeds(self, composer: Composer, tmp_path: Path) -> None:
        found = search(composer, *SPACE, "seed=0,1", n_trials=2)
        planned = over_folds(Plan({"seed": "0,1"}, [], method=found), 2)
        assert planned.axes == {"seed": "0,1", "data.fold": "0,1"} and found.repetitions == 4
        found.open(tmp_path, LOSS)
        jobs = [job for number in range(4) if (job := found.ask(number)) is not None]
        of_jobs = [(job.point["seed"], job.point["data.fold"], job.own_overrides[-2:]) for job in jobs]
        assert of_jobs == [(s, f, (f"seed={s}", f"data.fold={f}")) for s in "01" for f in "01"]
        for job, value in zip(jobs, (0.1, 0.2, 0.3, 0.6), strict=True):
            found.tell(job, JobOutcome("FINISHED", "", 1.0), [value])
        assert study(tmp_path).best_value == pytest.approx(0.3) and found.remaining == 4

    def test_the_first_seed_alone_is_pruned_and_its_trial_with_it(self, composer: Composer, tmp_path: Path) -> None:
        found = search(composer, *SPACE, "seed=0,1,2", n_trials=2, pruner=optuna.pruners.ThresholdPruner(upper=1.0))
        found.open(tmp_path, LOSS)
        first, second = (found.ask(number) for number in range(2))
        assert first is not None and second is not None
        for job in (second, first):
            (tmp_path / str(job.number)).mkdir()
            line = json.dumps({"name": "val/loss", "value": 1.5, "step": 1, "time": 1.0})
            (tmp_path / str(job.number) / "metrics.jsonl").write_text(f"{line}\n")
        assert found.watch(second) is None
        reason = found.watch(first)
        assert reason == "pruned after epoch 1"
        found.tell(first, JobOutcome("FINISHED", reason, 1.0), [1.5])
        assert states(tmp_path) == ["PRUNED"] and found.watch(second) == reason and found.remaining == 3
        following = found.ask(2)
        assert following is not None and following.point["seed"] == "0", "the third seed does not start"
        found.tell(second, JobOutcome("FINISHED", reason, 1.0), [1.5])
        assert states(tmp_path) == ["PRUNED", "RUNNING"]

    def test_a_killed_sweep_goes_on_with_the_seeds_that_a_trial_lacks(self, composer: Composer, tmp_path: Path) -> None:
        arguments = (*SPACE, "seed=0,1,2")
        first = search(composer, *arguments, n_trials=2)
        first.open(tmp_path, LOSS)
        jobs = [job for number in range(4) if (job := first.ask(number)) is not None]
        first.tell(jobs[0], JobOutcome("FINISHED", "", 1.0), [0.1])
        again = search(composer, *arguments, n_trials=2)
        again.open(tmp_path, LOSS, jobs=4)
        assert again.remaining == 2
        for job, value in zip(jobs[:3], (0.1, 0.2, 0.3), strict=True):  # those that have ended are told anew
            again.tell(job, JobOutcome("FINISHED", "", 1.0), [value])
        assert study(tmp_path).best_value == pytest.approx(0.2)
        more = [job for number in range(4, 9) if (job := again.ask(number)) is not None]
        assert [job.point for job in more] == [jobs[3].point | {"seed": seed} for seed in ("1", "2")]
        for job in (jobs[3], *more):
            again.tell(job, JobOutcome("FINISHED", "", 1.0), [0.0])
        assert states(tmp_path) == ["COMPLETE", "COMPLETE"]

    def test_what_the_journal_says_prunes(self, composer: Composer, tmp_path: Path) -> None:
        found = search(composer, *SPACE, pruner=optuna.pruners.ThresholdPruner(upper=1.0))
        found.open(tmp_path, LOSS)
        job = found.ask(0)
        assert job is not None
        (tmp_path / "0").mkdir()
        file = tmp_path / "0" / "metrics.jsonl"
        points = [("val/loss", 0.5, 1), ("train/loss", 7.0, 2), ("val/loss", math.nan, 2), ("val/loss", 1.5, 3)]
        verdicts = []
        for name, value, step in points:
            with file.open("a") as journal:
                journal.write(json.dumps({"name": name, "value": value, "step": step, "time": 1.0}) + "\n")
            verdicts.append(found.watch(job))
        assert verdicts == [None, None, None, "pruned after epoch 3"]
        found.tell(job, JobOutcome("FINISHED", "pruned after epoch 3", 1.0), [0.5])
        assert states(tmp_path) == ["PRUNED"]
        assert study(tmp_path).trials[0].intermediate_values == {1: 0.5, 3: 1.5}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("search")
    write_bowl(place)
    return place


@pytest.fixture(scope="module")
def printed(place: Path, empty_store: Path) -> str:
    """Return the output of a search that was killed after 6 of 14 trials, and resumed."""
    copy_store(empty_store, place / "outputs")
    sweep = Forked(
        place, *SEARCH, *SPACE, "model.seconds=0.03", "trainer.epochs=12", "sweep.jobs=2",
        "hydra.sweeper.n_trials=14", "tracking.log_model=false", prepare=inject(None),
    )  # fmt: skip
    wait_for(lambda: len(list(place.glob("outputs/sweeps/*/*/job.json"))) >= 6)
    sweep.send_signal(signal.SIGKILL)
    sweep.wait()
    code, printed = resumed(place)
    assert code == 0, printed
    return printed


def resumed(place: Path, *arguments: str) -> tuple[int | None, str]:
    """Resume the search, and return the exit code and the output."""
    sweep = f"sweep.resume={sweep_folder(place)}"
    return Forked(place, "--multirun", sweep, *arguments, prepare=inject(None)).wait(200)


class TestAWholeSearch:
    def test_the_study_has_all_trials_and_some_are_pruned(self, place: Path, printed: str) -> None:
        folder = sweep_folder(place)
        assert len(states(folder)) == 14
        assert set(states(folder)) == {"COMPLETE", "PRUNED"}
        assert states(folder).count("PRUNED") >= 2
        pruned = [trial for trial in study(folder).trials if trial.state.name == "PRUNED"]
        for trial in pruned:
            number = trial.user_attrs["runner.job"]
            pruned_after = re.fullmatch(r"pruned after epoch (\d+)", outcomes(folder)[number]["why"])
            assert (
                pruned_after and 1 <= int(pruned_after[1]) < 12 and int(pruned_after[1]) <= trial.last_step
            )  # it continues until the request to stop arrives
            assert results(folder)[number]["epochs"] < 12

    def test_the_best_trial_is_the_best_run_in_mlflow(self, place: Path, printed: str) -> None:
        folder = sweep_folder(place)
        best = study(folder).best_trial
        number = best.user_attrs["runner.job"]
        client = connect(local_uri(place / "outputs"))
        experiment = client.get_experiment_by_name("runner").experiment_id
        runs = client.search_runs([experiment], max_results=100)
        (parent,) = (run for run in runs if "mlflow.parentRunId" not in run.data.tags)
        children = {run.data.tags["runner.job"]: run for run in runs if run is not parent}
        assert len(children) == 14
        assert {run.info.status for run in runs} == {"FINISHED"}
        assert parent.data.tags["runner.best_job"] == str(number)
        run = children[str(number)]
        assert parent.data.tags["runner.best_run_id"] == run.info.run_id
        assert min(point.value for point in client.get_metric_history(run.info.run_id, "val/loss")) == best.value
        tagged = {job for job, child in children.items() if "pruned" in child.data.tags}
        assert tagged == {str(t.user_attrs["runner.job"]) for t in study(folder).trials if t.state.name == "PRUNED"}
        seen = {job: from_mlflow(child, local_uri(place / "outputs"), 0).status for job, child in children.items()}
        assert seen == {job: from_folder(folder / job, 0).status for job in children}
        assert {job for job, status in seen.items() if status == "PRUNED"} == tagged
        assert f"best       job {number} (" in printed
        assert f"outputs/sweeps/{folder.name}/{number}, run {run.info.run_id}" in printed or LATE in printed
        (row,) = [row for row in table(folder)["jobs"] if row["job"] == number]
        assert row["run_id"] == run.info.run_id
        files = {file.path for file in client.list_artifacts(parent.info.run_id, "plots")}
        assert {"plots/history.png", "plots/importances.png", "plots/sweep.png"} <= files

    def test_a_free_slot_takes_the_next_trial_at_once(self, place: Path, printed: str) -> None:
        """It does not wait for the other slot: jobs take unequal times. The start of a process is not measured here."""
        folder = sweep_folder(place)
        ended = sorted((folder / str(number) / "job.json").stat().st_mtime for number in outcomes(folder))
        begun = [trial.datetime_start.timestamp() for trial in study(folder).trials if trial.datetime_start]
        assert len(ended) == len(begun) == 14
        # In the second half, without an interruption: a job starts within a second of each end.
        for end in ended[7:12]:
            assert any(0 <= start - end < 1 for start in begun), "the slot was free for longer"

    @pytest.mark.soak  # needs idle cores
    def test_and_its_process_begins_within_two_seconds(self, place: Path, printed: str) -> None:
        log = (sweep_folder(place) / "run.log").read_text()
        begun, ended = [], []
        for number in outcomes(sweep_folder(place)):
            folder = sweep_folder(place) / str(number)
            ended.append((folder / "job.json").stat().st_mtime)
            begun.append((folder / "environment.txt").stat().st_mtime)
        assert log and len(begun) == 14
        # In the second half, without an interruption: a job starts within 2 s of each end.
        later = sorted(ended)[7:12]
        for end in later:
            assert any(0 <= start - end < 2 for start in begun), "the slot was free for longer"

    def test_a_pruned_trial_that_was_not_delivered_is_delivered_later(self, place: Path, printed: str) -> None:
        """The sweep may be killed after it has pruned a trial, and before it has delivered that."""
        number = next(number for number, ended in outcomes(sweep_folder(place)).items() if ended["why"])
        folder = sweep_folder(place) / str(number)
        manifest = Manifest.load(folder)
        del manifest.tags["pruned"]
        manifest.ended("KILLED").save(folder)
        code, again = resumed(place)
        assert code == 0, again
        assert "14 of 14 jobs are finished already" in again and len(states(sweep_folder(place))) == 14
        run = connect(local_uri(place / "outputs")).get_run(results(sweep_folder(place))[number]["run_id"])
        assert run.info.status == "FINISHED" and "pruned" in run.data.tags and "pruned" in Manifest.load(folder).tags

    def test_more_trials(self, place: Path, printed: str) -> None:
        code, again = resumed(place, "hydra.sweeper.n_trials=16")
        assert code == 0, again
        assert len(states(sweep_folder(place))) == len(table(sweep_folder(place))["jobs"]) == 16
        wait_for(lambda: not processes_below(place), 20)


@pytest.mark.usefixtures("here")
class TestKnobs:
    @pytest.fixture(autouse=True)
    def bowl(self, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        write_bowl(here)
        monkeypatch.syspath_prepend(here)

    def test_a_trial_that_fails_is_a_failed_row(
        self, runner: Runner, here: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        composed, compose = [], Composer._compose

        def count(self: Composer, *arguments: Any) -> DictConfig:
            composed.append(arguments)
            return compose(self, *arguments)

        monkeypatch.setattr(Composer, "_compose", count)
        bad = (here / "bowl.py").read_text().replace("self.steps += 1", "self.steps += 1; assert self.error < 0.4")
        (here / "bowl.py").write_text(bad)
        called = runner(*SEARCH, *SPACE, "hydra.sweeper.n_trials=8", "trainer.epochs=2", "tracking=off")
        assert called.code == 1
        failed = states(sweep_folder(here)).count("FAIL")
        assert 1 <= failed < 8
        assert [row["status"] for row in table(sweep_folder(here))["jobs"]].count("FAILED") == failed
        assert len(composed) == 2, "what the trials have in common is composed once, in 0.1 s, and once for the sweep"

    @pytest.mark.usefixtures("delivery_by_forks")
    def test_two_objectives_have_a_front(self, runner: Runner, here: Path, empty_store: Path) -> None:
        copy_store(empty_store, here / "outputs")
        both = "sweep.metric=[val/loss,train/loss]", "sweep.direction=[min,max]"  # they are opposed
        called = runner(*SEARCH, *SPACE, *both, "hydra.sweeper.n_trials=6", "trainer.epochs=2")
        assert called.code == 0, called.err
        assert "no pruning" in called.err
        folder = sweep_folder(here)
        found = table(folder)
        assert found["best"] is None and [o["direction"] for o in found["objectives"]] == ["min", "max"]
        values = {row["job"]: (row["val/loss"], row["train/loss"]) for row in found["jobs"]}
        front = {
            job
            for job, (loss, train) in values.items()
            if not any(a <= loss and b >= train and (a, b) != (loss, train) for a, b in values.values())
        }
        assert set(found["front"]) == front == {trial.user_attrs["runner.job"] for trial in study(folder).best_trials}
        assert [row["job"] for row in found["jobs"]][: len(front)] == found["front"], "it comes first"
        assert all(f"job {job} (x=" in called.err for job in front)
        assert (folder / "plots" / "front.png").is_file() and not (folder / "plots" / "history.png").exists()
        client = connect(local_uri(here / "outputs"))
        runs = client.search_runs([client.get_experiment_by_name("runner").experiment_id])
        (parent,) = [run for run in runs if "runner.front_jobs" in run.data.tags]
        assert parent.data.tags["runner.front_jobs"] == ",".join(map(str, found["front"]))
        assert "plots/front.png" in {file.path for file in client.list_artifacts(parent.info.run_id, "plots")}

    def test_a_refused_resume_leaves_it_as_it_is(self, runner: Runner, here: Path) -> None:
        both = "sweep.metric=[val/loss,train/loss]"
        assert runner(*SEARCH, *SPACE, both, "hydra.sweeper.n_trials=1", "trainer.epochs=1", "tracking=off").code == 0
        folder = sweep_folder(here)
        before = (folder / "sweep.json").read_text()
        called = runner("-m", f"sweep.resume={folder}", "sweep.metric=val/loss")
        assert called.code == 2 and called.about == [("sweep.direction", "conflict")]
        assert (folder / "sweep.json").read_text() == before
        assert runner("-m", f"sweep.resume={folder}").code == 0

    def test_another_study_of_that_name_is_refused_before_there_is_a_folder(self, runner: Runner, here: Path) -> None:
        stored = ("hydra.sweeper.storage=sqlite:///study.db", "hydra.sweeper.study_name=bowl", "tracking=off")
        small = ("hydra.sweeper.n_trials=1", "trainer.epochs=1")
        assert runner(*SEARCH, *SPACE, *stored, *small).code == 0
        called = runner(*SEARCH, *SPACE, *stored, *small, "sweep.direction=max", "hydra.sweep.dir=second")
        assert called.code == 2 and called.about == [("sweep.direction", "conflict")]
        assert not (here / "second").exists()

    def test_a_database_keeps_the_study_over_several_sweeps(self, runner: Runner, here: Path) -> None:
        stored = ("hydra.sweeper.storage=sqlite:///study.db", "hydra.sweeper.study_name=bowl")
        for folder, trials in (("first", 3), ("second", 5)):
            called = runner(
                *SEARCH, *SPACE, *stored, f"hydra.sweep.dir={folder}", f"hydra.sweeper.n_trials={trials}",
                "trainer.epochs=1", "tracking=off",
            )  # fmt: skip
            assert called.code == 0, called.err
        stored = optuna.load_study(study_name="bowl", storage="sqlite:///study.db")
        assert len(stored.trials) == 5
        assert len(table(here / "second")["jobs"]) == 2

    def test_its_database_is_the_same_one_from_another_folder(
        self, runner: Runner, here: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        stored = ("hydra.sweeper.storage=sqlite:///my study.db", "hydra.sweeper.study_name=bowl", "tracking=off")
        small = ("hydra.sweeper.n_trials=1", "trainer.epochs=1", "hydra.sweep.dir=first")
        assert runner(*SEARCH, *SPACE, *stored, *small).code == 0
        (here / "elsewhere").mkdir()
        monkeypatch.chdir(here / "elsewhere")
        called = runner("--config-dir", str(here / "my_conf"), "-m", f"sweep.resume={here / 'first'}",
                        "hydra.sweeper.n_trials=2")  # fmt: skip
        assert called.code == 0, called.err
        assert not list(Path().glob("*.db"))
        assert len(optuna.load_study(study_name="bowl", storage=f"sqlite:///{here}/my study.db").trials) == 2

    def test_a_trial_that_ended_without_its_sweep_is_reported(self, runner: Runner, here: Path) -> None:
        assert runner(*SEARCH, *SPACE, "hydra.sweeper.n_trials=3", "trainer.epochs=1", "tracking=off").code == 0
        folder = sweep_folder(here)
        lines = (folder / STUDY).read_text().splitlines()
        ends = [line for line in lines if json.loads(line)["op_code"] == 6 and json.loads(line)["trial_id"] == 2]
        (folder / STUDY).write_text("\n".join(line for line in lines if line not in ends) + "\n")
        (folder / "2" / "job.json").unlink()
        assert states(folder) == ["COMPLETE", "COMPLETE", "RUNNING"]
        called = runner("-m", f"sweep.resume={folder}")
        assert called.code == 0
        assert states(folder) == ["COMPLETE"] * 3
        assert study(folder).trials[2].value == results(folder)[2]["val/loss"]

    def test_samplers_and_pruners_are_optuna_s_own(self, runner: Runner, here: Path) -> None:
        called = runner(
            *SEARCH, *SPACE, "hydra.sweeper.n_trials=3", "trainer.epochs=2", "tracking=off",
            "hydra/sweeper/sampler=random", "hydra.sweeper.sampler.seed=3", "hydra/sweeper/pruner=none",
        )  # fmt: skip
        assert called.code == 0, called.err
        drawn = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=3))
        first = drawn.ask({name: optuna.distributions.FloatDistribution(0, 1) for name in ("model.x", "model.y")})
        assert study(sweep_folder(here)).trials[0].params == first.params

    @pytest.mark.parametrize(
        ("argument", "problem", "suggestion"),
        [
            ("hydra.sweeper.sampler._target_=optuna.samplers.TPESample", ("hydra.sweeper.sampler", "type"), ""),
            ("hydra.sweeper.sampler.seed=x", ("hydra.sweeper.sampler", "type"), ""),
            ("hydra.sweeper.sampler.sed=1", ("hydra.sweeper.sampler.sed", "unknown"), "hydra.sweeper.sampler.seed"),
            ("hydra.sweeper.storage=nosuch://x", ("hydra.sweeper.storage", "syntax"), ""),
            (
                "hydra.sweeper.storage=sqlite:////none/s.db",
                ("hydra.sweeper.storage", "store"),
                "",
            ),
        ],
    )
    def test_mistakes(
        self, runner: Runner, here: Path, argument: str, problem: tuple[str, str], suggestion: str
    ) -> None:
        called = runner(*SEARCH, *SPACE, argument, "tracking=off")
        assert called.code == 2 and called.about == [problem]
        assert suggestion in called.problems[0].suggestion
        assert "Traceback" not in called.err

    def test_without_optuna_it_says_what_to_install(
        self, runner: Runner, here: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setitem(sys.modules, "optuna", None)
        monkeypatch.delitem(sys.modules, "runner.sweeps.plan.optuna_plan")
        monkeypatch.delattr("runner.sweeps.plan.optuna_plan")
        called = runner(*SEARCH, *SPACE, "tracking=off")
        assert called.code == 2 and called.about == [("hydra/sweeper", "unavailable")]
        assert "pip install 'optuna" in called.problems[0].suggestion

    def test_a_dry_run_makes_nothing(self, runner: Runner, here: Path) -> None:
        before = sorted(here.rglob("*"))
        called = runner(*SEARCH, *SPACE, "hydra.sweeper.storage=sqlite:///study.db", "sweep.dry_run=true")
        assert called.code == 0
        assert "20 trials: model.x=interval(0.0,1.0)" in called.err
        assert "sweep.dry_run=true" in called.err
        assert [path for path in sorted(here.rglob("*")) if "__pycache__" not in path.parts] == before

    def test_the_storage_of_the_study_is_not_part_of_a_job(self, composer: Composer) -> None:
        found = search(composer, *SPACE, "hydra.sweeper.storage=postgresql://ada:secret@db/studies")
        assert not any("secret" in text for job in found.probes(0) for text in job.overrides)

    def test_another_space_is_refused_at_a_resume(self, runner: Runner, here: Path) -> None:
        assert runner(*SEARCH, *SPACE, "hydra.sweeper.n_trials=1", "trainer.epochs=1", "tracking=off").code == 0
        called = runner("-m", f"sweep.resume={sweep_folder(here)}", "model.x=interval(0.0,2.0)")
        assert called.code == 2 and called.about == [("model.x", "conflict")]
        assert "model.x=interval(0.0,2.0)" in called.err and called.problems[0].suggestion == "leave it out"
        called = runner("-m", f"sweep.resume={sweep_folder(here)}", "model.x=0.5", "seed=1,2")
        assert called.code == 2 and called.about == [("model.x", "conflict"), ("seed", "conflict")]
        called = runner("-m", f"sweep.resume={sweep_folder(here)}", "sweep.extend=true")
        assert called.code == 2 and called.about == [("sweep.extend", "conflict")]
        assert called.problems[0].suggestion == "leave it out, and write hydra.sweeper.n_trials=2"
        called = runner("-m", f"sweep.resume={sweep_folder(here)}", "sweep.extend=true", "hydra.sweeper.n_trials=3")
        assert called.problems[0].suggestion == "leave it out, and write hydra.sweeper.n_trials=3"


@pytest.mark.soak
def test_whole_sweeps_find_better_than_a_grid(tmp_path: Path) -> None:
    """With ten seeds of twenty-five trials each, without pruning."""
    write_bowl(tmp_path)
    common = (*TRAINED, "trainer.epochs=3", "tracking=off", "runner.quiet=true")
    axes = ("model.x=0.0,0.25,0.5,0.75,1.0", "model.y=0.0,0.25,0.5,0.75,1.0")
    assert Forked(tmp_path, "--multirun", *common, *axes, "hydra.sweep.dir=grid").wait(300)[0] == 0

    def best(folder: str) -> float:
        return min(row["val/loss"] for row in table(tmp_path / folder)["jobs"])

    wins = 0
    for seed in range(10):
        folder = f"search{seed}"
        code, printed = Forked(
            tmp_path, *SEARCH, *common[len(TRAINED) :], *SPACE, f"hydra.sweep.dir={folder}",
            "hydra.sweeper.n_trials=25", f"hydra.sweeper.sampler.seed={seed}", "hydra/sweeper/pruner=none",
        ).wait(300)  # fmt: skip
        assert code == 0, printed
        wins += best(folder) < best("grid")
        print(f"seed {seed}: {best(folder):.6f}, the grid {best('grid'):.6f}")
    assert wins >= 8


def in_a_database(composer: Composer, folder: Path, *axes: str, n_trials: int = 2) -> OptunaSearch:
    sampler = optuna.samplers.RandomSampler(seed=0)
    found = plan(make_space(composer, axes), n_trials, sampler, None, f"sqlite:///{folder}/study.db", "s").method
    assert isinstance(found, OptunaSearch)
    return found


@pytest.fixture(scope="module")
def complete(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("study")
    search = in_a_database(Composer(), folder, "data.batch_size=16,32", "optimizer.lr=interval(0.1,0.5)")
    search.open(folder, LOSS)
    for number in range(2):
        job = search.ask(number)
        assert job is not None
        search.tell(job, JobOutcome("FINISHED", "", 1.0), [0.5])
    return folder


class TestAStudyInADatabase:
    """An existing study is checked before anything starts."""

    def test_one_that_is_complete_is_refused_unless_it_is_resumed(self, composer: Composer, complete: Path) -> None:
        axes = ("data.batch_size=16,32", "optimizer.lr=interval(0.1,0.5)")
        search = in_a_database(composer, complete, *axes)
        with pytest.raises(ConfigError) as raised:
            search.check_storage(LOSS)
        assert about(raised) == [("hydra.sweeper.n_trials", "conflict")]
        assert "hydra.sweeper.n_trials=4" in raised.value.problems[0].suggestion
        search.check_storage(LOSS, resumed=True)
        in_a_database(composer, complete, *axes, n_trials=3).check_storage(LOSS)

    @pytest.mark.parametrize(
        ("axes", "was", "now"),
        [
            (
                ("data.batch_size=16,64", "optimizer.lr=interval(0.1,0.5)"),
                "data.batch_size=16,32",
                "data.batch_size=16,64",
            ),
            (
                ("data.batch_size=16,32", "optimizer.lr=tag(log,interval(0.1,0.5))"),
                "optimizer.lr=interval(0.1,0.5)",
                "optimizer.lr=tag(log,interval(0.1,0.5))",
            ),
            (
                ("data.batch_size=int(interval(16,32))", "optimizer.lr=interval(0.1,0.5)"),
                "data.batch_size=16,32",
                "data.batch_size=int(interval(16,32))",
            ),
            (("data.batch_size=16,32",), "optimizer.lr=interval(0.1,0.5)", "optimizer.lr=one value"),
            (
                ("data.batch_size=16,32", "trainer.epochs=1,2"),
                "optimizer.lr=interval(0.1,0.5), trainer.epochs=one value",
                "optimizer.lr=one value, trainer.epochs=1,2",
            ),
        ],
    )
    def test_one_of_another_space_is_refused(
        self, composer: Composer, complete: Path, axes: tuple[str, ...], was: str, now: str
    ) -> None:
        with pytest.raises(ConfigError) as raised:
            in_a_database(composer, complete, *axes, n_trials=9).check_storage(LOSS)
        assert about(raised) == [("hydra.sweeper.study_name", "conflict")]
        text = raised.value.problems[0].text
        assert 0 < text.index(f" {was}") < text.index(f" {now}")


@pytest.mark.parametrize("cut", [1, 30])
def test_half_a_line_at_the_end_of_the_log_is_cut_off(composer: Composer, tmp_path: Path, cut: int) -> None:
    def opened() -> OptunaSearch:
        found = search(composer, "seed=1,2", n_trials=9)
        found.open(tmp_path, LOSS)
        return found

    first = opened()
    assert first.ask(0) is not None and first.ask(1) is not None
    log = tmp_path / STUDY
    log.write_bytes(log.read_bytes()[:-cut])  # as a full disk leaves it
    again = opened()
    assert again.ask(2) is not None
    assert opened().remaining and log.read_bytes().endswith(b"\n")


def test_a_log_of_half_a_line_is_empty(tmp_path: Path) -> None:
    log = tmp_path / STUDY
    truncate_partial_line(log)
    assert not log.exists()
    log.write_bytes(b'{"op_code": 0')
    truncate_partial_line(log)
    assert log.read_bytes() == b""


def test_a_refused_password_names_the_key_of_the_storage(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(storage: object) -> None:
        raise OSError('FATAL: password authentication failed for user "ada"')

    monkeypatch.setattr("runner.sweeps.plan.optuna_study.database", refused)
    address = "sqlite:///study.db"
    parts = optuna.samplers.RandomSampler(), optuna.pruners.NopPruner()
    search = OptunaSearch(Space([], []), {}, 1, *parts, address, "s", patience.Patience(300.0))
    with pytest.raises(ConfigError) as raised:
        search.check_storage([Objective("val/loss", "min")])
    assert about(raised) == [("hydra.sweeper.storage", "store")]
    assert "hydra.sweeper.storage=<dialect>" in str(raised.value) and "tracking.uri" not in str(raised.value)
    assert "<dialect>://<user>:<password>@<host>" in redact(str(raised.value))  # as it is printed


def test_a_missing_driver_is_refused_with_what_to_install() -> None:
    address = "oracle+cx_oracle://ada:lovelace@127.0.0.1/d"
    parts = optuna.samplers.RandomSampler(), optuna.pruners.NopPruner()
    search = OptunaSearch(Space([], []), {}, 1, *parts, address, "s", patience.Patience(300.0))
    with pytest.raises(ConfigError) as raised:
        search.check_storage(LOSS)
    assert about(raised) == [("hydra.sweeper.storage", "unavailable")]
    assert "pip install cx_Oracle" in raised.value.problems[0].suggestion
    assert "lovelace" not in str(raised.value)


@contextmanager
def locked(database: Path) -> Iterator[None]:
    """Hold SQLite's exclusive lock like another program: all reads and writes fail."""
    with closing(sqlite3.connect(database)) as other:
        other.execute("BEGIN EXCLUSIVE")
        yield
        other.rollback()


class TestAStorageThatGoesAway:
    """The jobs continue, and their results wait."""

    @pytest.fixture(autouse=True)
    def _at_once(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(patience, "RETRY_SECONDS", 0.0)

    def opened(self, composer: Composer, folder: Path, timeout: float = 300.0, jobs: int = 0) -> OptunaSearch:
        address = f"sqlite:///{folder}/study.db?timeout=0.01"
        sampler = optuna.samplers.RandomSampler(seed=0)
        space = make_space(composer, ["optimizer.lr=interval(0.1,0.5)"])
        found = plan(space, 2, sampler, None, address, "s", timeout).method
        assert isinstance(found, OptunaSearch)
        found.open(folder, LOSS, jobs)
        return found

    def test_results_wait_and_the_search_goes_on(
        self, composer: Composer, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level("INFO", "runner")
        search = self.opened(composer, tmp_path)
        job = search.ask(0)
        assert job is not None
        with locked(tmp_path / "study.db"):
            search.tell(job, JobOutcome("FINISHED", "", 1.0), [0.5])
            assert search.ask(1) is None and search.watch(job) is None
            assert (search.unreported, search.is_waiting, search.remaining) == (1, True, 1)
        while (second := search.ask(1)) is None:  # the next attempt waits as long as the last one took
            assert search.is_waiting
        assert (search.unreported, search.is_waiting) == (0, False)
        search.tell(second, JobOutcome("FINISHED", "", 1.0), [0.25])
        assert search.ask(2) is None and not search.is_waiting
        trials = optuna.load_study(study_name="s", storage=f"sqlite:///{tmp_path}/study.db").trials
        assert [(trial.state.name, trial.value) for trial in trials] == [("COMPLETE", 0.5), ("COMPLETE", 0.25)]
        said = [record.getMessage() for record in caplog.records]
        assert ["is away (database is locked)" in said[0], "is back" in said[-1], len(said)] == [True, True, 2]

    def test_in_the_middle_of_a_question_it_is_the_same_trial(self, composer: Composer, tmp_path: Path) -> None:
        """On a full disk the last write may be missing, partial, or complete without the study knowing."""
        for failing in range(1, 8):
            folder = tmp_path / str(failing)
            folder.mkdir()
            sampler = optuna.samplers.RandomSampler(seed=0)
            space = make_space(composer, ["optimizer.lr=interval(0.1,0.5)"])
            search = plan(space, 2, sampler, None, None, None).method
            assert isinstance(search, OptunaSearch)
            search.open(folder, LOSS)
            with pytest.MonkeyPatch.context() as patch:
                full = at_call(failing, raise_full, os.fsync)
                patch.setattr("optuna.storages.journal._file.os.fsync", full)
                jobs = []
                for number in range(2):
                    while (job := search.ask(number)) is None:
                        assert search.is_waiting
                    jobs.append(job)
                    search.tell(job, JobOutcome("FINISHED", "", 1.0), [0.5])
                while search.is_waiting:
                    search.catch_up()
            assert search.ask(2) is None and search.remaining == 0
            assert states(folder) == ["COMPLETE", "COMPLETE"], failing

    def test_after_its_timeout_it_ends_and_a_resume_reports_what_waited(
        self, composer: Composer, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        search = self.opened(composer, tmp_path, timeout=0.0)
        job = search.ask(0)
        assert job is not None
        with locked(tmp_path / "study.db"):
            search.tell(job, JobOutcome("FINISHED", "", 1.0), [0.5])
            assert search.ask(1) is None and not search.is_waiting
            assert (search.unreported, search.remaining, search.draw(tmp_path)) == (1, 1, [])
        (said,) = [record.getMessage() for record in caplog.records]
        assert said.endswith(f" python -m runner --multirun sweep.resume={shell_path(tmp_path)}")
        again = self.opened(composer, tmp_path, jobs=1)
        again.tell(job, JobOutcome("FINISHED", "", 1.0), [0.5])
        assert again.remaining == 1 and again.ask(1) is not None

    @pytest.mark.parametrize(
        ("error", "why"),
        [
            (sqlalchemy.exc.OperationalError("", {}, sqlite3.OperationalError("database is locked")), "is locked"),
            (sqlalchemy.exc.InterfaceError("", {}, Exception("connection already closed")), "already closed"),
            (sqlalchemy.exc.DBAPIError("", {}, Exception("gone"), connection_invalidated=True), "gone"),
            (sqlalchemy.exc.OperationalError("", {}, Exception("can't reach ada:lovelace@h")), r"reach \*\*\*@h"),
            (sqlalchemy.exc.TimeoutError("QueuePool limit"), "QueuePool"),
            (OSError(errno.EIO, "Input/output error"), "Input/output"),
            (sqlalchemy.exc.IntegrityError("", {}, Exception("UNIQUE constraint failed")), None),
            (sqlalchemy.exc.OperationalError("", {}, sqlite3.OperationalError("no such table: trials")), None),
            (sqlalchemy.exc.OperationalError("", {}, Exception("password authentication failed")), None),
            (KeyError("no such trial"), None),
            (FileNotFoundError(errno.ENOENT, "No such file"), None),
        ],
    )
    def test_which_errors_mean_that(self, error: Exception, why: str | None) -> None:
        wrapped = optuna.exceptions.StorageInternalError("An exception is raised during the commit.")
        wrapped.__cause__ = error
        for found in (patience.away(error), patience.away(wrapped)):
            assert found is None if why is None else re.search(why, found or "")

    @pytest.mark.parametrize(
        ("text", "known", "waits"),
        [
            ("connection refused", False, False),
            ("connection refused", True, True),
            ("FATAL:  the database system is starting up", False, True),
            ("failed to resolve host 'nowhere'", True, False),
            ("password authentication failed", True, False),
            ('database "studies" does not exist', True, False),
        ],
    )
    def test_one_that_is_away_at_the_start_is_waited_for_if_its_address_was_right(
        self, text: str, known: bool, waits: bool, caplog: pytest.LogCaptureFixture
    ) -> None:
        attempts: list[None] = []

        def fail_twice() -> str:
            attempts.append(None)
            if len(attempts) < 3:
                raise sqlalchemy.exc.OperationalError("", {}, Exception(text))
            return "open"

        if waits:
            assert patience.wait_until_open(fail_twice, 300.0, known) == "open"
            (said,) = [record.getMessage() for record in caplog.records]
            assert text in said and "hydra.sweeper.storage_timeout=300" in said
            attempts.clear()
        with pytest.raises(sqlalchemy.exc.OperationalError):
            patience.wait_until_open(fail_twice, 0.0 if waits else 300.0, known)
        assert len(attempts) == 1

    def test_a_resume_waits_for_its_database(
        self, composer: Composer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        search = self.opened(composer, tmp_path)
        with ExitStack() as outage:
            outage.enter_context(locked(tmp_path / "study.db"))
            with pytest.raises(ConfigError, match=r"cannot open the study: .*database is locked"):
                search.check_storage(LOSS)
            monkeypatch.setattr(
                patience, "time", SimpleNamespace(monotonic=time.monotonic, sleep=lambda _: outage.close())
            )
            search.check_storage(LOSS, resumed=True)

    @pytest.mark.parametrize("value", [-1, "soon", True, math.inf, math.nan, None])
    def test_how_long_is_a_number_of_seconds(self, composer: Composer, value: Any) -> None:
        with pytest.raises(ConfigError) as raised:
            plan(make_space(composer, ("optimizer.lr=interval(0.1,0.5)",)), 2, None, None, None, None, value)
        (problem,) = raised.value.problems
        assert problem.key == "hydra.sweeper.storage_timeout" and problem.topic in ("range", "type")
        assert problem.suggestion.startswith("write hydra.sweeper.storage_timeout=300")

    def test_a_pool_without_jobs_stays_until_there_is_one_or_it_is_stopped(
        self, composer: Composer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(pool, "TICK_SECONDS", 0.01)
        job, stop = search(composer, "seed=1,2").probes(0)[0], Stop()
        ended: list[JobOutcome] = []

        def jobs() -> Iterator[Job | None]:
            yield from (None, None, job)
            while True:
                stop.requested = True
                yield None

        def refused(*_: object) -> JobSpec:
            raise ConfigError(Problem("", "no such place", topic="file"))

        listener: Any = SimpleNamespace(job_ended=lambda _, outcome: ended.append(outcome), tick=lambda: None)
        pool.Pool(Local(), [Slot(0)], refused, listener, stop).run(jobs())
        assert [outcome.reason for outcome in ended] == ["no such place"]

    @pytest.mark.soak
    def test_a_whole_sweep_waits_for_it(self, runner: Runner, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        write_bowl(here)
        monkeypatch.syspath_prepend(str(here))

        def lock() -> None:
            wait_for(lambda: list(here.glob("s/0/metrics.jsonl")), 20)
            with locked(here / "study.db"):
                wait_for(lambda: (here / "s" / "0" / "job.json").exists(), 20)
                time.sleep(0.5)

        locker = threading.Thread(target=lock)
        locker.start()
        called = runner(
            *SEARCH, *SPACE, "hydra.sweeper.n_trials=2", "trainer.epochs=8", "model.seconds=0.02", "tracking=off",
            "sweep.jobs=1", f"hydra.sweeper.storage=sqlite:///{here}/study.db?timeout=0.1", "hydra.sweep.dir=s",
        )  # fmt: skip
        locker.join()
        assert called.code == 0, called.err
        assert called.err.count("storage is away (database is locked)") == 1 and "storage is back" in called.err
        assert [row["status"] for row in table(here / "s")["jobs"]] == ["FINISHED"] * 2


def raise_full(*_: object) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")
