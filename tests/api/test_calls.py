"""`run`, `sweep` and `load`: in a process of their own and in this one."""

import json
import os
import random
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from helpers.quick import without_plots_and_rehearsal
from runner import load, run
from runner.api import Interrupted, Run, RunFailed, Sweep
from runner.api.view import View
from runner.comparison.verdict import Outcome
from runner.errors import ConfigError
from runner.rundir import layout
from runner.saved.input_spec import read_input_spec

CELL = """
import os, time, torch
from torch import nn
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(64, 10)
    def forward(self, x):
        time.sleep(float(os.environ.get("SECONDS", 0)))
        return self.layer(x.flatten(1))
class Broken(Net):
    def forward(self, x):
        if self.training and torch.is_grad_enabled() and not x.is_meta and len(x) > 2:
            raise RuntimeError("it is broken")
        return super().forward(x)
"""
SMALL = {"data": {"limit": 60}, "scheduler": "constant", "tracking": "off", "device": {"threads": 1}}


@pytest.fixture
def cell(here: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, Any]]:
    """The names of a notebook's cell, and quick runs in this process."""
    without_plots_and_rehearsal(monkeypatch)
    there = sys.modules["__main__"].__dict__
    before = set(there)
    exec(CELL, there)
    yield there
    for name in set(there) - before:
        del there[name]


def state() -> tuple[Any, ...]:
    """What a call must not change in this process."""
    numpy_state: Any = np.random.get_state()
    return (
        random.getstate(),
        numpy_state[1].tolist(),
        torch.get_rng_state().tolist(),
        torch.get_num_threads(),
        [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)],
        sorted(thread.name for thread in threading.enumerate()),
        dict(os.environ),
        Path.cwd(),
    )


def deterministic(metrics: pd.DataFrame) -> pd.DataFrame:
    return metrics[[name for name in metrics if name.startswith(("train/", "val/", "test/", "lr"))]]


def test_an_interrupted_run_of_a_cell_resumes_bit_for_bit(
    cell: dict[str, Any], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    net = cell["Net"]()
    monkeypatch.setenv("SECONDS", "0.02")
    receive = View.receive

    def interrupt(self: View, message: dict[str, Any]) -> None:
        receive(self, message)
        if message["kind"] == "progress":
            os.kill(os.getpid(), signal.SIGINT)
            monkeypatch.setattr(View, "receive", receive)

    monkeypatch.setattr(View, "receive", interrupt)
    before = state()
    with pytest.raises(KeyboardInterrupt) as stop:
        run(SMALL, model=net, trainer={"epochs": 400})
    assert state() == before
    monkeypatch.setenv("SECONDS", "0")
    assert isinstance(stop.value, Interrupted) and isinstance(stop.value.run, Run)
    stopped = stop.value.run
    assert stopped.status == "KILLED" and str(stopped.folder) in str(stop.value)
    assert stopped.folder.name.endswith("_Net_digits") and "by SIGINT" in capfd.readouterr().err
    done = stopped.result["epochs"]
    assert done < 400, "it was stopped early"

    whole = run(SMALL, model=net, trainer={"epochs": done + 3}, in_process=True)
    for file in Path("outputs/objects").iterdir():
        file.unlink()  # the run's folder has its own
    resumed = load(stopped.folder).resume(trainer={"epochs": done + 3}, in_process=True)
    assert resumed.folder == stopped.folder and resumed.status == "FINISHED"
    pd.testing.assert_frame_equal(deterministic(resumed.metrics), deterministic(whole.metrics), check_exact=True)
    assert state()[:6] == before[:6]

    model = resumed.model
    assert isinstance(model, cell["Net"]) and not model.training
    inputs = torch.rand(3, 1, 8, 8)
    predicted = resumed.predict(inputs)
    normalized = read_input_spec(resumed.saved).normalize(inputs, torch.float32)
    assert predicted["class"].tolist() == model(normalized).argmax(1).tolist() and len(predicted.columns) == 11
    assert resumed.evaluate() == {name: resumed.result[name] for name in ("test/loss", "test/accuracy")}
    assert resumed.predict(inputs.numpy(), arrays=True)["probabilities"].shape == (3, 10)
    figure = resumed.curves()
    assert [axes.get_ylabel() for axes in figure.axes] == ["loss (mean over samples)", "accuracy (%)"]
    assert "test/accuracy" in resumed._repr_html_() and resumed.folder.name in resumed._repr_html_()


def test_a_wrong_config_is_an_exception_of_one_line_a_problem(here: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ConfigError) as error:
        run("model=cnnn", optimizer={"lr": -1}, in_process=True)
    assert [problem.topic for problem in error.value.problems] == ["choice", "range"]
    assert str(error.value).splitlines()[0] == "model=cnnn: unknown model; did you mean cnn?"
    assert error.value._render_traceback_() == [f"error: {line}" for line in str(error.value).splitlines()]
    assert capfd.readouterr().err == "" and list(here.iterdir()) == []


def test_a_failed_run_names_its_folder(cell: dict[str, Any]) -> None:
    with pytest.raises(RunFailed, match="it is broken") as error:
        run(SMALL, model=cell["Broken"], trainer={"epochs": 1}, in_process=True)
    assert error.value.run is not None and error.value.run.status == "FAILED"
    assert str(error.value.run.folder / "run.log") in str(error.value)


def job(folder: Path, place: int, lr: str, seed: int, value: float) -> dict[str, Any]:
    made = folder / str(place)
    made.mkdir()
    (made / layout.CONFIG).write_text(
        f"seed: {seed}\noptimizer: {{lr: {lr}}}\nmodel: {{}}\ntrainer: {{monitor: val/loss}}\n"
    )
    (made / layout.RESULT).write_text(json.dumps({"status": "FINISHED", "val/loss": value, "epochs": 1}))
    return {"job": place, "name": f"lr={lr} seed={seed}", "optimizer.lr": lr, "seed": str(seed), "status": "FINISHED",
            "val/loss": value, "folder": str(made)}  # fmt: skip


def test_a_sweep_has_a_table_a_best_run_and_a_verdict(here: Path) -> None:
    folder = here / "sweep"
    folder.mkdir()
    values = [("0.1", seed, 0.2 + 0.01 * seed) for seed in range(4)] + [
        ("0.01", seed, 0.9 - 0.01 * seed) for seed in range(4)
    ]
    jobs = [job(folder, place, *one) for place, one in enumerate(values)]
    (folder / layout.SWEEP_PLAN).write_text("{}")
    content = {"metric": "val/loss", "direction": "min", "best": 0, "jobs": jobs}
    (folder / layout.JOBS).write_text(json.dumps(content))
    found = load(folder)
    assert isinstance(found, Sweep) and found.status == "FINISHED" and found.best.folder == folder / "0"
    assert found.table["optimizer.lr"].tolist() == [0.1] * 4 + [0.01] * 4 and found.table.index.name == "job"
    verdict = found.verdict()
    assert "has the best mean val/loss of 2 configurations" in str(verdict)
    assert verdict.table["verdict"].tolist() == [Outcome.BEST, Outcome.WORSE] and verdict.table["low"][1] > 0
    assert "better than" in verdict._repr_html_() and "optimizer.lr" in found._repr_html_()
    with pytest.raises(ConfigError, match="the folder does not exist"):
        load("nowhere")


def test_importing_runner_loads_neither_torch_nor_the_api() -> None:
    code = "import runner, sys; assert not {'torch', 'runner.api', 'hydra'} & set(sys.modules); runner.run; " \
           "assert 'torch' not in sys.modules"  # fmt: skip
    subprocess.run([sys.executable, "-c", code], check=True)
