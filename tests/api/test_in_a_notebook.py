"""A notebook, executed by nbclient in a kernel: it runs, interrupts, resumes, sweeps, judges and predicts."""

import asyncio
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from runner import load, run, sweep
from runner.api import Interrupted, Sweep
from runner.api.view import View

nbclient = pytest.importorskip("nbclient")
nbformat = pytest.importorskip("nbformat")
pytest.importorskip("ipykernel")

BEGIN = """
import json, logging, os, random, signal, threading
import numpy as np
import torch
from torch import nn
from runner import run, sweep, load

OF_KERNEL = "zmq", "ipy"  # it starts threads of its own when it sends a picture

def state():
    return [
        random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist(), torch.get_num_threads(),
        sorted(t.name for t in threading.enumerate() if type(t).__module__[:3] not in OF_KERNEL),
        str(logging.getLogger("runner").handlers), os.getcwd(), dict(os.environ),
    ]

"""

CLASS = """
class Net(nn.Module):
    def __init__(self, input_shape, num_outputs, width=16):
        super().__init__()
        self.first, self.last = nn.Linear(64, width), nn.Linear(width, num_outputs)

    def forward(self, x):
        return self.last(self.first(x.flatten(1)).relu())
"""

SEEDED = """
net, linear = Net((64,), 10), nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
random.seed(1); np.random.seed(2); torch.manual_seed(3)
before = state()
"""

CELLS = [
    BEGIN + CLASS,
    SEEDED,
    "same = run('data=digits', trainer={'epochs': 2})\nsame",
    "mine = run(model=Net, scheduler='constant', trainer={'epochs': 3}, **{'model.width': 8})\nmine",
    "stopped = None\ntry:\n    run(model=net, scheduler='constant', trainer={'epochs': 100000})\n"
    "except KeyboardInterrupt as stop:\n    stopped = stop.run\n",
    "assert stopped.status == 'KILLED', stopped\ndone = stopped.result['epochs']\n"
    "resumed = stopped.resume(trainer={'epochs': done + 2})\nresumed",
    "whole = run(model=net, scheduler='constant', trainer={'epochs': done + 2})",
    "found = sweep('sweep.seeds=3', model=[Net, linear], data={'limit': 100}, trainer={'epochs': 2})\nfound",
    "found.verdict()",
    "answers = load(resumed.folder).predict(np.full((2, 1, 8, 8), 0.5, dtype='float32'))\nanswers",
    "resumed.curves()",
    "resumed.evaluate(), resumed.export()",
    "run(model='cnnn')",
    "exact = lambda run: run.metrics.filter(regex='^(train|val|test|lr)').dropna(how='all').to_dict()\n"
    "json.dump({'changed': [(a, b) for a, b in zip(before, state()) if a != b],\n"
    "    'same': str(same.folder), 'mine': mine.status, 'resumed': str(exact(resumed)), 'whole': str(exact(whole)),\n"
    "    'best': found.best.status, 'jobs': len(found.table), 'answers': answers.shape,\n"
    "    'model': isinstance(resumed.model, Net)}, open('report.json', 'w'))",
]
INTERRUPTED = 4


def execute(folder: Path) -> Any:
    """Execute the notebook in a folder, with an interrupt of its kernel once the run of that cell trains."""
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in CELLS])
    notebook.cells[-2]["metadata"]["tags"] = ["raises-exception"]
    client = nbclient.NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(folder)}})

    def interrupt() -> None:
        known = set(folder.glob("outputs/runs/*"))
        while not any((run / "metrics.jsonl").exists() for run in set(folder.glob("outputs/runs/*")) - known):
            time.sleep(0.05)
        time.sleep(1)
        asyncio.run(client.km.interrupt_kernel())

    def begin(cell: Any, cell_index: int, **_: Any) -> None:
        if cell_index == INTERRUPTED:
            threading.Thread(target=interrupt, daemon=True).start()

    client.on_cell_execute = begin
    client.execute()
    return notebook


def shown(cell: Any, kind: str) -> str:
    return "".join(str(output["data"].get(kind, "")) for output in cell["outputs"] if "data" in output)


