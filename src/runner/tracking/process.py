"""A separate process that uploads to MLflow while the main process trains.

Not a thread: importing and calling MLflow is pure Python, and each call of training into torch would wait for the
GIL (measured: epochs of 0.02 s took 0.3 to 2.6 s). And a process survives a run that is killed, so the metrics
until then are uploaded, with the right status.

A process that computes beside training slows it down by more than its share: torch's threads wait for the one whose
core is taken (two threads on two cores: epochs of 0.02 s took up to 2 s). So the slow parts, importing MLflow and
creating a store, run before the first epoch, during the import of torch. After that there is one upload every ten
seconds.

The processes communicate through two pipes. The parent sends folders of runs: the run's, or a sweep's and then those
of its jobs, again when one has changed (`Folders` has the format). The end of that pipe means that the parent has
finished or has died. The child sends JSON lines: the first run's id, and messages to print.
"""

import contextlib
import gc
import json
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import psutil

from runner.tracking.beside import start_beside
from runner.tracking.dead_runs import finish_dead_run
from runner.tracking.delivery_loop import FIRST_RETRY, DeliveryLoop, Folders, ParentPipe
from runner.tracking.slim_import import skippable_packages, without_packages
from runner.tracking.store import quiet_mlflow, ui_of
from runner.util import program
from runner.util.niceness import hurry
from runner.util.redaction import register_secrets
from runner.util.terminal import about
from runner.util.uri import absolute_uri

log = logging.getLogger("runner")

URI = "RUNNER_DELIVERY_URI"  # an environment variable, as every user of the machine can read a command line

RESTARTS = 3
"""Times that the process is started again after something has killed it."""

LONGEST = 30
"""How many times the wait at the end lasts at most while an upload makes progress."""

_SECONDS_FOR_AN_ORPHAN = 10.0  # a resume of the run may have to wait as long
_SECONDS_BETWEEN_LOOKS = 0.2


class DeliveryProcess:
    """Starts the child process and logs its messages.

    Args:
        uri: the store's address, with credentials if it needs them; None takes the manifest's.
    """

    def __init__(self, uri: str | None = None) -> None:
        self._uri = uri
        self._run_id: str | None = None
        self._settled = threading.Event()
        self._last_delivered = self._last_progress = 0.0
        self._folders: list[Path] = []
        self._lock = threading.Lock()  # of what follows, which the listener changes if the child dies
        self._left = self._lost = False
        self._restarts = 0
        self._start()

    def _start(self) -> None:
        environment = {URI: absolute_uri(self._uri)} if self._uri else {}
        self._process = start_beside("runner.tracking.process", environment=environment)
        self._listener = threading.Thread(target=self._listen, name="runner-delivery", daemon=True)
        self._listener.start()

    def deliver(self, folder: Path, is_new: bool = False) -> None:
        """Upload a run's folder, which has a manifest; a folder that is sent again is uploaded without delay.

        The first step is to connect and create the run.

        Args:
            folder: of the run.
            is_new: whether its manifest was written a moment ago, with a new key, so that no store has the run.
        """
        with self._lock:
            if folder not in self._folders:
                self._folders.append(folder)
            self._send(folder, is_new)

    def _send(self, folder: Path, is_new: bool = False) -> None:
        assert self._process.stdin is not None
        with contextlib.suppress(OSError):  # it has died, which the listener handles
            self._process.stdin.write(Folders.message(folder, is_new))
            self._process.stdin.flush()

    def _replace(self) -> bool:
        """Start another process if the current one was killed; it gets all folders, and knows what is uploaded.

        Returns:
            Whether there is another one.
        """
        with self._lock:
            code = self._process.wait()
            if self._left or self._lost:
                return False
            again = code < 0 and self._restarts < RESTARTS
            then = "another one is started" if again else "after the run, do: python -m runner.sync"
            log.warning("the process that uploads to MLflow has died; %s", then)
            if again:
                self._restarts += 1
                self._start()
                for folder in self._folders:
                    self._send(folder)
            self._lost = not again
            return again

    def settle(self, timeout: float) -> None:
        """Wait until the first connection has succeeded or failed; after that the child uses little of the CPU."""
        self._settled.wait(timeout)

    def run_id(self, timeout: float = 0.0) -> str | None:
        """Return the first run's id in MLflow; waits at most `timeout` seconds for the first connection."""
        self._settled.wait(timeout)
        return self._run_id

    def leave(self) -> None:
        """Close the pipe to the child; it finishes its uploads after the end of this process."""
        with self._lock:
            self._left = True
            assert self._process.stdin is not None
            with contextlib.suppress(OSError):
                self._process.stdin.close()

    def close(self, timeout: float, longest: float | None = None) -> bool:
        """Upload the rest; called after the manifests have the final status of the runs.

        Args:
            timeout: seconds to wait without progress: metrics that arrive, or a file that is being read.
            longest: seconds to wait at most; 30 times `timeout` by default. They start again with each run that is
                uploaded.

        Returns:
            True if MLflow has everything; otherwise `python -m runner.sync` uploads the rest later.
        """
        self.leave()
        longest = LONGEST * timeout if longest is None else longest
        closed_at, code, is_announced = time.monotonic(), None, False
        positions = read_positions(self._process.pid)
        while code is None:
            began, now = max(closed_at, self._last_delivered), time.monotonic()
            left = min(max(began, self._last_progress) + timeout, began + longest) - now
            hurry(self._process.pid)
            self._listener.join(min(max(left, 0.0), _SECONDS_BETWEEN_LOOKS))
            if not self._listener.is_alive():
                code = self._process.wait()
            else:
                former, positions = positions, read_positions(self._process.pid)
                if positions != former and now < began + longest:
                    self._last_progress = time.monotonic()
                elif left <= 0:
                    self._process.kill()
                    self._process.wait()
                    code = 1
                if left > 0 and now - closed_at > timeout and not is_announced:
                    is_announced = True
                    log.info("upload     still uploading to MLflow; waiting while it makes progress")
        self._listener.join()
        return code == 0

    def _listen(self) -> None:
        messages = self._process.stdout
        assert messages is not None
        for line in messages:
            message = json.loads(line)
            if "run_id" in message:
                self._run_id = message["run_id"]
            elif "settled" in message:
                self._settled.set()
            elif "progress" in message:
                self._last_progress = time.monotonic()
            elif "delivered" in message:
                self._last_delivered = time.monotonic()
            else:
                log.log(message["level"], "%s", message["text"], extra=about(message["topic"]))
        if not self._replace():  # the child has ended
            self._settled.set()


