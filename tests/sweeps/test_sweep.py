"""Whole sweeps, with real processes, real signals and a real store."""

import contextlib
import errno
import json
import multiprocessing
import os
import re
import resource
import shlex
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import psutil
import pytest

from conftest import REPOSITORY, Called
from helpers.browsing import browsing, counted, curves, links_to, row_of, screenshot, shown, visible, visiting
from helpers.delivered import DeliveryHere, copy_store
from helpers.faults import inject
from helpers.problems import about
from helpers.sweeping import (
    Forked,
    content,
    outcomes,
    processes_below,
    results,
    start,
    sweep_folder,
    table,
    wait_for,
    write_fates,
)
from runner import sync
from runner.cli import run_command
from runner.errors import ConfigError
from runner.rundir import folders, layout
from runner.rundir.delivery_state import DeliveryState
from runner.rundir.folders import shell_path
from runner.rundir.journal import Journal
from runner.rundir.lock import lock
from runner.rundir.manifest import Manifest
from runner.sweeps.launchers import forkserver, local
from runner.tracking.deliver import Delivery
from runner.tracking.pages import TRAINING, run_page
from runner.tracking.store import connect, local_uri
from runner.util.cores import physical_cores

Runner = Callable[..., Called]

QUICK = ("tracking=off", "data.limit=200", "trainer.epochs=2", "model.hidden=[8]")
FATED = ("--config-dir", "my_conf", "model=fated", "tracking=off", "data.limit=200", "trainer.epochs=2")


def ids(called: Called) -> list[int]:
    """Return the numbers of the jobs in the order of their printed lines."""
    return [int(number) for number in re.findall(r"^\s*\d+/\d+  job (\d+) ", called.err, re.MULTILINE)]


PROCESS = forkserver.process


def when_made(monkeypatch: pytest.MonkeyPatch, act: Callable[[Path], object]) -> None:
    """Call a function with the folder of a sweep when it was made: a sweep starts in no folder that has something."""
    make = folders.make_run_folder

    def make_and_act(*arguments: Any) -> Path:
        folder = make(*arguments)
        act(folder)
        return folder

    monkeypatch.setattr(folders, "make_run_folder", make_and_act)


