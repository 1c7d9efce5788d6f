"""What MLflow's pages have of a run: the best values, names, descriptions, tags, models; its store is a real one."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from mlflow import MlflowClient

from conftest import Called, run_folder
from helpers.delivered import copy_store
from runner.rundir import journal, layout
from runner.rundir.delivery_state import DeliveryState
from runner.rundir.folders import outputs
from runner.rundir.journal import Journal, MetricPoint
from runner.rundir.manifest import NOTE, Manifest
from runner.tracking.deliver import Delivery
from runner.tracking.pages import VIEW_TAG, newest_table, table_view
from runner.tracking.store import connect, local_uri

SMALL = ("data.limit=120", "data.batch_size=8", "model.hidden=[16]", "scheduler=constant", "trainer.epochs=4")


def written(folder: Path, name: str) -> dict[int, float]:
    """A metric's value by step, each written once."""
    points = [point for point in journal.read(folder / layout.JOURNAL)[0] if point.name == name]
    assert len({point.step for point in points}) == len(points)
    return {point.step: point.value for point in points}


def logged(here: Path) -> MlflowClient:
    return MlflowClient(local_uri(here / "outputs"))


@pytest.mark.usefixtures("delivery_here")
def test_mlflow_has_the_best_values_that_the_terminal_names(here: Path, runner: Callable[..., Called]) -> None:
    # A step this large overshoots: the best epoch is not the last.
    assert runner(*SMALL, "optimizer.lr=0.4", "trainer.epochs=12").code == 0
    folder = run_folder(here)
    result = json.loads((folder / "result.json").read_text())
    best = result["best_epoch"]
    assert 1 <= best < 12
    client, run_id = logged(here), result["run_id"]
    metrics = client.get_run(run_id).data.metrics
    assert metrics["val/loss"] != result["val/loss"]
    for name in ("val/loss", "val/accuracy", "train/loss", "train/accuracy", "test/loss", "test/accuracy"):
        assert written(folder, f"best/{name}") == {best: result[name]}
        assert [(m.step, m.value) for m in client.get_metric_history(run_id, f"best/{name}")] == [(best, result[name])]
    assert not any(name.startswith("best/") for name in result)

    # Resumed, without and with a better epoch: nothing twice, and the last value is that of the best.
    assert runner(f"resume={folder}", "trainer.epochs=13").code == 0
    assert runner(f"resume={folder}", "trainer.epochs=30").code == 0
    again = json.loads((folder / "result.json").read_text())
    values = written(folder, "best/val/loss")
    assert values[best] == result["val/loss"]
    assert list(values) == sorted({best, again["best_epoch"]} | set(values))
    assert values[max(values)] == again["val/loss"] == min(written(folder, "val/loss").values())
    assert client.get_run(run_id).data.metrics["best/val/loss"] == again["val/loss"]


@pytest.mark.soak
@pytest.mark.usefixtures("delivery_here")
def test_a_run_that_stops_leaves_its_best_values_to_its_end(
    here: Path, runner: Callable[..., Called], monkeypatch: pytest.MonkeyPatch
) -> None:
    from runner.training import loop

    validate = loop.validate_within_epoch

    def stop_then(state: Any) -> None:
        validate(state)
        state.stop.requested = state.progress.step == 18  # of the second epoch, 12 steps each

    monkeypatch.setattr(loop, "validate_within_epoch", stop_then)
    within = ("trainer.validate_every_steps=6", "optimizer.lr=0.05")
    runner(*SMALL, *within)
    folder = run_folder(here)
    result = json.loads((folder / "result.json").read_text())
    assert (result["status"], result["best_epoch"]) == ("KILLED", 2)
    assert written(folder, "best/val/loss") == {}
    monkeypatch.setattr(loop, "validate_within_epoch", validate)
    assert runner(f"resume={folder}").code == 0
    result = json.loads((folder / "result.json").read_text())
    assert written(folder, "best/val/loss") == {result["best_epoch"]: result["val/loss"]}