def read_positions(process: int) -> set[tuple[str, int]]:
    """Return how far a process has read its open files: an upload moves if they change. Empty where that is unknown."""
    with contextlib.suppress(psutil.Error, OSError):
        files = psutil.Process(process).open_files()
        return {(file.path, position) for file in files if (position := getattr(file, "position", 0)) > 0}
    return set()


def main() -> int:
    """Upload the folders that the parent sends until it closes its end; runs in the child."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # the run's process gets it too, and closes the pipe when it ends
    parent = _pipe_to_parent()
    quiet_mlflow()
    uri = os.environ.pop(URI, None)
    register_secrets({"tracking.uri": uri})
    gc.disable()  # what is imported stays: looking for garbage in it takes 0.1 s, now and at each later full collection
    with without_packages(*skippable_packages()):
        import mlflow.tracking

        if ui_of(uri or "") is None:
            import mlflow.store.tracking.sqlalchemy_store  # noqa: F401 - 0.7 s that the first epoch would wait for
    gc.freeze()
    gc.enable()
    log.addHandler(_ParentHandler(parent))
    log.setLevel(logging.INFO)
    log.propagate = False
    done, orphans = DeliveryLoop(Folders(sys.stdin.fileno()), uri, parent).run()
    if orphans:  # the parent was killed
        done = _deliver_orphans(orphans, uri)
    return 0 if done else 1


def _pipe_to_parent() -> ParentPipe:
    """Reserve standard output for the JSON lines; other output to it goes to standard error."""
    parent = ParentPipe(os.dup(1))
    os.dup2(2, 1)
    return parent


class _ParentHandler(logging.Handler):
    """Sends log records to the parent."""

    def __init__(self, parent: ParentPipe) -> None:
        super().__init__()
        self._send = parent

    def emit(self, record: logging.LogRecord) -> None:
        self._send(level=record.levelno, text=record.getMessage(), topic=getattr(record, "topic", ""))


def _deliver_orphans(folders: Sequence[Path], uri: str | None) -> bool:
    """Finish runs whose processes were killed; retries for a while, as some may still be ending."""
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
