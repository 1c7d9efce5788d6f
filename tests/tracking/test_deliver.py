"""What a delivery asks of MLflow, how often it writes, and how files get into an artifact folder of this machine."""

import os
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

from helpers.delivered import copy_store
from runner.errors import StoreError
from runner.rundir import layout
from runner.rundir.delivery_state import DeliveryState
from runner.rundir.journal import Journal
from runner.rundir.manifest import PAUSE, Dataset, Manifest
from runner.tracking import artifacts
from runner.tracking.deliver import Delivery
from runner.tracking.delivery_loop import Folders
from runner.tracking.local_files import copy_into, link_into
from runner.tracking.pages import is_same_view, table_view
from runner.tracking.store import connect
from runner.util.files import hard_link

ASKED = ("get_run", "search_runs", "search_logged_models")
SENT = ("create_run", "create_logged_model", "log_outputs", "set_experiment_tag")


@pytest.fixture
def uri(empty_store: Path, tmp_path: Path) -> str:
    return copy_store(empty_store, tmp_path / "outputs")


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Iterator[Counter[str]]:
    """Count what is asked of MLflow, and what may be made twice; and the writes of `delivery.json`."""
    count: Counter[str] = Counter()

    def counted(owner: Any, name: str) -> None:
        call = getattr(owner, name)

        def wrapper(*args: Any, **others: Any) -> Any:
            count[name] += 1
            return call(*args, **others)

        monkeypatch.setattr(owner, name, wrapper)

    for name in (*ASKED, *SENT):
        counted(MlflowClient, name)
    counted(DeliveryState, "save")
    return count


def make_job(folder: Path, uri: str) -> Manifest:
    """Make the folder of a sweep's job, as it is before the job starts."""
    folder.mkdir(parents=True)
    manifest = Manifest(uri, "runner", folder.name, str(folder.parent / "mlartifacts"))
    manifest.tags["runner.job"] = folder.name
    manifest.save(folder)
    return manifest


def finish(folder: Path, manifest: Manifest) -> None:
    """Write what a finished job has: parameters, metrics, files, a model."""
    manifest.params |= {f"p{number}": "1" for number in range(120)}
    manifest.dataset = Dataset("digits", "0", "scikit-learn")
    manifest.experiment_tags.update([table_view(["val/loss"], ascending=True, created=int(folder.name))])
    with_points = Journal(folder / layout.JOURNAL)
    for epoch in (1, 2):
        with_points.write({"val/loss": 1 / epoch}, epoch)
    with_points.write({"best/val/loss": 0.5}, 2)
    with_points.close()
    (folder / layout.PLOTS).mkdir()
    (folder / layout.PLOTS / "loss.png").write_bytes(b"png")
    (folder / layout.MODEL / "data").mkdir(parents=True)
    (folder / layout.MODEL / "MLmodel").write_text(f"model_uuid: {folder.name}\n")
    (folder / layout.MODEL / "data" / "model.pt2").write_bytes(b"weights")
    (folder / layout.MODEL / "data" / "model.pt2").chmod(0o644)  # whatever the umask
    manifest.ended("FINISHED").save(folder)


def assert_complete(uri: str, folder: Path) -> None:
    client, state = connect(uri), DeliveryState.load(folder)
    run = client.get_run(str(state.run_id))
    assert run.info.status == "FINISHED" and len(run.data.params) == 120 and run.data.tags["runner.job"] == folder.name
    assert [point.step for point in client.get_metric_history(run.info.run_id, "val/loss")] == [1, 2]
    (logged,) = client.search_logged_models([run.info.experiment_id], f"source_run_id = '{run.info.run_id}'")
    assert str(logged.status).endswith("READY") and [each.model_id for each in run.outputs.model_outputs] == [
        logged.model_id
    ]
    assert {(metric.key, metric.value) for metric in logged.metrics} == {("best/val/loss", 0.5)}
    for root in (
        Path(run.info.artifact_uri.removeprefix("file://")) / layout.MODEL,
        Path(logged.artifact_location.removeprefix("file://")),
    ):
        assert logged.model_id in (root / "MLmodel").read_text()
        assert (root / "data" / "model.pt2").samefile(folder / layout.MODEL / "data" / "model.pt2")
        assert sorted(path.name for path in root.rglob("*")) == ["MLmodel", "data", "model.pt2"]


def test_of_a_run_that_this_process_has_created_mlflow_is_asked_nothing(
    uri: str, tmp_path: Path, calls: Counter[str]
) -> None:
    for number in range(2):
        folder = tmp_path / str(number)
        manifest = make_job(folder, uri)
        delivery = Delivery(folder, is_new=True)
        assert not delivery.step()
        finish(folder, manifest)
        assert delivery.step()
    assert {name: calls[name] for name in ASKED} == dict.fromkeys(ASKED, 0)
    assert {name: calls[name] for name in SENT} == {
        "create_run": 2, "create_logged_model": 2, "log_outputs": 2,
        "set_experiment_tag": 1,  # both have the same view of a table
    }  # fmt: skip
    assert calls["save"] == 4, "once when the run is created, once at its end"
    for number in range(2):
        assert_complete(uri, tmp_path / str(number))


