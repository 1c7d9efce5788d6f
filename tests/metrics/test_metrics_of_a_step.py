"""The key `metrics` for a task that computes its own loss: its step returns outputs and targets."""

import json

import pytest

from helpers.composed import built
from helpers.problems import problem_of
from helpers.trained import result, train

pytest.importorskip("torchmetrics")

SMALL = ("debug=fast", "trainer.epochs=2")
USER = ("task=custom", "task._target_=helpers.tasks.Classified")
FULL = "{full:{_target_:torchmetrics.F1Score,task:multiclass,num_classes:10,average:macro}}"


@pytest.mark.usefixtures("here")
def test_names_and_classes_with_all_arguments_measure_as_with_a_loss_of_ours() -> None:
    expected = result(train("ours", "trainer.epochs=2", "metrics=[f1,auroc]"))
    for form in ("logits", "probabilities"):
        folder = train(form, "trainer.epochs=2", *USER, f"+task.form={form}", f"metrics=[f1,auroc,accuracy,{FULL}]")
        found = result(folder)
        assert found["test/f1"] == found["test/full"] == pytest.approx(expected["test/f1"])
        assert found["val/auroc"] == pytest.approx(expected["val/auroc"])
        assert found["test/accuracy"] == pytest.approx(expected["test/accuracy"])
        assert len(found["per_class"]["test/f1"]) == 10
    train("monitored", "trainer.epochs=2", *USER, "metrics=[accuracy]", "trainer.monitor=val/accuracy")
    assert "accuracy" in json.dumps(result(folder)["higher_is_better"])


@pytest.mark.parametrize(
    ("form", "metrics", "measured"),
    [
        ("classes", FULL, "full"),
        ("one", "{f1:{_target_:torchmetrics.F1Score,task:binary}}", "f1"),
        ("labels", "f1", "f1"),
        ("values", "mae", "mae"),
        ("values", "{distance:{_target_:torchmetrics.MeanSquaredError,squared:false}}", "distance"),
    ],
)
@pytest.mark.usefixtures("here")
def test_what_a_step_may_return(form: str, metrics: str, measured: str) -> None:
    found = result(train(form, "trainer.epochs=2", *USER, f"+task.form={form}", f"metrics=[{metrics}]"))
    assert found[f"test/{measured}"] >= 0


@pytest.mark.parametrize(
    ("form", "metrics", "topic", "instead"),
    [
        ("classes", "f1", "conflict", "return outputs (N, K) as floats"),
        ("classes", "{f1:{_target_:torchmetrics.F1Score,num_classes:10}}", "missing", "task:multiclass"),
        ("values", "f1", "conflict", "mae"),
        ("logits", "{f1:{_target_:torchmetrics.F1Score,task:multiclass,num_classes:3}}", "conflict", "num_classes"),
        ("logits", "f2", "unknown", "f1"),
    ],
)
@pytest.mark.usefixtures("here")
def test_what_does_not_fit_is_one_line(form: str, metrics: str, topic: str, instead: str) -> None:
    problem = problem_of(lambda: built(*SMALL, *USER, f"+task.form={form}", f"metrics=[{metrics}]"))
    assert (problem.key, problem.topic) == ("metrics", topic) and instead in problem.suggestion


@pytest.mark.usefixtures("here")
def test_the_advice_for_a_monitor_works() -> None:
    monitor = "trainer.monitor=val/accuracy"
    problem = problem_of(lambda: built(*SMALL, *USER, monitor))
    assert problem.suggestion == "add metrics=[accuracy]"
    built(*SMALL, *USER, monitor, "metrics=[accuracy]")
    contrastive = ("task=custom", "task._target_=helpers.tasks.Contrastive")
    problem = problem_of(lambda: built(*SMALL, *contrastive, monitor))
    assert "metrics" not in problem.suggestion and "val/loss" in problem.suggestion
    assert problem_of(lambda: built(*SMALL, *contrastive, "metrics=[f1]")).topic == "conflict"
