"""Deliver the folders that a parent process names, step by step, until all is in MLflow."""

import contextlib
import json
import logging
import os
import select
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

from runner.rundir import layout
from runner.rundir.folders import shell_path
from runner.rundir.manifest import Manifest, manifest_of
from runner.tracking.dead_runs import close_dead_runs
from runner.tracking.deliver import Delivery
from runner.tracking.store import describe_refusal, describe_trouble

log = logging.getLogger("runner")

FIRST_RETRY, LONGEST_RETRY = 1.0, 30.0
SECONDS_BETWEEN_STEPS = 10.0
SECONDS_AFTER_THE_END = 60.0  # the parent waits less, unless it was killed while it waited
LOWEST_PRIORITY = 19


class Folders:
    """The folders that the parent names, as they come; each is ended by a null byte, which no name has.

    Attributes:
        closed: the parent has closed its end.
    """

    def __init__(self, file: int) -> None:
        self._file, self._rest = file, b""
        self.closed = False

    def wait(self, seconds: float | None) -> list[Path]:
        """Those named within so many seconds (None: however long it takes), or until the parent closes its end."""
        readable, _, _ = select.select([self._file], [], [], seconds)
        if not readable:
            return []
        block = os.read(self._file, 1 << 16)
        self.closed = not block
        *lines, self._rest = (self._rest + block).split(b"\0")
        return [Path(os.fsdecode(line)) for line in lines if line]


class ParentPipe:
    """Writes JSON lines to the parent, who may be gone."""

    def __init__(self, file: int) -> None:
        self._file = file

    def __call__(self, **message: str | int) -> None:
        """Write a message."""
        with contextlib.suppress(BrokenPipeError):
            os.write(self._file, (json.dumps(message) + "\n").encode())


class DeliveryLoop:
    """Steps the delivery of each folder, and retries while the store is away.

    Args:
        folders: named by the parent.
        uri: of the store, with credentials; None takes that of each manifest.
        say: passes JSON lines to the parent.
    """

    def __init__(self, folders: Folders, uri: str | None, say: ParentPipe) -> None:
        self._folders, self._uri, self._say = folders, uri, say
        self._deliveries: dict[Path, Delivery] = {}
        self._damaged: set[Path] = set()
        self._first: Delivery | None = None
        self._dead: Iterator[Path] | None = None
        self._reported = self._settled = self._away = self._warned = self._said_back = False
        self._progress = time.monotonic()
        self._wait: float | None = None
        self._retry = FIRST_RETRY

    def run(self) -> tuple[bool, list[Path]]:
        """Step until the parent has closed its end and all is delivered, or the store stays away after that.

        Returns:
            Whether all is delivered; and what is left, if there are runs in it that had not ended when the parent did.
        """
        while True:
            self._take_new()
            # Asked before the steps, which must see everything that was written before the end.
            status = _statuses(self._deliveries, self._damaged)
            known = status.keys() | self._damaged
            self._deliveries = {folder: delivery for folder, delivery in self._deliveries.items() if folder in known}
            ended = [folder for folder in status if status[folder] != "RUNNING"]
            running = [folder for folder in status if folder not in ended]
            # Of those that have ended one after the other, as its files take their time: a new run waits for its id.
            self._step([*running, *ended[:1]])
            self._report()
            self._close_a_dead_run()
            readable = [folder for folder in self._deliveries if folder not in self._damaged]
            if self._folders.closed and (not readable or running):
                return not self._deliveries, readable
            if self._folders.closed and time.monotonic() - self._progress > SECONDS_AFTER_THE_END:
                return False, []

    def _take_new(self) -> None:
        """Wait for the next step, and take in the folders that are named meanwhile."""
        if not self._folders.closed:
            for folder in self._folders.wait(self._wait):
                delivery = self._deliveries.setdefault(folder, Delivery(folder, self._uri))
                self._first = self._first or delivery
        elif self._wait:
            time.sleep(min(self._wait, FIRST_RETRY / 4))  # the time left is short

    def _step(self, folders: Iterable[Path]) -> None:
        """Take a step with each folder."""
        self._wait = SECONDS_BETWEEN_STEPS
        folder = Path()
        try:
            for folder in folders:
                if self._deliveries[folder].step():
                    del self._deliveries[folder]
                    self._say(delivered=True)
                    self._wait, self._progress = 0.0, time.monotonic()
        except Exception as error:  # whatever MLflow, SQLAlchemy or the network raise: training goes on
            self._warn(error, folder)
            self._away = True
            self._wait, self._retry = self._retry, min(2 * self._retry, LONGEST_RETRY)
            self._deliveries[folder] = self._deliveries.pop(folder)  # what may be wrong with this one alone
        else:
            if self._away and not self._said_back:
                self._said_back = True
                log.info("the tracking store is back; nothing was lost")
            self._away, self._retry = False, FIRST_RETRY

    def _warn(self, error: Exception, folder: Path) -> None:
        """Say once a run what keeps it from being delivered: a store that comes and goes is no news."""
        if self._warned:
            return
        self._warned = True
        log.warning(
            "%s. Training goes on; what is missing there is delivered %s: python -m runner.sync run=%s",
            describe_trouble(error, _experiment(folder)),
            "later by" if describe_refusal(error) else "when it is back, or by",
            shell_path(self._first.folder if self._first is not None else folder),  # of a sweep, not of one of its jobs
        )

    def _report(self) -> None:
        """Tell the parent the id of the first run, and that the first step is done."""
        if not self._reported and self._first is not None and self._first.state.run_id is not None:
            self._reported = True
            self._say(run_id=self._first.state.run_id)
        if not self._settled:
            self._settled = True
            self._say(settled=True)
            with contextlib.suppress(OSError):
                os.nice(LOWEST_PRIORITY)  # from here on the training has begun

    def _close_a_dead_run(self) -> None:
        """Close the record of a run that was killed: one at a time, as the living come first."""
        if self._away or self._folders.closed or self._first is None or self._first.client is None:
            return
        with contextlib.suppress(Exception):  # where the store fails in here, the next step tells
            self._dead = self._dead or close_dead_runs(self._first.client, self._uri)
            if (buried := next(self._dead, None)) is not None:
                _say_buried(buried)
                self._wait = 0.0


def _statuses(folders: Iterable[Path], damaged: set[Path]) -> dict[Path, str]:
    """The status of each run; one whose manifest cannot be read is `damaged` until its own process writes it again."""
    found = {}
    for folder in folders:
        try:
            found[folder] = Manifest.load(folder).status
            damaged.discard(folder)
        except (FileNotFoundError, NotADirectoryError):  # it was removed: nothing more of it is uploaded
            damaged.discard(folder)
        except (OSError, ValueError) as error:
            if folder not in damaged:
                log.warning("not delivered: %s", error)
            damaged.add(folder)
    return found


def _experiment(folder: Path) -> str:
    manifest = manifest_of(folder)
    return manifest.experiment if manifest is not None else ""


def _say_buried(folder: Path) -> None:
    """Tell of a run that was found killed; of a sweep's jobs, the sweep tells, and others had come to their end."""
    manifest = Manifest.load(folder)
    if manifest.status == "KILLED" and manifest.parent_run_id is None:
        resume = "--multirun sweep.resume" if (folder / layout.SWEEP_PLAN).is_file() else "resume"
        log.info("found      a run that was killed, and says so in MLflow now: python -m runner %s=%s goes on with it",
                 resume, shell_path(folder))  # fmt: skip
