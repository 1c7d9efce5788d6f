"""The upload of a journal to real stores: in linear time, each point once, after power losses and interruptions."""

import logging
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from mlflow.entities import Param

from helpers.delivered import copy_store
from helpers.servers import Server
from runner.rundir import journal, layout
from runner.rundir.delivery_state import DeliveryState
from runner.rundir.journal import Journal, MetricPoint
from runner.rundir.manifest import Manifest
from runner.tracking import delivery_loop, metric_upload
from runner.tracking.dead_runs import finish_dead_run
from runner.tracking.deliver import Delivery, outstanding
from runner.tracking.delivery_loop import BYTES_AT_ONCE, DeliveryLoop
from runner.tracking.metric_upload import merge
from runner.tracking.restore import restore_journal
from runner.tracking.store import connect
from runner.tracking.upload_queue import UploadQueue
from runner.util.niceness import AUTOGROUP, run_nicely
from runner.util.tags import FOLDER_TAG, SUCCESSOR_PARAM
from runner.util.uri import sqlite_file

NAMES = ("train/loss_step", "val/accuracy@5")


@pytest.fixture(params=["sqlite", pytest.param("server", marks=pytest.mark.soak)])
def uri(request: pytest.FixtureRequest, empty_store: Path, tmp_path: Path) -> Iterator[str]:
    if request.param == "sqlite":
        yield copy_store(empty_store, tmp_path / "outputs")
        return
    (tmp_path / "server").mkdir()
    server = Server(tmp_path / "server", empty_store)
    server.start()
    yield server.uri
    server.signal(9)


@pytest.fixture
def local(empty_store: Path, tmp_path: Path) -> str:
    return copy_store(empty_store, tmp_path / "outputs")


def make_run(uri: str, tmp_path: Path, status: str = "FINISHED") -> Path:
    folder = tmp_path / "run"
    folder.mkdir()
    manifest = Manifest(uri, "runner", "run", str(tmp_path / "mlartifacts") if uri.startswith("sqlite") else None)
    (manifest if status == "RUNNING" else manifest.ended(status)).save(folder)
    return folder


def write(folder: Path, steps: range) -> None:
    writer = Journal(folder / layout.JOURNAL)
    for step in steps:
        writer.write(dict.fromkeys(NAMES, float(step)), step)
    writer.close()


def assert_uploaded(uri: str, folder: Path, steps: range) -> None:
    """Assert that MLflow has each step of both metrics once, in order, and the journal too."""
    client, state = connect(uri), DeliveryState.load(folder)
    for name in NAMES:
        history = client.get_metric_history(str(state.run_id), state.keys[name])
        assert [(point.step, point.value) for point in history] == [(step, float(step)) for step in steps]
        points = [point.step for point in journal.read(folder / layout.JOURNAL)[0] if point.name == name]
        assert sorted(points) == list(steps)
    assert not outstanding(folder)


class Interrupted(Exception):
    """Stands for a kill: nothing is noted after it."""


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """The sizes of all requests with metrics; none may ask for a history."""
    sizes: list[int] = []
    log_batch = MlflowClient.log_batch

    def counted(client: MlflowClient, run_id: str, metrics: Any = (), **others: Any) -> Any:
        sizes.append(len(metrics))
        return log_batch(client, run_id, metrics=metrics, **others)

    monkeypatch.setattr(MlflowClient, "log_batch", counted)
    return sizes


def interrupt(monkeypatch: pytest.MonkeyPatch, after: int, sent: bool) -> None:
    """Interrupt the upload at a request with metrics, before it or before it is noted."""
    send, count = metric_upload.MetricUpload._send, 0

    def interrupted(upload: metric_upload.MetricUpload, points: Any) -> None:
        nonlocal count
        count += 1
        if count > after and not sent:
            raise Interrupted
        send(upload, points)
        if count > after:
            raise Interrupted

    monkeypatch.setattr(metric_upload.MetricUpload, "_send", interrupted)