@pytest.mark.usefixtures("delivery_here")
def test_a_run_is_named_described_and_tagged(here: Path, runner: Callable[..., Called]) -> None:
    tags = "tracking.tags={team: vision, n: 3, sure: true}"
    arguments = (*SMALL, "trainer.epochs=1", tags, "tracking.description=from https://ada:s3cret@host/x")
    assert runner(*arguments).code == 0
    folder = run_folder(here)
    client = logged(here)
    (run,) = client.search_runs([client.get_experiment_by_name("runner").experiment_id])
    stamp = "_".join(folder.name.split("_")[:2])[5:]
    assert run.info.run_name == f"limit=120 batch_size=8 hidden=[16] constant epochs=1 mlp ... {stamp}"
    assert {name: run.data.tags[name] for name in ("team", "n", "sure")} == {"team": "vision", "n": "3", "sure": "true"}
    described = run.data.tags[NOTE]
    assert described.startswith(
        "from https://***@host/x\n\n```console\n$ python -m runner data.limit=120 data.batch_size=8"
    )
    config = (folder / "config.yaml").read_text()
    begun = next(line for line in config.splitlines() if line.startswith("# $ "))
    assert begun.removeprefix("# ") in described
    assert yaml.safe_load(config)["tracking"]["tags"] == {"team": "vision", "n": "3", "sure": "true"}

    # What a person wrote on the page stays; a resume is written down behind the command that began the run.
    client.set_tag(run.info.run_id, NOTE, "mine now")
    assert runner(f"resume={folder}", "trainer.epochs=2", "tracking.tags.team=sound").code == 0
    now = client.get_run(run.info.run_id)
    assert (now.info.run_name, now.data.tags[NOTE]) == (run.info.run_name, "mine now")
    assert (now.data.tags["team"], now.data.tags["n"]) == ("sound", "3")
    typed = [line for line in (folder / "config.yaml").read_text().splitlines() if line.startswith("# $ ")]
    assert typed == [begun, f"# $ python -m runner resume={folder} trainer.epochs=2 tracking.tags.team=sound"]
    assert not [path for path in folder.rglob("*") if path.is_file() and b"s3cret" in path.read_bytes()]


@pytest.mark.parametrize(
    ("argument", "key", "topic", "words"),
    [
        ("tracking.tags={mlflow.user:me}", "tracking.tags.mlflow.user", "conflict", "MLflow"),
        ("tracking.tags={runner.key:1}", "tracking.tags.runner.key", "conflict", "runner"),
        ("tracking.tags={pruned:no}", "tracking.tags.pruned", "conflict", "runner"),
        ("tracking.tags.mlflow.user=me", "tracking.tags.mlflow", "conflict", "{user:me}"),
        ("tracking.tags={a@b:1}", "tracking.tags.a@b", "syntax", "a_b"),
        ("tracking.tags={a:[1,2]}", "tracking.tags.a", "type", "[1,2]"),
        ("tracking.tags={a:null}", "tracking.tags.a", "type", "null"),
        ("tracking.tags=vision", "tracking.tags", "type", "{team:vision}"),
    ],
)
def test_tags_that_are_not_the_user_s_are_refused(
    argument: str, key: str, topic: str, words: str, here: Path, runner: Callable[..., Called]
) -> None:
    called = runner(argument)
    assert called.code == 2
    assert called.about == [(key, topic)] and words in str(called.problems[0]), called.err
    assert not (here / "outputs").exists()


def test_figures_of_the_model_reach_the_store_before_those_of_the_machine(tmp_path: Path, empty_store: Path) -> None:
    uri = copy_store(empty_store, tmp_path)
    folder = tmp_path / "run"
    folder.mkdir()
    manifest = Manifest(uri, "order", "a run", str(tmp_path / "mlartifacts"))
    manifest.save(folder)
    writer = Journal(folder / layout.JOURNAL)
    writer.write({"system/cpu": 1.0}, 0)
    delivery = Delivery(folder)
    assert not delivery.step()
    client = connect(uri)
    assert client.get_run(delivery.run_id).data.metrics == {}
    writer.write({"train/loss": 0.5, "val/loss": 0.4, "lr": 0.1}, 1)
    writer.write({"system/cpu": 2.0}, 1)
    assert not delivery.step()
    assert list(client.get_run(delivery.run_id).data.metrics) == ["val/loss", "train/loss", "lr", "system/cpu"]
    assert [m.value for m in client.get_metric_history(delivery.run_id, "system/cpu")] == [1.0, 2.0]

    # A run that ends before it has measured anything still has those of the machine.
    failed = tmp_path / "failed"
    failed.mkdir()
    manifest = Manifest(uri, "order", "failed", str(tmp_path / "mlartifacts"))
    manifest.ended("FAILED").save(failed)
    Journal(failed / layout.JOURNAL).write({"system/cpu": 1.0}, 0)
    delivery = Delivery(failed)
    assert delivery.step()
    assert client.get_run(delivery.run_id).data.metrics == {"system/cpu": 1.0}


