"""Upload the folders that a parent process names, step by step, until MLflow has everything."""

import contextlib
import json
import logging
import os
import select
import time
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path

from runner.rundir import layout
from runner.rundir.folders import shell_path
from runner.rundir.manifest import Manifest, manifest_of
from runner.tracking.dead_runs import close_dead_runs
from runner.tracking.run_owner import NotOwner
from runner.tracking.trouble import describe_refusal, describe_trouble
from runner.tracking.upload_queue import UploadQueue
from runner.util.niceness import run_nicely
from runner.util.terminal import STORE, about

log = logging.getLogger("runner")

FIRST_RETRY, LONGEST_RETRY = 1.0, 30.0
SECONDS_BETWEEN_STEPS = 10.0
SECONDS_AFTER_THE_END = 60.0  # the parent waits less, unless it was killed while it waited

NICENESS = {1 << 16: 19, 1 << 20: 10}
"""The niceness of an upload by the bytes that are left: 19 for what ten seconds bring.

On a busy machine that is next to no time, so what has piled up is uploaded with more priority.
"""
NICENESS_OF_A_PILE = 5
NICENESS_OF_OTHERS = 10  # dead runs, which this one's upload waits for

AWAY, REFUSES = "away", "refuses"
BACK = {AWAY: "is reachable again", REFUSES: "accepts uploads again"}
"""What is logged when uploads succeed again, by the trouble before."""

BYTES_AT_ONCE = 1 << 18  # after them, new runs are taken, and the niceness is decided again

BYTES_OF_FILES = 2 << 20
"""What the files of a run that has ended count: a sweep of short jobs should not have to wait for them at its end."""


class Folders:
    """The folders that the parent sends: a mark of a new run, the folder, and a null byte, which no name contains.

    Attributes:
        closed: whether the parent has closed its end.
    """

    NEW, OTHER = "+", "="

    def __init__(self, file: int) -> None:
        self._file, self._rest = file, b""
        self.closed = False

    @classmethod
    def message(cls, folder: Path, is_new: bool) -> str:
        """Return what the parent writes to the pipe."""
        return f"{cls.NEW if is_new else cls.OTHER}{folder}\0"

    def wait(self, seconds: float | None) -> list[tuple[Path, bool]]:
        """Wait for folders, at most so many seconds (None: no limit), or until the parent closes its end.

        Returns:
            Each with whether no store has its run yet.
        """
        readable, _, _ = select.select([self._file], [], [], seconds)
        if not readable:
            return []
        block = os.read(self._file, 1 << 16)
        self.closed = not block
        *lines, self._rest = (self._rest + block).split(b"\0")
        texts = [os.fsdecode(line) for line in lines]
        return [(Path(text[1:]), text[0] == self.NEW) for text in texts]


class ParentPipe:
    """Writes JSON lines to the parent, which may have ended."""

    def __init__(self, file: int) -> None:
        self._file = file

    def __call__(self, **message: str | int | None) -> None:
        """Write a message."""
        with contextlib.suppress(BrokenPipeError):
            os.write(self._file, (json.dumps(message) + "\n").encode())


