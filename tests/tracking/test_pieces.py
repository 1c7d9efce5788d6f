"""One piece of a run that a store refuses: the others are sent, and an outage is not taken for a refusal."""

from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import requests
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import INVALID_PARAMETER_VALUE

from runner.rundir import layout
from runner.rundir.delivery_state import DeliveryState
from runner.rundir.journal import Journal
from runner.tracking import process
from runner.tracking.metric_upload import MetricUpload
from runner.tracking.pieces import Pieces, send_each

INVALID = MlflowException("the value of b is too long", error_code=INVALID_PARAMETER_VALUE)


def answered(status: int) -> requests.HTTPError:
    response = requests.Response()
    response.status_code = status
    return requests.HTTPError(f"{status}", response=response)


def failing(*errors: Exception | None) -> Callable[[], None]:
    """Return a function that raises one error after another."""
    left = list(errors)

    def put() -> None:
        if (error := left.pop(0)) is not None:
            raise error

    return put


@pytest.mark.parametrize(
    ("errors", "refused"),
    [
        ([None], False),
        ([answered(413)], True),
        ([answered(403)], True),
        ([answered(507)], True),
        ([ConnectionError("reset"), None], False),
        ([ConnectionError("reset"), ConnectionError("reset")], True),
        ([answered(502), answered(413)], True),
    ],
)
def test_a_piece_that_fails_while_others_are_taken_is_refused(errors: list[Exception | None], refused: bool) -> None:
    pieces = Pieces(lambda: True)
    pieces.send("large", failing(*errors))
    pieces.send("other", failing(None))
    pieces.finish()
    assert list(pieces.refused) == (["large"] if refused else [])


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (
            b'{"error_code": "INTERNAL_ERROR", "message": "No space left on device"}',
            "No space left on device",
        ),
        (b"quota of /srv exceeded", "500 Internal Server Error: quota of /srv exceeded"),
        (b"<!doctype html><title>500</title>", "(500 Internal Server Error)"),
        (b"[]", "500"),
    ],
)
def test_a_piece_that_fails_twice_says_what_the_server_said(body: bytes, said: str) -> None:
    error = answered(500)
    assert error.response is not None
    error.response._content = body
    pieces = Pieces(lambda: True)
    pieces.send("large", failing(error, error))
    pieces.finish()
    assert said in pieces.refused["large"]


@pytest.mark.parametrize("error", [ConnectionError("refused"), answered(401), answered(503)])
def test_an_outage_is_raised(error: Exception) -> None:
    with pytest.raises(type(error)):
        Pieces(lambda: False).send("any", failing(error))


def test_a_batch_is_sent_without_what_is_refused() -> None:
    sent: list[str] = []

    def send(items: Sequence[str]) -> None:
        if "b" in items:
            raise INVALID
        sent.extend(items)

    assert send_each(send, list("acdbefg"), lambda: True) == [("b", str(INVALID))]
    assert sorted(sent) == list("acdefg")
    with pytest.raises(MlflowException):  # a deleted run refuses everything
        send_each(send, list("bb"), lambda: False)


def test_a_refused_metric_is_told_once_and_the_others_arrive(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / ".tracking").mkdir()
    with_points = Journal(tmp_path / layout.JOURNAL)
    for step in range(1, 40):
        with_points.write({"val/loss": 1 / step, "odd": float(step), "val/accuracy": 0.5}, step)
    with_points.close()
    arrived: set[tuple[str, int]] = set()

    def log_batch(run_id: str, metrics: Sequence[Any]) -> None:
        if any(metric.key == "odd" for metric in metrics):
            raise INVALID
        arrived.update((metric.key, metric.step) for metric in metrics)

    nothing = SimpleNamespace(tags={}, metrics={}, to_proto=lambda: SimpleNamespace(metrics=[]))
    client: Any = SimpleNamespace(log_batch=log_batch, set_tag=lambda *_: None)
    run: Any = SimpleNamespace(info=SimpleNamespace(run_id="0" * 32), data=nothing)
    upload = MetricUpload(client, run, tmp_path, DeliveryState(run.info.run_id), lambda: None)
    assert upload.step(running=False)
    assert arrived == {(name, step) for name in ("val/loss", "val/accuracy") for step in range(1, 40)}
    (line,) = caplog.messages
    assert line == f"MLflow does not get the metric odd from step 1 on: {INVALID}"


@pytest.mark.parametrize(
    ("moves", "timeout", "longest", "waited"),
    [
        (0, 10.0, None, 10),  # nothing moves
        (25, 10.0, None, 35),  # then nothing moves any more
        (1000, 10.0, None, 300),  # for ever
        (1000, 10.0, 10.0, 10),  # the run was stopped
        (1000, 0.0, None, 0),
    ],
)
def test_the_end_waits_while_an_upload_moves(
    moves: int, timeout: float, longest: float | None, waited: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [1000.0]

    class Child:
        pid, stdin, killed = 1, SimpleNamespace(close=lambda: None), False

        def wait(self) -> int:
            assert self.killed
            return -9

        def kill(self) -> None:
            self.killed = True

    def join(seconds: float = 0.0) -> None:
        now[0] += seconds

    listener = SimpleNamespace(join=join, is_alive=lambda: not child.killed)
    delivery = object.__new__(process.DeliveryProcess)
    child: Any = Child()
    delivery.__dict__ |= {
        "_process": child, "_last_delivered": 0.0, "_last_progress": 0.0,
        "_lock": process.threading.Lock(), "_listener": listener,
    }  # fmt: skip
    monkeypatch.setattr(process, "time", SimpleNamespace(monotonic=lambda: now[0]))
    monkeypatch.setattr(process, "hurry", lambda _: None)
    monkeypatch.setattr(process, "read_positions", lambda _: {("f", min(int(now[0]), 1000 + moves))})
    assert delivery.close(timeout, longest) is False and child.killed
    assert round(now[0] - 1000.0) == waited


def test_how_far_a_process_has_read_is_seen(tmp_path: Path) -> None:
    (tmp_path / "large").write_bytes(bytes(1 << 20))
    with (tmp_path / "large").open("rb", buffering=0) as file:
        file.read(1000)
        before = process.read_positions(process.os.getpid())
        assert (str(tmp_path / "large"), 1000) in before
        file.read(1000)
        assert process.read_positions(process.os.getpid()) != before
