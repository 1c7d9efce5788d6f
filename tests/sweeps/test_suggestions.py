"""The suggestions for wrong sweeps: each is typed, and the sweep can then start."""

from collections.abc import Callable
from pathlib import Path

import pytest

from conftest import Called
from helpers.advice import follow
from helpers.sweeping import sweep_folder

Runner = Callable[..., Called]

QUICK = ("data.limit=60", "trainer.epochs=1", "model.hidden=[4]", "sweep.dry_run=true")
RANDOM = ("hydra/sweeper=random", "hydra.sweeper.n_trials=2")
OPTUNA = ("hydra/sweeper=optuna", "hydra.sweeper.n_trials=2")


@pytest.mark.parametrize(
    ("typed", "about", "then"),
    [
        (["optimizer.lr=interval(0.1,1)"], ("optimizer.lr", "conflict"), ["optimizer.lr=0.1,1.0"]),
        (["seed=range(5,0)"], ("seed", "range"), ["seed=range(0,5)"]),
        ([*RANDOM, "optimizer.lr=interval(1,0.1)"], ("optimizer.lr", "range"), ["optimizer.lr=interval(0.1,1.0)"]),
        (
            [*RANDOM, "optimizer.lr=tag(log,interval(0,1))"],
            ("optimizer.lr", "range"),
            ["optimizer.lr=interval(0.0,1.0)"],
        ),
        ([*RANDOM, "seed=1"], ("hydra/sweeper", "missing"), ["optimizer.lr=interval(0.001,0.1)"]),
        ([*OPTUNA, "seed=1"], ("hydra/sweeper", "missing"), ["optimizer.lr=tag(log,interval(1e-4,1e-1))"]),
        (
            ["hydra/sweeper=random", "hydra.sweeper.n_trials=0", "seed=1,2,3"],
            ("hydra.sweeper.n_trials", "range"),
            ["hydra.sweeper.n_trials=3"],
        ),
        (
            [*OPTUNA, "hydra.sweeper.storage_timeout=-1", "seed=1,2"],
            ("hydra.sweeper.storage_timeout", "range"),
            ["hydra.sweeper.storage_timeout=300"],
        ),
        (["tracking=off,local", "seed=1,2"], ("tracking", "conflict"), ["tracking=off"]),
        (
            ["sweep.metric=val/loss,test/loss", "seed=1,2"],
            ("sweep.metric", "conflict"),
            ["sweep.metric=val/loss"],
        ),
        (["sweep.metric=val/los", "seed=1,2"], ("sweep.metric", "unknown"), ["sweep.metric=val/loss"]),
        (
            ["sweep.metric=[val/loss,val/loss]", "seed=1,2"],
            ("sweep.metric", "range"),
            ["sweep.metric=val/loss"],
        ),
        (
            ["sweep.metric=[val/loss,val/accuracy]", "sweep.direction=min", "seed=1,2"],
            ("sweep.direction", "conflict"),
            ["sweep.direction=[min,max]"],
        ),
        (["trainer.monitor=val/loss,train/loss"], ("sweep.metric", "conflict"), ["sweep.metric=train/loss"]),
        (["hydra/launcher=basic", "seed=1,2"], ("hydra/launcher", "choice"), ["hydra/launcher=local"]),
    ],
)
@pytest.mark.usefixtures("here")
def test_a_wrong_sweep_starts_as_its_problem_suggests(
    runner: Runner, typed: list[str], about: tuple[str, str], then: list[str]
) -> None:
    wrong = runner("-m", *QUICK, *typed)
    assert wrong.code == 2 and wrong.about == [about], wrong.err
    words = follow(typed, wrong.problems)
    assert words is not None and set(then) <= set(words), words
    called = runner("-m", *QUICK, *words)
    assert called.code == 0, called.err


def test_a_resume_that_asks_for_other_jobs_starts_as_its_problem_suggests(runner: Runner, here: Path) -> None:
    assert runner("-m", *QUICK[:3], "tracking=off", "seed=1,2").code == 0
    resumed = ["sweep.dry_run=true", f"sweep.resume={sweep_folder(here)}"]
    for typed, about in (
        (["seed=2,3"], [("seed", "conflict")]),
        (["seed=2,3", "trainer.epochs=2"], [("seed", "conflict"), ("trainer.epochs", "conflict")]),
    ):
        wrong = runner("-m", *resumed, *typed)
        assert wrong.code == 2 and sorted(wrong.about) == about, wrong.err
        words = follow([*resumed, *typed], wrong.problems)
        assert words == resumed and runner("-m", *words).code == 0
        assert all("sweep.extend=true" in problem.suggestion for problem in wrong.problems)
    assert runner("-m", *resumed, "seed=2,3", "sweep.extend=true").code == 0
