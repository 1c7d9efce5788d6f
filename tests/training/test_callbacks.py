"""Callbacks: when they are called, what they may do, and that a resumed run is that of one that never stopped."""

import csv
import logging
import shutil
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from PIL import Image

from conftest import Called, run_folder
from helpers.delivered import copy_store
from helpers.faults import inject
from helpers.killed import assert_delivered, assert_ended_the_same, only_run
from helpers.sweeping import Forked, results, sweep_folder
from helpers.training import Stop, divided, exact_state, same, training
from runner.callbacks import Callback
from runner.errors import TrainingError
from runner.evaluate import main as evaluate_run
from runner.rundir.artifacts import Artifacts
from runner.rundir.checkpoint_file import load
from runner.rundir.manifest import Manifest
from runner.tracking.deliver import Delivery
from runner.training.callbacks import Callbacks
from runner.training.evaluation import evaluate
from runner.training.hidden import UNSAVED, Watch
from runner.training.loop import fit
from runner.training.saving import restore
from runner.training.state import Interrupted, Training

Runner = Callable[..., Called]


def with_callbacks(folder: Path, stop: Any = None, *, callbacks: dict[str, Callback], **arguments: Any) -> Any:
    state = training(folder, stop=stop, **arguments)
    state.callbacks = Callbacks(callbacks)
    return state


