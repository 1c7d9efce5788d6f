"""Secrets: those of an address are in test_tracking.py and test_sweep.py, those of the environment here."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from conftest import Called
from runner.tracking.store import connect, local_uri

Runner = Callable[..., Called]


@pytest.mark.usefixtures("delivery_here")
def test_a_password_that_is_a_word_of_ours_breaks_nothing(
    here: Path, runner: Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in (("POSTGRES_PASSWORD", "mlflow"), ("DB_PASSWORD", "RUNNING"), ("API_TOKEN", "FINISHED")):
        monkeypatch.setenv(name, value)
    assert runner("data.limit=60", "trainer.epochs=1", "tracking.log_model=false", "hydra.run.dir=mine").code == 0
    called = runner("resume=mine", "trainer.epochs=2")
    assert called.code == 0, called.err
    result = json.loads((here / "mine" / "result.json").read_text())
    assert result["status"] == "FINISHED"
    assert connect(local_uri(here / "outputs")).get_run(result["run_id"]).info.status == "FINISHED"


SECRETIVE = """
import torch


class Net(torch.nn.Sequential):
    def __init__(self, input_shape, num_outputs, token, others):
        super().__init__(torch.nn.Flatten(), torch.nn.Linear(torch.Size(input_shape).numel(), num_outputs))
        self.token = token

    def forward(self, inputs):
        if self.training and self.token == "hf-9876543210" and inputs.device.type != "meta":
            raise ValueError("the hub refuses " + self.token)
        return super().forward(inputs)
"""


@pytest.mark.usefixtures("delivery_here")
def test_a_secret_of_the_environment_is_in_no_file_and_is_taken_from_there_again(
    here: Path, runner: Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    (here / "secretive.py").write_text(SECRETIVE)
    monkeypatch.syspath_prepend(str(here))
    monkeypatch.setenv("HUB_TOKEN", "hf-0123456789")
    monkeypatch.setenv("WHATEVER", "hf-0123456789-whatever")
    arguments = ("model=custom", "model._target_=secretive.Net", "tracking.log_model=false", "data.limit=60")
    for way, typed in (("referred", "${oc.env:HUB_TOKEN}"), ("typed", "hf-0123456789")):
        more = "+model.others=[${oc.env:WHATEVER}]"
        called = runner(*arguments, f"+model.token={typed}", more, "trainer.epochs=1", f"hydra.run.dir={way}")
        assert called.code == 0, called.err
        called = runner(f"resume={way}", "trainer.epochs=2")
        assert called.code == 0, called.err
        assert "token: ${oc.env:HUB_TOKEN}" in (here / way / "config.yaml").read_text()
        assert "- ${oc.env:WHATEVER}" in (here / way / "config.yaml").read_text()
    monkeypatch.setenv("HUB_TOKEN", "hf-9876543210")
    called = runner("resume=typed", "trainer.epochs=3", "runner.verbose=true")
    assert called.code == 1
    assert "the hub refuses ${oc.env:HUB_TOKEN}" in called.err
    for path in here.rglob("*"):
        held = path.read_bytes() if path.is_file() and path.name != "secretive.py" else b""
        assert b"hf-0123456789" not in held and b"hf-9876543210" not in held, path
