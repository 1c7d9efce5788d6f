"""One run, end to end: what it leaves on disk and in MLflow, and how it ends when something goes wrong."""

import fcntl
import json
import os
import pty
import re
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mlflow import MlflowClient
from sklearn.datasets import load_digits

from conftest import Called, run_folder
from helpers.composed import built
from helpers.delivered import copy_store
from helpers.faults import inject
from helpers.sweeping import Forked
from runner.cli import run_command
from runner.runs import execute, phases
from runner.runs.last_lines import describe_overfit
from runner.runs.report import recipe
from runner.tracking.store import connect
from runner.training.state import Interrupted
from runner.util.stopping import Stop

Runner = Callable[..., Called]


def points(folder: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


PACKAGES = "sorted({name.partition('.')[0] for name in sys.modules} - set(sys.stdlib_module_names))"
HEAVY = ("mlflow", "matplotlib", "torchvision", "torchmetrics", "sklearn", "pandas", "pytorch_lightning")


@pytest.fixture(scope="module")
def process(tmp_path_factory: pytest.TempPathFactory, empty_store: Path) -> tuple[Path, list[str]]:
    """The folder of a finished run, tracked locally, made by a process of its own, and what that has imported."""
    here = tmp_path_factory.mktemp("recorded")
    copy_store(empty_store, here / "outputs")
    script = (
        "import runpy, sys\n"
        "heavy, sys.argv[1:] = sys.argv[1].split(), sys.argv[2:]\n"
        "try: runpy.run_module('runner', run_name='__main__', alter_sys=True)\n"
        "except SystemExit as end: assert not end.code\n"
        "print(*sorted(set(heavy) & set(sys.modules)))"
    )
    arguments = ("trainer.epochs=12", "trainer.log_every_steps=50", "tracking.run_name=a b (c)")
    done = subprocess.run(
        [sys.executable, "-c", script, " ".join(HEAVY), *arguments],
        cwd=here, check=True, env={k: v for k, v in os.environ.items() if k != "RUNNER_OUTPUTS"},
        capture_output=True, text=True,
    )  # fmt: skip
    return run_folder(here), done.stdout.split()


@pytest.fixture(scope="module")
def recorded(process: tuple[Path, list[str]]) -> Path:
    return process[0]


@pytest.fixture(scope="module")
def client(recorded: Path) -> MlflowClient:
    return MlflowClient(f"sqlite:///{recorded.parents[1]}/mlflow.db")


@pytest.fixture(scope="module")
def result(recorded: Path) -> dict[str, object]:
    return json.loads((recorded / "result.json").read_text())


class TestFolder:
    def test_its_name_is_date_time_model_data(self, recorded: Path) -> None:
        assert re.fullmatch(r"\d{4}-\d\d-\d\d_\d\d-\d\d-\d\d_mlp_digits", recorded.name)

    def test_everything_the_contract_lists_is_there(self, recorded: Path) -> None:
        for name in (
            "result.json", "metrics.jsonl", "config.yaml", "environment.txt", "run.log", "checkpoints/last.pt",
            "checkpoints/best.pt", "plots/loss.png", "plots/accuracy.png", "plots/epoch_seconds.png", "model/MLmodel",
        ):  # fmt: skip
            assert (recorded / name).stat().st_size > 0, name

    def test_the_result_in_figures(self, result: dict[str, object]) -> None:
        assert result["status"] == "FINISHED"
        assert result["epochs"] == 12
        assert result["parameters"] == 17_226
        assert result["flops_per_sample"] == 34_048
        assert result["test/accuracy"] >= 0.94
        assert len(result["epoch_seconds"]) == 12
        assert 1 <= result["best_epoch"] <= 12
        assert {"device", "precision", "threads", "samples_per_second", "run_id", "parent_run_id"} <= set(result)

    def test_the_peak_of_memory_is_logged_once(self, recorded: Path, result: dict[str, object]) -> None:
        name = "system/peak_memory_megabytes"
        ((step, value),) = [(p["step"], p["value"]) for p in points(recorded) if p["name"] == name]
        assert step == 12 and value == result[name] and 100 < value < 10_000

    def test_the_journal_has_every_metric_once_by_epoch_from_1(self, recorded: Path, result: dict[str, object]) -> None:
        lines = points(recorded)
        pairs = [(line["name"], line["step"]) for line in lines]
        assert len(pairs) == len(set(pairs))
        for name in ("train/loss", "train/accuracy", "val/loss", "val/accuracy", "lr", "time/epoch_seconds"):
            assert [step for n, step in pairs if n == name] == list(range(1, 13)), name
        assert [step for n, step in pairs if n == "test/loss"] == [result["best_epoch"]]
        best = {line["step"]: line["value"] for line in lines if line["name"] == "val/loss"}
        assert min(best, key=best.__getitem__) == result["best_epoch"]
        assert result["val/loss"] == best[result["best_epoch"]]


class TestMlflow:
    def test_the_run_is_finished_and_named(self, client: MlflowClient, result: dict[str, object]) -> None:
        run = client.get_run(result["run_id"])
        assert run.info.status == "FINISHED"
        assert run.info.run_name == "a b (c)"
        assert run.data.params["trainer.epochs"] == "12"
        assert run.data.params["model"] == "mlp"
        assert run.data.params["optimizer.lr"] == "0.05"
        assert run.data.tags["runner.device"] == "cpu"
        assert run.inputs.dataset_inputs[0].dataset.name == "digits"

    def test_its_metrics_are_those_of_the_journal(
        self, client: MlflowClient, recorded: Path, result: dict[str, object]
    ) -> None:
        by_name: dict[str, list[tuple[float, float]]] = {}
        for line in points(recorded):
            by_name.setdefault(line["name"], []).append((line["step"], line["value"]))
        assert any(name.startswith("system/") for name in by_name)
        assert "train/loss_step" in by_name
        for name, expected in by_name.items():
            history = client.get_metric_history(result["run_id"], name)
            assert [(m.step, m.value) for m in history] == expected, name

    def test_its_artifacts_are_there(self, client: MlflowClient, result: dict[str, object]) -> None:
        names = {file.path for file in client.list_artifacts(result["run_id"])}
        assert {"config.yaml", "environment.txt", "run.log", "result.json", "plots"} <= names
        assert "checkpoints" not in names

    def test_the_experiment_opens_in_the_model_training_view(self, client: MlflowClient) -> None:
        tags = client.get_experiment_by_name("runner").tags
        assert tags["mlflow.experimentKind"] == "custom_model_development"

    def test_the_model_predicts_in_a_fresh_process_for_any_batch_size(self, fresh: list[str]) -> None:
        # Over training and test images, with the normalisation inside the model.
        of_the_store, of_the_folder = map(float, fresh[1:])
        assert of_the_store == of_the_folder > 0.96


@pytest.fixture(scope="module")
def fresh(
    client: MlflowClient, recorded: Path, result: dict[str, object], tmp_path_factory: pytest.TempPathFactory
) -> list[str]:
    """What a fresh process prints: the packages that torch and MLflow load, and the accuracy of the served models."""
    digits = load_digits()
    samples = tmp_path_factory.mktemp("samples") / "digits.npz"
    np.savez(samples, images=(digits.images / 16).astype("float32")[:, None], targets=digits.target)
    script = f"""
import sys, numpy, torch, mlflow
torch.optim.SGD(torch.nn.Linear(1, 1).parameters())  # imports more of torch
print(*{PACKAGES})
mlflow.set_tracking_uri(sys.argv[1])
images, targets = numpy.load(sys.argv[2]).values()
for uri in sys.argv[3:]:
    model = mlflow.pyfunc.load_model(uri)
    for rows in (1, 3, 64):
        first, again = model.predict(images[:rows]), model.predict(images[:rows])
        assert first.shape == (rows, 10) and (first == again).all()
    print((model.predict(images).argmax(1) == targets).mean())
"""
    (model,) = client.get_run(result["run_id"]).outputs.model_outputs
    models = (f"models:/{model.model_id}", str(recorded / "model"))
    done = subprocess.run(
        [sys.executable, "-c", script, client.tracking_uri, str(samples), *models],
        check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
    )  # fmt: skip
    packages, *accuracies = done.stdout.splitlines()
    return [packages, *accuracies[-2:]]


LIGHT = {"runner", "hydra", "hydra_plugins", "omegaconf", "antlr4", "attr", "filelock"}  # a config's, and its folder's


@pytest.fixture(scope="module")
def on_a_terminal(tmp_path_factory: pytest.TempPathFactory) -> str:
    """What a run in a process of its own prints on a terminal, and then which of the heavy packages it has imported."""
    parent, child = pty.openpty()
    fcntl.ioctl(child, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 100, 0, 0))
    script = (
        "import sys\n"
        "import runner.training.display, runner.runs.execute\n"
        "from runner.cli import run_command\n"
        "def imported():\n"
        "    print('imported', sorted(set(sys.argv[1:]) & set(sys.modules)))\n"
        f"    print('packages', *{PACKAGES})\n"
        "fit = runner.runs.execute.fit\n"
        "runner.runs.execute.fit = lambda t: (imported(), fit(t))[1]\n"
        "runner.training.display.REFRESH_SECONDS = 0.0\n"
        "assert run_command(['debug=fast', 'tracking=off']) == 0\n"
        "imported()"
    )
    environment = {k: v for k, v in os.environ.items() if k != "RUNNER_OUTPUTS"}
    process = subprocess.Popen(
        [sys.executable, "-c", script, *HEAVY],
        cwd=tmp_path_factory.mktemp("terminal"), env=environment, stderr=child, stdout=child,
    )  # fmt: skip
    os.close(child)
    shown = b""
    while True:
        try:
            shown += os.read(parent, 4096)
        except OSError:  # the other end is closed
            break
    os.close(parent)
    assert process.wait() == 0, shown.decode()
    return shown.decode()


