"""A command that builds a saved model from code that has changed since says so; the weights may still fit."""

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from conftest import Called
from runner import evaluate, export, predict

NET = """
from torch import nn

class Net(nn.Sequential):
    def __init__(self, input_shape, num_outputs, **_):
        super().__init__(nn.Flatten(), nn.Linear(64, 8), nn.Tanh(), nn.Linear(8, num_outputs))
"""


def test_changed_code_of_the_user_is_named(
    runner: Callable[..., Called], here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = here / "net_that_changes.py"
    file.write_text(NET)
    monkeypatch.syspath_prepend(here)
    model = ("model=custom", "model._target_=net_that_changes.Net", "data.limit=64", "tracking=off")
    assert runner(*model, "trainer.epochs=1", "scheduler=constant", f"hydra.run.dir={here}/run").code == 0
    capsys.readouterr()
    commands = {
        evaluate.main: [],
        predict.main: [f"input={[[[[0.5] * 8] * 8]]}"],
        export.main: [f"output={here}/model.pt2"],
    }
    for changed in (False, True):
        if changed:
            file.write_text(NET.replace("Tanh", "ReLU"))
        for command, options in commands.items():
            monkeypatch.delitem(sys.modules, "net_that_changes")  # another process imports it again
            assert command([f"run={here}/run", *options]) == 0
            shown = capsys.readouterr().err
            assert ("the code has changed: net_that_changes.py" in shown) is changed, shown
            assert ("the code of the model is the present one" in shown) is changed
    monkeypatch.delitem(sys.modules, "net_that_changes")
    resumed = runner(f"resume={here}/run", "trainer.epochs=2")
    assert resumed.code == 0 and "last bits" not in resumed.err
    assert "net_that_changes.py changed since the run was started" in resumed.err
