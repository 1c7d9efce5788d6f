"""Delivery beside the training: a process of its own, that nobody waits for.

Not a thread: importing MLflow and talking to it are Python through and through, and each of training's calls
into torch would wait for the interpreter's lock (measured: epochs of 0.02 s took 0.3 to 2.6 s meanwhile). And a
process outlives a run that is killed, so that what was measured until then arrives, with the right status.

A process that computes beside the training costs it more than its share: torch's threads wait for the one whose
core is taken (two threads on two cores: epochs of 0.02 s took up to 2 s). So what takes seconds, importing MLflow
and making a store, is done before the first epoch, beside the import of torch, and then there is one delivery
every ten seconds.

The two talk in two pipes. Into the child go folders of runs, each ended by a null byte: one, or with a sweep its own
and then those of its jobs, again when there is news of one. The end of that pipe says that the parent has nothing more
to say, or is gone. Out of it come JSON lines: the first run's id, and sentences for the person.
"""

import contextlib
import json
import logging
import os
import signal
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Sequence
from pathlib import Path

from runner.tracking.dead_runs import finish_dead_run
from runner.tracking.delivery_loop import FIRST_RETRY, DeliveryLoop, Folders, ParentPipe
from runner.tracking.slim_import import skippable_packages, without_packages
from runner.tracking.store import quiet_mlflow, ui_of
from runner.util import program
from runner.util.redaction import register_secrets
from runner.util.uri import absolute_uri

log = logging.getLogger("runner")

URI = "RUNNER_DELIVERY_URI"  # in the environment: what is on a command line, every user of the machine can read

_SECONDS_FOR_AN_ORPHAN = 10.0  # for so long a resume of the run may have to wait
_SECONDS_BETWEEN_LOOKS = 0.2


class DeliveryProcess:
    """Starts the child, which makes itself ready, and passes on what it says.

    Args:
        uri: the store's address, with credentials where it needs them; None takes the manifest's.
    """

    def __init__(self, uri: str | None = None) -> None:
        self._run_id: str | None = None
        self._settled = threading.Event()
        self._last_delivered = 0.0
        self._lost = False
        self._process = subprocess.Popen(
            [sys.executable, "-m", "runner.tracking.process"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | ({URI: absolute_uri(uri)} if uri else {}),
            start_new_session=True,  # Ctrl-C in a terminal is for the training
        )
        _started.add(self)
        self._listener = threading.Thread(target=self._listen, name="runner-delivery", daemon=True)
        self._listener.start()

    def forget(self) -> None:
        """Let go of the pipe in a forked child: it ends when nobody has it any more, workers of a loader included."""
        assert self._process.stdin is not None
        if not self._process.stdin.closed:
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self._process.stdin.fileno(), inheritable=False)
            os.close(nowhere)

    def deliver(self, folder: Path) -> None:
        """Begin with a run's folder, which has a manifest, or look at it again without delay.

        The first thing is to connect and create the run.
        """
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(f"{folder}\0")
            self._process.stdin.flush()
        except OSError:
            if not self._lost:
                self._lost = True
                log.warning("the process that tells MLflow is gone; afterwards do: python -m runner.sync")

    def settle(self, timeout: float) -> None:
        """Wait until it has connected, or failed to: from then on it needs next to nothing of the machine."""
        self._settled.wait(timeout)

    def run_id(self, timeout: float = 0.0) -> str | None:
        """The first run's id in MLflow, waited for at most `timeout` seconds; not once the store was found away."""
        self._settled.wait(timeout)
        return self._run_id

    def leave(self) -> None:
        """Have nothing more to say: the child completes what was begun, after the end of this process."""
        assert self._process.stdin is not None
        with contextlib.suppress(OSError):
            self._process.stdin.close()

    def close(self, timeout: float) -> bool:
        """Deliver the rest; call it after the manifests say how the runs ended.

        Args:
            timeout: seconds to wait, begun anew with each run that is delivered.

        Returns:
            True if MLflow has everything; otherwise `python -m runner.sync` does the rest later.
        """
        self.leave()
        closed_at, code = time.monotonic(), None
        while code is None:
            left = max(closed_at, self._last_delivered) + timeout - time.monotonic()
            try:
                code = self._process.wait(min(max(left, 0.0), _SECONDS_BETWEEN_LOOKS))
            except subprocess.TimeoutExpired:
                if left <= 0:
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
            elif "delivered" in message:
                self._last_delivered = time.monotonic()
            else:
                log.log(message["level"], "%s", message["text"])
        self._settled.set()  # nothing more will come


_started: "weakref.WeakSet[DeliveryProcess]" = weakref.WeakSet()


def _forget() -> None:
    for process in list(_started):
        process.forget()


os.register_at_fork(after_in_child=_forget)


def main() -> int:
    """Deliver the folders that the parent names until it has closed its end; the child's side."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # the run's process hears it too, and says when it is over
    say = _lines_to_the_parent()
    quiet_mlflow()
    uri = os.environ.pop(URI, None)
    register_secrets({"tracking.uri": uri})
    with without_packages(*skippable_packages()):
        import mlflow.tracking

        if ui_of(uri or "") is None:
            import mlflow.store.tracking.sqlalchemy_store  # noqa: F401 - 0.7 s, which the first epoch would wait for

    log.addHandler(_Sentences(say))
    log.setLevel(logging.INFO)
    log.propagate = False
    done, orphans = DeliveryLoop(Folders(sys.stdin.fileno()), uri, say).run()
    if orphans:  # the parent is gone without a word
        done = _deliver_orphans(orphans, uri)
    return 0 if done else 1


def _lines_to_the_parent() -> ParentPipe:
    """Keep standard output for our lines; whatever else is printed to it goes to standard error."""
    say = ParentPipe(os.dup(1))
    os.dup2(2, 1)
    return say


class _Sentences(logging.Handler):
    def __init__(self, say: ParentPipe) -> None:
        super().__init__()
        self._say = say

    def emit(self, record: logging.LogRecord) -> None:
        self._say(level=record.levelno, text=record.getMessage())


def _deliver_orphans(folders: Sequence[Path], uri: str | None) -> bool:
    """Complete the records of runs whose processes are killed, or on their way to their end, for a while."""
    deadline = time.monotonic() + _SECONDS_FOR_AN_ORPHAN
    left = list(folders)
    while left and time.monotonic() < deadline:
        for folder in list(left):
            with contextlib.suppress(Exception):
                if finish_dead_run(folder, uri):
                    left.remove(folder)
        if left:
            time.sleep(FIRST_RETRY / 4)
    return not left


if __name__ == "__main__":
    program.run(main)
