"""Addresses of stores: folders of any name, saved without credentials; and stores that refuse or do not answer."""

import json
import os
import socket
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from conftest import Called, run_folder
from helpers.delivered import copy_store
from helpers.problems import about, problem_of
from runner import evaluate, sync, ui
from runner.errors import StoreError
from runner.rundir.folders import for_shell
from runner.rundir.manifest import Manifest
from runner.tracking.deliver import Delivery
from runner.tracking.location import refuse_database_of_server
from runner.tracking.store import connect, get_or_create_experiment, local_uri, resolve_store
from runner.tracking.trouble import describe_trouble, explain
from runner.util import driver
from runner.util.store_address import check_sqlite
from runner.util.uri import absolute_uri, sqlite_address, sqlite_file, strip_credentials

NAMES = (
    "My%20Project", "%2F", "100%", "a#b", "a?b=c", "a;b", "it's", 'say "x"', "ü 数", "~x", "[a], {b}", "${x}", "a=b",
    "a\nb", "a\\", "a@b:c", "-x", "null", "1e5",
)  # fmt: skip
QUICK = ("trainer.epochs=1", "data.limit=32", "model.hidden=[8]", "device=cpu", "tracking.log_model=false")


def test_an_address_names_one_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in NAMES:
        file = Path("/a") / name / "x.db"
        address = sqlite_address(file)
        assert sqlite_file(address) == file and absolute_uri(address) == address
        (tmp_path / name).mkdir()
        monkeypatch.chdir(tmp_path / name)
        assert sqlite_file(absolute_uri("sqlite:///x.db?timeout=5")) == tmp_path / name / "x.db"
    assert sqlite_address(Path("/a b/ü.db")) == "sqlite:////a b/ü.db"


@pytest.mark.parametrize("names", [pytest.param(NAMES[:12], marks=pytest.mark.soak), NAMES[:12:4]], ids=len)
def test_a_store_lies_in_a_folder_of_any_name(names: Sequence[str], tmp_path: Path, empty_store: Path) -> None:
    for name in names:
        outputs = tmp_path / "all" / name
        copy_store(empty_store, outputs)
        uri, root = resolve_store(None, outputs)
        client = connect(uri)
        run = client.create_run(get_or_create_experiment(client, uri, "runner", root))
        (tmp_path / "file.txt").write_text(name)
        client.log_artifact(run.info.run_id, str(tmp_path / "file.txt"))
        (written,) = (outputs / "mlartifacts").rglob("file.txt")
        assert written.read_text() == name
        assert [file.path for file in client.list_artifacts(run.info.run_id)] == ["file.txt"]
    assert {path.name for path in (tmp_path / "all").iterdir()} == set(names)  # and nowhere else


@pytest.mark.usefixtures("delivery_here")
@pytest.mark.parametrize("name", [pytest.param("${x}", marks=pytest.mark.soak), "My%20Project\n?"])
def test_a_run_works_in_a_folder_of_any_name(
    name: str, here: Path, runner: Callable[..., Called], monkeypatch: pytest.MonkeyPatch
) -> None:
    (here / name).mkdir()
    monkeypatch.chdir(here / name)
    (here / name / "t.csv").write_text("a,b\n" + "1.5,x\n2.5,y\n" * 16)
    called = runner("data=csv", "data.path=t.csv", *QUICK)
    assert called.code == 0, called.err
    folder = run_folder(here / name)
    called = runner(f"resume={folder}", "trainer.epochs=2")
    assert called.code == 0, called.err
    run_id = json.loads((folder / "result.json").read_text())["run_id"]
    assert evaluate.main([f"run={run_id}"]) == 0
    assert sync.main([f"run={folder}"]) == 0
    ui._connect(local_uri(here / name / "outputs"), from_variable=False)
    assert [path.name for path in here.iterdir()] == [name]


def test_a_path_is_quoted_in_one_line() -> None:
    assert for_shell("a b") == "'a b'"
    assert for_shell("it's\n\\") == r"$'it\'s\x0a\\'"


@pytest.mark.parametrize(
    ("address", "saved"),
    [
        ("postgresql://root@127.0.0.1/db", "postgresql://root@127.0.0.1/db"),
        ("postgresql://u:p@s/s@h:5/db?sslmode=require&password=x", "postgresql://u@h:5/db?sslmode=require"),
        ("postgresql:///db?host=/run/postgresql", "postgresql:///db?host=/run/postgresql"),
        ("mysql+pymysql://u:p?q@h/db", "mysql+pymysql://u@h/db"),
        ("postgresql://u:${oc.env:PW}@h/db", "postgresql://u:${oc.env:PW}@h/db"),
        ("http://u:p@h:5000/x?token=1", "http://h:5000/x"),
        ("https://token@h", "https://h"),
    ],
)
def test_an_address_is_saved_without_secrets(address: str, saved: str) -> None:
    assert strip_credentials(address) == saved