class TestAWholeSweep:
    """Six jobs on a store that does not exist yet, in a separate process; test_soak.py has twelve."""

    @pytest.fixture(scope="class")
    @staticmethod
    def here(tmp_path_factory: pytest.TempPathFactory) -> Path:
        return tmp_path_factory.mktemp("whole")

    @pytest.fixture(scope="class")
    @staticmethod
    def printed(here: Path) -> str:
        axes = ("model=mlp,cnn", "optimizer.lr=0.1,0.03,0.01")
        sweep = start(here, *axes, "trainer.epochs=2")
        _, printed = sweep.communicate(timeout=300)
        assert sweep.returncode == 0, printed
        return printed

    @pytest.fixture
    def folder(self, here: Path, printed: str) -> Path:
        return sweep_folder(here)

    @pytest.fixture
    def client(self, here: Path, printed: str) -> Any:
        return connect(local_uri(here / "outputs"))

    @pytest.fixture
    def parent(self, client: Any, folder: Path) -> Any:
        (experiment,) = [e for e in client.search_experiments() if e.name == "runner"]
        assert experiment.tags["mlflow.experimentKind"] == "custom_model_development"
        runs = client.search_runs([experiment.experiment_id], max_results=100)
        (parent,) = [run for run in runs if "mlflow.parentRunId" not in run.data.tags]
        assert len(runs) == 7
        return parent

    @pytest.fixture
    def children(self, client: Any, parent: Any) -> Any:
        query = f"tags.`mlflow.parentRunId` = '{parent.info.run_id}'"
        return client.search_runs([parent.info.experiment_id], query, max_results=100)

    def test_six_children_under_one_parent_all_finished(self, parent: Any, children: Any) -> None:
        assert parent.info.status == "FINISHED"
        assert len(children) == 6 and {run.info.status for run in children} == {"FINISHED"}
        models = ("mlp", "cnn")
        names = {f"model={model} lr={lr}" for model in models for lr in (0.1, 0.03, 0.01)}
        assert {run.info.run_name for run in children} == names
        assert {run.data.params["model"] for run in children} == set(models)
        assert all(run.data.metrics.keys() >= {"val/loss", "test/accuracy"} for run in children)

    def test_each_child_is_a_whole_run(self, client: Any, parent: Any, children: Any, folder: Path) -> None:
        done = results(folder)
        assert len(done) == 6
        by_id = {run.info.run_id: run for run in children}
        for number, result in done.items():
            assert result["parent_run_id"] == parent.info.run_id and result["threads"] == 1
            run = by_id[result["run_id"]]
            assert run.data.tags["runner.folder"] == str(folder / str(number))
            assert run.data.tags["runner.sweep"] == folder.name
            points = client.get_metric_history(result["run_id"], "val/loss")
            assert [point.step for point in points] == [1, 2]
        first = done[0]["run_id"]
        assert {f.path for f in client.list_artifacts(first)} >= {"result.json", "run.log", "config.yaml", "plots"}
        assert client.get_run(first).outputs.model_outputs

    def test_the_parent_names_axes_and_best_and_has_table_and_picture(
        self, client: Any, parent: Any, folder: Path
    ) -> None:
        assert parent.info.run_name == f"model=mlp,cnn lr=0.1,0.03,0.01 {folder.name[5:]}"
        axes = {"model": "mlp,cnn", "optimizer.lr": "0.1,0.03,0.01"}
        assert axes.items() <= parent.data.params.items()
        tags, found = parent.data.tags, table(folder)
        best = found["jobs"][0]
        assert tags["runner.best_run_id"] == best["run_id"] and tags["runner.best_job"] == str(best["job"])
        assert f"/runs/{best['run_id']}?" in tags["mlflow.note.content"].splitlines()[0]
        assert "$ python -m runner --multirun model=mlp,cnn" in tags["mlflow.note.content"]
        assert {**parent.data.metrics, "energy/kwh": 0} == {"best/val/loss": best["val/loss"], "energy/kwh": 0}
        paths = {f.path for f in client.list_artifacts(parent.info.run_id)}
        assert paths >= {"jobs.csv", "jobs.json", "sweep.json", "run.log", "plots"}
        assert [f.path for f in client.list_artifacts(parent.info.run_id, "plots")] == ["plots/sweep.png"]

    def test_mlflow_sorts_the_jobs_as_the_table_and_finds_the_best_model(
        self, client: Any, parent: Any, folder: Path
    ) -> None:
        ids, where = [job["run_id"] for job in table(folder)["jobs"]], [parent.info.experiment_id]
        query = f"tags.`mlflow.parentRunId` = '{parent.info.run_id}'"
        children = client.search_runs(where, query, order_by=["metrics.`best/val/loss` ASC"])
        assert [run.info.run_id for run in children] == ids
        data = children[0].inputs.dataset_inputs[0].dataset
        order = [{"field_name": "metrics.best/val/loss", "ascending": True, "dataset_name": data.name}]
        models = client.search_logged_models(where, order_by=order)
        assert [model.source_run_id for model in models] == ids

    def test_the_table_is_sorted_and_complete(self, folder: Path, printed: str) -> None:
        found = pd.read_csv(folder / "jobs.csv")
        assert list(found["val/loss"]) == sorted(found["val/loss"]) and len(found) == 6
        done = results(folder)
        for row in found.to_dict("records"):
            result = done[row["job"]]
            assert row["val/loss"] == result["val/loss"] and row["run_id"] == result["run_id"]
            assert row["epoch"] == result["best_epoch"] and row["seconds"] > sum(result["epoch_seconds"])
            assert Path(row["folder"]) == folder / str(row["job"])
        lines = printed.splitlines()
        (head,) = [index for index, line in enumerate(lines) if line.lstrip().startswith("#  model")]
        assert [int(line.split()[0]) for line in lines[head + 1 : head + 7]] == list(found["job"])
        assert f"best       job {found['job'][0]} " in printed
        gain = r"(; .* of work, .*x faster than sequential)?"
        assert re.search(rf"^time       6 jobs in [^;]*{gain}$", printed, re.MULTILINE)

    def test_what_is_printed_on_the_way(self, printed: str) -> None:
        assert len(re.findall(r"^\d/6  job \d .*val/loss", printed, re.MULTILINE)) == 6
        assert "2 jobs at a time, 1 thread each" in printed or os.cpu_count() != 2
        assert "Traceback" not in printed and "Warning" not in printed

    @pytest.mark.usefixtures("delivery_by_forks")
    def test_nothing_is_left_to_do(
        self,
        here: Path,
        folder: Path,
        client: Any,
        parent: Any,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        before = {number: content(folder / str(number)) for number in range(6)}
        monkeypatch.chdir(here)
        capsys.readouterr()
        assert run_command(["--multirun", f"sweep.resume={parent.info.run_id}"]) == 0
        assert "6 of 6 jobs are finished already" in capsys.readouterr().err
        assert {number: content(folder / str(number)) for number in range(6)} == before
        assert len(client.search_runs([parent.info.experiment_id], max_results=100)) == 7

    @pytest.fixture(scope="class")
    @staticmethod
    def served(here: Path, printed: str) -> Iterator[dict[str, str]]:
        """Yield the pages that `python -m runner.ui` prints, while it serves them."""
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        ui = subprocess.Popen(
            [sys.executable, "-m", "runner.ui", f"port={port}"], cwd=here, stderr=subprocess.PIPE, text=True
        )
        assert ui.stderr is not None
        named = dict(line.split()[:2] for line in (ui.stderr.readline() for _ in range(3)))
        threading.Thread(target=ui.stderr.read, daemon=True).start()
        try:
            wait_for(lambda: answers(f"http://127.0.0.1:{port}/health"))
            yield {"base": f"http://127.0.0.1:{port}", **named}
        finally:
            ui.terminate()
            ui.wait()

    @pytest.fixture(scope="class")
    @staticmethod
    def browser() -> Iterator[Any]:
        with browsing() as browser:
            yield browser

    @pytest.fixture
    def page(self, browser: Any, served: dict[str, str]) -> Iterator[Any]:
        with visiting(browser) as page:
            yield page

    def test_mlflow_folds_the_runs_into_their_parent(
        self, page: Any, served: dict[str, str], parent: Any, children: Any
    ) -> None:
        page.goto(f"{served['base']}/#/experiments/{parent.info.experiment_id}/runs?{TRAINING}")
        row = visible(row_of(page, parent.info.run_name))
        shown(page, "7 matching runs")
        for child in children:
            counted(links_to(page, child.info.run_name), 0)
        row.get_by_role("button").first.click()
        for child in children:
            visible(links_to(page, child.info.run_name))
        screenshot(page, "runs")

    def test_mlflow_charts_the_curves_of_all_children(
        self, page: Any, served: dict[str, str], printed: str, children: Any
    ) -> None:
        charts = served["charts"]
        assert charts.partition("#")[2] in printed, "the sweep names the same page at its end"
        page.goto(charts)
        visible(page.get_by_text("You're viewing a shared view."))
        page.get_by_role("button", name="Hide banner").click()
        shown(page, "6 matching runs")
        counted(curves(page, "val/loss"), 6)
        visible(page.get_by_text("Parallel Coordinates"))
        for child in children:
            visible(links_to(page, child.info.run_name))
        screenshot(page, "charts")

    def test_a_run_whose_numbers_are_not_finite_opens_too(
        self, page: Any, served: dict[str, str], here: Path, client: Any
    ) -> None:
        folder = here / "diverged"
        folder.mkdir()
        root = str(here / "outputs" / "mlartifacts")
        Manifest(local_uri(here / "outputs"), "diverged", "a run", root).ended("FAILED").save(folder)
        journal = Journal(folder / "metrics.jsonl")
        for epoch, value in enumerate((0.5, float("inf"), float("nan"), float("-inf")), 1):
            journal.write({"train/loss": value, "val/loss": value}, epoch)
        delivery = Delivery(folder)
        assert delivery.step()
        experiment = client.get_experiment_by_name("diverged").experiment_id
        page.goto(run_page(served["base"], experiment, str(delivery.run_id)))
        shown(page, "About this run", "train/loss", "val/loss")
        page.goto(f"{served['base']}/#/experiments/{experiment}/runs?{TRAINING}")
        visible(row_of(page, "a run"))
        screenshot(page, "diverged")

    @pytest.mark.soak
    def test_mlflow_compares_exactly_its_runs(
        self, page: Any, served: dict[str, str], printed: str, children: Any
    ) -> None:
        assert served["compare"].partition("#")[2] in printed
        page.goto(served["compare"])
        shown(page, "Comparing 6 Runs from 1 Experiment", "Run details")
        visible(page.locator(".js-plotly-plot"))
        for child in children:
            counted(links_to(page, child.info.run_id), 1)
        screenshot(page, "compare")

    @pytest.mark.soak
    def test_mlflow_s_page_of_the_parent_leads_to_the_others(
        self, page: Any, served: dict[str, str], parent: Any, folder: Path
    ) -> None:
        page.goto(run_page(served["base"], parent.info.experiment_id, parent.info.run_id))
        shown(page, "About this run", "Child runs", "optimizer.lr")
        page.get_by_role("button", name="Expand description").click()
        visible(page.locator("img[src^='get-artifact?']"))
        screenshot(page, "parent")
        with page.context.expect_page() as opened:  # links of a description open a new tab
            page.get_by_role("link", name="charts", exact=True).click()
        shown(opened.value, "6 matching runs")
        with page.context.expect_page() as opened:
            page.get_by_role("link", name=table(folder)["jobs"][0]["name"], exact=True).first.click()
        shown(opened.value, table(folder)["jobs"][0]["run_id"])

    def test_the_sweep_is_compared_by_its_parent(
        self, here: Path, parent: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        from runner.compare import main

        monkeypatch.chdir(here)
        assert main([f"sweep={parent.info.run_id}"]) == 0
        assert len(capsys.readouterr().out.splitlines()) == 7


def answers(address: str) -> bool:
    """Return whether a server answers."""
    try:
        with urllib.request.urlopen(address, timeout=1):
            return True
    except OSError:
        return False


class TestFates:
    """One raises, one is killed, one takes too long, one runs out of memory; two finish."""

    @pytest.fixture(scope="class")
    @staticmethod
    def here(tmp_path_factory: pytest.TempPathFactory) -> Path:
        here = tmp_path_factory.mktemp("fates")
        write_fates(here)
        return here

    @pytest.fixture(scope="class")
    @staticmethod
    def printed(here: Path, empty_store: Path) -> str:
        copy_store(empty_store, here / "outputs")
        arguments = (
            "model.fate=raises,fine,killed,slow,greedy,good",
            "sweep.job_timeout=6",
            "tracking.log_model=false",
        )
        sweep = start(
            here,
            *("--config-dir", "my_conf", "model=fated", "trainer.epochs=2", *arguments),
            preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (16 << 30, 16 << 30)),
        )
        _, printed = sweep.communicate(timeout=200)
        assert sweep.returncode == 1, printed
        return printed

    def test_two_finish_and_the_table_has_four_reasons(self, here: Path, printed: str) -> None:
        found = outcomes(sweep_folder(here))
        assert [found[n]["status"] for n in range(6)] == [
            "FAILED",
            "FINISHED",
            "KILLED",
            "KILLED",
            "FAILED",
            "FINISHED",
        ]
        for number, reason in (
            (0, "ValueError: a mistake of the user's"),
            (2, "SIGKILL"),
            (3, "took longer than sweep.job_timeout=6 s"),
            (4, "out of memory"),
        ):
            assert reason in found[number]["why"]
            (row,) = [row for row in table(sweep_folder(here))["jobs"] if row["job"] == number]
            assert reason in row["why"] and reason[:30] in printed

    def test_its_last_lines_and_its_log_are_shown_when_it_happens(self, here: Path, printed: str) -> None:
        lines = printed.splitlines()
        (place,) = [index for index, line in enumerate(lines) if "job 0  fate=raises  FAILED: ValueError" in line]
        shown = "\n".join(lines[place + 1 : place + 6])
        assert "in act" in shown and 'raise ValueError("a mistake' in shown
        log = next(line.split("log: ")[1] for line in lines[place:] if "log: " in line)
        assert "Traceback" in (here / log).read_text()

    def test_mlflow_knows_the_same(self, here: Path, printed: str) -> None:
        client = connect(local_uri(here / "outputs"))
        experiment = client.get_experiment_by_name("runner").experiment_id
        runs = client.search_runs([experiment])
        (parent,) = [run for run in runs if "mlflow.parentRunId" not in run.data.tags]
        assert parent.info.status == "FAILED" and len(runs) == 7
        status = {run.info.run_name: run.info.status for run in runs if run is not parent}
        assert status == {
            **dict.fromkeys(("fate=fine", "fate=good"), "FINISHED"),
            **dict.fromkeys(("fate=raises", "fate=greedy"), "FAILED"),
            **dict.fromkeys(("fate=killed", "fate=slow"), "KILLED"),
        }
        (killed,) = [run for run in runs if run.info.run_name == "fate=killed"]
        assert "SIGKILL" in killed.data.tags["runner.ended"]
        assert f"sweep.resume=outputs/sweeps/{sweep_folder(here).name}" in printed

    def test_resumed_with_the_mistakes_fixed_it_is_complete(self, here: Path, printed: str) -> None:
        """Failed jobs start again as new runs; killed ones are resumed."""
        folder = sweep_folder(here)
        (here / "fixed").touch()
        before = {number: content(folder / str(number)) for number in (1, 5)}
        client = connect(local_uri(here / "outputs"))
        experiment = client.get_experiment_by_name("runner").experiment_id
        ids = {run.info.run_name: run.info.run_id for run in client.search_runs([experiment])}
        code, printed_again = Forked(
            here, "--multirun", f"sweep.resume={folder}", "sweep.job_timeout=null", prepare=inject(None)
        ).wait(200)
        assert code == 0, printed_again
        assert {number: content(folder / str(number)) for number in (1, 5)} == before
        runs = client.search_runs([experiment])
        children = {run.info.run_name: run for run in runs if "mlflow.parentRunId" in run.data.tags}
        assert len(children) == 6 and {run.info.status for run in children.values()} == {"FINISHED"}
        assert {name for name, run in children.items() if ids[name] == run.info.run_id} == {
            *("fate=fine", "fate=good", "fate=killed", "fate=slow")
        }
        (parent,) = [run for run in runs if "runner.jobs" in run.data.tags]
        assert parent.info.status == "FINISHED" and parent.info.run_id == ids[parent.info.run_name]
        aside = sorted(path.name for path in (folder / "failed_attempts").iterdir())
        assert aside == ["0_1", "4_1"]
        former = client.get_run(ids["fate=raises"])
        assert former.info.status == "FAILED"
        assert former.data.tags["runner.superseded_by"] == str(folder / "0")
        assert former.data.tags["runner.folder"] == str(folder / "failed_attempts" / "0_1")


class TestAParentThatIsKilled:
    def test_the_missing_jobs_run_and_nothing_else(self, tmp_path: Path, empty_store: Path) -> None:
        copy_store(empty_store, tmp_path / "outputs")
        axes = ("optimizer.lr=0.1,0.03", "data.batch_size=32,64")
        sweep = Forked(
            tmp_path, "--multirun", *axes, "trainer.epochs=15", "tracking.log_model=false", prepare=inject(None)
        )
        wait_for(lambda: len(list(tmp_path.glob("outputs/sweeps/*/*/result.json"))) >= 2)
        sweep.send_signal(signal.SIGKILL)
        sweep.wait()
        folder = sweep_folder(tmp_path)
        again = Forked(tmp_path, "--multirun", f"sweep.resume={folder}", prepare=inject(None))
        code, printed = again.wait(200)  # at once: its orphans still run
        assert code == 0, printed
        skipped = int(re.findall(r"(\d) of 4 jobs are finished already", printed)[0])
        assert 2 <= skipped <= 3
        assert len(re.findall(r"^\d/\d  job", printed, re.MULTILINE)) == 4 - skipped
        ended = results(folder)
        assert len(ended) == 4 and {result["status"] for result in ended.values()} == {"FINISHED"}
        assert all(result["epochs"] == 15 for result in ended.values())
        client = connect(local_uri(tmp_path / "outputs"))
        experiment = client.get_experiment_by_name("runner").experiment_id
        runs = client.search_runs([experiment])
        children = [run for run in runs if "mlflow.parentRunId" in run.data.tags]
        assert len(runs) == 5 and len(children) == 4 and {run.info.status for run in runs} == {"FINISHED"}
        for run in children:
            points = client.get_metric_history(run.info.run_id, "val/loss")
            assert [point.step for point in points] == list(range(1, 16))
        wait_for(lambda: not processes_below(tmp_path), 20)

    def test_its_jobs_end_within_seconds_and_keep_a_checkpoint(self, tmp_path: Path) -> None:
        write_fates(tmp_path)
        sweep = Forked(
            tmp_path, "--multirun", *FATED, "model.fate=fine,good", "model.seconds=0.05", "trainer.epochs=500"
        )
        wait_for(lambda: len(list(tmp_path.glob("outputs/sweeps/*/*/checkpoints/last.pt"))) == 2)
        sweep.send_signal(signal.SIGKILL)
        sweep.wait()
        began = time.monotonic()
        wait_for(lambda: not processes_below(tmp_path), 20)
        assert time.monotonic() - began < 10
        assert {result["status"] for result in results(sweep_folder(tmp_path)).values()} == {"KILLED"}


@pytest.mark.soak
class TestASweepKilledAtItsEnd:
    """Every process of it, at moments between the end of its last job and its own."""

    AXES = ("optimizer.lr=0.1,0.03", "seed=1,2", "trainer.epochs=2")

    @staticmethod
    def files(folder: Path) -> set[str]:
        left = (".lock", "job.json")  # how long the last one took is unknown if its sweep did not see its end
        return {f.relative_to(folder).as_posix() for f in folder.rglob("*") if f.is_file() and f.name not in left}

    @staticmethod
    def stored(here: Path) -> list[tuple[str, set[str], set[str]]]:
        """Return status, artifacts and metrics of each run in MLflow, by its name."""
        client = connect(local_uri(here / "outputs"))
        experiment = client.get_experiment_by_name("runner").experiment_id
        runs = {run.info.run_name: run for run in client.search_runs([experiment])}
        names = [name for name in sorted(runs) if "seed=1,2" not in name]  # the parent's has a time in it
        assert len(names) == 4 and len(runs) == 5
        roots = {name: Path(runs[name].info.artifact_uri.removeprefix("file://")) for name in names}
        files = {n: {f.relative_to(roots[n]).as_posix() for f in roots[n].rglob("*") if f.is_file()} for n in names}
        measured = {n: {key for key in runs[n].data.metrics if not key.startswith("system/")} for n in names}
        return [(runs[name].info.status, files[name], measured[name]) for name in names]

    def test_its_folders_are_complete(self, tmp_path: Path) -> None:
        (whole := tmp_path / "whole").mkdir()
        assert start(whole, *self.AXES).wait(120) == 0
        caught = 0
        for number, seconds in enumerate((0.0, 0.05, 0.1, 0.2, 0.3, 0.5, 0.8)):
            (here := tmp_path / str(number)).mkdir()
            sweep = start(here, *self.AXES)
            wait_for(lambda here=here: list(here.glob("outputs/sweeps/*")))
            folder = sweep_folder(here)
            wait_for(lambda folder=folder: len(list(folder.glob("*/result.json"))) == 4)
            time.sleep(seconds)
            caught += sweep.poll() is None
            for process in processes_below(here):
                with contextlib.suppress(psutil.Error):
                    process.kill()
            sweep.wait()
            again = start(here, f"sweep.resume={folder}")
            _, printed = again.communicate(timeout=120)
            assert again.returncode == 0, printed
            for job in range(4):
                assert self.files(folder / str(job)) == self.files(sweep_folder(whole) / str(job)), (seconds, job)
            assert {"jobs.csv", "jobs.json", "plots/sweep.png"} <= self.files(folder)
            assert self.stored(here) == self.stored(whole)
        assert caught >= 3


@pytest.mark.usefixtures("here")
class TestKnobs:
    """Without MLflow, in this process; each job is still a process."""

    @pytest.fixture(autouse=True)
    def fated(self, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        write_fates(here)
        monkeypatch.syspath_prepend(here)
        monkeypatch.delenv("OMP_NUM_THREADS", raising=False)

    def started_jobs(self, here: Path) -> list[dict[str, Any]]:
        return [json.loads(path.read_text()) for path in sorted(here.glob("job-*.json"))]

    def test_jobs_and_their_threads(self, runner: Runner, here: Path) -> None:
        assert runner("-m", *FATED, "seed=1,2", "sweep.jobs=1").code == 0
        first, second = results(sweep_folder(here)).values()
        assert first["threads"] == second["threads"] == 1, "so small a model has no work for more"
        assert "1 job at a time" in (sweep_folder(here) / "run.log").read_text()
        called = runner("-m", *FATED, "seed=1,2", "sweep.jobs=2", "hydra.sweep.dir=two")
        share = max(1, physical_cores() // 2)
        assert f"2 jobs at a time, {share} thread" in called.err
        assert {result["threads"] for result in results(here / "two").values()} == {share}

    def test_no_two_jobs_at_once_on_one_device(
        self, runner: Runner, here: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(local, "gpus_for", lambda built, configs: ["0", "1", "GPU-2", "3"])
        assert runner("-m", *FATED, "seed=range(0,6)", "model.seconds=0.05").code == 0
        ended = outcomes(sweep_folder(here))
        spans: dict[str, list[tuple[float, float]]] = {}
        for number in range(6):
            folder = sweep_folder(here) / str(number)
            assert ended[number]["status"] == "FINISHED", (folder / "run.log").read_text()
            job = json.loads((here / f"job-{number}.json").read_text())
            # From its first step until the sweep has seen its process end.
            spans.setdefault(job["gpu"], []).append((job["begun"], (folder / "job.json").stat().st_mtime))
        assert set(spans) == {"0", "1", "GPU-2", "3"}
        for alone in spans.values():
            for (_, end), (begun, _) in zip(sorted(alone), sorted(alone)[1:], strict=False):
                assert begun >= end
        called = runner("-m", *FATED, "seed=1,2", "sweep.jobs=5")
        assert called.code == 2 and called.about == [("sweep.jobs", "unavailable")]
        assert "sweep.jobs_per_gpu=2" in called.problems[0].suggestion

    def test_several_jobs_on_a_gpu(self, runner: Runner, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(local, "gpus_for", lambda built, configs: ["7"])
        called = runner("-m", *FATED, "seed=1,2,3", "sweep.jobs_per_gpu=2", "model.seconds=0.1")
        assert called.code == 0 and "2 jobs at a time" in called.err
        assert {job["gpu"] for job in self.started_jobs(here)} == {"7"}

    def test_stop_on_failure(self, runner: Runner, here: Path) -> None:
        axis = "model.fate=fine,late,good,well,better"
        more = ("model.seconds=0.1", "trainer.epochs=200", "sweep.on_failure=stop", "sweep.jobs=2")
        called = runner("-m", *FATED, axis, *more)
        assert called.code == 1
        status = {row["job"]: row["status"] for row in table(sweep_folder(here))["jobs"]}
        assert status == {0: "KILLED", 1: "FAILED", 2: "NOT STARTED", 3: "NOT STARTED", 4: "NOT STARTED"}
        assert (sweep_folder(here) / "0" / "checkpoints" / "last.pt").exists()

    def test_metric_and_direction(self, runner: Runner, here: Path) -> None:
        def order(*more: str) -> list[float]:
            name = f"hydra.sweep.dir=sweep{len(list(here.iterdir()))}"
            assert runner("-m", *QUICK, "optimizer.lr=0.1,0.001", name, *more).code == 0
            found = table(here / name.partition("=")[2])
            return [row[found["metric"]] for row in found["jobs"]]

        losses = order()
        assert losses == sorted(losses)
        assert order("sweep.direction=max") == losses[::-1]
        accuracies = order("sweep.metric=test/accuracy")
        assert accuracies == sorted(accuracies, reverse=True)
        called = runner("-m", *QUICK, "seed=1,2", "sweep.metric=val/f1")
        assert called.code == 2 and called.about == [("sweep.metric", "unknown")]

    def test_a_dry_run_checks_and_starts_nothing(self, runner: Runner, here: Path) -> None:
        before = sorted(here.rglob("*"))
        called = runner("-m", *QUICK, "optimizer.lr=0.1,0.01", "seed=1,2", "sweep.dry_run=true")
        assert called.code == 0 and re.search(r"^3  0\.01 +2$", called.err, re.MULTILINE), called.err
        assert runner("-m", *QUICK, "model.hidden=[4],[0]", "sweep.dry_run=true").code == 2
        assert sorted(here.rglob("*")) == before

    def test_seeds_are_gathered(self, runner: Runner, here: Path) -> None:
        called = runner("-m", *QUICK, "seed=0,1", "optimizer.lr=0.1,0.01")
        assert called.code == 0
        done = results(sweep_folder(here))
        found = {row["optimizer.lr"]: row for row in table(sweep_folder(here))["configurations"]}
        assert set(found) == {"0.1", "0.01"} and {row["n"] for row in found.values()} == {2}
        values = pd.Series([done[number]["val/loss"] for number in (0, 2)])
        assert found["0.1"]["mean"] == pytest.approx(values.mean())
        assert found["0.1"]["std"] == pytest.approx(values.std())
        assert re.search(r"^ *optimizer.lr +mean val/loss +sd +n +behind the best", called.err, re.MULTILINE)
        best = min(("0.1", "0.01"), key=lambda lr: found[lr]["mean"])
        assert re.search(rf"^best +lr={best}, mean of 2 jobs: val/loss", called.err, re.MULTILINE)
        assert (sweep_folder(here) / "verdict.json").exists()
        (go_on,) = [line for line in called.err.splitlines() if line.startswith("go on ")]
        typed = shlex.split(go_on.partition("runner ")[2])
        assert typed[2:] == ["seed=0,1,2", "sweep.extend=true"], "three seeds are needed"
        more = runner(*typed, "sweep.dry_run=true")
        assert more.code == 0 and more.err.count("from the start") == 2, more.err

    def test_extended(self, runner: Runner, here: Path) -> None:
        assert runner("-m", *QUICK, "seed=1,2").code == 0
        folder = sweep_folder(here)
        before = {number: content(folder / str(number)) for number in (0, 1)}
        called = runner("-m", f"sweep.resume={folder}", "seed=2,3")
        assert called.code == 2 and called.about == [("seed", "conflict")]
        assert "1,2" in called.problems[0].text and "2,3" in called.problems[0].text
        assert called.problems[0].suggestion.startswith("leave it out ")
        assert "sweep.extend=true" in called.problems[0].suggestion
        assert runner("-m", f"sweep.resume={folder}", "seed=2,1").code == 0, "the same grid in another order"
        called = runner("-m", f"sweep.resume={folder}", "seed=1,2,3", "sweep.extend=true")
        assert called.code == 0 and ids(called) == [2]
        assert {number: content(folder / str(number)) for number in (0, 1)} == before
        assert [job["name"] for job in json.loads((folder / "sweep.json").read_text())["jobs"]][2] == "seed=3"
        assert runner("-m", f"sweep.resume={folder}").code == 0
        called = runner("-m", f"sweep.resume={folder}", "trainer.epochs=3")
        assert called.code == 2 and called.about == [("trainer.epochs", "conflict")]

    def test_a_job_s_number_can_be_referred_to(self, runner: Runner, here: Path) -> None:
        called = runner("-m", *QUICK, "optimizer.lr=0.1,0.01", "seed=${hydra:job.num}")
        assert called.code == 0, called.err
        configs = [(sweep_folder(here) / str(number) / "config.yaml").read_text() for number in (0, 1)]
        assert "\nseed: 0\n" in configs[0] and "\nseed: 1\n" in configs[1]

    def test_a_point_that_differs_in_what_was_fixed_is_told_apart(self, runner: Runner, here: Path) -> None:
        assert runner("-m", *QUICK, "seed=1,2", "hydra.sweep.dir=a dir").code == 0
        assert runner("-m", *FATED, "model.fate=fine,raises", "hydra.sweep.dir=b dir").code == 1
        assert "--multirun sweep.resume='b dir'\n" in runner("-m", "sweep.resume=b dir").err, "as a shell takes it"
        called = runner("-m", "sweep.resume=a dir", "trainer.epochs=1", "sweep.extend=true")
        assert called.code == 0 and sorted(ids(called)) == [2, 3], called.err
        rows = {row["job"]: row for row in table(here / "a dir")["jobs"]}
        assert [rows[n]["trainer.epochs"] for n in range(4)] == ["2", "2", "1", "1"]
        assert rows[2]["name"] == "seed=1 epochs=1"

    def test_a_resumed_sweep_goes_by_the_same_metric(self, runner: Runner, here: Path) -> None:
        assert runner("-m", *QUICK, "seed=1,2", "sweep.metric=test/accuracy", "sweep.jobs=1").code == 0
        folder = sweep_folder(here)
        (folder / "plots").mkdir(exist_ok=True)
        (folder / "plots" / "of-the-user.txt").touch()
        assert runner("-m", f"sweep.resume={folder}").code == 0
        assert table(folder)["metric"] == "test/accuracy"
        assert runner("-m", f"sweep.resume={folder}", "sweep.metric=val/loss").code == 0
        assert table(folder)["metric"] == "val/loss"

    @pytest.mark.parametrize("tracking", ["off", pytest.param("local", marks=pytest.mark.soak)])
    def test_only_the_best_have_plots_and_a_model_until_all_are_asked_for(
        self, tracking: str, runner: Runner, here: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(forkserver, "process", PROCESS)  # that draws
        rates = "optimizer.lr=0.001,0.1,0.003"
        best = ("sweep.jobs=1", "sweep.artifacts=best", "hydra.sweep.dir=s")
        called = runner("-m", *QUICK, f"tracking={tracking}", "trainer.epochs=1", rates, *best)
        folder = here / "s"

        def complete() -> list[int]:
            names = ("plots/loss.png", "model/MLmodel")[: 1 if tracking == "off" else 2]
            return [number for number in range(3) if all((folder / f"{number}/{name}").exists() for name in names)]

        assert called.code == 0 and complete() == [0, 1], "the first and the best: job 2 is between them"
        assert table(folder)["best"] == 1 and results(folder)[2]["artifacts"] == "none"
        assert "python -m runner resume=s/2" in (folder / "2/run.log").read_text()
        before = {number: result["test/loss"] for number, result in results(folder).items()}
        called = runner("-m", "sweep.resume=s", "sweep.artifacts=all")
        assert called.code == 0 and ids(called) == [2] and complete() == [0, 1, 2], called.err
        assert {number: result["test/loss"] for number, result in results(folder).items()} == before
        assert "artifacts" not in results(folder)[2]
        if tracking == "local":
            client, run_id = connect(local_uri(here / "outputs")), results(folder)[2]["run_id"]
            assert {"plots", "model"} <= {file.path for file in client.list_artifacts(run_id)}
            assert client.get_run(run_id).info.status == "FINISHED"

    def test_a_run_resumes_to_make_what_its_sweep_left_out(
        self, runner: Runner, here: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        assert runner(*QUICK, "hydra.run.dir=r").code == 0
        result = json.loads((here / "r/result.json").read_text())
        (here / "r/result.json").write_text(json.dumps(result | {"artifacts": "none"}))
        drawn: list[Path] = []
        monkeypatch.setattr("runner.runs.report.draw_plots", lambda *arguments: drawn.append(arguments[-1]))
        assert runner("resume=r").code == 0
        assert json.loads((here / "r/result.json").read_text()) == result
        assert len(drawn) == 1
        assert runner("resume=r").code == 0 and len(drawn) == 1, "nothing is left to do"

    def test_a_job_that_was_finished_by_itself_is_finished(self, runner: Runner, here: Path) -> None:
        assert runner("-m", *FATED, "model.fate=fine,late", "model.seconds=0.05", "trainer.epochs=6").code == 1
        folder = sweep_folder(here)
        assert outcomes(folder)[1]["status"] == "FAILED" and results(folder)[0]["status"] == "FINISHED"
        (folder / "0" / "job.json").write_text(json.dumps({"status": "KILLED", "why": "SIGTERM", "seconds": 1.0}))
        (here / "fixed").touch()
        (here / "fates.py").write_text((here / "fates.py").read_text().replace("> 1:", "> 1e9:"))
        called = runner("-m", f"sweep.resume={folder}", "sweep.jobs=1")
        assert called.code == 0 and ids(called) == [1], called.err

    @pytest.mark.parametrize("locked", ["at the end", "at the start"])
    def test_a_locked_folder_fails_only_its_job(
        self, runner: Runner, here: Path, locked: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        folder = here / "held"
        with contextlib.ExitStack() as holding:

            def hold(_: Path) -> None:
                (folder / "1").mkdir()
                if locked == "at the start":
                    holding.enter_context(lock(folder / "1"))
                else:
                    (folder / "1" / "config.yaml").mkdir()  # nothing can be written there

            when_made(monkeypatch, hold)
            called = runner("-m", *QUICK, "seed=1,2,3", f"hydra.sweep.dir={folder}")
        assert called.code == 1
        assert {row["job"]: row["status"] for row in table(folder)["jobs"]} == {
            0: "FINISHED",
            1: "FAILED",
            2: "FINISHED",
        }

    def test_a_sweep_whose_table_cannot_be_written_is_not_finished(
        self, runner: Runner, here: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        folder = here / "full"
        when_made(monkeypatch, lambda made: (made / "jobs.csv").mkdir())
        called = runner("-m", *QUICK, "seed=1,2", f"hydra.sweep.dir={folder}")
        assert called.code == 1 and {job["status"] for job in outcomes(folder).values()} == {"FINISHED"}
        assert "the table is not written: " in called.err and f"sweep.resume={folder.name}\n" in called.err
        (folder / "jobs.csv").rmdir()
        assert runner("-m", f"sweep.resume={folder}").code == 0
        assert len((folder / "jobs.csv").read_text().splitlines()) == 3

    @pytest.mark.usefixtures("delivery_here")
    def test_a_sweep_whose_end_cannot_be_recorded_is_not_finished(
        self, runner: Runner, here: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def full(folder: Path, *_: object) -> None:
            raise OSError(errno.ENOSPC, "No space left on device", str(folder / "metrics.jsonl"))

        quick = [argument for argument in QUICK if argument != "tracking=off"]
        with monkeypatch.context() as patch:
            patch.setattr("runner.sweeps.results.parent_run.log_best", full)
            called = runner("-m", *quick, "seed=1,2", "tracking.log_model=false")
        folder = sweep_folder(here)
        assert called.code == 1 and f"sweep.resume=outputs/sweeps/{folder.name}\n" in called.err
        assert f"error: the sweep's end is not recorded: {folder}/metrics.jsonl: No space left" in called.err
        assert runner("-m", f"sweep.resume={folder}").code == 0

    @pytest.mark.usefixtures("delivery_by_forks")
    def test_credentials_are_in_no_file_and_what_a_server_missed_it_gets_later(
        self, runner: Runner, here: Path, empty_store: Path
    ) -> None:
        quick = [argument for argument in QUICK if argument != "tracking=off"]
        away = (
            "tracking=server",
            "tracking.uri=http://ada:s3cret@127.0.0.1:9",
            "tracking.wait=1",
            "tracking.register=late",
        )
        called = runner("-m", *quick, *away, "seed=1,2")
        assert called.code == 0 and "s3cret" not in called.err, called.err
        assert f"python -m runner.sync run={shell_path(sweep_folder(here))}\n" in called.err
        assert "late: not decided yet: MLflow does not have all of the run" in called.err
        assert not any(b"s3cret" in path.read_bytes() for path in here.rglob("*") if path.is_file())
        folder = sweep_folder(here)
        called = runner("-m", f"sweep.resume={folder}")
        assert called.code == 0 and "2 of 2 jobs are finished already" in called.err
        assert "http://127.0.0.1:9, experiment runner" in called.err

        # Once there is a store, the sweep's own run lists the runs of its jobs too.
        uri = copy_store(empty_store, here / "later")
        assert sync.main([f"run={folder}", f"tracking.uri={uri}"]) == 0
        client = connect(uri)
        experiment = client.get_experiment_by_name("runner")
        runs = client.search_runs([experiment.experiment_id])
        (parent,) = [run for run in runs if "mlflow.parentRunId" not in run.data.tags]
        children = {run.info.run_id for run in runs} - {parent.info.run_id}
        assert len(children) == 2 and {run.info.status for run in runs} == {"FINISHED"}
        assert parent.data.tags["runner.best_run_id"] in children
        assert parent.data.tags["runner.best_run_id"] in parent.data.tags["mlflow.note.content"]
        assert {row["run_id"] for row in table(folder)["jobs"]} == children
        assert any(key.startswith("mlflow.sharedViewState.") for key in experiment.tags)
        (version,) = client.search_model_versions("name = 'late'")  # of the best job alone
        assert version.run_id == parent.data.tags["runner.best_run_id"]
        assert client.get_registered_model("late").aliases == {"champion": 1}

    @pytest.mark.usefixtures("delivery_here")
    @pytest.mark.parametrize("killed", [False, True])
    def test_a_store_that_comes_back_as_a_sweep_ends_gets_the_whole_table(
        self, killed: bool, runner: Runner, here: Path, empty_store: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def wait(self: DeliveryHere, folder: Path, is_new: bool = False) -> None:
            self._deliveries.setdefault(folder, Delivery(folder, self._uri))

        monkeypatch.setattr(DeliveryHere, "deliver", wait)  # all is delivered when it is closed
        if killed:
            monkeypatch.setattr("runner.sweeps.closing.report_late_ids", lambda *_: False)
        quick = [argument for argument in QUICK if argument != "tracking=off"]
        uri = copy_store(empty_store, here / "store")
        called = runner("-m", *quick, "seed=1,2", "tracking.log_model=false", f"tracking.uri={uri}")
        folder = sweep_folder(here)
        children = {DeliveryState.load(folder / str(number)).run_id for number in range(2)}
        assert called.code == 0 and None not in children
        if killed:
            assert {row["run_id"] for row in table(folder)["jobs"]} == {None}
            assert sync.main([]) == 0
        else:
            pages = [line.split()[0] for line in called.err.splitlines() if "/#/" in line]
            assert pages == ["charts", "compare"], "each is printed once, when all run ids are known"
        assert sync.main([]) == 0
        assert {row["run_id"] for row in table(folder)["jobs"]} == children
        client, parent = connect(uri), str(DeliveryState.load(folder).run_id)
        (here / "stored").mkdir()
        stored = Path(client.download_artifacts(parent, layout.JOBS_TABLE, str(here / "stored"))).read_text()
        tags = client.get_run(parent).data.tags
        assert all(f"{run_id}" in stored and f"{run_id}" in tags["mlflow.note.content"] for run_id in children)
        assert tags["runner.best_run_id"] in children and "compare" in tags["mlflow.note.content"]

    def test_a_job_with_workers(self, runner: Runner, here: Path) -> None:
        loaded = ("data.in_memory=false", "data.num_workers=0,2")
        called = runner("-m", *QUICK, *loaded)
        assert called.code == 0, called.err
        alone, helped = (results(sweep_folder(here))[number] for number in (0, 1))
        assert alone["val/loss"] == helped["val/loss"]
        forkserver.start([], exports_models=False)
        method = forkserver.call("multiprocessing:get_start_method")
        assert method == multiprocessing.get_start_method(), "workers start as in a single run, not cold"

    def test_a_check_that_is_killed_is_reported(self) -> None:
        forkserver.start([], exports_models=False)
        with pytest.raises(ConfigError) as raised:
            forkserver.call("signal:raise_signal", signal.SIGKILL)
        assert about(raised) == [("", "unavailable")] and "SIGKILL" in str(raised.value)

    def test_a_problem_keeps_its_key_and_topic_across_processes(self) -> None:
        forkserver.start([], exports_models=False)
        with pytest.raises(ConfigError) as raised:
            forkserver.call("runner.sweeps.plan.plan:load", Path("nowhere"))
        assert about(raised) == [("sweep.resume", "run")]

    def test_random(self, runner: Runner, here: Path) -> None:
        draw = ("hydra/sweeper=random", "hydra.sweeper.n_trials=3", "optimizer.lr=tag(log,interval(0.001,1))")
        assert runner("-m", *QUICK, *draw).code == 0
        rates = [json.loads(line) for line in [json.dumps(row) for row in table(sweep_folder(here))["jobs"]]]
        assert len({row["optimizer.lr"] for row in rates}) == 3
        folder = sweep_folder(here)
        more = runner("-m", f"sweep.resume={folder}", "hydra.sweeper.n_trials=5", "sweep.extend=true")
        assert more.code == 0 and sorted(ids(more)) == [3, 4]

    def test_problems_of_all_jobs_at_once_and_nothing_is_started(self, runner: Runner, here: Path) -> None:
        before = sorted(here.rglob("*"))
        called = runner("-m", "optimizer.lr=0.1,-1", "model=mlp,cnnn", "sweep.jobs=0", "trainer.epochs=x")
        assert called.code == 2 and len(called.errors) == 4, called.err
        assert {key for key, _ in called.about} == {"optimizer.lr", "model", "sweep.jobs", "trainer.epochs"}
        called = runner("-m", "optimizer.lr=0.1,-1", "model=mlp,cnnn", "model.hidden=[4],[0]")
        assert called.code == 2 and len(called.errors) == 3 and called.err.count("\n") == 3, called.err
        problems = {problem.key: problem for problem in called.problems}
        assert (problems["model"].topic, problems["model"].suggestion) == ("choice", "did you mean cnn?")
        assert problems["model"].text.startswith("jobs 2, 3, 6, 7 (model=cnnn): model=cnnn")
        assert problems["optimizer.lr"].topic == "range"
        assert problems["optimizer.lr"].text.startswith("jobs 4, 5, 6, 7 (lr=-1): optimizer.lr=-1")
        assert sorted(here.rglob("*")) == before

    @pytest.mark.parametrize(
        ("arguments", "problem", "suggestion"),
        [
            (["sweep.jobs=2"], ("sweep.jobs", "conflict"), "add --multirun"),
            (["hydra/launcher=slurm"], ("hydra/launcher", "conflict"), "add --multirun"),
            (
                ["-m", "hydra/sweeper=basic", "seed=1,2"],
                ("hydra/sweeper", "choice"),
                "grid, halving, optuna, random",
            ),
            (["-m", "hydra/launcher=basic", "seed=1,2"], ("hydra/launcher", "choice"), "local, stacked, ray, slurm"),
            (["-m", "hydra.sweep.subdir=x", "seed=1,2"], ("hydra.sweep.subdir", "conflict"), "leave it out"),
            (["-m", "sweep.resume=nowhere"], ("sweep.resume", "file"), "sweep.resume="),
            (["-m", "sweep.resume=my_conf"], ("sweep.resume", "run"), "sweep.resume="),
            (["-m", "sweep.resume=my_conf", "hydra.sweep.dir=x"], ("hydra.sweep.dir", "conflict"), "leave it out"),
            (["-m", "sweep.extend=true", "seed=1,2"], ("sweep.extend", "missing"), "write sweep.resume=<"),
            (["-m", "resume=x", "seed=1,2"], ("resume", "conflict"), "sweep.resume="),
            (
                ["-m", "trainer.monitor=val/loss,train/loss"],
                ("sweep.metric", "conflict"),
                "sweep.metric=train/loss",
            ),
        ],
    )
    def test_what_is_refused(
        self, runner: Runner, here: Path, arguments: list[str], problem: tuple[str, str], suggestion: str
    ) -> None:
        called = runner(*arguments)
        assert called.code == 2 and called.about == [problem] and len(called.errors) == 1, called.err
        assert suggestion in called.problems[0].suggestion
        assert not (here / "outputs").exists()


def test_the_process_of_the_sweep_needs_no_torch(here: Path) -> None:
    """Only its jobs and its check import torch: importing it again takes 1.5 s and half a gigabyte."""
    script = (
        "import sys\n"
        "from runner.cli import run_command\n"
        "if __name__ == '__main__':\n"
        "    code = run_command(sys.argv[1:])\n"
        "    print(code, [name for name in ('torch', 'mlflow', 'pandas', 'sklearn') if name in sys.modules])"
    )
    (here / "script.py").write_text(script)
    done = subprocess.run(
        [sys.executable, "script.py", "--multirun", "optimizer.lr=0.1,0.01", *QUICK, "runner.quiet=true"],
        cwd=here, stdout=subprocess.PIPE, text=True, check=True,
    )  # fmt: skip
    assert done.stdout == "0 []\n"


class TestCtrlC:
    def test_jobs_write_checkpoints_and_the_table_so_far_is_printed(self, tmp_path: Path) -> None:
        write_fates(tmp_path)
        sweep = Forked(tmp_path, "--multirun", *FATED, "seed=range(0,4)", "model.seconds=0.05", "trainer.epochs=12")
        wait_for(lambda: len(list(tmp_path.glob("outputs/sweeps/*/*/checkpoints/last.pt"))) == 2)
        asked = time.monotonic()
        sweep.send_signal(signal.SIGINT)
        code, printed = sweep.wait()
        assert code == 130 and time.monotonic() - asked < 10, printed
        folder = sweep_folder(tmp_path)
        assert [row["status"] for row in table(folder)["jobs"]] == ["KILLED", "KILLED", "NOT STARTED", "NOT STARTED"]
        assert f"resume     python -m runner --multirun sweep.resume=outputs/sweeps/{folder.name}" in printed
        assert "Traceback" not in printed
        wait_for(lambda: not processes_below(tmp_path), 5)
        epochs = {number: result["epochs"] for number, result in results(folder).items()}
        code, printed = Forked(tmp_path, "--multirun", f"sweep.resume={folder}").wait(120)
        assert code == 0, printed
        logs = [(folder / str(job) / "run.log").read_text() for job in epochs]
        assert all(f"resumed    at epoch {done + 1}" in log for log, done in zip(logs, epochs.values(), strict=True))

    def test_a_second_one_stops_at_once(self, tmp_path: Path) -> None:
        write_fates(tmp_path)
        sweep = Forked(tmp_path, "--multirun", *FATED, "seed=1,2", "sweep.jobs=1", "model.seconds=60")
        wait_for(lambda: list(tmp_path.glob("job-*.json")))
        sweep.send_signal(signal.SIGINT)
        time.sleep(0.5)
        sweep.send_signal(signal.SIGINT)
        code, printed = sweep.wait(8)
        assert code == 130 and "KILLED" in printed
        wait_for(lambda: not processes_below(tmp_path), 5)


def test_the_page_of_sweeps_says_how() -> None:
    assert "--multirun sweep.resume=" in (REPOSITORY / "src" / "runner" / "sweeps" / "README.md").read_text()
