"""Twelve experiments of a user's own: each trains, is killed and resumed, evaluated, predicted from and swept.

One runs in the default suite, all of them in the soak.
"""

import csv
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from conftest import Called
from helpers.delivered import copy_store
from helpers.faults import die_at_step
from helpers.killed import assert_delivered, assert_ended_the_same, measured
from helpers.own import CASES, LINES, PAGE, Own, sources, write
from helpers.sweeping import Forked
from runner import predict
from runner.runs.evaluation import evaluate
from runner.saved.run import find
from runner.sync import main as sync

Runner = Callable[..., Called]

QUICK = ["device.threads=1", "trainer.epochs=6", "trainer.checkpoint_every_steps=2", "trainer.log_every_steps=1"]


def test_a_users_file_has_at_most_forty_lines() -> None:
    assert len(CASES) == 12
    assert {file for case in CASES.values() for file in case.files} <= set(sources())
    assert all(len(text.splitlines()) <= LINES for text in sources().values())


def test_the_page_shows_four_cases() -> None:
    text = PAGE.read_text(encoding="utf-8")
    assert sum(f"# {case.files[0]}\n" in text for case in CASES.values()) == 4


@pytest.mark.usefixtures("delivery_here")
@pytest.mark.parametrize(
    "name", [name if name == "contrastive" else pytest.param(name, marks=pytest.mark.soak) for name in CASES]
)
def test_an_experiment_of_ones_own(
    name: str, here: Path, runner: Runner, empty_store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    case = CASES[name]
    pytest.importorskip(case.needs)
    write(case, here)
    monkeypatch.syspath_prepend(here)
    uri = copy_store(empty_store, here / "outputs")
    whole = train(case, runner)
    folder = killed_and_resumed(case, here, runner, whole)
    assert sync([]) == 0
    assert_delivered(uri, folder)
    again = evaluate(find("whole"), "test").metrics
    assert again == {measure: result(whole)[measure] for measure in again} and case.metric in again
    swept(case, here, runner)
    if case.sample is not None:
        assert predict.main(["run=whole", f"input={case.sample(here)}", "output=new-out.csv"]) == 0
        lines = len((here / "new-out.csv").read_text().splitlines())
        assert lines >= (1 if "task=language_model" in case.typed else 2), "a text, or a header and samples"


def train(case: Own, runner: Runner) -> Path:
    """Train without interruption, outside of the store; better than chance."""
    called = runner(*case.typed, *QUICK, "tracking=off", "hydra.run.dir=whole")
    assert called.code == 0, called.err
    value = result(Path("whole"))[case.metric]
    assert value > case.bound if case.above else value < case.bound, value
    return Path("whole")


def killed_and_resumed(case: Own, here: Path, runner: Runner, whole: Path) -> Path:
    """Kill the same run in the middle of its third epoch, and resume it: bit for bit the whole one."""
    steps = result(whole)["steps"] // result(whole)["epochs"]
    assert steps > 2
    prepare = partial(die_at_step, 2 * steps + steps // 2 + 1)
    code, printed = Forked(here, *case.typed, *QUICK, "hydra.run.dir=killed", prepare=prepare).wait(120)
    assert code == -9, printed
    called = runner("resume=killed")
    assert called.code == 0, called.err
    assert_ended_the_same(here / "killed", here / whole)
    assert measured(here / "killed")
    return here / "killed"


def swept(case: Own, here: Path, runner: Runner) -> None:
    """Sweep over a learning rate."""
    called = runner("--multirun", *case.typed, case.axis, *QUICK, "tracking=off", "hydra.sweep.dir=sweep")
    assert called.code == 0, called.err
    jobs = list(csv.DictReader((here / "sweep" / "jobs.csv").open()))
    assert [job["status"] for job in jobs] == ["FINISHED", "FINISHED"]


def result(folder: Path) -> dict[str, float]:
    """Return the result of a run."""
    return json.loads((folder / "result.json").read_text())