@pytest.mark.soak
def test_a_notebook_runs_interrupts_resumes_sweeps_judges_and_predicts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RUNNER_OUTPUTS", raising=False)
    notebook = execute(tmp_path)
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["changed"] == []
    assert report["mine"] == report["best"] == "FINISHED" and report["jobs"] == 6 and report["answers"] == [2, 11]
    assert report["resumed"] == report["whole"] and report["model"] is True

    command = [sys.executable, "-m", "runner", "data=digits", "trainer.epochs=2", "hydra.run.dir=typed"]
    subprocess.run(command, cwd=tmp_path, env=os.environ, check=True, capture_output=True)
    assert exact(tmp_path / "typed") == exact(Path(report["same"]))

    by_source = {cell["source"]: cell for cell in notebook.cells}
    assert "test/accuracy" in shown(by_source[CELLS[2]], "text/html")
    assert "FINISHED" in shown(by_source[CELLS[7]], "text/html")
    assert "best mean val/loss" in shown(by_source[CELLS[8]], "text/html")
    assert shown(by_source[CELLS[10]], "image/png")
    (wrong,) = [output for output in by_source[CELLS[12]]["outputs"] if output["output_type"] == "error"]
    assert wrong["traceback"] == ["error: model=cnnn: unknown model; did you mean cnn?"]


def exact(folder: Path) -> list[tuple[str, float, int]]:
    """The points of a run that its command determines bit for bit."""
    lines = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    timed = ("time/", "throughput/", "system/", "energy/")
    return sorted((p["name"], p["value"], p["step"]) for p in lines if not p["name"].startswith(timed))


OF_A_SCRIPT = f"""
from torch import nn
from runner import load, run, sweep
{CLASS}
small = {{"data": {{"limit": 100}}, "trainer": {{"epochs": 2}}}}
done = run("runner.quiet=true", "tracking.log_checkpoints=true", small, model=Net)
print(done.run_id, done.folder, done.predict([[[[0.5] * 8] * 8]])["class"].item())
"""


@pytest.mark.soak
def test_a_run_of_objects_is_complete_in_mlflow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RUNNER_OUTPUTS", raising=False)
    (tmp_path / "script.py").write_text(OF_A_SCRIPT)
    monkeypatch.chdir(tmp_path)

    def call(*words: str) -> "subprocess.CompletedProcess[str]":
        done = subprocess.run([sys.executable, *words], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done

    run_id, folder, predicted = call("script.py").stdout.split()[-3:]
    shutil.rmtree(folder)
    shutil.rmtree(tmp_path / "outputs" / "objects")
    new = f"input=[{','.join([str([[0.5] * 8] * 8)])}]".replace(" ", "")
    assert call("-m", "runner.predict", f"run={run_id}", new).stdout.splitlines()[1].split(",")[1] == predicted
    assert "bit-identical: " in call("-m", "runner.reproduce", f"run={run_id}").stderr
    call("-m", "runner", f"resume={run_id}", "trainer.epochs=3")
    assert json.loads(Path(folder, "result.json").read_text())["epochs"] == 3
    assert list(Path(folder, "objects").iterdir())


@pytest.mark.soak
def test_a_run_on_two_ranks_is_heard_and_interrupted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RUNNER_OUTPUTS", raising=False)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(View, "receive", interrupt_after(View.receive, epochs=2))
    two = {"strategy": "ddp", "strategy.nproc_per_node": 2}
    with pytest.raises(Interrupted) as stop:
        run(two, "tracking=off", scheduler="constant", trainer={"epochs": 100_000})
    assert stop.value.run is not None and stop.value.run.status == "KILLED"
    done = stop.value.run.result["epochs"]
    assert done >= 2
    resumed = stop.value.run.resume(trainer={"epochs": done + 1})
    assert resumed.status == "FINISHED" and len(resumed.metrics) == done + 1


def interrupt_after(receive: Any, epochs: int) -> Any:
    """Interrupt this process once so many epochs are done."""
    sent: list[int] = []

    def interrupt(self: View, message: dict[str, Any]) -> None:
        receive(self, message)
        if message["kind"] == "progress" and message["done"] >= epochs and not sent:
            sent.append(1)
            os.kill(os.getpid(), signal.SIGINT)

    return interrupt


@pytest.mark.soak
def test_an_interrupted_sweep_of_objects_resumes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RUNNER_OUTPUTS", raising=False)
    monkeypatch.chdir(tmp_path)
    there = sys.modules["__main__"].__dict__
    exec(f"from torch import nn\n{CLASS}", there)
    monkeypatch.setattr(View, "receive", interrupt_after(View.receive, epochs=1))  # here, jobs
    axes = {"model.width": [4, 8, 16], "seed": [0, 1]}
    with pytest.raises(Interrupted) as stop:
        sweep("tracking=off", "sweep.jobs=1", axes, model=there["Net"], data={"limit": 100}, trainer={"epochs": 3})
    found = stop.value.run
    assert isinstance(found, Sweep) and found.status == "KILLED" and 1 <= len(found.runs) < 6
    shutil.rmtree(tmp_path / "outputs" / "objects")  # the sweep's folder has its own
    resumed = load(found.folder).resume()
    assert resumed.status == "FINISHED" and len(resumed.table) == 6 and resumed.best.status == "FINISHED"
    assert len(resumed.verdict().table) == 3