def test_nothing_is_imported_before_it_is_needed(on_a_terminal: str) -> None:
    training, end = (line for line in on_a_terminal.splitlines() if line.startswith("imported"))
    assert training == "imported []"
    assert end == "imported ['matplotlib']"  # the plots


def test_a_run_trains_with_no_package_that_torch_and_mlflow_do_not_load(on_a_terminal: str, fresh: list[str]) -> None:
    training = next(line for line in on_a_terminal.splitlines() if line.startswith("packages"))
    assert set(training.split()) > LIGHT
    assert set(training.split()[1:]) - set(fresh[0].split()) <= LIGHT


def test_what_a_recorded_run_has_imported_when_it_is_over(process: tuple[Path, list[str]]) -> None:
    assert process[1] == ["matplotlib", "mlflow", "pandas"]  # MLflow imports pandas


class TestTerminal:
    def test_without_a_terminal_there_are_no_carriage_returns_and_one_line_an_epoch(self, runner: Runner) -> None:
        called = runner("trainer.epochs=3", "tracking=off")
        assert called.code == 0
        assert "\r" not in called.err
        assert [len(re.findall(rf"epoch {epoch}/3", called.err)) for epoch in (1, 2, 3)] == [1, 1, 1]
        assert "device auto -> cpu (" in called.err
        assert "precision fp32" in called.err
        assert "training   SGD lr=0.05 · cosine_restarts · cross_entropy · batches of 32\n" in called.err

    @pytest.mark.parametrize(
        ("overrides", "said"),
        [
            (("optimizer=adamw", "scheduler=onecycle"), "AdamW lr=0.001 · onecycle · cross_entropy · batches of 32"),
            (("scheduler=warmup_cosine", "data.batch_size=100"), "SGD lr=0.05 · warmup_cosine · .* · batches of 100"),
            (("trainer.grad_accumulation=4",), "SGD .* · batches of 32, 4 a step"),
            (
                ("data=tensors", "data.inputs=[[1],[2]]", "data.targets=[0,1]", "data.val_fraction=0",
                 "loss=bce_with_logits", "~scheduler.period", "~scheduler.min_lr", "+scheduler.gamma=0.9",
                 "scheduler._target_=torch.optim.lr_scheduler.ExponentialLR"),
                "SGD lr=0.05 · ExponentialLR · bce_with_logits · batches of 64",
            ),
        ],
    )  # fmt: skip
    def test_the_head_names_optimizer_schedule_loss_and_batches(self, overrides: tuple[str, ...], said: str) -> None:
        assert re.fullmatch(said, recipe(built(*overrides)))

    def test_quiet_prints_nothing_and_the_log_has_everything(self, runner: Runner, here: Path) -> None:
        called = runner("debug=fast", "tracking=off", "runner.quiet=true")
        assert called.err == ""
        assert "epoch 2/2" in (run_folder(here) / "run.log").read_text()

    def test_on_a_terminal_a_bar_shows_loss_rate_and_time_left(self, on_a_terminal: str) -> None:
        bar = r"epoch 1/2 100% █+ \d\d:\d\d<\d\d:\d\d, loss \d\.\d{4}, [\d,]+ samples/s"
        assert re.search(bar, on_a_terminal)


