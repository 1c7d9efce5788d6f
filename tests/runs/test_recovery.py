"""Runs that have lost their folder, and go on from what MLflow has of them."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from conftest import Called, run_folder
from helpers.delivered import copy_store
from helpers.faults import inject
from helpers.killed import assert_delivered, assert_ended_the_same, only_run
from helpers.sweeping import Forked, processes_below, wait_for
from runner.rundir import journal, layout
from runner.rundir.delivery_state import DeliveryState
from runner.rundir.journal import Journal
from runner.rundir.manifest import Manifest
from runner.runs import recovery
from runner.tracking.deliver import Delivery
from runner.tracking.metric_upload import fetch_points, own_names
from runner.tracking.store import connect

Runner = Callable[..., Called]

ARGUMENTS = (
    "data.limit=300", "data.batch_size=32", "model.hidden=[8]", "model.dropout=0.2", "device.threads=1",
    "loss._target_=named.TopTwo", "tracking.log_model=false",
)  # fmt: skip

NAMED = '''
from runner.loss import CrossEntropy, Metric


class TopTwo(CrossEntropy):
    """With a metric whose name MLflow refuses."""

    metrics = {
        **CrossEntropy.metrics,
        "accuracy@2": Metric(lambda outputs, targets: (outputs.topk(2).indices == targets[:, None]).any(1).sum()),
    }
'''


@pytest.fixture
def lost(here: Path, empty_store: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[str, str]:
    """The id of a run whose machine is gone with its folder and all that ran on it, and the store that is left."""
    (here / "named.py").write_text(NAMED)
    machine = here / "machine"
    machine.mkdir()
    shutil.copy(here / "named.py", machine)
    monkeypatch.syspath_prepend(str(here))
    uri = copy_store(empty_store, here / "outputs")
    connect(uri).create_experiment("runner", (here / "artifacts").as_uri())  # where no machine's loss can reach
    checkpointed = ("tracking.log_checkpoints=true", f"tracking.uri={uri}", "trainer.epochs=100000")
    process = Forked(machine, *ARGUMENTS, *checkpointed, prepare=inject(None))
    try:
        wait_for(lambda: list(here.glob("artifacts/*/artifacts/checkpoints/last-1.pt")))
    finally:
        for running in processes_below(machine):
            running.kill()
    code, printed = process.wait()
    assert code == -9, printed
    shutil.rmtree(machine)
    return only_run(uri)[1].info.run_id, uri


@pytest.mark.usefixtures("delivery_here")
def test_a_run_whose_folder_is_gone_goes_on_out_of_mlflow(
    lost: tuple[str, str], here: Path, runner: Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_id, uri = lost
    called = runner(f"resume={run_id}", "trainer.epochs=5")
    assert called.code == 2
    assert called.about == [("resume", "run")] and "s ago" in called.problems[0].text, "it was updated a moment ago"
    assert not (here / "outputs" / "runs").exists()

    monkeypatch.setattr(recovery, "_ALIVE_SECONDS", 0.0)
    before = only_run(uri)[1]
    done = max(point.step for point in connect(uri).get_metric_history(run_id, "val/loss"))
    called = runner(f"resume={run_id}", f"trainer.epochs={done + 3}")
    assert called.code == 0, called.err
    assert f"recovered  run {run_id} in" in called.err and "resumed    at epoch" in called.err
    folder = run_folder(here)
    assert_delivered(uri, folder)
    run = only_run(uri)[1]
    assert run.info.run_id == run_id
    (owner,) = run.data.params.items() - before.data.params.items()
    assert owner == ("runner.owner_after.first", run.data.tags["runner.owner"]), "of two recoveries one has the run"
    assert before.data.params.items() <= run.data.params.items()
    assert run.data.tags["resumed.trainer.epochs"] == str(done + 3)
    assert run.data.tags["runner.folder"] == str(folder)
    assert run.data.tags["runner.metric.val/accuracy_2"] == "val/accuracy@2"
    assert {"val/accuracy@2", "val/accuracy"} <= {point.name for point in journal.read(folder / layout.JOURNAL)[0]}

    whole = runner(*ARGUMENTS, "tracking=off", f"trainer.epochs={done + 3}", "hydra.run.dir=whole")
    assert whole.code == 0, whole.err
    assert_ended_the_same(folder, here / "whole")
    again = runner(f"resume={run_id}")
    assert again.code == 0 and "finished   " in again.err, "and is found where it is now"


@pytest.mark.usefixtures("delivery_here")
def test_without_checkpoints_in_mlflow_it_says_so(here: Path, runner: Runner) -> None:
    assert runner("data.limit=60", "trainer.epochs=1", "tracking.log_model=false").code == 0
    folder = run_folder(here)
    run_id = DeliveryState.load(folder).run_id
    shutil.rmtree(folder)
    called = runner(f"resume={run_id}", "trainer.epochs=2")
    assert called.code == 2
    assert called.about == [("resume", "run")]
    (problem,) = called.problems
    assert f"resume={run_id}: " in problem.text and str(folder) in problem.text
    assert "tracking.log_checkpoints" in problem.text
    assert not folder.exists()


def test_mlflow_never_has_a_checkpoint_without_the_metrics_it_goes_on_from(
    tmp_path: Path, empty_store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "run"
    (folder / "checkpoints").mkdir(parents=True)
    uri = copy_store(empty_store, tmp_path)
    root = str(tmp_path / "mlartifacts")
    Manifest(uri, "runner", "a run", root, log_model=False, log_checkpoints=True).save(folder)
    written = Journal(folder / layout.JOURNAL)

    def train(epoch: int) -> None:
        """As training does, between any two lines of the delivery's."""
        written.write({"val/loss": 1 / epoch}, epoch)
        fresh = folder / "checkpoints" / ".last.pt.tmp"
        torch.save({"epoch": epoch}, fresh)
        fresh.replace(folder / "checkpoints" / "last.pt")

    def there() -> int:
        (path,) = tmp_path.glob("mlartifacts/*/artifacts/checkpoints/last.pt")
        return torch.load(path, weights_only=True)["epoch"]

    train(1)
    delivery = Delivery(folder)
    delivery.step()
    read = journal.read_block

    def read_and_go_on(path: Path, offset: int, end: int, size: int) -> object:
        points = read(path, offset, end, size)
        train(3)
        return points

    train(2)
    with monkeypatch.context() as patch:
        patch.setattr(journal, "read_block", read_and_go_on)
        delivery.step()
    metrics = connect(uri).get_metric_history(str(delivery.run_id), "val/loss")
    assert (max(metric.step for metric in metrics), there()) == (2, 2)
    delivery.step()
    assert there() == 3
    assert not list((folder / ".tracking" / "checkpoints").iterdir())


def test_infinity_comes_back_as_what_it_was(tmp_path: Path, empty_store: Path) -> None:
    uri = copy_store(empty_store, tmp_path)
    folder = tmp_path / "run"
    folder.mkdir()
    Manifest(uri, "runner", "a run", str(tmp_path / "mlartifacts")).ended("FAILED").save(folder)
    values = {"a": float("inf"), "b": float("-inf"), "c": float("nan"), "d": 1e300}
    Journal(folder / layout.JOURNAL).write(values, 1)
    assert Delivery(folder).step()
    client, run = only_run(uri)
    points = fetch_points(client, run.info.run_id, run.data.metrics, own_names(run.data.tags))
    assert {point.name: repr(point.value) for point in points} == {name: repr(value) for name, value in values.items()}
