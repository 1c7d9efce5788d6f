"""The results of a sweep, read from its jobs' folders: outcomes, the table; and the slots."""

import itertools
import json
import math
import random
from pathlib import Path
from typing import Any

import psutil
import pytest
from omegaconf import OmegaConf

from helpers.problems import about
from runner.comparison.objectives import SHOWN, Objective, direction_of, objectives_of, pareto_front
from runner.comparison.overlapping import overlapping_interval
from runner.comparison.verdict_text import NONE_ON_FOLDS
from runner.config.settings import SweepSettings
from runner.errors import ConfigError
from runner.rundir.delivery_state import DeliveryState
from runner.rundir.looks import Look
from runner.rundir.manifest import Manifest
from runner.saved.sweep_folder import lacks_run_ids
from runner.sweeps.jobs import Job, JobInfo, JobOutcome
from runner.sweeps.launchers import local, slots
from runner.sweeps.launchers.slots import make_slots
from runner.sweeps.plan.plan import Plan
from runner.sweeps.report import _log_best, _why_no_verdict
from runner.sweeps.results import parent_run, table
from runner.sweeps.results.best import BestSoFar, is_best_so_far
from runner.sweeps.results.files import with_late_ids, write_table
from runner.sweeps.results.folds import best_members
from runner.sweeps.results.links import links
from runner.sweeps.results.note import note, record_results
from runner.sweeps.results.outcome import judge, last_lines, outcome_of
from runner.sweeps.results.parent_run import add_looks
from runner.sweeps.results.resume import ResumeAction, choose_action
from runner.sweeps.results.verdict import conclude_sweep

LOSS = [Objective("val/loss", "min")]