class Silent:
    """A connection to a server that never answers, with psycopg's interface."""

    def __init__(self, line: socket.socket) -> None:
        self.fileno, self._line = line.fileno, line

    def wait(self) -> bytes:
        return self._line.recv(1)


def test_waiting_for_an_answer_has_a_time_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(driver, "ANSWER_SECONDS", 0.1)
    options = driver.engine_options("postgresql+psycopg://ada@host/db?connect_timeout=9")
    assert options["connect_args"] == {"tcp_user_timeout": 10_000}  # the address takes precedence
    ours, theirs = socket.socketpair()
    with ours, theirs:
        connection = Silent(ours)
        driver.limit_waiting(connection)
        theirs.send(b"x")
        assert connection.wait() == b"x"
        assert connection.wait() == b""


def test_a_file_that_can_never_be_a_store_is_refused(tmp_path: Path, empty_store: Path) -> None:
    (tmp_path / "text.db").write_text("hello")
    (tmp_path / "empty.db").touch()
    os.mkfifo(tmp_path / "pipe")
    for usable in (empty_store, tmp_path / "empty.db", tmp_path / "new" / "x.db"):
        assert check_sqlite("k", sqlite_address(usable), creates=True) is None
    wrong = {"text.db": "is not a database", "pipe": "is a device or pipe", "": "is a folder", "text.db/x.db": "read"}
    for name, words in wrong.items():
        problem = check_sqlite("k", sqlite_address(tmp_path / name))
        assert problem is not None and about([problem]) == [("k", "file")] and words in problem.text
    assert check_sqlite("k", "sqlite:////proc/x.db") is None  # nothing is created for a command that reads
    for uri, words in {
        "sqlite:////proc/x.db": "no file can be made in /proc",
        "sqlite://x.db": "names no file",
    }.items():
        problem = check_sqlite("k", uri, creates=True)
        assert problem is not None and words in problem.text
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty.db", "pipe", "text.db"]


def test_an_experiment_of_a_server_is_not_written_to_by_the_address_of_its_database(
    tmp_path: Path, empty_store: Path
) -> None:
    uri = copy_store(empty_store, tmp_path)
    client = connect(uri)
    client.create_experiment("ours", "mlflow-artifacts:/7")
    with pytest.raises(StoreError) as raised:
        get_or_create_experiment(client, uri, "ours", str(tmp_path))
    assert "write tracking=server tracking.uri=http://<the server>" in describe_trouble(raised.value, "ours")
    problem = problem_of(lambda: refuse_database_of_server(uri, "ours"))
    assert (problem.key, problem.topic) == ("tracking.experiment", "conflict")
    assert str(raised.value) == str(problem) and "write tracking=server tracking.uri=http" in problem.suggestion
    for usable in ((uri, "another"), (uri, "new"), (f"{uri}x", "ours"), ("postgresql://nowhere.invalid/x", "ours")):
        refuse_database_of_server(*usable)
    assert get_or_create_experiment(client, uri, "another", str(tmp_path))


def test_a_deleted_experiment_is_restored_by_the_suggested_command(tmp_path: Path, empty_store: Path) -> None:
    uri = copy_store(empty_store, tmp_path / "a b")
    Manifest(uri, "mine", "run", str(tmp_path / "artifacts")).save(tmp_path)
    delivery = Delivery(tmp_path)
    delivery.step()
    experiment = delivery.state.experiment_id
    connect(uri).delete_experiment(experiment)
    command = f"MLFLOW_TRACKING_URI='{uri}' mlflow experiments restore --experiment-id {experiment}"
    for folder in (tmp_path, tmp_path / "another"):  # a run that is there, and a new one
        if folder != tmp_path:
            Manifest(uri, "mine", "run", str(tmp_path / "artifacts")).save(folder)
        with pytest.raises(StoreError) as raised:
            Delivery(folder).step()
        assert str(raised.value).endswith(command)
        assert explain(raised.value) == str(raised.value)
    connect(uri).restore_experiment(experiment)
    Delivery(tmp_path).step()
    connect(uri).delete_run(delivery.run_id)
    with pytest.raises(StoreError, match=f"mlflow runs restore --run-id {delivery.run_id}"):
        Delivery(tmp_path).step()
