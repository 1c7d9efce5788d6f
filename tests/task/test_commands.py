"""Tasks from the command line: what is recorded, and what is refused before anything starts."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from conftest import Called

Runner = Callable[..., Called]
USER = "helpers.tasks."
SCORED = ["task=custom", f"task._target_={USER}Scored"]


@pytest.mark.parametrize(
    ("typed", "key", "topic", "shown"),
    [
        (["task=custom"], "task._target_", "missing", ""),
        (["task=custom", f"task._target_={USER}NoTask"], "task._target_", "type", "runner.task.Task"),
        (["task=custom", f"task._target_={USER}Forgetful"], "task", "code", "returns nothing"),
        (["task=custom", f"task._target_={USER}Vector"], "task", "code", "(2,)"),
        (["task=custom", f"task._target_={USER}Failing"], "task", "shape", "tasks.py"),
        (["task=custom", f"task._target_={USER}Stepless"], "task", "shape", "step(self, model, batch)"),
        (["task=custom", f"task._target_={USER}Forgetful", "loss=mse"], "loss", "conflict", "loss=auto"),
        (
            ["task=custom", f"task._target_={USER}Scored", "loss.label_smoothing=0.3"],
            "loss.label_smoothing",
            "conflict",
            "0.3",
        ),
        (["task=custom", f"task._target_={USER}Forgetful", "task.width=3"], "task.width", "unknown", "width"),
        (["task=custom", f"task._target_={USER}Weighed", "+task.kind=shape"], "task", "code", "weight of shape (1,)"),
        (["task=custom", f"task._target_={USER}Weighed", "+task.kind=text"], "task", "code", "weight as a str"),
        (["task=custom", f"task._target_={USER}Weighed", "+task.kind=zero"], "task", "code", "weight 0 for 256"),
        (["task=custom", f"task._target_={USER}Weighed", "+task.kind=negative"], "task", "code", "weight -1"),
        (["task=custom", f"task._target_={USER}Detached"], "task", "code", "without a gradient"),
        (["task=custom", f"task._target_={USER}HalfMade"], "task", "code", "HalfMade does not call super().__init__()"),
        ([*SCORED, "+task.targets=y"], "task.targets", "unknown", "takes no targets; leave it out"),
        (["task.targets=y"], "task.targets", "conflict", "is a pair, whose parts have no names"),
        (["task=supervized"], "task", "choice", "supervised"),
        (["task.target=labels"], "task.target", "unknown", "targets"),
    ],
)
def test_what_does_not_fit_is_refused(runner: Runner, typed: list[str], key: str, topic: str, shown: str) -> None:
    called = runner(*typed)
    assert called.code == 2 and called.about == [(key, topic)]
    assert shown in str(called.problems[0])
    assert not Path("outputs").exists()


def test_what_a_step_measures_can_be_monitored(runner: Runner) -> None:
    typed = ["task=custom", f"task._target_={USER}Scored", "data.limit=200", "trainer.epochs=3", "tracking=off"]
    refused = runner(*typed, "trainer.monitor=val/scor")
    assert refused.about == [("trainer.monitor", "choice")] and "val/score" in refused.problems[0].suggestion
    called = runner(*typed, "trainer.monitor=val/score", "hydra.run.dir=run")
    assert called.code == 0, called.err
    result = json.loads(Path("run/result.json").read_text())
    points = [json.loads(line) for line in Path("run/metrics.jsonl").read_text().splitlines()]
    scores = {point["step"]: point["value"] for point in points if point["name"] == "val/score"}
    assert result["best_epoch"] == max(scores, key=scores.__getitem__), "its task says that higher is better"
    assert "score" in result["higher_is_better"]
    saved = torch.load("run/checkpoints/last.pt", weights_only=True)
    assert set(saved["task"]) == {"scale"} and saved["task"]["scale"] != 1


def test_flops_and_parameters_of_a_task_are_said(runner: Runner) -> None:
    typed = ["debug=fast", "task=custom", "tracking=off", "model.hidden=[]"]
    called = runner(*typed, f"task._target_={USER}Scored", "hydra.run.dir=run")
    assert "650 parameters, 1 more of the task, 1,280 FLOPs a sample in a step\n" in called.err
    result = json.loads(Path("run/result.json").read_text())
    assert (result["parameters"], result["task_parameters"], result["flops_per_sample"]) == (650, 1, 1280)
    called = runner("debug=fast", "tracking=off", "model.hidden=[]", "hydra.run.dir=plain")
    assert "650 parameters, 1,280 FLOPs a sample\n" in called.err
    assert "task_parameters" not in json.loads(Path("plain/result.json").read_text())


def test_a_run_of_ones_own_has_the_names_of_its_classes(runner: Runner) -> None:
    called = runner("debug=fast", "tracking=off", *SCORED, "model=custom", "model._target_=helpers.tasks.Shaped")
    assert called.code == 0, called.err
    (folder,) = Path("outputs/runs").iterdir()
    assert folder.name.endswith("_Shaped_digits")