@pytest.mark.parametrize("where", ["create_run", "create_logged_model", "log_outputs", "finalize_logged_model"])
@pytest.mark.parametrize("works", [False, True], ids=["outage", "this call alone"])
def test_what_was_made_before_a_failure_is_found_again(
    where: str, works: bool, uri: str, tmp_path: Path, calls: Counter[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "0"
    manifest = make_job(folder, uri)
    finish(folder, manifest)
    delivery, call = Delivery(folder, is_new=True), getattr(MlflowClient, where)

    def fails_after(*args: Any, **others: Any) -> None:
        call(*args, **others)
        monkeypatch.setattr(MlflowClient, where, call)
        raise ConnectionError("Connection reset: the answer is lost")

    monkeypatch.setattr(MlflowClient, where, fails_after)
    monkeypatch.setattr(artifacts.FileUpload, "_works", lambda _: works)
    if not works or where == "create_run":
        with pytest.raises(ConnectionError):
            delivery.step()
    assert delivery.step()
    assert calls["create_run"] == calls["create_logged_model"] == calls["log_outputs"] == 1
    assert_complete(uri, folder)


def test_a_model_that_was_saved_after_the_pause_that_is_delivered_waits_for_its_metrics(
    uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "0"
    manifest = make_job(folder, uri)
    manifest.ended(PAUSE).save(folder)
    delivery = Delivery(folder, is_new=True)
    send = delivery._send_metrics

    def resumed_meanwhile(*args: Any) -> bool:
        done = send(*args)
        if not (folder / layout.MODEL).exists():
            finish(folder, manifest)
        return done

    monkeypatch.setattr(delivery, "_send_metrics", resumed_meanwhile)
    assert delivery.step()
    assert delivery.state.refused == {} and delivery.state.model_id is None
    assert delivery.step()
    assert_complete(uri, folder)


def test_two_processes_that_open_a_run_at_the_same_time_create_one(
    uri: str, tmp_path: Path, calls: Counter[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The process of a killed sweep creates the run of its next job while the sweep is resumed."""
    folder = tmp_path / "0"
    make_job(folder, uri)
    first, second, create = Delivery(folder, is_new=True), Delivery(folder), MlflowClient.create_run
    begun, go_on = threading.Event(), threading.Event()

    def slow(*args: Any, **others: Any) -> Any:
        begun.set()
        assert go_on.wait(10)
        return create(*args, **others)

    monkeypatch.setattr(MlflowClient, "create_run", slow)
    with ThreadPoolExecutor() as pool:
        ends = [pool.submit(first.step)]
        assert begun.wait(10)
        ends.append(pool.submit(second.step))
        time.sleep(0.2)  # until it waits
        go_on.set()
        assert not any(end.result(20) for end in ends)
    assert calls["create_run"] == 1 and first.run_id == second.run_id


def test_the_parent_says_which_runs_are_new() -> None:
    reader, writer = os.pipe()
    os.write(writer, (Folders.message(Path("a+"), True) + Folders.message(Path("/b c"), False)).encode())
    folders = Folders(reader)
    assert folders.wait(None) == [(Path("a+"), True), (Path("/b c"), False)]
    os.close(writer)
    assert folders.wait(None) == [] and folders.closed
    os.close(reader)


def test_a_view_is_the_same_whenever_it_was_made() -> None:
    (_, first), (_, later) = (table_view(["a"], ascending=True, created=created) for created in (1, 2))
    assert first != later and is_same_view(first, later)
    for other in (table_view(["a"], ascending=False, created=1)[1], "[]", "no JSON", None):
        assert not is_same_view(first, other)
    assert is_same_view("no JSON", "no JSON")


class TestFilesOfAStoreOnThisMachine:
    def test_a_copy_has_its_own_content_and_a_link_the_same(self, tmp_path: Path) -> None:
        (source := tmp_path / "source").write_text("old")
        source.chmod(0o600)
        root = tmp_path / "root"
        for _ in range(2):  # a second time it replaces what is there
            copy_into(root, "a/copy", source)
            link_into(root, "a/b/link", source)
        source.write_text("new")
        assert ((root / "a/copy").read_text(), (root / "a/b/link").read_text()) == ("old", "new")
        assert (root / "a/copy").stat().st_mode & 0o777 == 0o600
        assert sorted(path.name for path in root.rglob("*") if path.is_file()) == ["copy", "link"]

    def test_what_others_may_write_to_is_not_linked(self, tmp_path: Path) -> None:
        (source := tmp_path / "source").write_text("text")
        source.chmod(0o664)
        link_into(tmp_path / "root", "name", source)
        assert not source.samefile(tmp_path / "root" / "name")

    @pytest.mark.parametrize("put", [copy_into, link_into])
    def test_no_link_is_followed(self, put: Any, tmp_path: Path) -> None:
        (source := tmp_path / "source").write_text("text")
        (elsewhere := tmp_path / "elsewhere").mkdir()
        (root := tmp_path / "root").mkdir()
        (root / "folder").symlink_to(elsewhere)
        with pytest.raises(StoreError, match="folder is a link"):
            put(root, "folder/below/name", source)
        (root / "name").symlink_to(elsewhere / "name")
        put(root, "name", source)
        assert not (root / "name").is_symlink() and list(elsewhere.iterdir()) == []

    def test_a_link_onto_another_link_to_the_same_file_leaves_nothing_behind(self, tmp_path: Path) -> None:
        (source := tmp_path / "source").write_text("text")
        for _ in range(2):
            hard_link(source, tmp_path / "target")
        assert sorted(path.name for path in tmp_path.iterdir()) == ["source", "target"]
