"""What a store answers, and what is said of it: a refusal is no outage, and an outage no refusal."""

import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository
from requests import HTTPError
from sqlalchemy import create_engine
from sqlalchemy.exc import OperationalError

from helpers.problems import problem_of
from runner.errors import StoreError
from runner.tracking import database
from runner.tracking.store import connect
from runner.tracking.trouble import describe_refusal, describe_trouble, explain
from runner.util import options

ACCOUNT = ("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN")


class Answering(BaseHTTPRequestHandler):
    """Answers each request as its path says: http://host:port/<status>/<body>."""

    def answer(self) -> None:
        _, status, body, *_ = self.path.split("/")
        content = BODIES[body].encode()
        self.send_response(int(status))
        self.send_header("Content-Length", str(len(content)))
        if int(status) in (429, 503):
            self.send_header("Retry-After", "3600")
        self.end_headers()
        self.wfile.write(content)

    def do_PUT(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.answer()

    do_GET = do_POST = answer  # noqa: N815 - http.server's names

    def log_message(self, *_: object) -> None: ...


BODIES = {
    "nothing": "",
    "gateway": '{"message": "Unauthorized"}',
    "login": "<html>Log in</html>",
    "mlflow": '{"error_code": "RESOURCE_DOES_NOT_EXIST", "message": "no such run"}',
}


@pytest.fixture(scope="module")
def answering() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Answering)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    with pytest.MonkeyPatch.context() as patch:  # MLflow waits a second or more before its one retry
        patch.setenv("MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR", "0")
        patch.setenv("MLFLOW_HTTP_REQUEST_BACKOFF_JITTER", "0")
        yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()


def failure(client: MlflowClient) -> Exception:
    with pytest.raises(MlflowException) as raised:
        client.create_run("1")
    return raised.value


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        ("401/nothing", ("(401)", *ACCOUNT)),
        ("401/gateway", ("(401)", *ACCOUNT)),
        ("200/login", ("with a page", "tracking.uri", *ACCOUNT)),
        ("403/nothing", ("(403)", "the experiment mine;", "tracking.experiment=<another>")),
        ("404/nothing", ("(404)",)),
    ],
)
def test_a_refusal_is_told_with_what_to_set(answer: str, words: tuple[str, ...], answering: str) -> None:
    error = failure(connect(f"{answering}/{answer}"))
    said = describe_trouble(error, "mine")
    assert said.startswith("the tracking store ") and "unreachable" not in said
    assert all(word in said for word in words), said
    assert describe_refusal(error) == explain(error)


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ("429/nothing", "the server is busy (429 Too Many Requests)"),
        ("502/nothing", "the server, or a proxy before it, reports an error (502 Bad Gateway)"),
        ("503/login", "the server, or a proxy before it, reports an error (503 Service Unavailable)"),
        ("404/mlflow", "RESOURCE_DOES_NOT_EXIST: no such run"),
    ],
)
def test_an_outage_is_no_refusal_and_is_not_waited_for(answer: str, said: str, answering: str) -> None:
    began = time.monotonic()
    error = failure(connect(f"{answering}/{answer}"))
    assert describe_refusal(error) is None
    assert describe_trouble(error, "mine") == f"the tracking store is unreachable: {said}"
    assert time.monotonic() - began < 600, "the hour that the server asks for"


def test_a_refused_file_is_a_refusal_too(answering: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    artifacts = get_artifact_repository(f"{answering}/403/nothing/api/2.0/mlflow-artifacts/artifacts")
    with pytest.raises(HTTPError) as raised:
        artifacts.log_artifact(str(tmp_path / "file"))
    assert "(403)" in describe_trouble(raised.value, "mine")


@pytest.mark.parametrize(
    "text",
    [
        'FATAL: password authentication failed for user "ada"',
        'FATAL: role "root" does not exist',
        'FATAL: no pg_hba.conf entry for host "10.0.0.1", user "ada", database "runs", no encryption',
        "permission denied for table runs",
    ],
)
def test_a_database_that_refuses_is_no_outage(text: str) -> None:
    error = OperationalError("SELECT 1", {}, OSError(text))
    assert describe_trouble(error).startswith("the tracking store refused access: ")
    assert ("write tracking.uri=" in describe_trouble(error)) == ("password" in text)


def test_a_database_is_opened_with_limits(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="the driver pg8000 is not installed; write pip install pg8000"):
        connect("postgresql+pg8000://ada@host/db")
    with pytest.raises(OperationalError), database.opened(f"sqlite:///{tmp_path}/nowhere/store.db"):
        pass  # at once: MLflow would try again for two minutes
    limited: list[float] = []
    monkeypatch.setitem(database.TIMEOUTS, "pysqlite", {"timeout": 0.125})
    monkeypatch.setattr(database, "limit_waiting", lambda connection, seconds: limited.append(seconds))
    for _ in range(2):  # the listeners are added once
        with database.opened(f"sqlite:///{tmp_path}/store.db"):
            pass
    busy = create_engine(f"sqlite:///{tmp_path}/store.db").connect()
    assert limited == [database.ANSWER_SECONDS] * 3
    assert busy.exec_driver_sql("PRAGMA busy_timeout").scalar() == 125


def test_an_address_may_name_a_variable_for_its_password(monkeypatch: pytest.MonkeyPatch) -> None:
    typed = ["tracking.uri=postgresql://ada:${oc.env:OF_ADA}@host/db"]
    known = {"tracking.uri": "the store's address"}
    problem = problem_of(lambda: options.parse_options(typed, "usage", known))
    assert (problem.key, problem.topic) == ("tracking.uri", "missing") and "OF_ADA" in problem.text
    monkeypatch.setenv("OF_ADA", "countess")
    assert options.parse_options(typed, "usage", known) == {"tracking.uri": "postgresql://ada:countess@host/db"}
