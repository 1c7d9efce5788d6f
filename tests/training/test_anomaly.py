import warnings
from collections.abc import Callable
from pathlib import Path

import pytest

from conftest import Called, run_folder
from runner.training.anomaly import detect_anomaly
from runner.training.progress import Progress

NET = """
import torch
class Net(torch.nn.Linear):
    def __init__(self, num_outputs):
        super().__init__(64, num_outputs)
    def forward(self, x):
        nothing = self.weight.sum() * 0
        return super().forward(x.flatten(1)) + torch.sqrt(nothing)
"""


def test_the_operation_and_its_line_are_named(
    runner: Callable[..., Called], here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (here / "not_a_number.py").write_text(NET)
    monkeypatch.syspath_prepend(str(here))
    custom = ("model=custom", "model._target_=not_a_number.Net", "tracking=off")
    (without,) = runner(*custom).errors
    assert "Backward" not in without
    called = runner(*custom, "debug=anomaly", f"hydra.run.dir={here}/watched")
    assert called.code == 1
    (error,) = called.errors
    assert "Function 'MulBackward0' returned nan values in its 0th output in epoch 1, step 1" in error
    assert error.endswith("not_a_number.py:7: nothing = self.weight.sum() * 0")
    assert "Traceback" not in called.err
    assert "Traceback of forward call" in (here / "watched" / "run.log").read_text()
    assert run_folder(here)


def test_other_errors_and_warnings_pass() -> None:
    with pytest.raises(RuntimeError, match="mine"), detect_anomaly(Progress()):
        raise RuntimeError("mine")
    with warnings.catch_warnings(record=True) as caught, detect_anomaly(Progress()):
        warnings.warn("hear me", stacklevel=1)
    assert [str(warning.message) for warning in caught] == ["hear me"]