def test_an_upload_that_is_interrupted_ten_times_sends_each_point_about_once(
    uri: str, tmp_path: Path, sent: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(metric_upload, "PART", 1 << 13)
    folder = make_run(uri, tmp_path)
    write(folder, range(1, 1501))
    offsets = [0]
    with monkeypatch.context() as patch:
        patch.setattr(MlflowClient, "get_metric_history", lambda *_, **__: pytest.fail("a history was read"))
        for number in range(10):
            with patch.context() as once:
                interrupt(once, 2, sent=number % 2 == 0)
                with pytest.raises(Interrupted):
                    Delivery(folder).step()
            offsets.append(DeliveryState.load(folder).offset)
        assert Delivery(folder).step() is True
    assert offsets == sorted(offsets) and len(set(offsets)) == 11, "each attempt comes further"
    assert sum(sent) == 3000
    assert_uploaded(uri, folder, range(1, 1501))


def test_what_was_noted_was_flushed_before_it_was_sent(
    local: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = make_run(local, tmp_path, "RUNNING")
    flushed = 0
    flush, send = metric_upload.journal_check.flush, metric_upload.MetricUpload._send

    def flushing(path: Path) -> int:
        nonlocal flushed
        flushed = flush(path)
        write(folder, range(101, 151))  # the run measures on: this is not flushed
        return flushed

    def sending(upload: metric_upload.MetricUpload, points: list[journal.MetricPoint]) -> None:
        assert max((point.step for point in points), default=0) <= 100
        send(upload, points)

    monkeypatch.setattr(metric_upload.journal_check, "flush", flushing)
    monkeypatch.setattr(metric_upload.MetricUpload, "_send", sending)
    write(folder, range(1, 101))
    Delivery(folder).step()
    assert DeliveryState.load(folder).offset == flushed < (folder / layout.JOURNAL).stat().st_size


def test_lost_notes_send_nothing_again(uri: str, tmp_path: Path, sent: list[int]) -> None:
    folder = make_run(uri, tmp_path)
    write(folder, range(1, 101))
    assert Delivery(folder).step()
    sent.clear()
    (folder / ".tracking" / "delivery.json").unlink()
    assert Delivery(folder).step()
    assert sum(sent) == 0
    assert_uploaded(uri, folder, range(1, 101))


def test_metrics_that_the_store_has_lost_are_sent_again(
    local: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = make_run(local, tmp_path, "RUNNING")
    file = sqlite_file(local)
    assert file is not None
    write(folder, range(1, 51))
    Delivery(folder).step()
    shutil.copy(file, tmp_path / "older.db")
    write(folder, range(51, 101))
    Delivery(folder).step()
    shutil.copy(tmp_path / "older.db", file)
    Manifest.load(folder).ended("FINISHED").save(folder)
    assert Delivery(folder).step()
    assert "MLflow has lost metrics" in caplog.text
    assert_uploaded(local, folder, range(1, 101))


def cut(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: content.index(b"\n", len(content) // 2) + 1])


def damage(path: Path) -> None:
    lines = path.read_bytes().splitlines(keepends=True)
    lines[10:14] = [b"garbage\n"]
    path.write_bytes(b"".join(lines))


LOSSES: dict[str, tuple[Callable[[Path], None], str]] = {
    "cut": (cut, "was cut"),
    "damaged": (damage, "1 damaged line"),
    "missing": (Path.unlink, "is missing"),
}


@pytest.mark.parametrize("loss", LOSSES)
def test_a_resume_fetches_back_what_the_journal_has_lost_and_says_so_once(
    loss: str, uri: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    lose, said = LOSSES[loss]
    folder = make_run(uri, tmp_path)
    write(folder, range(1, 101))
    assert Delivery(folder).step()
    lose(folder / layout.JOURNAL)
    caplog.clear()
    restore_journal(folder, uri)
    (warning,) = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert said in warning and warning.endswith("points were fetched back from MLflow")
    write(folder, range(90, 151))  # resumed from a checkpoint of before
    assert Delivery(folder).step()
    assert_uploaded(uri, folder, range(1, 151))


@pytest.mark.parametrize("loss", LOSSES)
def test_a_sync_fetches_it_back_too(loss: str, uri: str, tmp_path: Path) -> None:
    folder = make_run(uri, tmp_path)
    write(folder, range(1, 101))
    assert Delivery(folder).step()
    LOSSES[loss][0](folder / layout.JOURNAL)
    assert outstanding(folder)
    assert finish_dead_run(folder, uri)
    assert_uploaded(uri, folder, range(1, 101))


def test_a_journal_that_is_cut_and_grows_beyond_what_was_noted_is_uploaded_once_and_completed_at_the_end(
    local: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    folder = make_run(local, tmp_path)
    write(folder, range(1, 101))
    assert Delivery(folder).step()
    cut(folder / layout.JOURNAL)
    with monkeypatch.context() as patch:
        patch.setattr(MlflowClient, "get_metric_history", lambda *_, **__: (_ for _ in ()).throw(OSError("away")))
        restore_journal(folder, local)
    assert "away" in caplog.text and "python -m runner.sync" in caplog.text
    Manifest.load(folder).resumed(Manifest.load(folder)).save(folder)
    write(folder, range(80, 201))  # measured again from 80 on; 51 to 79 are in MLflow alone
    Delivery(folder).step()
    assert DeliveryState.load(folder).lacks_points
    Manifest.load(folder).ended("FINISHED").save(folder)
    assert Delivery(folder).step()
    assert_uploaded(local, folder, range(1, 201))


def test_points_that_are_fetched_back_stand_in_the_order_of_steps() -> None:
    kept = [MetricPoint("a", 1.0, 1, 10.0), MetricPoint("a", 2.0, 2, 30.0), MetricPoint("b", 1.0, 1, 20.0)]
    fetched = [MetricPoint("a", float(step), step, 10.0 + step) for step in (1, 2, 3, 4)]
    merged = merge(kept, fetched)  # step 2 was measured again after a resume, and the run died before step 3
    assert [(point.name, point.step, point.time) for point in merged] == [
        ("a", 1, 10.0), ("b", 1, 20.0), ("a", 2, 30.0), ("a", 3, 13.0), ("a", 4, 14.0),
    ]  # fmt: skip


def test_a_step_with_a_limit_leaves_the_rest_for_the_next_one(
    local: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(metric_upload, "PART", 1 << 12)
    folder = make_run(local, tmp_path)
    write(folder, range(1, 301))
    delivery, steps = Delivery(folder), 1
    while not delivery.step(limit=1 << 13):
        assert delivery.is_behind and delivery.backlog > 0
        steps += 1
    assert steps > 4 and not delivery.is_behind and delivery.backlog == 0
    assert_uploaded(local, folder, range(1, 301))


def test_a_run_whose_last_transaction_the_store_has_lost_is_described_and_ended_again(
    local: str, tmp_path: Path
) -> None:
    folder = make_run(local, tmp_path, "RUNNING")
    manifest = Manifest.load(folder)
    manifest.params, manifest.tags = {"seed": "1"}, {"device": "cpu"}
    manifest.save(folder)
    write(folder, range(1, 11))
    Delivery(folder).step()
    client, run_id = connect(local), str(DeliveryState.load(folder).run_id)
    file = sqlite_file(local)
    assert file is not None
    shutil.copy(file, tmp_path / "older.db")
    manifest.ended("FINISHED").save(folder)
    assert Delivery(folder).step()
    shutil.copy(tmp_path / "older.db", file)
    assert client.get_run(run_id).info.status == "RUNNING"
    assert Delivery(folder).step()
    run = client.get_run(run_id)
    assert (run.info.status, run.data.params, run.data.tags["device"]) == ("FINISHED", {"seed": "1"}, "cpu")


def test_a_parameter_or_tag_of_another_origin_does_not_stand_for_those_that_the_store_has_lost(
    local: str, tmp_path: Path
) -> None:
    folder = make_run(local, tmp_path, "RUNNING")
    Delivery(folder).step()
    client, run_id = connect(local), str(DeliveryState.load(folder).run_id)
    manifest = Manifest.load(folder)
    manifest.params = {f"key{number}": "1" for number in range(150)}  # more than one request
    manifest.tags |= {"device": "cpu", FOLDER_TAG: str(folder)}
    manifest.save(folder)
    state = DeliveryState.load(folder)
    state.params, state.tags = True, manifest.tags
    state.save(folder)
    client.log_batch(run_id, params=[Param("key0", "1"), Param(f"{SUCCESSOR_PARAM}first", "x")])
    Delivery(folder).step()
    run = client.get_run(run_id)
    assert run.data.params.keys() >= manifest.params.keys() and run.data.tags["device"] == "cpu"


def test_the_niceness_follows_what_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loop = DeliveryLoop(delivery_loop.Folders(0), None, lambda **_: None)  # type: ignore[arg-type]
    assert loop._niceness() == 0, "training has not started"
    loop._settled = True
    loop._queue.add(tmp_path)
    found = []
    for backlog in (0, 10_000, 500_000, 13_600_000):
        monkeypatch.setattr(Delivery, "backlog", backlog)
        found.append(loop._niceness())
    assert found == [19, 19, 10, 5]
    loop._queue.remove(tmp_path)
    monkeypatch.setattr(Delivery, "backlog", 0)
    for name in "ab":
        (tmp_path / name).mkdir()
        manifest = Manifest("sqlite:///store.db", "piles", name)
        (manifest if name == "a" else manifest.ended("FINISHED")).save(tmp_path / name)
        loop._queue.add(tmp_path / name)
        assert loop._queue.next()[-1:] == [tmp_path / name]
        assert loop._niceness() == (19 if name == "a" else 5), "a run that has ended has files to upload"
    loop._folders.closed = True
    assert loop._niceness() == 0, "training has ended"
    assert max(delivery_loop.NICENESS) > BYTES_AT_ONCE


def test_a_step_does_not_cost_more_when_more_runs_have_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []
    load = Manifest.load
    queue = UploadQueue(None, 1)
    for name in ("sweep", *map(str, range(20))):
        (tmp_path / name).mkdir()
        manifest = Manifest("sqlite:///store.db", "many", name)
        (manifest if name == "sweep" else manifest.ended("FINISHED")).save(tmp_path / name)
        queue.add(tmp_path / name)
    assert queue.next() == [tmp_path / "sweep", tmp_path / "0"]
    monkeypatch.setattr(Manifest, "load", lambda folder: read.append(folder.name) or load(folder))
    queue.remove(tmp_path / "0")
    (tmp_path / "1" / ".tracking" / "manifest.json").unlink()
    (tmp_path / "2" / ".tracking" / "manifest.json").write_text("{")
    manifest = load(tmp_path / "3")
    manifest.status = "RUNNING"
    manifest.save(tmp_path / "3")  # resumed
    assert queue.next() == [tmp_path / "sweep", tmp_path / "3", tmp_path / "4"]
    assert read == ["sweep", "1", "2", "3", "4"], "of the others none"
    queue.postpone(tmp_path / "4")
    assert queue.next() == [tmp_path / "sweep", tmp_path / "3", tmp_path / "5"]
    queue[tmp_path / "sweep"].state.run_id = "0" * 32
    assert queue.next()[:2] == [tmp_path / "3", tmp_path / "sweep"], "first the one whose process waits for its id"
    load(tmp_path / "5").ended("KILLED").save(tmp_path / "2")
    queue.add(tmp_path / "4")  # its process has sent it again
    queue.next()
    assert tmp_path / "2" in queue.readable and tmp_path / "1" not in queue.readable and len(queue) == 19


@pytest.mark.skipif("sys.platform != 'linux'")
def test_less_priority_is_not_for_ever() -> None:
    import os

    def niceness() -> int:
        return os.getpriority(os.PRIO_PROCESS, threading.get_native_id())

    own = niceness()  # that of the whole suite
    assert [run_nicely(wanted, niceness) for wanted in (0, 19, 5, 0)] == [own, 19, max(own, 5), own]
    with pytest.raises(ZeroDivisionError):
        run_nicely(19, lambda: 1 / 0)


SESSION = """
import time
from runner.util.niceness import AUTOGROUP, run_nicely
for niceness in (19, 5, 0):
    print(run_nicely(niceness, AUTOGROUP.read_text).split()[-1])
    time.sleep(0.2)  # Linux refuses a second change within 0.1 s
"""


@pytest.mark.skipif(not AUTOGROUP.exists(), reason="this system does not group processes by session")
@pytest.mark.parametrize(("own", "found"), [(True, ["19", "5", "0"]), (False, None)])
def test_the_session_of_the_delivery_gets_the_priority_and_no_other_one(own: bool, found: list[str] | None) -> None:
    before = AUTOGROUP.read_text()
    printed = subprocess.run([sys.executable, "-c", SESSION], start_new_session=own, capture_output=True, text=True)
    assert printed.stdout.split() == (found or 3 * before.split()[-1:]), printed.stderr
    assert AUTOGROUP.read_text() == before