class TestObjectives:
    BOTH = (Objective("val/loss", "min"), Objective("val/accuracy", "max"))

    def test_the_front_is_what_nothing_beats_in_both(self) -> None:
        values = [(1.0, 0.9), (0.5, 0.5), (2.0, 0.95), (1.5, 0.9), (0.5, 0.4), (0.5, 0.5), (3.0, 0.1)]
        assert pareto_front(values, self.BOTH) == [0, 1, 2, 5]

    def test_of_one_it_is_the_best(self) -> None:
        assert pareto_front([(1.0,), (0.5,), (0.5,)], LOSS) == [1, 2]
        assert pareto_front([], LOSS) == []

    @pytest.mark.parametrize(
        ("metric", "direction", "found"),
        [
            (None, None, [("val/loss", "min")]),
            (["val/loss", "val/accuracy"], None, [("val/loss", "min"), ("val/accuracy", "max")]),
            ("val/hits", None, [("val/hits", "max")]),
            ("val/accuracy", "min", [("val/accuracy", "min")]),
            (["val/loss", "val/accuracy"], ["max", "min"], [("val/loss", "max"), ("val/accuracy", "min")]),
        ],
    )
    def test_what_is_asked_for(self, metric: Any, direction: Any, found: list[tuple[str, str]]) -> None:
        built = JobInfo("cpu", ["val/loss", "val/accuracy", "val/hits"], "val/loss", higher_is_better=["val/hits"])
        settings = SweepSettings(metric=metric, direction=direction)
        assert objectives_of(settings, [built]) == [Objective(*each) for each in found]

    def test_without_a_loss_what_a_step_logs_is_shown_and_ranks_nothing(self, tmp_path: Path) -> None:
        info = JobInfo("cpu", ["val/D", "val/off", "val/norm"], None, shown=["val/off", "val/norm"])
        objectives = objectives_of(SweepSettings(metric=None, direction=None), [info, info])
        assert objectives == [Objective("val/off", "none"), Objective("val/norm", "none")]
        assert objectives_of(SweepSettings(metric="val/D", direction=None), [info]) == [Objective("val/D", "min")]
        jobs = [
            make_job(tmp_path, number, {"lr": str(number)}, status="FINISHED", **{"val/off": 3.0 - number})
            for number in range(3)
        ]
        shown = table.read(jobs, tmp_path, objectives)
        assert [row.job.number for row in shown.rows] == [0, 1, 2] and shown.best is None and shown.front == []
        assert "val/off" in table.to_text(shown)[0] and "front" not in table.to_text(shown)[0]
        written = json.loads(table.to_json(shown))
        assert written["best"] is None and "front" not in written and written["direction"] == "none"

    @pytest.mark.parametrize(
        ("metric", "direction", "problems", "suggestion"),
        [
            (
                ["val/loss", "val/accuracyy"],
                None,
                [("sweep.metric", "unknown")],
                "did you mean sweep.metric=[val/loss,val/accuracy]?",
            ),
            ("val/los", None, [("sweep.metric", "unknown")], "did you mean sweep.metric=val/loss?"),
            ("f1", None, [("sweep.metric", "unknown")], "choose from val/accuracy, val/loss"),
            (["val/loss", "val/loss"], None, [("sweep.metric", "range")], "write sweep.metric=val/loss"),
            ("[val/loss,val/accuracy]", None, [("sweep.metric", "type")], "write sweep.metric=[val/loss,val/accuracy]"),
            (
                ["val/loss", "val/accuracy"],
                "min",
                [("sweep.direction", "conflict")],
                "write sweep.direction=[min,max]",
            ),
        ],
    )
    def test_what_is_refused(
        self, metric: Any, direction: Any, problems: list[tuple[str, str]], suggestion: str
    ) -> None:
        info = JobInfo("cpu", ["val/loss", "val/accuracy"], "val/loss")
        with pytest.raises(ConfigError) as raised:
            objectives_of(SweepSettings(metric=metric, direction=direction), [info])
        assert about(raised) == problems
        assert raised.value.problems[0].suggestion == suggestion

    @pytest.mark.parametrize(
        ("metric", "instead", "suggestion"),
        [
            ("energy/kwh", "open it", "open it; or write sweep.metric=val/loss"),
            (["energy/kwh", "val/accuracy"], "", "write sweep.metric=val/accuracy"),
        ],
    )
    def test_a_metric_that_the_machine_cannot_measure(self, metric: Any, instead: str, suggestion: str) -> None:
        cannot = {"energy/kwh": ("it is closed", instead)}
        measured, monitor = ["train/loss", "val/loss", "val/accuracy"], "val/loss"
        infos = [
            JobInfo("cpu", [*measured, "energy/kwh"], monitor),
            JobInfo("cuda", measured, monitor, unreadable=cannot),
        ]
        with pytest.raises(ConfigError) as raised:
            objectives_of(SweepSettings(metric=metric, direction=None), infos)
        assert about(raised) == [("sweep.metric", "unavailable")]
        assert raised.value.problems[0].text == "sweep.metric=energy/kwh cannot be measured: it is closed"
        assert raised.value.problems[0].suggestion == suggestion


def make_job(folder: Path, number: int, point: dict[str, str], **result: Any) -> Job:
    job = folder / str(number)
    job.mkdir()
    if result:
        (job / "config.yaml").touch()
        (job / "result.json").write_text(json.dumps(result))
    return Job(number, " ".join(f"{key}={value}" for key, value in point.items()), point, ())


class TestOutcome:
    @pytest.mark.parametrize(
        ("result", "log", "code", "ended_by", "fate"),
        [
            ({"status": "FINISHED"}, "", 0, "exit code 0", ("FINISHED", "")),
            ({"status": "FAILED", "error": "no"}, "error: other", 1, "exit code 1", ("FAILED", "no")),
            ({}, "a\nerror: gone\nb", 1, "exit code 1", ("FAILED", "gone")),
            ({}, "", 3, "exit code 3", ("FAILED", "ended without a result (exit code 3)")),
            ({}, "", 0, "exit code 0", ("FAILED", "ended without a result (exit code 0)")),
            ({"status": "KILLED"}, "", 143, "exit code 143", ("KILLED", "stopped by a signal")),
            ({"status": "KILLED"}, "error: now", 1, "exit code 1", ("FAILED", "now")),
            ({}, "", -9, "SIGKILL", ("KILLED", "SIGKILL, possibly by the kernel's out-of-memory killer")),
            ({}, "", -11, "SIGSEGV", ("KILLED", "SIGSEGV")),
            ({"status": "FINISHED"}, "", 255, "exit code 255", ("FINISHED", "")),
        ],
    )
    def test_how_a_job_ended(
        self, tmp_path: Path, result: dict[str, str], log: str, code: int, ended_by: str, fate: tuple[str, str]
    ) -> None:
        make_job(tmp_path, 0, {}, **result)
        (tmp_path / "0" / "run.log").write_text(log)
        judged = judge(tmp_path / "0", code, ended_by, 1.5)
        assert (judged.status, judged.reason, judged.seconds) == (*fate, 1.5)
        judged.save(tmp_path / "0", "lr=1")
        assert outcome_of(tmp_path / "0") == judged

    def test_the_last_lines_that_tell_something(self, tmp_path: Path) -> None:
        lines = ["2026-01-02 03:04:05,678 ERROR   error: x", "    ^^^^~~", "", "ValueError: y"]
        (tmp_path / "run.log").write_text("\n".join(["early"] * 9 + lines))
        assert last_lines(tmp_path) == ["early", "early", "error: x", "ValueError: y"]
        assert last_lines(tmp_path / "nowhere") == []


