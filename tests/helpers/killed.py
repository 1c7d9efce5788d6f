"""Shared by the tests of interrupted runs: comparisons with an uninterrupted run, and with MLflow."""

import json
from pathlib import Path
from typing import Any

from mlflow import MlflowClient
from mlflow.entities import Run

from conftest import run_folder
from helpers.faults import inject
from helpers.sweeping import Forked
from helpers.training import exact_state, same
from runner.rundir import journal, layout
from runner.rundir.checkpoint_file import load
from runner.rundir.delivery_state import DeliveryState
from runner.tracking.store import connect

# All features with a state: dropout, augmentation, averaged weights, a scaler, a schedule by step, accumulation.
EVERYTHING = (
    "data.limit=300", "data.batch_size=16", "data.augment=[{rotation:10},mixup,cutmix]", "model.hidden=[16]",
    "model.dropout=0.2", "optimizer=adamw", "scheduler=warmup_cosine", "precision=fp16", "device.threads=1",
    "trainer.epochs=3", "trainer.ema_decay=0.9", "trainer.grad_accumulation=2", "trainer.clip_norm=1",
    "trainer.log_every_steps=1", "trainer.checkpoint_every_steps=2", "trainer.validate_every_steps=4",
    "tracking.log_model=false",
)  # fmt: skip

# A part that is frozen until the second epoch, groups of parameters, rates by layer.
TUNED = (
    "debug=fast", "model=cnn", "model.batch_norm=true", "model.channels=[4,4]", "model.strides=[1,2]",
    "model.freeze=[features.0,features.1]", "model.unfreeze_at_epoch=2", "optimizer=adamw", "scheduler=warmup_cosine",
    "optimizer.groups.head.params=head.*", "optimizer.groups.head.lr=0.02", "optimizer.groups.head.betas=[0.8,0.9]",
    "optimizer.no_decay=true", "optimizer.layer_decay=0.5", "trainer.epochs=3", "trainer.grad_accumulation=2",
    "device.threads=1", "tracking.log_model=false",
)  # fmt: skip

TIMED = ("time/", "throughput/", "system/", "energy/")


def measured(folder: Path) -> dict[tuple[str, int], float]:
    """Return the values of a run's journal, except times and rates; each (name, step) must occur once."""
    points = journal.read(folder / layout.JOURNAL)[0]
    assert len(points) == len({(point.name, point.step) for point in points}), "written twice"
    return {(point.name, point.step): point.value for point in points if not point.name.startswith(TIMED)}


def result(folder: Path) -> dict[str, Any]:
    """Return the result of a run, except times, rates and its ids in MLflow."""
    content = json.loads((folder / "result.json").read_text())
    timed = (*TIMED, "epoch_seconds", "samples_per_second", "run_id", "parent_run_id")
    return {key: value for key, value in content.items() if not key.startswith(timed)}


def assert_ended_the_same(folder: Path, whole: Path) -> None:
    """Assert that weights, optimizer state and metrics are bit for bit those of an uninterrupted run."""
    for name in ("last.pt", "best.pt"):
        one, other = (exact_state(load(f / "checkpoints" / name)) for f in (folder, whole))
        assert same(one, other), f"{name}: {[key for key in other if not same(one[key], other[key])]}"
    assert measured(folder) == measured(whole)
    assert result(folder) == result(whole)
    content = json.loads((folder / "result.json").read_text())
    seconds = list(map(float, (folder / layout.EPOCH_SECONDS).read_text().splitlines()))
    assert content["epoch_seconds"] == seconds and len(seconds) == content["epochs"]
    assert list(folder.glob("checkpoints/.*")) == []


def only_run(uri: str) -> tuple[MlflowClient, Run]:
    """Return the only run of the experiment `runner` in a store."""
    client = connect(uri)
    experiment = client.get_experiment_by_name("runner")
    (run,) = client.search_runs([experiment.experiment_id])
    return client, run


def counts(client: MlflowClient, run_id: str, folder: Path) -> tuple[int, int, int]:
    """Count the points in the journal, in MLflow, and twice in MLflow; values and their order must agree."""
    points, _ = journal.read(folder / layout.JOURNAL)
    keys = DeliveryState.load(folder).keys
    delivered = duplicated = 0
    for name in dict.fromkeys(point.name for point in points):
        there = client.get_metric_history(run_id, keys.get(name, name))
        assert [point.step for point in there] == sorted(point.step for point in there), name
        sent = {point.step: point.value for point in points if point.name == name}
        assert {point.step: point.value for point in there}.items() <= sent.items(), name
        delivered += len({point.step for point in there})
        duplicated += len(there) - len({point.step for point in there})
    return len(points), delivered, duplicated


def assert_delivered(uri: str, folder: Path, status: str = "FINISHED") -> None:
    """Assert that MLflow has one run, and each point of its journal once."""
    client, run = only_run(uri)
    assert run.info.status == status
    sent, delivered, duplicated = counts(client, run.info.run_id, folder)
    assert (delivered, duplicated) == (sent, 0)


def starts_at_once(here: Path, number: int) -> None:
    """Start runs at once on a missing SQLite file: there must be one experiment, and each run must be complete."""
    uri = f"sqlite:///{here}/mlflow.db"
    arguments = ("data.limit=60", "trainer.epochs=2", "tracking.log_model=false", "tracking.wait=60")
    places = [here / str(place) for place in range(number)]
    for place in places:
        place.mkdir()
    started = [Forked(place, *arguments, f"tracking.uri={uri}", prepare=inject(None)) for place in places]
    for process in started:
        code, printed = process.wait(180)
        assert code == 0, printed
        assert "error" not in printed and "runner.sync" not in printed
    client = connect(uri)
    assert sorted(experiment.name for experiment in client.search_experiments()) == ["Default", "runner"]
    runs = client.search_runs([client.get_experiment_by_name("runner").experiment_id])
    assert len(runs) == number and {run.info.status for run in runs} == {"FINISHED"}
    for place in places:
        folder = run_folder(place)
        sent, delivered, duplicated = counts(client, str(DeliveryState.load(folder).run_id), folder)
        assert (delivered, duplicated) == (sent, 0)