class DeliveryLoop:
    """Uploads all folders in steps, and retries while the store is unreachable.

    Args:
        folders: the folders from the parent.
        uri: the store's address, with credentials; None takes that of each manifest.
        parent: where JSON lines for the parent go.
    """

    def __init__(self, folders: Folders, uri: str | None, parent: ParentPipe) -> None:
        self._folders, self._uri, self._send = folders, uri, parent
        self._queue = UploadQueue(uri, BYTES_OF_FILES)
        self._dead: Iterator[Path] | None = None
        self._reported: str | None = None
        self._settled = False
        self._trouble: str | None = None  # while uploads fail
        self._warned: set[str] = set()
        self._reported_back: set[str] = set()
        self._progress = time.monotonic()
        self._wait: float | None = None
        self._retry = FIRST_RETRY
        self._not_before: dict[Path, float] = {}  # when a refused run is tried again
        self._refused: set[Path] = set()  # since the parent has closed its end

    def run(self) -> tuple[bool, list[Path]]:
        """Take steps until the parent has closed its end and all is uploaded, or the store stays unreachable.

        Returns:
            Whether all is uploaded; and the folders that are left if some runs had not ended when the parent did.
        """
        while True:
            self._take_new()
            # Manifests are read before the step, which must upload everything that was written before the end.
            self._step(self._queue.next())
            self._report()
            self._close_a_dead_run()
            if not self._folders.closed:
                continue
            readable = self._queue.readable
            if not readable or self._queue.running:
                return not self._queue, readable
            if self._refused.issuperset(readable):  # waiting does not help
                return False, []
            if time.monotonic() - self._progress > SECONDS_AFTER_THE_END:
                return False, []

    def _take_new(self) -> None:
        """Wait for the next step, and add the folders that arrive meanwhile."""
        if not self._folders.closed:
            for folder, is_new in self._folders.wait(self._wait):
                self._queue.add(folder, is_new)
        elif self._wait:
            time.sleep(min(self._wait, FIRST_RETRY / 4))  # the time left is short

    def _step(self, folders: Iterable[Path]) -> None:
        """Upload what is new in each folder; one that is refused does not hold up the others."""
        self._wait = SECONDS_BETWEEN_STEPS
        failed, skipped = False, list[float]()
        for folder in folders:
            if not self._folders.closed and time.monotonic() < (then := self._not_before.get(folder, 0.0)):
                skipped.append(then)
                continue
            try:
                self._step_one(folder)
                self._not_before.pop(folder, None)
                self._refused.discard(folder)
            except Exception as error:  # MLflow, SQLAlchemy and the network raise many types; training continues
                failed = True
                self._warn(error, folder)
                self._queue.postpone(folder)
                if self._trouble == AWAY:
                    self._wait = self._retry
                    break
                self._not_before[folder] = time.monotonic() + self._retry
                if self._folders.closed:
                    self._refused.add(folder)
        if failed:
            self._wait = min(self._wait, self._retry)
            self._retry = min(2 * self._retry, LONGEST_RETRY)
        if skipped:
            self._wait = min(self._wait, max(0.0, min(skipped) - time.monotonic()))
        if failed or skipped:
            return
        if self._trouble is not None and self._trouble not in self._reported_back:
            self._reported_back.add(self._trouble)
            log.info("the tracking store %s; nothing was lost", BACK[self._trouble], extra=about(STORE))
        self._trouble, self._retry = None, FIRST_RETRY

    def _step_one(self, folder: Path) -> None:
        delivery = self._queue[folder]
        niceness = 0 if delivery.run_id is None else self._niceness()  # its process may wait for the id
        done = run_nicely(niceness, partial(delivery.step, BYTES_AT_ONCE))
        if delivery.is_behind:
            self._send(progress=True)
            self._wait, self._progress = 0.0, time.monotonic()
        if done:
            self._queue.remove(folder)
            self._send(delivered=True)
            self._wait, self._progress = 0.0, time.monotonic()

    def _warn(self, error: Exception, folder: Path) -> None:
        """Warn that the upload fails, once per run and kind: a store that is often unreachable is reported once."""
        refused = describe_refusal(error) is not None or isinstance(error, NotOwner)
        self._trouble = REFUSES if refused else AWAY
        if self._trouble in self._warned:
            return
        self._warned.add(self._trouble)
        first = self._queue.first
        log.warning(
            "%s. Training continues; the rest is uploaded %s: python -m runner.sync run=%s",
            describe_trouble(error, _experiment(folder)),
            "later with" if refused else "when it is reachable again, or with",
            shell_path(first.folder if first is not None else folder),  # of a sweep, not of one of its jobs
            extra=about(STORE),
        )

    def _report(self) -> None:
        """Send the parent the id of the first run, None if a copy of its folder has it; and that a step is done."""
        run_id = self._queue.first.state.run_id if self._queue.first is not None else None
        if run_id != self._reported:
            self._reported = run_id
            self._send(run_id=run_id)
        if not self._settled:
            self._settled = True
            self._send(settled=True)

    def _niceness(self) -> int:
        """Return the niceness of the next upload: none before training starts, and when it has ended."""
        if not self._settled or self._folders.closed:
            return 0
        backlog = self._queue.backlog
        return next((niceness for most, niceness in NICENESS.items() if backlog <= most), NICENESS_OF_A_PILE)

    def _close_a_dead_run(self) -> None:
        """Finish one dead run; one per step, as running ones come first."""
        first = self._queue.first
        if self._trouble is not None or self._folders.closed or first is None or first.client is None:
            return
        with contextlib.suppress(Exception):  # if the store fails here, the next step reports it
            self._dead = self._dead or close_dead_runs(first.client, self._uri)
            if (folder := run_nicely(NICENESS_OF_OTHERS, partial(next, self._dead, None))) is not None:
                _report_killed(folder)
                self._wait = 0.0


def _experiment(folder: Path) -> str:
    manifest = manifest_of(folder)
    return manifest.experiment if manifest is not None else ""


def _report_killed(folder: Path) -> None:
    """Report a dead run that was killed. Jobs are reported by their sweep; other dead runs had ended."""
    manifest = Manifest.load(folder)
    if manifest.status == "KILLED" and manifest.parent_run_id is None:
        resume = "--multirun sweep.resume" if (folder / layout.SWEEP_PLAN).is_file() else "resume"
        log.info("found      a killed run, now KILLED in MLflow; resume it with: python -m runner %s=%s",
                 resume, shell_path(folder))  # fmt: skip