class TestResumeAction:
    def test_what_is_left_to_do(self, tmp_path: Path) -> None:
        make_job(tmp_path, 0, {}, status="FINISHED")
        make_job(tmp_path, 1, {}, status="FAILED")
        make_job(tmp_path, 2, {}, status="KILLED")
        make_job(tmp_path, 3, {}, status="KILLED")
        (tmp_path / "3" / "checkpoints").mkdir()
        (tmp_path / "3" / "checkpoints" / "last.pt").touch()
        make_job(tmp_path, 4, {})
        JobOutcome("FAILED", "never began", 0.1).save(tmp_path / "4", "x")
        make_job(tmp_path, 6, {}, status="FINISHED", artifacts="none")
        found = [choose_action(tmp_path / str(number), "best") for number in range(7)]
        assert found == [
            ResumeAction.SKIP,
            ResumeAction.RESTART,
            ResumeAction.START,
            ResumeAction.RESUME,
            ResumeAction.RESTART,
            ResumeAction.START,
            ResumeAction.SKIP,
        ]
        complete = [choose_action(tmp_path / str(number), "all") for number in range(7)]
        assert complete == [*found[:6], ResumeAction.RESUME]


class TestBestSoFar:
    """Which jobs have plots and a model with `sweep.artifacts=best`; test_sweep.py has a sweep."""

    @pytest.mark.parametrize("count", [1, 2])
    def test_the_best_in_the_end_are_among_them_in_any_order(self, count: int, tmp_path: Path) -> None:
        objectives = [Objective("val/loss", "min"), Objective("val/accuracy", "max")][:count]
        draws, left_out = random.Random(0), 0
        for _ in range(15):
            values = [tuple(draws.choice((0.1, 0.2, 0.3, 0.4)) for _ in objectives) for _ in range(6)]
            best, made, ending = BestSoFar(tmp_path, objectives, []), set[int](), list[int]()
            waiting = list(range(6))
            while waiting or ending:  # up to three at a time decide before the sweep learns of their ends
                if waiting and (not ending or (len(ending) < 3 and draws.random() < 0.5)):
                    job = waiting.pop(draws.randrange(len(waiting)))
                    metrics = {
                        objective.metric: value for objective, value in zip(objectives, values[job], strict=True)
                    }
                    made |= {job} if is_best_so_far(tmp_path, "", metrics) else set()
                    ending.append(job)
                else:
                    best.add("", values[ending.pop(draws.randrange(len(ending)))])
            assert set(pareto_front(values, objectives)) <= made
            left_out += 6 - len(made)
        assert left_out > 15

    def test_a_resumed_sweep_starts_with_the_finished_jobs(self, tmp_path: Path) -> None:
        BestSoFar(tmp_path, LOSS, [("", (0.3,)), ("", (0.2,)), ("", (0.4,))])
        assert is_best_so_far(tmp_path, "", {"val/loss": 0.2}) and not is_best_so_far(tmp_path, "", {"val/loss": 0.25})

    def test_jobs_are_compared_with_those_of_their_configuration(self, tmp_path: Path) -> None:
        best = BestSoFar(tmp_path, LOSS, [("lr=1", (0.1,))])
        assert is_best_so_far(tmp_path, "lr=2", {"val/loss": 0.3}) and not is_best_so_far(
            tmp_path, "lr=1", {"val/loss": 0.3}
        )
        best.add("lr=2", (0.2,))
        assert not is_best_so_far(tmp_path, "lr=2", {"val/loss": 0.3})

    def test_without_a_value_it_is_not_the_best(self, tmp_path: Path) -> None:
        BestSoFar(tmp_path, [Objective("val/loss", "min")], [])
        assert not is_best_so_far(tmp_path, "", {}) and not is_best_so_far(tmp_path, "", {"val/loss": math.nan})
        assert is_best_so_far(tmp_path, "", {"val/loss": 9.0})

    def test_where_nothing_ranks_the_jobs_all_are_made(self, tmp_path: Path) -> None:
        assert is_best_so_far(tmp_path, "", {"val/loss": 9.0}), "the sweep has no file"
        BestSoFar(tmp_path, [Objective("val/d", SHOWN), Objective("val/g", SHOWN)], [("", (0.1, 0.1))])
        assert is_best_so_far(tmp_path, "", {"val/d": 9.0, "val/g": 9.0}) and is_best_so_far(tmp_path, "", {})