class Recorder(Callback):
    """Writes down each call with its epoch and step."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, int, int]] = []
        self.metrics: list[set[str]] = []

    def note(self, call: str, state: Training) -> None:
        self.calls.append((call, state.progress.epoch, state.progress.step))

    def after_step(self, state: Training) -> None:
        self.note("step", state)

    def after_validation(self, state: Training, metrics: Mapping[str, float]) -> None:
        self.note("validation", state)
        self.metrics.append(set(metrics))

    def after_epoch(self, state: Training, metrics: Mapping[str, float]) -> None:
        self.note("epoch", state)
        self.metrics.append(set(metrics))

    def at_end(self, state: Training) -> None:
        self.note("end", state)


class Sum(Callback):
    """Sums the weights after each step, adds noise of its own generator, and logs what it has."""

    def __init__(self) -> None:
        self.total, self.generator = torch.zeros(()), torch.Generator().manual_seed(5)

    def after_step(self, state: Training) -> None:
        self.total += sum(weight.detach().sum() for weight in state.parameters)
        self.total += torch.rand((), generator=self.generator)
        state.log({"sum_step": float(self.total)}, state.progress.step)

    def after_validation(self, state: Training, metrics: Mapping[str, float]) -> None:
        self.total += metrics["val/loss"]

    def after_epoch(self, state: Training, metrics: Mapping[str, float]) -> None:
        self.total += metrics["train/loss"]
        state.log({"sum": float(self.total)}, state.progress.epoch)

    def at_end(self, state: Training) -> None:
        state.log({"sum/end": float(self.total)}, state.progress.epoch)

    def state_dict(self) -> dict[str, Any]:
        return {"total": self.total}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.total = state["total"]


def test_they_are_called_after_steps_validations_and_epochs_and_at_the_end(tmp_path: Path) -> None:
    recorder = Recorder()
    state = with_callbacks(tmp_path, callbacks={"mine": recorder}, batch_size=41, validate_every_steps=3)
    fit(state)
    assert recorder.calls == [
        ("step", 1, 1), ("step", 1, 2), ("validation", 1, 2), ("epoch", 1, 2),
        ("step", 2, 3), ("validation", 2, 3), ("step", 2, 4), ("validation", 2, 4), ("epoch", 2, 4),
        ("end", 3, 4),
    ]  # fmt: skip
    measured = {f"{part}/{name}" for part in ("train", "val") for name in ("loss", "accuracy")}
    assert recorder.metrics[1] == measured and recorder.metrics[2] == {"val/loss", "val/accuracy"}


@pytest.mark.parametrize("logs", [1, 2, 5])
def test_the_epoch_after_which_a_callback_ends_training_is_measured_as_a_last_one(tmp_path: Path, logs: int) -> None:
    class Ends(Callback):
        def after_epoch(self, state: Training, metrics: Mapping[str, float]) -> None:
            if state.progress.epoch == 2:
                state.request_stop("enough")

    every = {"log_every_epochs": logs, "validate_every_epochs": 5}
    ended = with_callbacks(tmp_path / "ended", callbacks={"mine": Ends()}, epochs=5, **every)
    assert fit(ended) == "enough"
    last = with_callbacks(tmp_path / "last", callbacks={}, epochs=2, **every)
    fit(last)
    assert ended.log.exact() == last.log.exact() and ("val/loss", 2) in ended.log.exact()
    assert ended.display.epochs[-1] == last.display.epochs[-1] == 2, "its line is printed"
    assert ended.progress.best == last.progress.best is not None
    assert ended.progress.best_metrics == last.progress.best_metrics


@pytest.mark.parametrize("arguments", [{}, {"grad_accumulation": 2, "precision": "fp16", "validate_every_steps": 2}])
def test_a_run_stopped_anywhere_ends_like_one_that_was_not(tmp_path: Path, arguments: dict[str, Any]) -> None:
    def begun(folder: Path, stop: Any = None) -> Any:
        return with_callbacks(folder, stop, callbacks={"mine": Sum(), "other": Recorder()}, batch_size=16, **arguments)

    whole = begun(tmp_path / "whole")
    fit(whole)
    saved = load(whole.checkpoints.last)
    assert saved["callbacks"].keys() == {"mine"}, "the other has no state"
    for after in range(1, whole.stop.looks, 2):
        stopped = begun(tmp_path / str(after), Stop(after))
        with pytest.raises(Interrupted):
            fit(stopped)
        resumed = begun(tmp_path / str(after))
        restore(resumed, stopped.checkpoints.load_last())
        fit(resumed)
        ended = load(resumed.checkpoints.last)
        assert same(exact_state(ended), exact_state(saved)), f"stopped at look {after}"
        assert stopped.log.exact() | resumed.log.exact() == whole.log.exact()


def test_a_checkpoint_is_the_same_with_callbacks_that_have_no_state(tmp_path: Path) -> None:
    saved = []
    for callbacks in ({}, {"mine": Recorder()}):
        state = with_callbacks(tmp_path / str(len(callbacks)), callbacks=callbacks)
        fit(state)
        saved.append(exact_state(torch.load(state.checkpoints.last, weights_only=True)))
    assert same(*saved) and "callbacks" not in saved[0]


class Ends(Callback):
    """Asks to stop in one of its calls, at a step."""

    def __init__(self, call: str, at: int = 0) -> None:
        def ask(state: Training, *_: Any) -> None:
            if state.progress.step >= at:
                state.request_stop(f"asked in {call}")

        setattr(self, call, ask)


class TestStop:
    @pytest.mark.parametrize(
        ("call", "at", "steps"), [("after_step", 4, 4), ("after_validation", 4, 6), ("after_epoch", 4, 6)]
    )
    def test_training_ends_and_a_resumed_run_stays_ended(self, tmp_path: Path, call: str, at: int, steps: int) -> None:
        state = with_callbacks(tmp_path, callbacks={"mine": Ends(call, at)}, epochs=5)
        assert fit(state) == f"asked in {call}"
        assert (state.progress.step, state.progress.epoch) == (steps, 3)
        assert state.log.of("val/accuracy").keys() == state.log.of("train/accuracy").keys() == {1, 2}
        resumed = with_callbacks(tmp_path, callbacks={"mine": Recorder()}, epochs=9)
        restore(resumed, load(state.checkpoints.last))
        assert fit(resumed) == f"asked in {call}"
        assert resumed.progress.step == steps
        assert resumed.callbacks.by_name["mine"].calls == [("end", 3, steps)]

    def test_a_validation_within_an_epoch_may_end_it(self, tmp_path: Path) -> None:
        state = with_callbacks(
            tmp_path, callbacks={"mine": Ends("after_validation")}, epochs=5, validate_every_steps=2, batch_size=16
        )
        assert fit(state) == "asked in after_validation"
        assert (state.progress.step, state.progress.cut_short) == (2, 1)

    def test_a_signal_in_the_same_step_changes_nothing_in_the_end(self, tmp_path: Path) -> None:
        class Signalled(Ends):
            def load_state_dict(self, state: dict[str, Any]) -> None: ...

            def after_validation(self, state: Training, metrics: Mapping[str, float]) -> None:
                state.stop = Stop(1)  # the next look but one

        state = with_callbacks(tmp_path, callbacks={"mine": Signalled("after_step", 4)}, epochs=5)
        with pytest.raises(Interrupted):
            fit(state)
        assert (state.progress.step, state.progress.stop_reason) == (4, "asked in after_step")
        resumed = with_callbacks(tmp_path, callbacks={"mine": Ends("after_step", 4)}, epochs=5)
        restore(resumed, load(state.checkpoints.last))
        assert fit(resumed) == "asked in after_step"
        whole = with_callbacks(tmp_path / "whole", callbacks={"mine": Ends("after_step", 4)}, epochs=5)
        fit(whole)
        assert state.log.exact() | resumed.log.exact() == whole.log.exact()


class Fails(Callback):
    def after_step(self, state: Training) -> None:
        raise ValueError("a mistake of the user's")


class TestErrors:
    def test_the_error_names_the_callback(self, tmp_path: Path) -> None:
        state = with_callbacks(tmp_path, callbacks={"fine": Recorder(), "mine": Fails()})
        where = r"test_callbacks.py, line \d+, in after_step"
        with pytest.raises(TrainingError, match=rf"callback mine fails in after_step: ValueError: a mis.*\({where}\)"):
            fit(state)

    def test_an_evaluation_in_a_callback_that_a_signal_stops_leaves_the_checkpoint_before_it(
        self, tmp_path: Path
    ) -> None:
        class Evaluates(Callback):
            def after_step(self, state: Training) -> None:
                if state.progress.step == 5:
                    state.stop = Stop(0)
                    evaluate(state, state.loaders.val)

        state = with_callbacks(tmp_path, callbacks={"mine": Evaluates()})
        with pytest.raises(KeyboardInterrupt):
            fit(state)
        assert load(state.checkpoints.last)["progress"]["step"] == 3

    def test_state_that_no_checkpoint_can_hold_is_named(self, tmp_path: Path) -> None:
        callback = Callback()
        callback.state_dict = lambda: {"file": object()}  # type: ignore[method-assign]
        state = with_callbacks(tmp_path, callbacks={"mine": callback})
        with pytest.raises(TrainingError, match=r"callbacks\.mine\.file"):
            fit(state)

    def test_state_that_no_checkpoint_holds_is_reported(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        state = with_callbacks(tmp_path, callbacks={"mine": Recorder(), "other": Sum()}, splits=divided())
        with caplog.at_level(logging.WARNING):
            watch = Watch(state, rehearse=False)
            fit(state)
            watch.close()
        (note,) = [record for record in caplog.records if getattr(record, "topic", None) == UNSAVED]
        assert note.paths == ["callbacks.mine.calls", "callbacks.mine.metrics"]
        assert "state_dict" in note.getMessage()


class TestArtifacts:
    def test_images_of_all_forms(self, tmp_path: Path) -> None:
        artifacts = Artifacts(tmp_path / "made")
        ramp = torch.linspace(0, 1, 30).reshape(5, 6)
        forms = {
            "grey": (ramp, (6, 5), "L"),
            "channel": (ramp[None], (6, 5), "L"),
            "colours": (ramp.expand(3, 5, 6), (6, 5), "RGB"),
            "last": (ramp[..., None].expand(5, 6, 3).numpy(), (6, 5), "RGB"),
            "alpha": (ramp.expand(4, 5, 6), (6, 5), "RGBA"),
            "bytes": ((ramp * 255).round().to(torch.uint8), (6, 5), "L"),
            "grid": (ramp.expand(4, 1, 5, 6), (2 + 4 * (6 + 2), 2 + 5 + 2), "RGB"),
            "half": (ramp.bfloat16().requires_grad_(), (6, 5), "L"),
            "pillow": (Image.new("RGB", (6, 5)), (6, 5), "RGB"),
        }
        for name, (image, size, mode) in forms.items():
            path = artifacts.image(name, image, 3)
            assert path == tmp_path / "made" / name / "00000003.png"
            with Image.open(path) as read:
                assert (read.size, read.mode) == (size, mode), name
                assert mode != "L" or np.array(read)[0, :2].tolist() == [0, 9], name
        clamped = artifacts.image("clamped", torch.tensor([[-1.0, 0.5, 2.0, float("nan")]]), 1)
        with Image.open(clamped) as read:
            assert np.array(read).tolist() == [[0, 128, 255, 0]]

    @pytest.mark.parametrize("image", [torch.zeros(5), torch.zeros(2, 5, 6), torch.zeros(3, 4).long(), torch.zeros(0)])
    def test_what_is_no_image_is_refused_and_leaves_no_file(self, tmp_path: Path, image: torch.Tensor) -> None:
        with pytest.raises(ValueError, match="an image has"):
            Artifacts(tmp_path).image("mine", image, 1)
        assert not [path for path in tmp_path.rglob("*") if path.is_file()]

    def test_a_table_of_rows_or_of_columns(self, tmp_path: Path) -> None:
        rows = [{"word": 'a "b", c', "loss": torch.tensor(0.5)}, {"word": "d\ne", "count": np.int64(3)}]
        path = Artifacts(tmp_path).table("worst", rows, 7)
        with path.open(newline="") as file:
            assert list(csv.reader(file)) == [["word", "loss", "count"], ['a "b", c', "0.5", ""], ["d\ne", "", "3"]]
        path = Artifacts(tmp_path).table("columns", {"a": [1, 2], "b": np.array([0.5, 0.25])}, 7)
        assert path.read_text() == "a,b\n1,0.5\n2,0.25\n"

    def test_each_is_written_once_and_stays_in_its_folder(self, tmp_path: Path) -> None:
        artifacts = Artifacts(tmp_path / "made")
        path = artifacts.table("../a b/.c", [{"x": 1}], 1)
        assert path == tmp_path / "made" / "a_b" / "c" / "00000001.csv"
        assert artifacts.table("../a b/.c", [{"x": 2}], 1) == path and path.read_text() == "x\n1\n"
        assert artifacts.figure("line", Figure(), 1).name == "00000001.png"


MINE = '''
import os
import signal
from pathlib import Path

import torch
from matplotlib.figure import Figure

from runner.callbacks import Callback


class All(Callback):
    """Logs all four kinds, has a state, may ask to stop; the first time, it kills the process at a step."""

    def __init__(self, every: int = 1, stop_at: int | None = None, kill_at: int | None = None):
        self.every, self.stop_at, self.kill_at = every, stop_at, kill_at
        self.total = torch.zeros(())
        self.generator = torch.Generator().manual_seed(1)

    def after_step(self, state):
        step = state.progress.step
        self.total += state.parameters[0].detach().sum() + torch.rand((), generator=self.generator)
        if step % self.every == 0:
            state.log({"mine/total_step": self.total}, step)
            state.artifacts.image("first/layer", state.parameters[0].detach().sigmoid(), step)
        if step == self.stop_at:
            state.request_stop(f"step {step} is enough")
        if step == self.kill_at and not Path("killed").exists():
            Path("killed").touch()
            os.kill(os.getpid(), signal.SIGKILL)

    def after_validation(self, state, metrics):
        state.artifacts.table("validation", [metrics], state.progress.step)

    def after_epoch(self, state, metrics):
        state.log({"mine/gap": metrics["val/loss"] - metrics["train/loss"]}, state.progress.epoch)
        figure = Figure(figsize=(1, 1))
        figure.subplots().plot([self.total.item(), 0])
        state.artifacts.figure("total", figure, state.progress.epoch)

    def at_end(self, state):
        state.log({"mine/end": self.total}, state.progress.epoch)

    def state_dict(self):
        return {"total": self.total}

    def load_state_dict(self, state):
        self.total = state["total"]


class Fails(Callback):
    def after_epoch(self, state, metrics):
        raise ValueError("a mistake of the user's")
'''

SMALL = (
    "data.limit=160", "data.batch_size=16", "model.hidden=[8]", "model.dropout=0.2", "device.threads=1",
    "trainer.checkpoint_every_steps=3", "trainer.log_norms=true", "trainer.log_every_steps=2", "trainer.epochs=2",
    "trainer.callbacks.mine._target_=recorders.All", "tracking.log_model=false",
)  # fmt: skip


@pytest.fixture
def mine(here: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (here / "recorders.py").write_text(MINE)
    monkeypatch.syspath_prepend(str(here))
    return here


def made(folder: Path) -> dict[str, bytes]:
    """The files that callbacks have made."""
    files = [path for path in (folder / "artifacts").rglob("*") if path.is_file()]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def in_store(uri: str, path: str = "artifacts") -> dict[str, bytes]:
    """The same, of the only run in a store."""
    client, run = only_run(uri)
    found: dict[str, bytes] = {}
    for entry in client.list_artifacts(run.info.run_id, path):
        if entry.is_dir:
            found |= in_store(uri, entry.path)
        else:
            found[entry.path] = Path(client.download_artifacts(run.info.run_id, entry.path)).read_bytes()
    return found


def killed_and_resumed(here: Path, empty_store: Path, kill_at: int, *arguments: str) -> None:
    """A run killed after a step and resumed ends like a whole one, and MLflow has everything once."""
    whole_place, place = here / "whole", here / f"killed-{kill_at}"
    for folder in (whole_place, place):
        folder.mkdir(exist_ok=True)
        shutil.copy(here / "recorders.py", folder)
    (whole_place / "killed").touch()
    command = (*SMALL, f"trainer.callbacks.mine.kill_at={kill_at}", *arguments)
    shutil.rmtree(whole_place / "outputs", ignore_errors=True)
    code, printed = Forked(whole_place, *command, "tracking=off", prepare=inject(None)).wait()
    assert code == 0, printed
    uri = copy_store(empty_store, place / "outputs")
    code, printed = Forked(place, *command, prepare=inject(None)).wait()
    assert code == -9, printed
    folder, whole = run_folder(place), run_folder(whole_place)
    code, printed = Forked(place, f"resume={folder}", prepare=inject(None)).wait()
    assert code == 0, printed
    assert_ended_the_same(folder, whole)
    assert torch.load(folder / "checkpoints" / "last.pt", weights_only=True)["callbacks"]["mine"]["total"] != 0
    assert made(folder) == made(whole) != {}
    assert in_store(uri) == made(whole)
    assert_delivered(uri, folder)


def test_a_run_killed_in_mid_epoch_ends_as_if_nothing_had_happened(mine: Path, empty_store: Path) -> None:
    killed_and_resumed(mine, empty_store, 5)


@pytest.mark.soak
@pytest.mark.parametrize("kill_at", range(4, 16))
@pytest.mark.parametrize("more", [(), ("trainer.validate_every_steps=2", "precision=fp16", "trainer.ema_decay=0.9")])
def test_a_run_killed_anywhere_does(mine: Path, empty_store: Path, kill_at: int, more: tuple[str, ...]) -> None:
    killed_and_resumed(mine, empty_store, kill_at, *more)


def test_what_is_made_while_the_store_is_away_is_uploaded_later(mine: Path, runner: Runner, empty_store: Path) -> None:
    (mine / "killed").touch()
    away = ("tracking=server", "tracking.uri=http://127.0.0.1:9", "tracking.wait=0")
    called = runner(*SMALL, *away)
    assert called.code == 0, called.err
    folder = run_folder(mine)
    uri = copy_store(empty_store, mine / "there")
    assert Delivery(folder, uri).step()
    assert in_store(uri) == made(folder) != {}
    assert_delivered(uri, folder)


def test_they_are_uploaded_while_the_run_trains(mine: Path, empty_store: Path, delivery_here: None) -> None:
    folder = mine / "run"
    folder.mkdir()
    uri = copy_store(empty_store, mine / "there")
    Manifest(uri, "runner", "mine", str(mine / "mlartifacts")).save(folder)
    delivery = Delivery(folder)
    delivery.step()
    Artifacts(folder / "artifacts").table("mine", [{"x": 1}], 1)
    (folder / "artifacts" / "mine" / ".half.tmp.csv").write_text("x")
    delivery.step()
    assert in_store(uri) == {"artifacts/mine/00000001.csv": b"x\n1\n"}, "no file that is not complete"


class TestCommands:
    def test_one_may_end_the_run_which_is_finished(self, mine: Path, runner: Runner) -> None:
        called = runner(*SMALL, "tracking=off", "trainer.callbacks.mine.stop_at=4")
        assert called.code == 0, called.err
        assert "stopped    step 4 is enough" in called.err and "trainer.epochs=4" not in called.err
        folder = run_folder(mine)
        called = runner(f"resume={folder}", "trainer.epochs=9")
        assert called.about == [("trainer.epochs", "conflict")] and "step 4 is enough" in called.errors[0]

    def test_an_exception_ends_it_as_failed_and_names_the_callback(self, mine: Path, runner: Runner) -> None:
        called = runner(*SMALL, "tracking=off", "trainer.callbacks.bad._target_=recorders.Fails")
        assert called.code == 1
        assert (
            "the callback bad fails in after_epoch: ValueError: a mistake of the user's (recorders.py, line"
            in called.err
        )
        assert "Traceback" in (run_folder(mine) / "run.log").read_text()

    def test_a_list_is_the_same_and_evaluation_needs_none_of_them(
        self, mine: Path, runner: Runner, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        typed = [text for text in SMALL if "callbacks" not in text]
        assert runner(*typed, "tracking=off", "trainer.callbacks=[{_target_:recorders.All,every:4}]").code == 0
        folder = run_folder(mine)
        assert len(made(folder)) == 4 + 2 + 2
        (mine / "recorders.py").unlink()
        monkeypatch.delitem(sys.modules, "recorders")
        assert evaluate_run([f"run={folder}"]) == 0

    def test_a_resumed_run_has_the_same(self, mine: Path, runner: Runner) -> None:
        assert runner(*SMALL, "tracking=off").code == 0
        folder = run_folder(mine)
        for change in ("trainer.callbacks.mine.every=2", "trainer.callbacks.other._target_=recorders.Fails"):
            called = runner(f"resume={folder}", change)
            assert called.about == [(change.partition("=")[0], "conflict")], called.err
        assert runner(f"resume={folder}", "trainer.log_norms=false", "trainer.epochs=3").code == 0

    @pytest.mark.soak
    def test_their_arguments_are_axes_of_a_sweep(self, mine: Path, runner: Runner, delivery_here: None) -> None:
        called = runner("--multirun", *SMALL, "tracking=off", "trainer.callbacks.mine.every=1,x")
        assert called.about == [("trainer.callbacks.mine.every", "type")]
        arguments = ("trainer.epochs=1", "tracking=off", "trainer.callbacks.mine.every=1,4", "sweep.jobs=1")
        called = runner("--multirun", *SMALL, *arguments)
        assert called.code == 0, called.err
        folder = sweep_folder(mine)
        assert {job["status"] for job in results(folder).values()} == {"FINISHED"}
        assert [len(made(folder / job)) for job in ("0", "1")] == [8 + 2, 2 + 2]
