"""The tracking room with real components: SQLite files, an `mlflow server` process, real signals."""

import json
import logging
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pandas as pd
import pytest
import torch

from helpers.delivered import copy_store
from helpers.forked import Forked
from helpers.problems import problem_of
from helpers.servers import Proxy, Server
from runner import sync
from runner.errors import StoreError
from runner.rundir import journal, layout
from runner.rundir.delivery_state import DeliveryState
from runner.rundir.journal import Journal
from runner.rundir.lock import is_locked, lock
from runner.rundir.manifest import Dataset, Manifest
from runner.tracking import store
from runner.tracking.deliver import Delivery, outstanding
from runner.tracking.environment import environment, git_tags
from runner.tracking.model import TableNames, portable, save_model
from runner.tracking.process import DeliveryProcess
from runner.tracking.store import connect, local_uri, ui_of
from runner.tracking.system import SystemMetrics
from runner.tracking.tracker import Tracker
from runner.util.redaction import redact
from runner.util.tags import legal_name
from runner.util.terminal import STORE
from runner.util.uri import strip_credentials


def warnings_of(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]


@pytest.fixture(scope="module")
def server(empty_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = Server(tmp_path_factory.mktemp("server"), empty_store)
    server.start()
    yield server
    server.signal(signal.SIGKILL)


@pytest.fixture(params=["sqlite", "server"], scope="module")
def uri(request: pytest.FixtureRequest, empty_store: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    if request.param == "sqlite":
        return copy_store(empty_store, tmp_path_factory.mktemp("outputs"))
    return str(request.getfixturevalue("server").uri)


FILE_ALONE = pytest.mark.parametrize("uri", ["sqlite", pytest.param("server", marks=pytest.mark.soak)], indirect=True)


def make_manifest(uri: str, tmp_path: Path, **changes: Any) -> Manifest:
    local = uri.startswith("sqlite")
    return Manifest(
        uri=uri,
        experiment=changes.pop("experiment", tmp_path.name),
        run_name="mlp_digits",
        artifact_root=str(tmp_path / "mlartifacts") if local else None,
        params={"optimizer.lr": "0.1", "model.hidden[0]": "128", "long": "x" * 7000},
        tags={"device": "cpu"},
        dataset=Dataset("digits", "0123abcd", "scikit-learn", {"samples": 1797}),
        **changes,
    )


def make_run(tmp_path: Path, name: str = "run") -> Path:
    folder = tmp_path / "runs" / name
    folder.mkdir(parents=True)
    return folder


def histories(uri: str, run_id: str) -> dict[str, list[tuple[int, float]]]:
    client = connect(uri)
    names = client.get_run(run_id).data.metrics
    return {
        name: [(point.step, point.value) for point in client.get_metric_history(run_id, name)]
        for name in names
        if not name.startswith("system/")
    }


def python(code: str, *arguments: object, **options: Any) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.Popen(command, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **options)


def wait_for(condition: Callable[[], object], seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)


# --- the journal


def test_a_line_is_what_the_contract_says(tmp_path: Path) -> None:
    Journal(tmp_path / "m.jsonl").write({"val/loss": 0.31}, 3)
    line = json.loads((tmp_path / "m.jsonl").read_text())
    assert list(line) == ["name", "value", "step", "time"]
    assert (line["name"], line["value"], line["step"]) == ("val/loss", 0.31, 3)
    assert abs(line["time"] - time.time()) < 10


def test_a_half_written_line_is_cut_off_and_the_rest_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "m.jsonl"
    Journal(path).write({"a": 1.0, "b": 2.0}, 1)
    whole = path.read_bytes()
    path.write_bytes(whole + b'{"name": "a", "value": 0.')
    assert [point.name for point in journal.read(path)[0]] == ["a", "b"]
    Journal(path).write({"a": 3.0}, 2)
    assert [(p.name, p.step) for p in journal.read(path)[0]] == [("a", 1), ("b", 1), ("a", 2)]


def test_a_name_and_step_is_written_once_also_across_resumes(tmp_path: Path) -> None:
    path = tmp_path / "m.jsonl"
    first = Journal(path)
    for step in (1, 2, 3):
        first.write({"train/loss": float(step), "val/loss": float(step)}, step)
    first.write({"val/loss": 99.0}, 3)
    resumed = Journal(path)  # from the checkpoint of epoch 1: epochs 2 and 3 are measured again
    for step in (2, 3, 4):
        resumed.write({"train/loss": float(step), "val/loss": float(step), "new": 0.0}, step)
    points = [(point.name, point.step) for point in journal.read(path)[0]]
    assert len(points) == len(set(points))
    assert {step for name, step in points if name == "val/loss"} == {1, 2, 3, 4}
    assert {step for name, step in points if name == "new"} == {2, 3, 4}


def test_reading_goes_on_from_an_offset_and_leaves_a_partial_line(tmp_path: Path) -> None:
    path = tmp_path / "m.jsonl"
    writer = Journal(path)
    writer.write({"a": 1.0}, 1)
    points, offset = journal.read(path)
    assert (len(points), offset) == (1, path.stat().st_size)
    writer.write({"a": 2.0}, 2)
    whole = path.read_bytes()
    path.write_bytes(whole[:-5])
    assert journal.read(path, offset) == ([], offset)
    path.write_bytes(whole)
    assert [point.step for point in journal.read(path, offset)[0]] == [2]


def test_what_is_not_finite_comes_back_as_it_was(tmp_path: Path) -> None:
    Journal(tmp_path / "m.jsonl").write({"nan": float("nan"), "inf": float("-inf")}, 0)
    nan, infinite = journal.read(tmp_path / "m.jsonl")[0]
    assert nan.value != nan.value
    assert infinite.value == float("-inf")


def test_a_damaged_line_does_not_hide_the_others(tmp_path: Path) -> None:
    path = tmp_path / "m.jsonl"
    Journal(path).write({"a": 1.0}, 1)
    with path.open("ab") as file:
        file.write(b"\0" * 40 + b"\n")
    Journal(path).write({"a": 2.0}, 2)
    assert [point.step for point in journal.read(path)[0]] == [1, 2]


def test_sigkill_loses_nothing_that_was_written(tmp_path: Path) -> None:
    child = python(
        "import sys; from pathlib import Path; from runner.rundir.journal import Journal\n"
        "journal = Journal(Path(sys.argv[1]))\n"
        "for step in range(10**9):\n"
        "    journal.write({'a': 1.0, 'b': 2.0}, step)\n"
        "    print(step, flush=True)",
        tmp_path / "m.jsonl",
    )
    assert child.stdout is not None
    for _ in range(500):
        acknowledged = int(child.stdout.readline())
    child.kill()
    child.communicate()
    steps = [point.step for point in journal.read(tmp_path / "m.jsonl")[0] if point.name == "b"]
    assert steps == list(range(len(steps)))
    assert len(steps) > acknowledged


def test_a_full_disk_is_an_error_and_leaves_whole_lines(tmp_path: Path) -> None:
    child = python(
        "import resource, signal, sys; from pathlib import Path\n"
        "from runner.rundir.journal import Journal\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))\n"
        "journal = Journal(Path(sys.argv[1]))\n"
        "try:\n"
        "    for step in range(1000): journal.write({'a': 1.0, 'b': 2.0}, step)\n"
        "except OSError as error: print(step)",
        tmp_path / "m.jsonl",
    )
    failed_at = int(child.communicate()[0])
    assert (tmp_path / "m.jsonl").read_bytes().endswith(b"\n")
    assert len(journal.read(tmp_path / "m.jsonl")[0]) == 2 * failed_at


def test_two_threads_write_whole_lines(tmp_path: Path) -> None:
    writer = Journal(tmp_path / "m.jsonl")

    def work(name: str) -> None:
        for step in range(500):
            writer.write({name: float(step)}, step)

    threads = [threading.Thread(target=work, args=(name,)) for name in "abcd"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    points = journal.read(tmp_path / "m.jsonl")[0]
    assert len(points) == len({(point.name, point.step) for point in points}) == 2000


# --- small parts


def test_the_cheap_modules_import_neither_torch_nor_mlflow() -> None:
    modules = ["rundir.lock", "tracking.deliver", "tracking.environment", "tracking.store", "tracking.tracker"]
    code = "".join(f"import runner.{name}\n" for name in modules) + (
        "import runner.util.options, runner.sync, runner.ui, sys\n"
        "print([m for m in ('torch', 'mlflow', 'hydra', 'omegaconf', 'pandas') if m in sys.modules])"
    )
    assert python(code).communicate() == ("[]\n", "")


@pytest.mark.parametrize(
    ("uri", "stripped"),
    [
        ("http://ada:s3cret@host:5000/mlflow", "http://host:5000/mlflow"),
        ("https://token@host", "https://host"),
        ("http://ada:p@ss/word@host:5000", "http://host:5000"),
        ("postgresql://ada:s3cret@host/db?password=x", "postgresql://ada@host/db"),
        ("sqlite:////data/a@b/mlflow.db", "sqlite:////data/a@b/mlflow.db"),
        ("/data/a@b", "/data/a@b"),
    ],
)
def test_credentials_are_stripped(uri: str, stripped: str) -> None:
    assert strip_credentials(uri) == stripped


@pytest.mark.parametrize(
    ("uri", "kept_here"),
    [
        (None, True),
        ("sqlite:////data/mlflow.db", True),
        ("postgresql+psycopg2://ada:s3cret@host/db", True),
        ("mysql://host/db", True),
        ("https://host:5000", False),
    ],
)
def test_artifacts_lie_in_the_outputs_folder_unless_a_server_keeps_them(
    uri: str | None, kept_here: bool, tmp_path: Path
) -> None:
    root = str(tmp_path / "mlartifacts") if kept_here else None
    assert store.resolve_store(uri, tmp_path) == (uri or local_uri(tmp_path), root)


def test_credentials_are_taken_out_of_error_messages() -> None:
    text = redact("API request to http://ada:s3cret@host/api failed; see https://x/y?token=s3cret&a=1")
    assert "s3cret" not in text
    assert "a=1" in text


def test_names_are_made_legal() -> None:
    assert legal_name("val/accuracy@5") == "val/accuracy_5"
    assert legal_name("train/loss") == "train/loss"
    assert legal_name("../a//b[0]=1,2") == "a/b_0__1_2"
    assert legal_name("a@b", ["a_b"]) != legal_name("a=b", ["a_b"])
    assert len(legal_name("x" * 400)) == 250


def test_a_page_is_named_for_servers_only(tmp_path: Path) -> None:
    assert ui_of("http://a:b@host:5000/") == "http://host:5000"
    assert ui_of(local_uri(tmp_path)) is None


def test_a_folder_has_one_living_owner(tmp_path: Path) -> None:
    assert not is_locked(tmp_path)
    with lock(tmp_path):
        assert is_locked(tmp_path)
        problem = problem_of(lambda: lock(tmp_path))
        assert problem.topic == "run" and f"by process {os.getpid()} on" in problem.text
    assert not is_locked(tmp_path)


def test_a_killed_owner_no_longer_owns_whatever_its_forks_do(tmp_path: Path) -> None:
    child = python(
        "import os, sys, time; from pathlib import Path; from runner.rundir.lock import lock as lock_folder\n"
        "held = lock_folder(Path(sys.argv[1]))\n"
        "worker = os.fork()\n"
        "if worker: print(worker, flush=True)\n"
        "time.sleep(60)",
        tmp_path,
    )
    assert child.stdout is not None
    worker = int(child.stdout.readline())
    try:
        assert is_locked(tmp_path)
        child.kill()
        child.wait()
        wait_for(lambda: not is_locked(tmp_path), seconds=2)
        os.kill(worker, 0)  # the fork still lives
    finally:
        os.kill(worker, signal.SIGKILL)


def test_the_environment_names_packages_and_keeps_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "s3cret")
    text = environment({"gpu": "NVIDIA H100"})
    assert "s3cret" not in text
    assert f"torch=={torch.__version__.partition('+')[0]}" in text
    assert "python: 3." in text and "\ngpu: NVIDIA H100\n" in text


def test_git_tags_tell_commit_and_changes(tmp_path: Path) -> None:
    assert git_tags(tmp_path) == {}
    git = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@b"]
    subprocess.run([*git, "init", "-q"], check=True)
    subprocess.run([*git, "remote", "add", "origin", "https://ada:s3cret@host/x.git"], check=True)
    subprocess.run([*git, "commit", "-q", "--allow-empty", "-m", "first"], check=True)
    tags = git_tags(tmp_path)
    assert len(tags["mlflow.source.git.commit"]) == 40
    assert tags["git.dirty"] == "false"
    assert tags["mlflow.source.git.repoURL"] == "https://host/x.git"
    (tmp_path / "new").touch()
    assert git_tags(tmp_path)["git.dirty"] == "true"


def test_the_shortest_run_has_system_metrics_and_a_resume_counts_on(tmp_path: Path) -> None:
    for _ in range(2):
        writer = Journal(tmp_path / "m.jsonl")
        metrics = SystemMetrics(writer)
        metrics.start()
        metrics.stop()
        writer.close()
    points = journal.read(tmp_path / "m.jsonl")[0]
    steps = [p.step for p in points if p.name == "system/cpu_utilization_percentage"]
    assert steps == [0, 1, 2, 3]
    assert {"system/system_memory_usage_megabytes", "system/network_receive_megabytes"} <= {
        point.name for point in points
    }


# --- delivery


def write_everything(folder: Path) -> None:
    """Write what a run leaves behind, and journal 1200 points (more than one batch)."""
    writer = Journal(folder / layout.JOURNAL)
    for step in range(1, 601):
        writer.write({"train/loss": 1 / step, "val/accuracy@5": float(step)}, step)
    writer.write({"test/accuracy": 0.97, "broken": float("nan")}, 600)
    writer.close()
    (folder / "config.yaml").write_text("seed: 0\n")
    (folder / "result.json").write_text('{"run_id": null, "status": "FINISHED"}')
    for name in ("plots/loss.png", "checkpoints/best.pt"):
        (folder / name).parent.mkdir()
        (folder / name).write_bytes(b"content")


def test_a_run_arrives_whole_once_and_in_order(uri: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    folder = make_run(tmp_path)
    manifest = make_manifest(uri, tmp_path)
    manifest.save(folder)
    write_everything(folder)
    delivery = Delivery(folder)
    assert delivery.step() is False
    assert outstanding(folder)
    manifest.ended("FAILED").save(folder)
    assert delivery.step() is True
    assert not outstanding(folder)

    client = connect(uri)
    run = client.get_run(delivery.run_id)
    assert run.info.status == "FAILED"
    assert run.info.run_name == "mlp_digits"
    assert run.data.params == {
        "optimizer.lr": "0.1",
        "model.hidden_0_": "128",
        "long": "x" * 6000,
    }
    assert run.data.tags["device"] == "cpu"
    assert run.data.tags["runner.folder"] == str(folder)
    [data] = run.inputs.dataset_inputs
    assert (data.dataset.name, data.dataset.digest) == ("digits", "0123abcd")
    assert [(tag.key, tag.value) for tag in data.tags] == [("mlflow.data.context", "training")]
    names = {item.path for item in client.list_artifacts(delivery.run_id)}
    assert names == {"config.yaml", "result.json", "metrics.jsonl", "plots"}
    assert json.loads((folder / "result.json").read_text())["run_id"] == delivery.run_id
    experiment = client.get_experiment(run.info.experiment_id)
    assert experiment.tags["mlflow.experimentKind"] == "custom_model_development"

    delivered = histories(uri, str(delivery.run_id))
    assert delivered["train/loss"] == [(step, 1 / step) for step in range(1, 601)]
    assert delivered["val/accuracy_5"] == [(step, float(step)) for step in range(1, 601)]

    # A kill between doing and noting: all of it goes out again, and changes nothing.
    (folder / ".tracking" / "delivery.json").unlink()
    again = Delivery(folder)
    assert again.step() is True
    assert again.run_id == delivery.run_id
    assert {name: len(points) for name, points in histories(uri, str(again.run_id)).items()} == {
        name: len(points) for name, points in delivered.items()
    }
    assert len(client.search_runs([run.info.experiment_id])) == 1
    assert capfd.readouterr() == ("", "")  # MLflow has a lot to say on both


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (413, "client_max_body_size"),
        (None, "cuts the connection"),
        pytest.param(507, "(507)", marks=pytest.mark.soak),
        pytest.param(500, "(500 ", marks=pytest.mark.soak),
    ],
)
def test_a_file_that_a_proxy_does_not_pass_on_holds_up_nothing_else(
    answer: int | None, said: str, server: Server, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = make_run(tmp_path)
    write_everything(folder)
    (folder / "plots" / "zoo.png").write_bytes(b"content")
    (folder / "plots" / "large.png").write_bytes(bytes(2_000_000))
    with Proxy(server.port) as proxy:
        proxy.limit, proxy.too_large = 1_000_000, answer
        make_manifest(proxy.uri, tmp_path).ended("FINISHED").save(folder)
        delivery, client = Delivery(folder), connect(server.uri)
        assert delivery.step() is True and delivery.run_id is not None
        (line,) = warnings_of(caplog)
        assert line.startswith("not uploaded: plots/large.png (2 MB): ") and said in line
        assert line.endswith(f"python -m runner.sync run={folder}")
        assert client.get_run(delivery.run_id).info.status == "FINISHED"
        assert [item.path for item in client.list_artifacts(delivery.run_id, "plots")] == [
            "plots/loss.png",
            "plots/zoo.png",
        ]
        assert outstanding(folder) and sync.main([f"run={folder}"]) == 1
        proxy.limit = float("inf")
        assert sync.main([f"run={folder}"]) == 0 and not outstanding(folder)
        assert len(client.list_artifacts(delivery.run_id, "plots")) == 3


@pytest.mark.usefixtures("delivery_by_forks")
@FILE_ALONE
def test_a_resumed_run_goes_on_in_its_own_mlflow_run(uri: str, tmp_path: Path) -> None:
    folder = make_run(tmp_path)
    first = Tracker(folder, make_manifest(uri, tmp_path))
    first.log({"val/loss": 0.5}, 1)
    assert first.close("KILLED", timeout=30)
    client = connect(uri)
    assert client.get_run(first.run_id).info.status == "KILLED"

    manifest = make_manifest(uri, tmp_path)
    manifest.params["optimizer.lr"] = "0.2"
    second = Tracker(folder, manifest)
    second.log({"val/loss": 77.0}, 1)
    second.log({"val/loss": 0.4}, 2)
    wait_for(lambda: client.get_run(first.run_id).info.status == "RUNNING")
    assert second.close("FINISHED", timeout=30)
    assert second.run_id == first.run_id
    run = client.get_run(first.run_id)
    assert run.info.status == "FINISHED"
    assert run.data.params["optimizer.lr"] == "0.1"
    assert run.data.tags["resumed.optimizer.lr"] == "0.2"
    assert histories(uri, str(first.run_id)) == {"val/loss": [(1, 0.5), (2, 0.4)]}


@pytest.mark.usefixtures("delivery_by_forks")
@pytest.mark.parametrize(
    "outage", [pytest.param(signal.SIGKILL, marks=pytest.mark.soak), signal.SIGSTOP], ids=["killed", "stopped"]
)
def test_training_does_not_wait_for_a_server_that_is_away(
    outage: int,
    server: Server,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    caplog.set_level(logging.INFO, "runner")
    folder = make_run(tmp_path)
    tracker = Tracker(folder, make_manifest(server.uri, tmp_path))
    tracker.log({"train/loss": 1.0}, 1)
    wait_for(lambda: DeliveryState.load(folder).offset > 0)
    server.signal(outage)
    try:
        slowest = 0.0
        for step in range(2, 60):
            start = time.perf_counter()
            tracker.log({"train/loss": 1 / step}, step)
            slowest = max(slowest, time.perf_counter() - start)
            time.sleep(0.05)
        assert slowest < 0.25  # a request to this server takes a second to fail
        wait_for(lambda: warnings_of(caplog))
        start = time.perf_counter()
        assert tracker.close("FINISHED", timeout=1) is False
        assert time.perf_counter() - start < 2
        (warning,) = warnings_of(caplog)
        assert f"python -m runner.sync run={folder}" in warning
        assert outstanding(folder)
    finally:
        if outage == signal.SIGKILL:
            server.start()
        else:
            server.signal(signal.SIGCONT)
    delivery = Delivery(folder)
    assert delivery.step() is True
    assert delivery.run_id == tracker.run_id
    assert histories(server.uri, str(delivery.run_id))["train/loss"] == [(s, 1 / s) for s in range(1, 60)]


@pytest.mark.usefixtures("delivery_by_forks")
@pytest.mark.parametrize("what", ["errors", pytest.param("slow", marks=pytest.mark.soak)])
def test_a_server_that_is_in_trouble_gets_everything_once_and_costs_one_warning(
    what: str, server: Server, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "runner")
    folder = make_run(tmp_path)

    def told() -> list[int]:
        return [record.levelno for record in caplog.records if getattr(record, "topic", None) == STORE]

    with Proxy(server.port) as proxy:
        tracker = Tracker(folder, make_manifest(proxy.uri, tmp_path))
        wait_for(lambda: tracker.run_id)
        for step in range(1, 31):
            if what == "errors" and step % 5 == 0:  # it comes and goes
                proxy.fails = step % 10 == 5
                wait_for(lambda step=step: len(told()) >= min(2, step // 5))
            proxy.delay = 0.3 if what == "slow" else 0.0
            start = time.perf_counter()
            tracker.log({"train/loss": 1 / step}, step)
            assert time.perf_counter() - start < 0.25
            time.sleep(0.1)
        proxy.fails, proxy.delay = False, 0.0
        assert tracker.close("FINISHED", timeout=30) is True
    assert told() == ([logging.WARNING, logging.INFO] if what == "errors" else []), "away once, and back once"
    assert histories(server.uri, str(tracker.run_id)) == {"train/loss": [(step, 1 / step) for step in range(1, 31)]}


@pytest.mark.soak
@pytest.mark.usefixtures("delivery_by_forks")
def test_a_warning_names_the_sweep_and_tells_a_refusal_from_an_outage(
    server: Server, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "runner")
    for error, said in ((500, ""), (401, "MLFLOW_TRACKING_USERNAME")):
        caplog.clear()
        sweep = tmp_path / str(error)
        job = sweep / "0"
        job.mkdir(parents=True)
        with Proxy(server.port) as proxy:
            make_manifest(proxy.uri, tmp_path).save(sweep)
            delivery = DeliveryProcess(proxy.uri)
            delivery.deliver(sweep)
            assert delivery.run_id(30.0) is not None
            proxy.fails, proxy.error = True, error
            make_manifest(proxy.uri, tmp_path).save(job)
            delivery.deliver(job)
            wait_for(lambda caplog=caplog: "runner.sync" in caplog.text)
            assert delivery.close(timeout=0.0) is False
        (line,) = caplog.messages
        assert said in line and line.endswith(f": python -m runner.sync run={sweep}")
        assert ("(401)" in line) == (error == 401)


@pytest.mark.usefixtures("delivery_by_forks")
def test_a_server_that_comes_back_in_time_gets_everything(
    server: Server, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "runner")
    folder = make_run(tmp_path)
    late = Server(tmp_path)
    tracker = Tracker(folder, make_manifest(late.uri, tmp_path))
    tracker.log({"train/loss": 1.0}, 1)
    wait_for(lambda: warnings_of(caplog))
    assert tracker.run_id is None
    # The server's address becomes reachable, as by a tunnel that comes up late.
    with Proxy(server.port, late.port):
        tracker.log({"train/loss": 0.5}, 2)
        assert tracker.close("FINISHED", timeout=30) is True
    levels = [record.levelno for record in caplog.records if getattr(record, "topic", None) == STORE]
    assert levels == [logging.WARNING, logging.INFO], "away once, and back once"
    assert histories(server.uri, str(tracker.run_id)) == {"train/loss": [(1, 1.0), (2, 0.5)]}


@pytest.mark.usefixtures("delivery_by_forks")
def test_when_the_process_that_uploads_is_killed_another_one_uploads_the_rest(
    empty_store: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("runner.tracking.process.RESTARTS", 1)
    folder, uri = make_run(tmp_path), copy_store(empty_store, tmp_path)
    tracker = Tracker(folder, make_manifest(uri, tmp_path), uri, delivery := DeliveryProcess(uri))
    tracker.log({"train/loss": 1.0}, 1)
    assert (run_id := delivery.run_id(30.0)) is not None
    for _ in range(2):
        delivery._process.kill()
        wait_for(lambda killed=delivery._process.pid: delivery._process.pid != killed or delivery._lost)
    tracker.log({"train/loss": 0.5}, 2)
    assert tracker.close("FINISHED", timeout=30) is False
    assert [line.partition("; ")[2] for line in warnings_of(caplog)] == [
        "another one is started",
        "after the run, do: python -m runner.sync",
    ]
    assert sync.main([f"run={folder}", f"tracking.uri={uri}"]) == 0
    assert histories(uri, run_id) == {"train/loss": [(1, 1.0), (2, 0.5)]}


@pytest.mark.usefixtures("delivery_by_forks")
def test_a_damaged_record_keeps_no_other_from_being_delivered(
    empty_store: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "runner")
    uri = copy_store(empty_store, tmp_path)
    process = DeliveryProcess(uri)
    good, half, foreign, gone = folders = [make_run(tmp_path, name) for name in ("good", "half", "foreign", "gone")]
    for folder in folders:
        make_manifest(uri, tmp_path).save(folder)
        process.deliver(folder)
    wait_for(lambda: all(DeliveryState.load(folder).run_id for folder in folders))
    for folder, content in ((half, '{"uri": "sqli'), (foreign, "{}")):
        (folder / ".tracking" / "manifest.json").write_text(content)
    gone.rename(tmp_path / "elsewhere")  # at once: what is still written into it would fail a removal
    wait_for(lambda: all(any(str(folder) in text for text in warnings_of(caplog)) for folder in (half, foreign)))
    Manifest.load(good).ended("FINISHED").save(good)
    process.deliver(good)
    assert process.close(30) is False
    assert connect(uri).get_run(DeliveryState.load(good).run_id).info.status == "FINISHED"
    assert [sum(str(folder) in text for text in warnings_of(caplog)) for folder in (half, foreign)] == [1, 1]


DELIVER = (
    "import sys; from pathlib import Path; from runner.tracking.deliver import Delivery\n"
    "delivery = Delivery(Path(sys.argv[1]))\n"
    "assert delivery.step()\n"
    "print(delivery.run_id)"
)


@FILE_ALONE
def test_a_deliverer_killed_in_the_middle_is_taken_over_exactly_once(uri: str, tmp_path: Path) -> None:
    folder = make_run(tmp_path)
    count = 10_000
    writer = Journal(folder / layout.JOURNAL)
    for step in range(count):
        writer.write({"train/loss_step": float(step)}, step)
    writer.close()
    make_manifest(uri, tmp_path).ended("FINISHED").save(folder)
    child = Forked([sys.executable, "-c", DELIVER, str(folder)], text=True)
    wait_for(lambda: DeliveryState.load(folder).offset > 0)
    run_id = DeliveryState.load(folder).run_id
    child.kill()
    child.communicate()
    assert 0 < DeliveryState.load(folder).offset < (folder / layout.JOURNAL).stat().st_size
    assert outstanding(folder)

    delivery = Delivery(folder)
    assert delivery.step() is True
    assert delivery.run_id == run_id
    points = histories(uri, str(run_id))["train/loss_step"]
    assert points == [(step, float(step)) for step in range(count)]


def test_a_kill_while_the_store_is_made_leaves_none_and_the_next_makes_it_in_a_folder_of_any_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / """Ada's "best" :runs, 50%"""
    folder.mkdir()
    monkeypatch.chdir(folder)
    uri = local_uri(folder)
    child = Forked([sys.executable, "-c", f"from runner.tracking.store import connect; connect({uri!r})"], text=True)
    wait_for(lambda: [part for part in folder.glob(".*.part") if part.stat().st_size > 0])
    child.kill()
    child.wait()
    assert not (folder / "mlflow.db").exists()
    (default,) = connect(uri).search_experiments()
    assert default.artifact_location == (folder / "mlartifacts" / "0").as_uri()
    assert {path.name for path in folder.iterdir()} == {"mlflow.db", "mlflow.db.lock"}


@pytest.mark.parametrize("damage", ["half a migration", "no database", "another version"])
def test_an_unusable_store_is_one_sentence_that_says_what_to_do(damage: str, empty_store: Path, tmp_path: Path) -> None:
    file = tmp_path / "mlflow.db"
    if damage == "no database":
        file.write_bytes(b"hello, I am not a database\n" * 100)
    elif damage == "half a migration":
        with sqlite3.connect(file) as database:
            database.execute("CREATE TABLE runs (run_uuid TEXT)")
            database.execute("CREATE TABLE alembic_version (version_num TEXT)")
    else:
        shutil.copy(empty_store, file)
        with sqlite3.connect(file) as database:
            database.execute("UPDATE alembic_version SET version_num = '2b4d017a5e9b'")
    with pytest.raises(StoreError, match=r"move it away|mlflow db upgrade") as raised:
        connect(local_uri(tmp_path))
    assert "\n" not in str(raised.value)


def test_credentials_reach_no_file_and_no_message(
    server: Server, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    for name, port in (("there", server.port), ("away", 1)):
        folder = make_run(tmp_path, name)
        uri = f"http://ada:s3cret@127.0.0.1:{port}"
        tracker = Tracker(folder, make_manifest(uri, tmp_path), uri)
        tracker.log({"val/loss": 0.5}, 1)
        if name == "away":
            wait_for(lambda: warnings_of(caplog))
        assert tracker.close("FINISHED", timeout=30 if name == "there" else 0.5) is (name == "there")
        assert "s3cret" not in tracker.location
    assert "s3cret" not in caplog.text
    for place in (tmp_path, server.folder):
        for path in place.rglob("*"):
            assert not path.is_file() or b"s3cret" not in path.read_bytes(), path


def test_tracking_off_writes_the_journal_alone(tmp_path: Path) -> None:
    tracker = Tracker(tmp_path, None)
    tracker.log({"val/loss": 0.5}, 1)
    assert tracker.close("FINISHED") is True
    assert tracker.run_id is None
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.jsonl"]


# --- the model

PREDICT = (
    "import sys, mlflow, torch\n"
    "for argument in sys.argv[1:]:\n"
    "    store, uri = argument.split('|')\n"
    "    mlflow.set_tracking_uri(store)\n"
    "    model = mlflow.pyfunc.load_model(uri)\n"
    "    for rows in (1, 3, 64):\n"
    "        torch.manual_seed(rows)\n"
    "        images = torch.randn(rows, 1, 8, 8).numpy()\n"
    "        first, second = model.predict(images), model.predict(images)\n"
    "        assert (first == second).all() and first.shape == (rows, 10)\n"
    "        print(float(first.sum()))"
)


def small_cnn() -> torch.nn.Module:
    return torch.nn.Sequential(
        torch.nn.Conv2d(1, 4, 3, padding=1),
        torch.nn.BatchNorm2d(4),
        torch.nn.ReLU(),
        torch.nn.AdaptiveMaxPool2d(2),
        torch.nn.Flatten(),
        torch.nn.Dropout(0.5),
        torch.nn.Linear(16, 10),
    )


def test_the_model_predicts_in_a_fresh_process_for_any_batch(server: Server, empty_store: Path, tmp_path: Path) -> None:
    folder = make_run(tmp_path)
    model = small_cnn().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    save_model(model, torch.randn(1, 1, 8, 8), folder / "model")
    assert model.training  # the caller's model is left as it is
    Journal(folder / layout.JOURNAL).write({"test/accuracy": 0.97}, 3)

    places = []
    for uri in (copy_store(empty_store, tmp_path), server.uri):
        make_manifest(uri, tmp_path).ended("FINISHED").save(folder)
        delivery = Delivery(folder)
        assert delivery.step() is True
        client = connect(uri)
        [output] = client.get_run(delivery.run_id).outputs.model_outputs
        logged = client.get_logged_model(output.model_id)
        assert str(logged.status).endswith("READY")
        assert [(metric.key, metric.value) for metric in logged.metrics] == [("test/accuracy", 0.97)]
        places += [f"{uri}|models:/{output.model_id}", f"{uri}|runs:/{delivery.run_id}/model"]
        # Told again after a kill: still one logged model, linked once.
        (folder / ".tracking" / "delivery.json").unlink()
        assert Delivery(folder).step() is True
        assert len(client.get_run(delivery.run_id).outputs.model_outputs) == 1

    child = Forked(
        [sys.executable, "-c", PREDICT, *places], text=True
    )  # test_run.py loads one where nothing is imported
    printed = [float(line) for line in child.communicate()[0].split()]
    expected = []
    for rows in (1, 3, 64):
        torch.manual_seed(rows)
        expected.append(float(model.eval()(torch.randn(rows, 1, 8, 8)).detach().sum()))
    assert printed == pytest.approx(expected * len(places), abs=1e-3)


def test_a_saved_model_has_the_weights_of_the_trained_one_and_buffers_of_its_own() -> None:
    model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4))
    saved = portable(model, shared=True)
    assert [p.data_ptr() for p in saved.parameters()] == [p.data_ptr() for p in model.parameters()], "no second copy"
    assert {b.data_ptr() for b in saved.buffers()}.isdisjoint(b.data_ptr() for b in model.buffers())
    assert model.training and not saved.training


@pytest.mark.parametrize("table", [None, TableNames(["a", "b", "c"], ["y"])])
@pytest.mark.parametrize(
    "name",
    [
        "My%20Project",
        *(pytest.param(x, marks=pytest.mark.soak) for x in ("a%2Fb", "100%25", "50%off", "a#b?c", "a+b c", "-x")),
    ],
)
def test_a_model_is_saved_in_a_folder_of_any_name(
    name: str, table: TableNames | None, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / name).mkdir()
    dtype = torch.float32 if table is None else torch.float64  # as tables are served
    save_model(torch.nn.Linear(3, 1, dtype=dtype), torch.ones(4, 3, dtype=dtype), tmp_path / name / "model", table)
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []
    assert [path.name for path in (tmp_path / name).iterdir()] == ["model"]
    (tmp_path / name / "model").rename(tmp_path / "model")  # where MLflow finds it
    model = mlflow.pyfunc.load_model(str(tmp_path / "model"))
    inputs = np.ones((5, 3), np.float32)
    outputs = model.predict(inputs if table is None else pd.DataFrame(inputs, columns=table.inputs))
    assert outputs.shape == (5, 1)


class Branching(torch.nn.Module):
    """Takes a way that depends on the values: no graph tells both."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * 2 if x.sum().item() > 0 else x


class Frozen(torch.nn.Module):
    """Works for the batch it was made for only."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.reshape(4, 3)


@pytest.mark.parametrize("model", [Branching(), Frozen()])
def test_a_model_that_cannot_be_exported_costs_one_warning(
    model: torch.nn.Module,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "model").mkdir()
    save_model(model, torch.ones(4, 3), tmp_path / "model")
    [record] = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert "checkpoints/best.pt" in record.getMessage()
    assert "\n" not in record.getMessage()
    assert list(tmp_path.iterdir()) == []
    assert capfd.readouterr().out == ""