class TestTable:
    def make(self, folder: Path, direction: str = "min") -> table.Table:
        values = {0: 0.3, 1: 0.1, 2: None, 3: 0.2, 4: 0.05}
        status = {0: "FINISHED", 1: "FINISHED", 2: "FINISHED", 3: "FINISHED", 4: "FAILED"}
        jobs = [
            make_job(folder, n, {"lr": str(n), "seed": "0"}, status=status[n], best_epoch=n, **{"val/loss": value})
            for n, value in values.items()
        ]
        jobs.append(make_job(folder, 5, {"lr": "5", "seed": "0"}))
        return table.read(jobs, folder, [Objective("val/loss", direction)])

    def test_the_best_first_and_those_without_a_value_last(self, tmp_path: Path) -> None:
        found = self.make(tmp_path)
        assert [row.job.number for row in found.rows] == [1, 3, 0, 4, 2, 5]
        assert found.best is not None and found.best.job.number == 1
        assert found.rows[-1].status == "NOT STARTED" and found.count("FINISHED") == 4

    def test_run_ids_that_come_after_the_table_is_written(self, tmp_path: Path) -> None:
        found = self.make(tmp_path)
        write_table(found, tmp_path)
        DeliveryState(run_id="f" * 32, experiment_id="7").save(tmp_path)
        Manifest(
            uri="sqlite:///x.db", experiment="e", run_name="n", artifact_root=None, params={}, tags={}, log_model=False
        ).save(tmp_path)
        assert with_late_ids(found) == found and not lacks_run_ids(tmp_path) and "compare" not in links(tmp_path)
        late = {row.job.number: f"{row.job.number}" * 32 for row in found.rows[:5]}
        for row in found.rows[:5]:
            DeliveryState(run_id=late[row.job.number]).save(row.folder)
        assert lacks_run_ids(tmp_path)
        write_table(with_late_ids(found), tmp_path)
        assert not lacks_run_ids(tmp_path)
        written = json.loads((tmp_path / "jobs.json").read_text())
        assert written["best"] == 1 and [row["job"] for row in written["jobs"]] == [1, 3, 0, 4, 2, 5]
        assert {row["job"]: row["run_id"] for row in written["jobs"]} == {**late, 5: None}
        csv = (tmp_path / "jobs.csv").read_text()
        assert all(run_id in csv and run_id in links(tmp_path)["compare"] for run_id in late.values())

    def test_the_other_way_round(self, tmp_path: Path) -> None:
        assert [row.job.number for row in self.make(tmp_path, "max").rows] == [0, 3, 1, 4, 2, 5]

    def test_the_direction_follows_from_the_metric(self) -> None:
        better = {m: direction_of(m) for m in ("val/loss", "val/accuracy", "throughput/samples_per_second")}
        assert list(better.values()) == ["min", "max", "max"]

    def test_seeds_are_gathered_with_a_sample_s_standard_deviation(self, tmp_path: Path) -> None:
        jobs = [
            make_job(tmp_path, n, {"lr": lr, "seed": str(n)}, status=status, **{"val/loss": value})
            for n, (lr, value, status) in enumerate(
                [
                    ("1", 1.0, "FINISHED"),
                    ("1", 3.0, "FINISHED"),
                    ("1", 9.0, "KILLED"),
                    ("2", 1.5, "FINISHED"),
                    ("3", None, "FAILED"),
                ]
            )
        ]
        found = table.read(jobs, tmp_path, LOSS).configurations
        assert [(c.point["lr"], c.mean, len(c.values)) for c in found] == [("2", 1.5, 1), ("1", 2.0, 2), ("3", None, 0)]
        assert found[0].std is None and found[1].std == pytest.approx(2**0.5)

    def of_seeds(self, folder: Path, by_jobs: bool = False, **losses: list[float | None]) -> table.Table:
        """Return the table of configurations by their losses, one for each seed; of None the job has failed."""
        jobs, number = [], 0
        for lr, of_lr in losses.items():
            for seed, value in enumerate(of_lr):
                result = {} if value is None else {"val/loss": value, "val/accuracy": value}
                status = "FAILED" if value is None else "FINISHED"
                jobs.append(make_job(folder, number, {"lr": lr, "seed": str(seed)}, status=status, **result))
                number += 1
        return table.read(jobs, folder, LOSS, by_jobs)

    def test_a_point_that_a_search_has_drawn_twice_counts_once(self, tmp_path: Path) -> None:
        losses = [("a", "0", 0.4), ("a", "1", 0.6), ("a", "0", 0.4), ("a", "1", 0.6), ("b", "0", 0.1), ("b", "1", 0.3)]
        jobs = [
            make_job(tmp_path, number, {"lr": lr, "seed": seed}, status="FINISHED", **{"val/loss": value})
            for number, (lr, seed, value) in enumerate(losses)
        ]
        found = table.read(jobs, tmp_path, LOSS)
        assert [(c.name, c.asked, c.is_complete) for c in found.configurations] == [
            ("lr=b", 2, True),
            ("lr=a", 2, True),
        ]
        assert found.best is not None and found.best.job.number == 4
        assert [row.job.number for row in found.configurations[1].rows] == [0, 1]

    def test_one_seed_of_each_needs_no_table_of_means(self, tmp_path: Path) -> None:
        assert table.configurations_to_text(self.of_seeds(tmp_path, a=[0.1], b=[0.2])) == []

    def test_the_best_is_a_configuration_by_its_mean(self, tmp_path: Path) -> None:
        found = self.of_seeds(tmp_path, a=[0.1, 0.9], b=[0.2, 0.4], c=[0.01, None])
        assert [(c.name, c.is_complete) for c in found.configurations] == [
            ("lr=b", True),
            ("lr=a", True),
            ("lr=c", False),
        ]
        assert found.best_configuration is not None and found.best_configuration.mean == pytest.approx(0.3)
        assert found.best is not None and found.best.job.number == 2, "the best job of the best configuration"
        assert [row.job.number for row in found.rows] == [4, 0, 2, 3, 1, 5], "jobs are in the order of their own values"
        written = json.loads(table.to_json(found))
        assert written["best"] == 2 and [each["ranked"] for each in written["configurations"]] == [True, True, False]
        assert any(line.rstrip().endswith("no: 2 are needed") for line in table.configurations_to_text(found))
        record = Manifest(
            uri="sqlite:///x.db", experiment="e", run_name="n", artifact_root=None, params={}, tags={}, log_model=False
        )
        record_results(record, found, tmp_path, ["lr", "seed"])
        assert (record.tags["runner.best_name"], record.tags["runner.best_job"]) == ("lr=b", "2")
        assert float(record.tags["runner.best_value"]) == pytest.approx(0.3)

    def test_folds_of_all_seeds_have_one_interval(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        points = [
            {"lr": lr, "seed": seed, "data.fold": fold} for lr, seed, fold in itertools.product("ab", "01", "012")
        ]
        values = [0.5, 0.6, 0.7, 0.9, 0.4, 0.6, 0.3, 0.2, 0.4, 0.2, 0.3, 0.3]
        jobs = [
            make_job(tmp_path, number, point, status="FINISHED", **{"val/loss": values[number]})
            for number, point in enumerate(points)
        ]
        found = table.read(jobs, tmp_path, LOSS)
        best = found.configurations[0]
        assert best.interval == pytest.approx(overlapping_interval(values[6:], 3)) and best.folds == 3
        assert [row.job.number for row in best_members(found)] == list(range(6, 12))
        head, first, _ = table.configurations_to_text(found)
        assert "95 % interval" in head and "0.2833" in first and "[" in first
        assert json.loads(table.to_json(found))["configurations"][0]["interval"] == pytest.approx(best.interval)
        with caplog.at_level("INFO", "runner"):
            _log_best(found)
        assert "lr=b, mean of 6 folds: val/loss 0.2833 [" in caplog.text and "job" not in caplog.text
        assert table.read(jobs[:11], tmp_path, LOSS).configurations[1].interval is None, "a fold is missing"
        assert _why_no_verdict(found) == [NONE_ON_FOLDS] and _why_no_verdict(table.read(jobs[6:], tmp_path, LOSS)) == []

    def test_a_sweep_of_version_0_1_0_keeps_its_ranking_by_jobs(self, tmp_path: Path) -> None:
        found = self.of_seeds(tmp_path, by_jobs=True, a=[0.1, 0.9], b=[0.2, 0.4])
        assert found.best is not None and found.best.job.number == 0 and found.best_configuration is None
        assert [c.name for c in found.configurations] == ["lr=b", "lr=a"], "shown as before"

    def test_of_two_objectives_the_front_is_that_of_the_means(self, tmp_path: Path) -> None:
        losses = self.of_seeds(tmp_path, a=[0.1, 0.9], b=[0.2, 0.4], c=[0.3, 0.5], d=[0.0, None])
        both = [Objective("val/loss", "min"), Objective("val/accuracy", "max")]
        found = table.read([row.job for row in losses.rows], tmp_path, both)
        assert [c.name for c in found.front_configurations] == ["lr=b", "lr=c", "lr=a"]
        assert {row.job.number for row in found.front} == {0, 1, 2, 3, 4, 5}

    def test_the_verdict_is_written_where_seeds_repeat_configurations(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("runner.comparison.results.are_comparable", lambda *_: True)  # these runs have no config
        found = self.of_seeds(tmp_path, a=[0.1, 0.2, 0.3], b=[0.5, 0.61, 0.7], c=[0.4, None, 0.4])
        verdict, files = conclude_sweep(found, tmp_path, None)
        assert verdict is not None and verdict.best is not None and verdict.best.name == "lr=a"
        assert files == ["verdict.csv", "verdict.json", "verdict.md"] and all(
            (tmp_path / name).exists() for name in files
        )
        assert [str(standing.outcome) for standing in verdict.standings] == ["best", "worse", "not ranked"]
        assert "Verdict on it" in note(found, tmp_path) and "- better than lr=b by 0.4" in note(found, tmp_path)
        write_table(found, tmp_path)
        monkeypatch.setattr(parent_run.plans, "load", lambda _: (Plan({}, [row.job for row in found.rows]), [], {}))
        assert not add_looks(tmp_path), "nothing was registered"
        Manifest("", "", "", tags=Look("m", "4", 5, 3, chosen=True).to_tags()).save(tmp_path / "0")
        assert add_looks(tmp_path) and not add_looks(tmp_path)
        (look,) = json.loads((tmp_path / "verdict.json").read_text())["test_looks"]
        assert (look["looks"], look["champions"]) == (5, 3)
        assert "m version 4: the 3rd champion chosen on this test set" in (tmp_path / "verdict.md").read_text()
        once = table.read([row.job for row in found.rows if row.job.point["seed"] == "0"], tmp_path, LOSS)
        assert conclude_sweep(once, tmp_path, None) == (None, []) and not once.is_repeated

    def test_what_halving_has_paused_is_not_judged(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("runner.comparison.results.are_comparable", lambda *_: True)  # these runs have no config
        ended = {"status": "FINISHED", "val/loss": 0.5}
        results = {
            ("a", "0"): ended,
            ("a", "1"): ended,
            ("b", "0"): {"status": "PAUSED", "val/loss": 0.1},
            ("b", "1"): {},
        }
        jobs = [
            make_job(tmp_path, number, {"lr": lr, "seed": seed}, **result)
            for number, ((lr, seed), result) in enumerate(results.items())
        ]
        verdict, _ = conclude_sweep(table.read(jobs, tmp_path, LOSS), tmp_path, None)
        assert verdict is not None and [str(each.outcome) for each in verdict.standings] == ["best", "paused"]

    def test_a_nan_is_no_value(self, tmp_path: Path) -> None:
        job = make_job(tmp_path, 0, {"lr": "1"}, status="FINISHED", **{"val/loss": float("nan")})
        assert table.read([job], tmp_path, LOSS).best is None


class TestSlots:
    @pytest.fixture(autouse=True)
    def machine(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(slots, "physical_cores", lambda: 8)
        monkeypatch.setattr(slots, "requested_threads", lambda: None)
        memory = psutil.virtual_memory()._replace(available=64 << 30)
        monkeypatch.setattr(slots.psutil, "virtual_memory", lambda: memory)

    @pytest.mark.parametrize(
        ("wanted", "jobs", "threads", "count", "share"),
        [
            ("auto", 100, "auto", 8, 1),
            ("auto", 3, "auto", 3, 2),
            ("auto", 100, 4, 2, 4),
            (2, 100, "auto", 2, 4),
            (16, 100, "auto", 16, 1),
            (1, 1, "auto", 1, 8),
        ],
    )
    def test_cores_are_divided(self, wanted: int | str, jobs: int, threads: int | str, count: int, share: int) -> None:
        divided = make_slots(wanted, jobs, [], 1, threads)
        assert len(divided) == count and {slot.threads for slot in divided} == {share}
        assert divided[0].environment() == {"OMP_NUM_THREADS": str(share)}

    def test_no_more_jobs_than_fit_into_memory(self, monkeypatch: pytest.MonkeyPatch) -> None:
        memory = psutil.virtual_memory()._replace(available=3 << 30)
        monkeypatch.setattr(slots.psutil, "virtual_memory", lambda: memory)
        assert len(make_slots("auto", 100, [], 1)) == 3

    def test_the_gpus_are_those_that_may_be_seen(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def config(index: int) -> Any:
            return OmegaConf.create({"device": {"index": index}})

        on_cpu, on_gpu = (JobInfo(device, [], "val/loss") for device in ("cpu", "cuda"))
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2, GPU-a")
        assert local.gpus_for({0: on_cpu}, {0: config(0)}) == []
        assert local.gpus_for({0: on_cpu, 1: on_gpu}, {0: config(0), 1: config(0)}) == ["2", "GPU-a"]
        with pytest.raises(ConfigError) as raised:
            local.gpus_for({0: on_gpu}, {0: config(1)})
        assert about(raised) == [("device.index", "conflict")]
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
        monkeypatch.setattr(
            local.forkserver, "call", lambda function: {"runner.sweeps.check.build_jobs:gpus": 3}[function]
        )
        assert local.visible_gpus() == ["0", "1", "2"]

    def test_a_gpu_a_slot(self) -> None:
        divided = make_slots("auto", 100, ["0", "GPU-a"], 2)
        assert [slot.gpu for slot in divided] == ["0", "GPU-a", "0", "GPU-a"] and divided[0].threads == 2
        assert divided[1].environment()["CUDA_VISIBLE_DEVICES"] == "GPU-a"
        with pytest.raises(ConfigError) as raised:
            make_slots(5, 100, ["0", "1"], 2)
        assert about(raised) == [("sweep.jobs", "unavailable")]
        assert raised.value.problems[0].suggestion == "write sweep.jobs=4, or sweep.jobs_per_gpu=3"

    @pytest.mark.parametrize(("jobs_per_gpu", "words"), [(1, "one GPU each"), (4, "4 to a GPU")])
    def test_how_the_gpus_are_shared_is_said(self, jobs_per_gpu: int, words: str) -> None:
        divided = make_slots("auto", 100, ["0", "1"], jobs_per_gpu, threads=1)
        assert local.Local().describe(divided) == f"{2 * jobs_per_gpu} jobs at a time, 1 thread each, {words}"