def write_net(path: Path, happens: str) -> None:
    """A model of the user's own in which something happens when it is trained."""
    path.write_text(
        "import pathlib, sys, time, torch\n"
        "class Net(torch.nn.Linear):\n"
        "    def __init__(self, num_outputs): super().__init__(64, num_outputs)\n"
        "    def forward(self, x):\n"
        f"        if self.training and x.device.type != 'meta': {happens}\n"
        "        return super().forward(x.flatten(1))\n"
    )


class TestEnds:
    def test_a_loss_that_is_not_finite(self, runner: Runner, here: Path) -> None:
        called = runner("optimizer.lr=1e30", "tracking=off")
        assert called.code == 1
        (error,) = called.errors
        assert re.search(r"train/loss is (nan|inf) in epoch 1, step \d+; there is no earlier checkpoint", error)
        assert json.loads((run_folder(here) / "result.json").read_text())["status"] == "FAILED"

    @pytest.mark.usefixtures("delivery_here")
    def test_an_exception_in_training(self, runner: Runner, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        write_net(here / "broken.py", "raise ValueError('a bug of mine')")
        monkeypatch.syspath_prepend(str(here))
        called = runner("model=custom", "model._target_=broken.Net")
        assert called.code == 1
        assert "error: ValueError: a bug of mine" in called.err
        assert "Traceback" not in called.err
        folder = run_folder(here)
        assert "Traceback" in (folder / "run.log").read_text()
        client = MlflowClient(f"sqlite:///{here}/outputs/mlflow.db")
        run = client.get_run(json.loads((folder / "result.json").read_text())["run_id"])
        assert run.info.status == "FAILED"
        assert run.data.tags["runner.error"] == "ValueError: a bug of mine (broken.py, line 5, in forward)"
        assert "Traceback" in Path(client.download_artifacts(run.info.run_id, "run.log")).read_text()

    def test_memory_that_does_not_suffice(self, runner: Runner, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        write_net(here / "large.py", "torch.empty(1 << 50)")
        monkeypatch.syspath_prepend(str(here))
        called = runner("model=custom", "model._target_=large.Net", "tracking=off", "data.batch_size=24")
        assert called.code == 1
        smaller = "data.batch_size=12 trainer.grad_accumulation=2"
        (error,) = called.errors
        assert error.startswith(
            "error: out of memory: could not allocate 4503599.6 GB, with data.batch_size=24 on cpu; "
            f"write trainer.on_oom=accumulate, {smaller} (the same steps), precision=amp, "
        )
        result = json.loads((run_folder(here) / "result.json").read_text())
        assert (result["status"], result["error"]) == ("FAILED", error.removeprefix("error: "))
        assert "Traceback" in (run_folder(here) / "run.log").read_text()

    def test_a_plot_that_cannot_be_drawn(
        self, here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        # Not by the fixture, which draws none. A file lies where the folder of the plots belongs: written when training
        # has ended, as a folder that is not empty is refused.
        folder, test = here / "mine", phases.test

        def test_and_be_in_the_way(*arguments: Any) -> dict[str, float]:
            (folder / "plots").write_text("in the way")
            return test(*arguments)

        monkeypatch.setattr(phases, "test", test_and_be_in_the_way)
        code = run_command([f"hydra.run.dir={folder}", "tracking=off", "debug=fast"])
        printed = capsys.readouterr().err
        assert code == 0
        assert "plots could not be drawn: FileExistsError" in printed
        assert json.loads((folder / "result.json").read_text())["status"] == "FINISHED"

    @pytest.mark.usefixtures("delivery_by_forks")
    @pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
    def test_a_signal_to_all_its_processes_ends_it_with_a_checkpoint_and_it_can_be_resumed(
        self, here: Path, runner: Runner, empty_store: Path, number: signal.Signals, code: int
    ) -> None:
        # As Ctrl-C and schedulers send it: to the workers of the loader too.
        uri = copy_store(empty_store, here / "outputs")
        workers = ("data.in_memory=false", "data.num_workers=2", "data.limit=200", "data.batch_size=16")
        more = ("trainer.epochs=100000", "trainer.log_every_epochs=1000", *workers)
        process = Forked(here, *more, prepare=inject(None))
        until(lambda: any((here / "outputs" / "runs").glob("*/checkpoints/last.pt")))
        asked = time.monotonic()
        os.killpg(process.pid, number)
        ended, err = process.wait(10)
        assert time.monotonic() - asked < 10
        assert ended == code, err
        folder = run_folder(here)
        assert f"resume     python -m runner resume={folder.relative_to(here)}" in err
        assert "Traceback" not in err
        result = json.loads((folder / "result.json").read_text())
        assert result["status"] == "KILLED"
        assert connect(uri).get_run(result["run_id"]).info.status == "KILLED"
        done = result["epochs"]
        assert runner(f"resume={folder}", f"trainer.epochs={done + 2}", "tracking=off").code == 2, "it keeps its groups"
        more = (f"trainer.epochs={done + 2}", "data.num_workers=0", "tracking.log_model=false")
        assert runner(f"resume={folder}", *more).code == 0
        assert json.loads((folder / "result.json").read_text())["status"] == "FINISHED"

    @pytest.mark.usefixtures("delivery_here")
    def test_a_program_that_ends_itself_has_failed(
        self, here: Path, runner: Runner, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        write_net(here / "leaving.py", "sys.exit('my own exit')")
        monkeypatch.syspath_prepend(str(here))
        called = runner("model=custom", "model._target_=leaving.Net")
        assert called.code == 1
        assert "error: sys.exit(my own exit) was called (leaving.py" in called.err
        result = json.loads((run_folder(here) / "result.json").read_text())
        assert result["status"] == "FAILED"
        assert MlflowClient(f"sqlite:///{here}/outputs/mlflow.db").get_run(result["run_id"]).info.status == "FAILED"

    def test_a_second_interrupt_stops_at_once(self, here: Path) -> None:
        write_net(here / "sleepy.py", "pathlib.Path('asleep').touch(); time.sleep(60)")
        sleepy = ("model=custom", "model._target_=sleepy.Net", "tracking=off")
        process = Forked(here, *sleepy, prepare=inject(None))
        until((here / "asleep").exists)
        process.send_signal(signal.SIGINT)
        time.sleep(0.5)
        for _ in range(3):  # an impatient user
            process.send_signal(signal.SIGINT)
            time.sleep(0.01)
        code, printed = process.wait(5)
        assert code == 130 and "has no checkpoint to resume from" in printed
        assert re.search(r"^stopped    in epoch 1 of 20 by SIGINT, at once", printed, re.MULTILINE)
        assert json.loads((run_folder(here) / "result.json").read_text())["status"] == "KILLED"

    def test_overfit_ends_with_an_answer(self, runner: Runner) -> None:
        few = ("debug=overfit", "tracking=off", "trainer.epochs=40")
        (answer,) = [line for line in runner(*few).err.splitlines() if line.startswith("overfit ")]
        assert "yes, the model learns the 32 samples by heart (train/loss 0.0" in answer
        (answer,) = [line for line in runner(*few, "optimizer.lr=1e-6").err.splitlines() if line.startswith("overfit ")]
        assert "no, the model does not learn" in answer and "optimizer.lr" in answer
        assert "if this is not near" in describe_overfit({"train/loss": 0.5}, None)

    def test_an_interrupt_at_any_place_of_its_end_prints_how_to_resume(
        self, here: Path, runner: Runner, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def interrupt(*_: object) -> None:
            os.kill(os.getpid(), signal.SIGINT)
            raise Interrupted

        monkeypatch.setattr(execute, "train", interrupt)
        monkeypatch.setattr(Stop, "hold", interrupt)  # before it can hold back the next one
        called = runner("debug=fast", "tracking=off")
        assert called.code == 130 and called.err.splitlines()[-1].endswith("has no checkpoint to resume from")


def until(condition: Callable[[], bool], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.05)
