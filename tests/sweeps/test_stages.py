"""`sweep.seeds=auto`: which jobs run, and a sweep that stops, resumes and goes on."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from conftest import Called
from helpers.sweeping import results, sweep_folder, table
from runner.sweeps.jobs import Job
from runner.sweeps.plan.stages import SeedStages

Runner = Callable[..., Called]


def jobs(configurations: int, seeds: int) -> list[Job]:
    points = [{"lr": str(lr), "seed": str(seed)} for lr in range(configurations) for seed in range(seeds)]
    return [Job(number, f"job {number}", point, ()) for number, point in enumerate(points)]


class TestWhichJobsRun:
    def test_four_seeds_of_each_at_first(self) -> None:
        planned, stages = jobs(3, 10), SeedStages(10)
        asked = [job.number for job in stages.asked(planned, lambda job: None)]
        assert asked == [0, 1, 2, 3, 10, 11, 12, 13, 20, 21, 22, 23]
        assert stages.notes(planned, [], OmegaConf.create()) == ["12 jobs with the first 4 seeds; 30 at most, with 10"]

    def test_two_more_of_those_that_may_be_the_best(self) -> None:
        stages = SeedStages(10)
        noise = (0.0, 0.1, -0.1, 0.05)

        def gain(job: Job) -> float | None:
            lr, seed = int(job.point["lr"]), int(job.point["seed"])
            return None if seed > 3 else noise[(seed + lr) % 4] - 5.0 * (lr == 2)

        assert [job.number for job in stages.asked(jobs(3, 10), gain)] == [*range(6), *range(10, 16), 20, 21, 22, 23]

    def test_one_with_a_failed_seed_waits(self) -> None:
        stages = SeedStages(10)
        gains = {
            0: None,
            1: 1.0,
            2: 1.1,
            3: 0.9,
            10: 1.0,
            11: 1.1,
            12: 0.9,
            13: 1.05,
            20: 1.1,
            21: 1.0,
            22: 1.0,
            23: 0.9,
        }
        asked = [job.number for job in stages.asked(jobs(3, 10), lambda job: gains.get(job.number))]
        assert asked == [0, 1, 2, 3, *range(10, 16), *range(20, 26)]


AUTO = ("sweep.seeds=auto", "tracking=off", "data.limit=200", "model.hidden=[8]", "trainer.epochs=2")


def test_a_sweep_spends_no_seed_on_what_is_surely_not_the_best(runner: Runner, here: Path) -> None:
    called = runner("-m", "optimizer.lr=0.3,1e-6", *AUTO, "sweep.max_seeds=5")
    assert called.code == 0, called.err
    folder = sweep_folder(here)
    assert len(results(folder)) == len(table(folder)["jobs"]) == 8, "of 10 jobs"
    verdict = json.loads((folder / "verdict.json").read_text())
    assert verdict["max_seeds"] == 5
    assert [each["verdict"] for each in verdict["configurations"]] == ["best", "not the best"]
    again = runner("-m", f"sweep.resume={folder}")
    assert again.code == 0 and len(results(folder)) == 8
    more = runner("-m", f"sweep.resume={folder}", "sweep.max_seeds=6")
    assert more.about == [("seed", "conflict")]
    fewer = runner("-m", f"sweep.resume={folder}", "sweep.seeds=2", "sweep.extend=true")
    assert fewer.about == [("sweep.extend", "conflict")] and len(results(folder)) == 8, "not the jobs left out"
    assert runner("-m", f"sweep.resume={folder}", "sweep.max_seeds=6", "sweep.extend=true").code == 0
    assert json.loads((folder / "verdict.json").read_text())["max_seeds"] == 6


@pytest.mark.parametrize(
    ("typed", "key", "topic"),
    [
        ("hydra/sweeper=optuna", "sweep.seeds", "conflict"),
        ("sweep.metric=[val/loss,val/accuracy]", "sweep.metric", "conflict"),
        ("seed=1,2", "sweep.seeds", "conflict"),
        ("data.folds=3", "sweep.seeds", "conflict"),
        ("sweep.max_seeds=3", "sweep.max_seeds", "range"),
        ("sweep.seeds=automatic", "sweep.seeds", "type"),
    ],
)
def test_what_it_does_not_go_with(runner: Runner, here: Path, typed: str, key: str, topic: str) -> None:
    called = runner("-m", "optimizer.lr=0.1,0.01", "sweep.seeds=auto", typed)
    assert called.code == 2 and called.about == [(key, topic)]


@pytest.mark.parametrize("key", ["sweep.max_seeds", "sweep.smallest_difference"])
def test_what_has_no_effect_without_seeds(runner: Runner, here: Path, key: str) -> None:
    called = runner("-m", "optimizer.lr=0.1,0.01", f"{key}=5")
    assert called.code == 2 and called.about == [(key, "conflict")]
    seeds = "seed=0,1" if key == "sweep.smallest_difference" else "sweep.seeds=auto"
    assert runner("-m", "optimizer.lr=0.1,0.01", f"{key}=5", seeds, "sweep.dry_run=true").code == 0
