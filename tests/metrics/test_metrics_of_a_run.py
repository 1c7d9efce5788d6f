"""The key `metrics` from the command to the result: what is measured, recorded, monitored and resumed."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from helpers.composed import built
from helpers.problems import problem_of, problems_of
from helpers.trained import result, table, train
from helpers.training import Log, Silent, Stop, exact_state, same
from runner.evaluate import main as evaluate
from runner.rundir.checkpoint import Checkpoints
from runner.rundir.checkpoint_file import load
from runner.training.loop import fit
from runner.training.saving import restore
from runner.training.state import Interrupted, Training, make_training

pytest.importorskip("torchmetrics")

SMALL = ("debug=fast", "model.hidden=[8]", "trainer.epochs=2")
METRICS = "metrics=[f1,auroc,calibration_error,{f1_micro:{_target_:torchmetrics.F1Score,average:micro}}]"

MODULE = """
import torch

def cost(probabilities, targets, price=1.0):
    assert probabilities.dtype == torch.float64 and len(probabilities) == len(targets)
    return price * (probabilities.argmax(1) != targets).double().mean()

cost.higher_is_better = False

def confused(probabilities, targets):
    return probabilities

def fails(probabilities, targets):
    raise ValueError("no")

class Pairs:
    pass
"""


@pytest.fixture(autouse=True)
def module(here: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    (here / "own_metrics.py").write_text(MODULE)
    monkeypatch.syspath_prepend(str(here))


def test_a_run_measures_records_and_evaluates(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cost = "{cost:{_target_:own_metrics.cost,price:2}}"
    folder = train("run", METRICS.replace("]", f",{cost}]"), "trainer.monitor=val/f1")
    found = result(folder)
    for part in ("val", "test"):
        assert {f"{part}/{name}" for name in ("f1", "auroc", "calibration_error", "f1_micro", "cost")} <= found.keys()
    assert "train/f1" in found and "train/auroc" not in found and "train/cost" not in found
    assert {"f1", "auroc", "f1_micro", "accuracy"} == set(found["higher_is_better"])
    assert found["test/f1_micro"] == pytest.approx(found["test/accuracy"])
    assert found["test/cost"] == pytest.approx(2 - 2 * found["test/accuracy"])
    by_class = found["per_class"]["test/f1"]
    assert list(by_class) == [str(number) for number in range(10)]
    assert found["test/f1"] == pytest.approx(sum(by_class.values()) / 10)
    drawn = {file.name for file in (folder / "plots").glob("*_by_class.png")}
    assert drawn == {"f1_by_class.png", "auroc_by_class.png"}
    assert found["metric_arguments"]["f1"] == {"class": "MulticlassF1Score", "average": "macro", "num_classes": 10}
    journal = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    best = max((point for point in journal if point["name"] == "val/f1"), key=lambda point: point["value"])
    assert found["best_epoch"] == best["step"] and found["val/f1"] == best["value"]
    assert evaluate([f"run={folder}"]) == 0
    assert "the same, bit for bit" in capsys.readouterr().err


def make(folder: Path, *overrides: str, stop: Stop | None = None) -> Training:
    experiment = built(*SMALL, *overrides)
    checkpoints = Checkpoints(folder / "checkpoints")
    return make_training(experiment, checkpoints, Log(), Silent(), stop or Stop())


@pytest.mark.usefixtures("here")
def test_a_run_resumed_in_mid_epoch_has_the_same_metrics(tmp_path: Path) -> None:
    overrides = (METRICS, "loss.class_weight=balanced", "data.batch_size=16")
    whole = make(tmp_path / "whole", *overrides)
    fit(whole)
    stopped = make(tmp_path / "stopped", *overrides, stop=Stop(9))
    with pytest.raises(Interrupted):
        fit(stopped)
    saved = stopped.checkpoints.load_last()
    assert saved["progress"]["batch"] and set(saved["progress"]["more_sums"]["metrics"]) == {"f1", "f1_micro"}
    resumed = make(tmp_path / "stopped", *overrides)
    restore(resumed, saved)
    fit(resumed)
    logs = [state.log.exact() for state in (whole, stopped, resumed) if isinstance(state.log, Log)]
    assert logs[0] == logs[1] | logs[2] and ("train/f1", 2) in logs[0] and ("val/auroc", 2) in logs[0]
    states = (exact_state(load(state.checkpoints.last)) for state in (whole, resumed))
    assert same(*states)


@pytest.mark.usefixtures("here")
def test_without_metrics_checkpoint_and_record_are_as_before(tmp_path: Path) -> None:
    state = make(tmp_path)
    assert state.task.extra is None and state.sums.state()[1] == {}


@pytest.mark.parametrize(
    ("metrics", "topic", "instead"),
    [
        ("f1", "type", "metrics=[f1]"),
        ("[f2]", "unknown", "f1"),
        ("[F1Skore]", "unknown", "f1"),
        ("[f1,f1]", "conflict", "f1_2"),
        ("[mae]", "conflict", "f1"),
        ("[MeanAbsoluteError]", "conflict", "f1"),
        ("[{f1:{averag:macro}}]", "unknown", "average"),
        ("[{f1:{num_classes:3}}]", "conflict", "num_classes"),
        ("[{f1:{average:none}}]", "conflict", "macro"),
        ("[{f1:{average:sum}}]", "range", "arguments"),
        ("[{accuracy:{average:macro}}]", "conflict", "accuracy_2"),
        ("[ConfusionMatrix]", "type", "number"),
        ("[{f1:3}]", "type", "average"),
        ("[3]", "type", "f1"),
        ("[loss]", "conflict", "loss_2"),
        ("[own_metrics.nothing]", "unknown", ""),
        ("[no_such.thing]", "code", "function"),
        ("[own_metrics.confused]", "code", "number"),
        ("[own_metrics.fails]", "code", "arguments"),
    ],
)
@pytest.mark.usefixtures("here")
def test_a_metric_that_does_not_fit_is_one_line_before_the_start(metrics: str, topic: str, instead: str) -> None:
    problem = problem_of(lambda: built(*SMALL, f"metrics={metrics}"))
    assert (problem.key, problem.topic) == ("metrics", topic)
    assert instead in problem.suggestion


def test_of_two_classes_there_is_no_average(here: Path) -> None:
    table = ("data=tensors", "data.inputs=[[0],[1],[2],[3],[4],[5]]", "data.targets=[0,1,0,1,0,1]")
    problem = problem_of(lambda: built(*table, "metrics=[{f1:{average:macr}}]"))
    assert problem.text == "metrics: f1 takes no average" and problem.suggestion == "leave it out for two classes"


def test_a_metric_of_classes_is_none_of_a_regression(here: Path) -> None:
    table(here / "prices.csv", "price")
    regression = ("data=csv", "data.path=prices.csv", "data.target=price", "trainer.epochs=1")
    (problem,) = problems_of(lambda: built(*regression, "metrics=[auroc]"))
    assert (problem.key, problem.topic) == ("metrics", "conflict") and "spearman" in problem.suggestion
    experiment = built(*regression, "metrics=[mae,spearman,mape]")
    assert experiment.task.extra is not None and experiment.task.extra.names == ["spearman", "mape"]
    assert experiment.target_scale is not None  # metrics are in the units of the data all the same
    found = result(train("values", *regression, "metrics=[{mae_2:{_target_:torchmetrics.MeanAbsoluteError}}]"))
    assert found["test/mae_2"] == pytest.approx(found["test/mae"], rel=1e-5)


@pytest.mark.usefixtures("here")
def test_what_can_be_monitored() -> None:
    problem = problem_of(lambda: built(*SMALL, "trainer.monitor=val/f1"))
    assert (problem.key, problem.suggestion) == ("trainer.monitor", "add metrics=[f1]")
    problem = problem_of(lambda: built(*SMALL, "metrics=[f1]", "trainer.monitor=val/f2"))
    assert problem.suggestion == "did you mean val/f1?"
    problem = problem_of(lambda: built(*SMALL, "metrics=[auroc]", "trainer.monitor=train/auroc"))
    assert problem.suggestion == "write trainer.monitor=val/auroc"
    for name, rises in (("calibration_error", False), ("auroc", True), ("specificity", True)):
        experiment = built(*SMALL, f"metrics=[{name}]", f"trainer.monitor=val/{name}")
        state = make_training(experiment, Checkpoints(Path("c")), Log(), Silent(), Stop())
        assert state.monitor.higher_is_better is rises
    pages = "metrics=[{EER:{average:macro}}]"
    problem = problem_of(lambda: built(*SMALL, pages, "trainer.monitor=val/eer"))
    assert (problem.key, problem.topic) == ("trainer.monitor", "missing")
    built(*SMALL, "metrics=[{EER:{average:macro,higher_is_better:false}}]", "trainer.monitor=val/eer")


@pytest.mark.usefixtures("here")
def test_a_missing_library_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    import importlib

    found = importlib.import_module

    def without(name: str, *arguments: Any) -> Any:
        if name == "torchmetrics":
            raise ImportError(name)
        return found(name, *arguments)

    monkeypatch.setattr("runner.metrics.make.importlib.import_module", without)
    problem = problem_of(lambda: built(*SMALL, "metrics=[f1]"))
    assert (problem.key, problem.topic) == ("metrics", "unavailable")
    assert problem.suggestion == 'install it: pip install "runner-torch[metrics]"'
    built(*SMALL, "metrics=[own_metrics.cost]")


def test_a_function_of_a_custom_task_gets_what_its_step_returns() -> None:
    from runner.metrics import make_metrics, meaning_of, read_entries

    made = make_metrics(read_entries(["own_metrics.cost"]), meaning_of(None, None, None))
    assert made is not None
    running = made.start(torch.device("cpu"), training=False)
    running.update(torch.eye(3).double(), torch.tensor([0, 1, 1]))
    running.update(torch.eye(3).double(), torch.tensor([0, 1, 2]))
    assert running.compute() == {"cost": pytest.approx(1 / 6)}