@pytest.mark.usefixtures("delivery_here")
def test_a_logged_model_is_named_like_its_run_and_has_parameters_and_metrics_by_data_set(
    here: Path, runner: Callable[..., Called]
) -> None:
    assert runner(*SMALL, "trainer.epochs=1", "optimizer.lr=0.1", "tracking.run_name=a/b: 0.1 '%'").code == 0
    result = json.loads((run_folder(here) / "result.json").read_text())
    client = logged(here)
    run = client.get_run(result["run_id"])
    (output,) = run.outputs.model_outputs
    model = client.get_logged_model(output.model_id)
    assert run.info.run_name == "a/b: 0.1 '%'"
    assert model.name == "a-b- 0,1"
    assert (model.params["optimizer.lr"], model.params["model"]) == ("0.1", "mlp")
    data = run.inputs.dataset_inputs[0].dataset
    measured = {(m.key, m.value, m.step, m.dataset_name, m.dataset_digest) for m in model.metrics}
    for name in ("best/val/loss", "best/train/loss", "best/test/accuracy", "test/accuracy"):
        assert (name, result[name.removeprefix("best/")], 1, data.name, data.digest) in measured
    assert {file.path for file in client.list_artifacts(result["run_id"], "model")} >= {"model/MLmodel", "model/data"}


def test_a_sweep_s_best_value_is_a_metric_that_a_resume_may_better(tmp_path: Path) -> None:
    from runner.sweeps.results.parent_run import log_best

    for value, finished in ((0.5, 3), (0.4, 3), (0.3, 4)):
        log_best(tmp_path, "val/loss", value, finished)
    assert written(tmp_path, "best/val/loss") == {3: 0.5, 4: 0.3}
    assert isinstance(journal.read(tmp_path / layout.JOURNAL)[0][0], MetricPoint)


def state_of(tag: str) -> dict[str, Any]:
    """What a stored view shows."""
    return dict(json.loads(json.loads(tag)["state"]))


@pytest.mark.usefixtures("delivery_here")
@pytest.mark.parametrize(
    ("monitor", "ascending"),
    [
        pytest.param("val/loss", True, marks=pytest.mark.soak),
        ("val/accuracy", False),
        pytest.param("train/loss", True, marks=pytest.mark.soak),
    ],
    ids=str,
)
def test_the_experiment_has_a_table_of_settings_and_best_values(
    monitor: str, ascending: bool, here: Path, runner: Callable[..., Called]
) -> None:
    assert runner(*SMALL, "trainer.epochs=1", f"trainer.monitor={monitor}", "tracking.log_model=false").code == 0
    tags = logged(here).get_experiment_by_name("runner").tags
    key = newest_table(tags)
    state = state_of(tags[f"{VIEW_TAG}{key}"])
    assert (state["orderByKey"], state["orderByAsc"]) == (f"metrics.`best/{monitor}`", ascending)
    columns = {f"metrics.`best/{name}`" for name in (monitor, "val/accuracy", "test/accuracy")}
    columns |= {f"params.`{name}`" for name in ("model", "data", "optimizer", "optimizer.lr", "data.batch_size")}
    assert set(state["selectedColumns"]) == columns
    (run,) = logged(here).search_runs(["1"])
    named = {column.partition("`")[2][:-1] for column in columns}
    assert named <= {*run.data.metrics, *run.data.params}


def test_a_server_s_pages_and_a_database_s_command_are_named_with_the_run(tmp_path: Path) -> None:
    from runner.tracking.tracker import Tracker

    class Nobody:
        """Tells MLflow nothing."""

        def __getattr__(self, _: str) -> Any:
            return lambda *_: None

    view = dict([table_view(["best/val/loss"], ascending=True, created=0)])
    for number, (uri, lines) in enumerate(
        (
            (
                "https://ada:s3cret@team.example/mlflow/",
                [
                    "mlflow     https://team.example/mlflow/#/experiments/7/runs/abc?workflowType=machine_learning",
                    "runs       https://team.example/mlflow/#/experiments/7/runs?workflowType=machine_learning"
                    f"&viewStateShareKey={newest_table(view)}",
                ],
            ),
            ("sqlite:////a b/x.db", ["mlflow     run abc: python -m runner.ui 'tracking.uri=sqlite:////a b/x.db'"]),
            (local_uri(outputs()), ["mlflow     run abc: python -m runner.ui"]),
        )
    ):
        folder = tmp_path / str(number)
        folder.mkdir()
        tracker = Tracker(folder, Manifest(uri, "e", "r", experiment_tags=view), delivery=Nobody())
        assert tracker.links == []
        DeliveryState(run_id="abc", experiment_id="7").save(folder)
        assert tracker.links == lines
        tracker.close("FINISHED")
