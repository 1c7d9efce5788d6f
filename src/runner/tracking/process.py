"""Delivery beside the training: a process of its own, that nobody waits for.

Not a thread: importing MLflow and talking to it are Python through and through, and each of training's calls
into torch would wait for the interpreter's lock (measured: epochs of 0.02 s took 0.3 to 2.6 s meanwhile). And a
process outlives a run that is killed, so that what was measured until then arrives, with the right status.

A process that computes beside the training costs it more than its share: torch's threads wait for the one whose
core is taken (two threads on two cores: epochs of 0.02 s took up to 2 s). So what takes seconds, importing MLflow
and making a store, is done before the first epoch, beside the import of torch, and then there is one delivery
every ten seconds.

The two talk in two pipes. Into the child goes the run's folder; the end of that pipe says that the run's process
has nothing more to say, or is gone. Out of it come JSON lines: the run's id, and sentences for the person.
"""

import contextlib
import json
import logging
import os
import select
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

from runner.tracking.deliver import Delivery
from runner.tracking.folder import DELIVERY, claim
from runner.tracking.manifest import Manifest, mark_killed
from runner.tracking.store import explain, quiet_mlflow

log = logging.getLogger("runner")

URI = "RUNNER_DELIVERY_URI"  # in the environment: what is on a command line, every user of the machine can read

_SECONDS_BETWEEN_STEPS = 10.0
_FIRST_RETRY, _LONGEST_RETRY = 1.0, 30.0
_SECONDS_AFTER_THE_END = 60.0  # the parent waits less, unless it was killed while it waited
_SECONDS_FOR_AN_ORPHAN = 10.0  # for so long a resume of the run may have to wait
_LOWEST_PRIORITY = 19


class DeliveryProcess:
    """Starts the child, which makes itself ready, and passes on what it says.

    Args:
        uri: the store's address, with credentials where it needs them; None takes the manifest's.
    """

    def __init__(self, uri: str | None = None) -> None:
        self._run_id: str | None = None
        self._settled = threading.Event()
        self._process = subprocess.Popen(
            [sys.executable, "-m", "runner.tracking.process"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | ({URI: uri} if uri else {}),
            start_new_session=True,  # Ctrl-C in a terminal is for the training
        )
        self._listener = threading.Thread(target=self._listen, name="runner-delivery", daemon=True)
        self._listener.start()

    def deliver(self, folder: Path) -> None:
        """Begin with a run's folder, which has a manifest; the first thing is to connect and create the run."""
        assert self._process.stdin is not None
        with contextlib.suppress(OSError):  # it is gone: what is in the folder can be delivered later
            self._process.stdin.write(f"{folder}\n")
            self._process.stdin.flush()

    def settle(self, timeout: float) -> None:
        """Wait until it has connected, or failed to: from then on it needs next to nothing of the machine."""
        self._settled.wait(timeout)

    def run_id(self, timeout: float = 0.0) -> str | None:
        """The run's id in MLflow, waited for at most `timeout` seconds; not at all once the store was found away."""
        self._settled.wait(timeout)
        return self._run_id

    def close(self, timeout: float) -> bool:
        """Deliver the rest, for at most `timeout` seconds; call it after the manifest says how the run ended.

        Returns:
            True if MLflow has everything; otherwise `python -m runner.sync` does the rest later.
        """
        assert self._process.stdin is not None
        with contextlib.suppress(OSError):
            self._process.stdin.close()
        try:
            code = self._process.wait(timeout)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
            code = 1
        self._listener.join()
        return code == 0

    def _listen(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            message = json.loads(line)
            if "run_id" in message:
                self._run_id = message["run_id"]
            elif "settled" in message:
                self._settled.set()
            else:
                log.log(message["level"], "%s", message["text"])
        self._settled.set()  # nothing more will come


def main() -> int:
    """Deliver one run's folder until the run has ended; the child's side."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # the run's process hears it too, and says when it is over
    with contextlib.suppress(OSError):
        os.nice(_LOWEST_PRIORITY)
    say = _lines_to_the_parent()
    quiet_mlflow()
    import mlflow.tracking  # noqa: F401 - takes seconds: now, while the parent imports torch

    folder = Path(sys.stdin.readline().rstrip("\n"))
    if folder == Path():
        return 0  # the config was wrong: there is no run
    log.addHandler(_Sentences(say))
    log.setLevel(logging.INFO)
    log.propagate = False
    done = _deliver(folder, os.environ.pop(URI, None), say)
    if done is None:  # the run's process is gone without a word
        done = _deliver_orphan(folder)
    return 0 if done else 1


class _Say:
    """Writes JSON lines to the parent, who may be gone."""

    def __init__(self, file: int) -> None:
        self._file = file

    def __call__(self, **message: str | int) -> None:
        with contextlib.suppress(BrokenPipeError):
            os.write(self._file, (json.dumps(message) + "\n").encode())


def _lines_to_the_parent() -> _Say:
    """Keep standard output for our lines; whatever else is printed to it goes to standard error."""
    say = _Say(os.dup(1))
    os.dup2(2, 1)
    return say


class _Sentences(logging.Handler):
    def __init__(self, say: _Say) -> None:
        super().__init__()
        self._say = say

    def emit(self, record: logging.LogRecord) -> None:
        self._say(level=record.levelno, text=record.getMessage())


def _deliver(folder: Path, uri: str | None, say: _Say) -> bool | None:
    """Step until the run has ended and all of it is delivered.

    Returns:
        True; False if the store stays away; None if the parent is gone and the run had not ended.
    """
    delivery = Delivery(folder, uri)
    reported = away = False
    closed_at: float | None = None
    retry = _FIRST_RETRY
    while True:
        # Asked before the step, which must see everything that was written before the end.
        orphaned = closed_at is not None and Manifest.load(folder).status == "RUNNING"
        wait = _SECONDS_BETWEEN_STEPS
        try:
            complete = delivery.step()
        except Exception as error:  # whatever MLflow, SQLAlchemy or the network raise: training goes on
            if not away:
                away = True
                log.warning(
                    "the tracking store can't be reached: %s. Training goes on; what is missing there is "
                    "delivered when it is back, or by: python -m runner.sync run=%s",
                    explain(error),
                    folder,
                )
            complete, wait, retry = False, retry, min(2 * retry, _LONGEST_RETRY)
        else:
            if away:
                away, retry = False, _FIRST_RETRY
                log.info("the tracking store is back; nothing was lost")
        if delivery.run_id is not None and not reported:
            reported = True
            say(run_id=delivery.run_id)
        say(settled=True)
        if complete:
            return True
        if orphaned:
            return None
        if closed_at is None:
            if _closed(wait):
                closed_at = time.monotonic()
        elif time.monotonic() - closed_at > _SECONDS_AFTER_THE_END:
            return False
        else:
            time.sleep(_FIRST_RETRY / 4)  # the time left is short


def _closed(seconds: float) -> bool:
    """Wait for so long, or until the parent has closed its end."""
    readable, _, _ = select.select([sys.stdin], [], [], seconds)
    return bool(readable)


def _deliver_orphan(folder: Path) -> bool:
    """Complete the record of a run whose process was killed, for a while."""
    deadline = time.monotonic() + _SECONDS_FOR_AN_ORPHAN
    with claim(folder, DELIVERY):
        mark_killed(folder)
        delivery = Delivery(folder)
        while time.monotonic() < deadline:
            with contextlib.suppress(Exception):
                return delivery.step()
            time.sleep(_FIRST_RETRY)
    return False


if __name__ == "__main__":
    sys.exit(main())
