"""`python -m runner.ui`: MLflow's UI on this project's store, for this machine only."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

from helpers.delivered import copy_store
from helpers.problems import about
from runner import ui
from runner.errors import Problem
from runner.rundir.manifest import Manifest
from runner.tracking.deliver import Delivery
from runner.tracking.pages import VIEW_TAG
from runner.tracking.store import connect
from test_readme import commands


@pytest.fixture
def port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_without_a_store_it_says_so(
    tmp_path: Path, port: int, monkeypatch: pytest.MonkeyPatch, reported: list[Problem]
) -> None:
    monkeypatch.setenv("RUNNER_OUTPUTS", str(tmp_path))
    assert ui.main([f"port={port}"]) == 2
    assert about(reported) == [("tracking.uri", "store")]
    assert str(tmp_path / "mlflow.db") in reported[0].text
    assert list(tmp_path.iterdir()) == []


def test_a_taken_port_is_named(reported: list[Problem]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        taken = other.getsockname()[1]
        assert ui.main([f"port={taken}"]) == 2
    assert about(reported) == [("port", "unavailable")]
    assert f"port={taken}" in reported[0].text and "port=" in reported[0].suggestion


@pytest.mark.parametrize(
    ("argument", "problem", "suggestion"),
    [
        ("port=http", ("port", "range"), "from 1 to 65535"),
        ("prot=5001", ("prot", "unknown"), "did you mean port?"),
        ("tracking.uri=http://ada:s3cret@host", ("tracking.uri", "conflict"), "open http://host/"),
        ("tracking.uri=http://ada:s3cret@", ("tracking.uri", "type"), "write tracking.uri=http://<host>:<port>"),
        ("tracking.uri=http://[::1", ("tracking.uri", "type"), "write tracking.uri=http://<host>:<port>"),
        ("tracking.uri=mlruns", ("tracking.uri", "type"), "write tracking.uri=sqlite:////<absolute path>.db"),
        ("tracking.uri=sqlite:////dev/null", ("tracking.uri", "file"), "write tracking.uri=sqlite:////<absolute"),
    ],
)
def test_wrong_arguments_are_exit_2(
    argument: str, problem: tuple[str, str], suggestion: str, port: int, reported: list[Problem]
) -> None:
    assert ui.main([argument] if "port" in argument or "prot" in argument else [argument, f"port={port}"]) == 2
    assert about(reported) == [problem] and suggestion in reported[0].suggestion
    assert "s3cret" not in str(reported[0])


def test_the_store_is_served_on_this_machine_alone(tmp_path: Path, empty_store: Path, port: int) -> None:
    (command,) = [command for command in commands() if "runner.ui" in command]  # of the README
    uri = copy_store(empty_store, tmp_path)
    folder = tmp_path / "runs" / "run"
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text("seed: 0\n")
    root = str(tmp_path / "mlartifacts")
    Manifest(uri, "shown", "mlp_digits", artifact_root=root).ended("FINISHED").save(folder)
    delivery = Delivery(folder)
    assert delivery.step()
    dead = tmp_path / "runs" / "dead"
    dead.mkdir()
    Manifest(uri, "shown", "a power loss", artifact_root=root).save(dead)
    killed = Delivery(dead)
    assert not killed.step()
    process = subprocess.Popen(
        [sys.executable, *command.split()[1:], f"port={port}"],
        env=os.environ | {"RUNNER_OUTPUTS": str(tmp_path)},
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        assert process.stderr is not None
        line = process.stderr.readline()
        assert line.startswith(f"{dead}: ") and line.endswith(" KILLED\n")
        assert connect(uri).get_run(killed.run_id).info.status == "KILLED"
        printed = []
        while not printed or not printed[-1].startswith("MLflow UI on "):
            printed.append(process.stderr.readline())
            assert printed[-1], printed
        with socket.create_connection(("127.0.0.1", port)):
            assert len(printed) <= 3, "the link is not lost among lines of the server"
        opened = printed[-1].split()[3]
        assert opened.startswith(f"http://127.0.0.1:{port}/#/experiments/1/runs?workflowType=machine_learning&")
        # Stored now, as a store of 0.1.0 has none.
        stored = json.loads(connect(uri).get_experiment("1").tags[VIEW_TAG + opened.rpartition("=")[2]])
        assert json.loads(stored["state"])["orderByKey"] == "metrics.`val/loss`"
        artifact = f"http://127.0.0.1:{port}/get-artifact?path=config.yaml&run_uuid={delivery.run_id}"
        deadline = time.monotonic() + 60
        while True:
            try:
                with urllib.request.urlopen(artifact, timeout=5) as answer:
                    assert answer.read() == b"seed: 0\n"
                break
            except OSError:
                assert time.monotonic() < deadline
                time.sleep(0.2)
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=5) as answer:
            assert b"<title>MLflow" in answer.read()
        listening = Path("/proc/net/tcp")
        if listening.exists():
            addresses = [line.split()[1] for line in listening.read_text().splitlines()[1:]]
            assert [a for a in addresses if a.endswith(f":{port:04X}") and a.startswith("00000000")] == []
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 0
        assert "Traceback" not in process.stderr.read()
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
