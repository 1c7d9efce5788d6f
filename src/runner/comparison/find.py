"""Which runs to compare: named by folder or id, the jobs of a sweep, or the newest."""

import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from runner.comparison.runs import ComparedRun, children, from_folder, from_mlflow
from runner.errors import ConfigError
from runner.rundir import folders, layout
from runner.rundir.folders import display_path, outputs
from runner.rundir.manifest import own_folder
from runner.saved import run
from runner.util.uri import expand_home

if TYPE_CHECKING:
    from mlflow.entities import Run

NEWEST = 20
RUN_ID = re.compile("[0-9a-f]{32}")


def find(runs: str | None, sweep: str | None, uri: str | None) -> list[ComparedRun]:
    """The runs that were asked for: those of `runs=` in the order given, then the sweep's in that of its jobs.

    Args:
        runs: folders and ids, in a list; and
        sweep: a folder or id; without both, the newest runs of the outputs folder.
        uri: of the MLflow store that ids are looked up in; for None see `saved.run.store_of`.

    Raises:
        ConfigError: some are not there; each is named.
    """
    if runs is None and sweep is None:
        return [from_folder(folder, number) for number, folder in enumerate(newest(), start=1)]
    found: list[ComparedRun] = []
    problems = []
    for value in dict.fromkeys(split_list(runs or "")):
        try:
            found.append(find_run(value, uri, len(found) + 1))
        except ConfigError as error:
            problems += error.problems
    if sweep is not None:
        try:
            found += find_jobs(sweep, uri, first=len(found) + 1 if found else None)
        except ConfigError as error:
            problems += error.problems
    if problems:
        raise ConfigError(*problems)
    if not found:
        raise ConfigError("runs= is empty: write runs=[<a run's folder or MLflow run id>,<another>]")
    return found


def find_run(value: str, uri: str | None, number: int) -> ComparedRun:
    """A run by its folder or its MLflow id.

    Raises:
        ConfigError: there is none.
    """
    if jobs_of(folders.parse_path(value, "runs")):
        raise ConfigError(f"runs={value} is a sweep's folder: write sweep={value}")
    if RUN_ID.fullmatch(value) and not Path(value).exists():
        uri = uri or run.store_of(value)
        return _from_store(run.get_logged_run(value, f"runs={value}", uri), uri, number)
    folder = run.find(value, "runs").folder
    assert folder is not None
    return from_folder(folder, number)


def _from_store(run: "Run", uri: str, number: int) -> ComparedRun:
    """A run that MLflow knows: from its folder if that is here and still this run's, else from MLflow."""
    folder = own_folder(run.data.tags)
    return from_folder(folder, number) if folder is not None else from_mlflow(run, uri, number)


def find_jobs(value: str, uri: str | None, first: int | None) -> list[ComparedRun]:
    """The jobs of a sweep by its folder or its MLflow parent id.

    Args:
        value: the folder or the id.
        uri: of the MLflow store; for None see `saved.run.store_of`.
        first: what to count from; None keeps the numbers of the jobs.

    Raises:
        ConfigError: there is no such sweep.
    """
    given, folder = f"sweep={value}", folders.parse_path(value, "sweep")
    if folder.is_dir():
        jobs = jobs_of(folder)
        if not jobs:
            raise ConfigError(f"{given} is no sweep's folder: there are no jobs in it, numbered 0, 1, ...")
        return [from_folder(job, int(job.name) if first is None else first + i) for i, job in enumerate(jobs)]
    if not RUN_ID.fullmatch(value):
        raise ConfigError(f"{given}: there is no such folder; write a sweep's folder or MLflow parent id")
    uri = uri or run.store_of(value)
    found = children(run.get_logged_run(value, given, uri), uri)
    if not found:
        raise ConfigError(f"{given} has no children in MLflow; for a single run write runs={value}")
    return [_from_store(run, uri, (first or 0) + i) for i, run in enumerate(found)]


def split_list(text: str) -> list[str]:
    """`[a,b]` or `a,b` as its items; `~` is the home folder in each."""
    items = (item.strip().strip("'\"") for item in text.strip().removeprefix("[").removesuffix("]").split(","))
    return [expand_home(item) for item in items if item]


def newest() -> list[Path]:
    """The newest runs of the outputs folder, oldest first.

    Raises:
        ConfigError: there is none.
    """
    runs = outputs() / "runs"
    found = [(path.stat().st_mtime_ns, path.parent) for path in runs.glob(f"*/{layout.CONFIG}")]
    if not found:
        raise ConfigError(
            f"there are no runs in {display_path(runs)}: write runs=[<folder or id>,...] or sweep=<folder or id>"
        )
    chosen = [folder for _, folder in sorted(found)[-NEWEST:]]
    of = f"newest {len(chosen)} of {len(found)}" if len(found) > len(chosen) else str(len(found))
    print(f"the {of} runs in {display_path(runs)}; runs=[a,b] chooses\n", file=sys.stderr)
    return chosen


def jobs_of(folder: Path) -> list[Path]:
    """The folders of a sweep's jobs, by their numbers."""
    if not folder.is_dir() or (folder / layout.CONFIG).is_file():
        return []
    jobs = [path for path in folder.iterdir() if path.name.isdecimal() and path.is_dir()]
    return sorted(jobs, key=lambda path: int(path.name))
