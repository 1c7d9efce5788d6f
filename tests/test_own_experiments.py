"""Twelve experiments of a user's own: each trains, is killed and resumed, evaluated, predicted from, swept, compared
and reproduced.

One runs in the default suite, all of them in the soak.
"""

import csv
import io
import json
import shutil
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
from runner import compare, predict, reproduce
from runner.runs.evaluation import evaluate
from runner.saved.run import find
from runner.sync import main as sync

Runner = Callable[..., Called]

QUICK = ["device.threads=1", "trainer.epochs=6", "trainer.checkpoint_every_steps=2", "trainer.log_every_steps=1"]
SHORT = ["device.threads=1", "trainer.epochs=2", "tracking.log_model=false"]


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


@pytest.mark.usefixtures("delivery_here")
@pytest.mark.parametrize(
    "name", [name if name == "contrastive" else pytest.param(name, marks=pytest.mark.soak) for name in CASES]
)
def test_it_is_compared_and_reproduced(
    name: str, here: Path, runner: Runner, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    case = CASES[name]
    pytest.importorskip(case.needs)
    write(case, here)
    monkeypatch.syspath_prepend(here)
    key, _, rates = case.axis.partition("=")
    for number, rate in enumerate(rates.split(",")):
        assert runner(*case.typed, *SHORT, f"{key}={rate}", f"hydra.run.dir={number}").code == 0
    capsys.readouterr()
    assert compare.main(["runs=[0,1]", "output=comparison"]) == 0
    printed = capsys.readouterr()
    table = list(csv.DictReader(io.StringIO(printed.out)))
    assert [row[key] for row in table] == rates.split(",") and len({row["number"] for row in table}) == 2
    assert [float(row[case.metric]) for row in table] == [result(Path(folder))[case.metric] for folder in "01"]
    assert all(row["status"] == "FINISHED" and row["speed_up"] for row in table), "the same data and task"
    marked = json.loads(Path("comparison/comparison.json").read_text())["best"][case.metric]
    values = [float(row[case.metric]) for row in table]
    best = max(values) if case.above else min(values)
    assert marked == ([] if values[0] == values[1] else [1 + values.index(best)])
    assert {"bars.png", "comparison.csv"} <= {path.name for path in Path("comparison").iterdir()}
    run_id = result(Path("0"))["run_id"]
    shutil.rmtree("0")
    assert reproduce.main([f"run={run_id}"]) == 0
    assert capsys.readouterr().err.splitlines()[-1].startswith("bit-identical: ")


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
