"""MLFLOW_TRACKING_URI: the store of new runs that name none, and never of runs with a recorded store."""

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from mlflow import MlflowClient

from conftest import Called, run_folder
from runner import compare, evaluate, sync, ui
from runner.config import store_variable
from runner.rundir.manifest import Manifest

SMALL = ("data.limit=60", "model.hidden=[8]", "trainer.epochs=1", "tracking.log_model=false")


@pytest.fixture
def store(here: Path, empty_store: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Set the variable to a new database; yields its address."""
    shutil.copy(empty_store, here / "team.db")
    address = f"sqlite:///{here}/team.db"
    monkeypatch.setenv(store_variable.NAME, address)
    yield address


def runs(uri: str) -> list[Any]:
    client = MlflowClient(uri)
    return list(client.search_runs([e.experiment_id for e in client.search_experiments()]))


@pytest.mark.usefixtures("delivery_here")
def test_a_database_is_used_and_recorded_by_reference(
    here: Path,
    store: str,
    runner: Callable[..., Called],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    # Other variables that a parent's MLflow has set have no effect.
    for name in ("MLFLOW_RUN_ID", "MLFLOW_EXPERIMENT_NAME", "MLFLOW_EXPERIMENT_ID", "MLFLOW_ACTIVE_MODEL_ID"):
        monkeypatch.setenv(name, "0123456789abcdef0123456789abcdef")
    called = runner(*SMALL)
    assert called.code == 0, called.err
    assert f"tracking   {store}, experiment runner (MLFLOW_TRACKING_URI, as tracking=local)\n" in called.err
    folder = run_folder(here)
    run_id = json.loads((folder / "result.json").read_text())["run_id"]
    (run,) = runs(store)
    assert (run.info.run_id, run.data.params["tracking.uri"]) == (run_id, store_variable.REFERENCE)
    assert MlflowClient(store).get_experiment(run.info.experiment_id).name == "runner"
    assert not (here / "outputs" / "mlflow.db").exists()
    assert yaml.safe_load((folder / "config.yaml").read_text())["tracking"]["uri"] == store_variable.REFERENCE
    assert f"mlflow     run {run_id}: python -m runner.ui\n" in called.err

    # Run ids are looked up in it, and a resume follows the reference.
    assert evaluate.main([f"run={run_id}"]) == 0
    assert compare.main([f"runs=[{run_id}]", f"output={here}/compared"]) == 0
    assert runner(f"resume={run_id}", "trainer.epochs=2").code == 0
    assert [run.info.run_id for run in runs(store)] == [run_id]

    # Without it, commands that need no store work, and the others name it in one line.
    monkeypatch.delenv(store_variable.NAME)
    capsys.readouterr()
    assert evaluate.main([f"run={folder}"]) == 0
    called = runner(f"resume={folder}", "trainer.epochs=3")
    assert called.code == 2
    assert len(called.errors) == 1 and "environment variable MLFLOW_TRACKING_URI is not set" in called.errors[0]
    assert runner(f"resume={folder}", "trainer.epochs=3", f"tracking.uri={store}").code == 0


@pytest.mark.soak
@pytest.mark.usefixtures("delivery_here")
def test_the_variable_is_ignored_if_a_store_is_named_or_recorded(
    here: Path, runner: Callable[..., Called], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    own = f"sqlite:///{here}/outputs/mlflow.db"
    assert runner(*SMALL).code == 0
    folder = run_folder(here)
    (run,) = runs(own)
    monkeypatch.setenv(store_variable.NAME, "databricks")  # a new run refuses it
    assert runner(f"resume={folder}", "trainer.epochs=2").code == 0
    for main, argument in ((evaluate.main, "run"), (compare.main, "runs")):
        assert main([f"{argument}={folder}", *([f"output={here}/compared"] if argument == "runs" else [])]) == 0
        assert main([f"{argument}={run.info.run_id}"]) == 0
    assert sync.main([f"run={folder}"]) == 0
    assert [found.info.run_id for found in runs(own)] == [run.info.run_id]
    capsys.readouterr()
    for arguments in (["tracking=off"], ["tracking.uri=null"], [f"tracking.uri={own}"]):
        called = runner(*SMALL, *arguments)
        assert called.code == 0 and store_variable.NAME not in called.err, called.err
    assert len(runs(own)) == 3


@pytest.mark.parametrize("value", ["databricks", "file:///somewhere/mlruns", "./mlruns", "/mlruns", "s3://u:s3cret@b"])
def test_a_value_that_is_not_a_store_is_refused(
    value: str, here: Path, runner: Callable[..., Called], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(store_variable.NAME, value)
    for arguments in ((), ("tracking=server",)):
        called = runner(*SMALL, *arguments)
        assert called.code == 2
        (error,) = called.errors
        assert error.startswith("error: MLFLOW_TRACKING_URI=") and "tracking.uri=null to ignore it" in error
        assert "s3cret" not in error
    assert not (here / "outputs").exists()


def test_a_database_is_refused_for_tracking_server(store: str, runner: Callable[..., Called]) -> None:
    called = runner(*SMALL, "tracking=server")
    assert called.code == 2 and called.about == [("tracking.uri", "conflict")]
    assert store_variable.NAME in called.problems[0].text and "tracking=local" in called.problems[0].suggestion


@pytest.mark.usefixtures("delivery_here")
def test_a_server_is_used_as_tracking_server_and_its_password_is_not_saved(
    here: Path, runner: Callable[..., Called], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("helpers.delivered.DeliveryHere.deliver", lambda *_: None)  # it does not exist
    monkeypatch.setattr("helpers.delivered.DeliveryHere.close", lambda *_: False)
    monkeypatch.setenv(store_variable.NAME, "http://ada:s3cret-word@127.0.0.1:9/")
    called = runner(*SMALL, "tracking=local")
    assert called.code == 0, called.err
    said = "tracking   http://127.0.0.1:9/, experiment runner (MLFLOW_TRACKING_URI, as tracking=server)\n"
    assert said in called.err
    folder = run_folder(here)
    tracking = yaml.safe_load((folder / "config.yaml").read_text())["tracking"]
    assert (tracking["name"], tracking["uri"]) == ("server", store_variable.REFERENCE)
    manifest = Manifest.load(folder)
    assert (manifest.params["tracking"], manifest.params["tracking.name"]) == ("server", "server")
    assert store_variable.add_credentials(manifest.uri) == "http://ada:s3cret-word@127.0.0.1:9/"
    assert store_variable.add_credentials("http://other") == "http://other"
    assert not [path for path in folder.rglob("*") if path.is_file() and b"s3cret-word" in path.read_bytes()]


def test_the_ui_shows_its_store_and_points_at_its_server(
    here: Path, store: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    served: list[str] = []
    monkeypatch.setattr(ui, "_serve", lambda uri, *_: served.append(uri))
    ui.main(["port=5999"])
    assert served == [store]
    monkeypatch.setenv(store_variable.NAME, "https://ada:s3cret@team.example/")
    capsys.readouterr()
    assert ui.main(["port=5999"]) == 2
    printed = capsys.readouterr().err
    assert "open https://team.example/#/experiments?workflowType=machine_learning" in printed
    assert "s3cret" not in printed
