"""The runs below a folder, and what their folders say of them."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from runner.rundir import layout
from runner.rundir.manifest import PAUSE, manifest_of
from runner.rundir.ownership import is_own_folder
from runner.rundir.requests import STEERED
from runner.saved.run import read_result
from runner.saved.sweep_folder import is_sweep
from runner.util.files import load_json_or_empty

FINISHED = "FINISHED"
DEPTH = 3  # of the outputs folder: a kind, such as runs, and a run or a sweep
FAILED_ATTEMPTS, REPRODUCTIONS = "failed_attempts", "reproductions"


@dataclass(frozen=True)
class Run:
    """A run on this machine.

    Attributes:
        folder: its own, without links in its path.
        sweep: the folder of its sweep; None for a single run.
        is_named: whether it was named, and not found.
    """

    folder: Path
    sweep: Path | None = None
    is_named: bool = False

    @property
    def status(self) -> str:
        """How it ended; FINISHED for a job that a search has pruned. Empty if it has not, or was killed."""
        outcome = load_json_or_empty(self.folder / layout.JOB)
        if outcome.get("status") == FINISHED and outcome.get("why"):
            return FINISHED
        return str(read_result(self.folder).get("status") or "")

    @property
    def is_left(self) -> bool:
        """Whether its sweep would go on with it: not if it has finished, or was paused or stopped on purpose."""
        if self.status in (FINISHED, PAUSE):
            return False
        return load_json_or_empty(self.folder / layout.JOB).get("why") != STEERED

    @property
    def ended_at(self) -> float:
        """When its result, or else the last line of its log, was written, in seconds since the epoch."""
        for name in (layout.RESULT, layout.LOG, layout.CONFIG):
            if (path := self.folder / name).is_file():
                return path.stat().st_mtime
        return 0.0

    @property
    def is_superseded(self) -> bool:
        """Whether another run has taken its place: a failed attempt of a job, a reproduction of a finished run."""
        if self.folder.parent.name == FAILED_ATTEMPTS:
            return True
        return self.folder.parent.name == REPRODUCTIONS and self.status == FINISHED


@dataclass(frozen=True)
class Sweep:
    """A sweep on this machine, as its folder says."""

    folder: Path

    @cached_property
    def jobs(self) -> list[Run]:
        """Its jobs that have a folder."""
        folders = [path for path in self.folder.glob("[0-9]*") if path.name.isdecimal() and is_own_folder(path)]
        return [Run(path, self.folder) for path in sorted(folders, key=lambda path: int(path.name))]

    @cached_property
    def is_complete(self) -> bool:
        """Whether it has ended, and no job is left to run but those that were paused or stopped on purpose."""
        rows, manifest = load_json_or_empty(self.folder / layout.JOBS).get("jobs"), manifest_of(self.folder)
        if not rows or (manifest is not None and manifest.status != FINISHED):
            return False
        listed = [Run(self.folder / str(row["job"]), self.folder) for row in rows]
        return not any(job.is_left for job in [*listed, *self.jobs])

    @cached_property
    def best(self) -> set[str] | None:
        """The names of the folders of its best job, of those on its front, or of its folds; None if it ranks none."""
        results = load_json_or_empty(self.folder / layout.JOBS)
        best = [results["best"]] if results.get("best") is not None else []
        members = load_json_or_empty(self.folder / layout.FOLDS).get("members", [])
        return {str(number) for number in [*best, *results.get("front", []), *members]} or None


def find_runs(folder: Path) -> Iterator[Run]:
    """Yield the runs in a folder: that of a run, a sweep, or one around several. Those of others are left out."""
    if is_sweep(folder):
        yield from _of_sweep(folder)
    elif (folder / layout.CONFIG).is_file():
        sweep = next((above for above in list(folder.parents)[:2] if is_sweep(above)), None)
        yield Run(folder, sweep, is_named=True)
    else:
        yield from _below(folder, DEPTH - 1)


def _of_sweep(folder: Path) -> Iterator[Run]:
    yield from Sweep(folder).jobs
    attempts = sorted((folder / FAILED_ATTEMPTS).glob("*"))
    yield from (Run(path, folder) for path in attempts if is_own_folder(path))


def _below(folder: Path, depth: int) -> Iterator[Run]:
    for path in sorted(folder.glob("[!.]*")):
        if not is_own_folder(path):
            continue
        if is_sweep(path):
            yield from _of_sweep(path)
        elif (path / layout.CONFIG).is_file():
            yield Run(path)
        elif depth > 1:
            yield from _below(path, depth - 1)
