"""Finding the runs to compare: by folder or id, the jobs of a sweep, or the newest."""

import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from runner.comparison.runs import ComparedRun, children, from_folder, from_mlflow
from runner.errors import ConfigError, Problem
from runner.rundir import folders, layout
from runner.rundir.folders import display_path, outputs
from runner.rundir.manifest import own_folder
from runner.rundir.ownership import is_part_of, own_folders
from runner.saved import run
from runner.util.uri import expand_home

if TYPE_CHECKING:
    from mlflow.entities import Run

NEWEST = 20
RUN_ID = re.compile("[0-9a-f]{32}")


def find(runs: str | None, sweep: str | None, uri: str | None) -> list[ComparedRun]:
    """Find the runs of `runs=`, in that order, and then those of a sweep, in the order of its jobs.

    Args:
        runs: a list of folders and ids.
        sweep: a folder or id; without it and `runs`, the newest runs of the outputs folder.
        uri: of the MLflow store that has the ids; for None see `saved.run.store_of`.

    Raises:
        ConfigError: with each one that is not found.
    """
    if runs is None and sweep is None:
        return [from_folder(folder, number) for number, folder in enumerate(newest(), start=1)]
    selected: list[ComparedRun] = []
    problems: list[Problem] = []
    for value in dict.fromkeys(split_list(runs or "")):
        try:
            selected.append(find_run(value, uri, len(selected) + 1))
        except ConfigError as error:
            problems += error.problems
    if sweep is not None:
        try:
            selected += find_jobs(sweep, uri, first=len(selected) + 1 if selected else None)
        except ConfigError as error:
            problems += error.problems
    if problems:
        raise ConfigError(*problems)
    if not selected:
        suggestion = "write runs=[<a run's folder or MLflow run id>,<another>]"
        raise ConfigError(Problem("runs", "runs= is empty", suggestion, topic="missing"))
    return selected


def find_run(value: str, uri: str | None, number: int) -> ComparedRun:
    """Find a run by its folder or its MLflow id.

    Raises:
        ConfigError: it is not found.
    """
    if jobs_of(folders.parse_path(value, "runs")):
        raise ConfigError(Problem("runs", f"runs={value} is a sweep's folder", f"write sweep={value}", topic="run"))
    if RUN_ID.fullmatch(value) and not Path(value).exists():
        uri = uri or run.store_of(value)
        return _from_store(run.get_logged_run(value, f"runs={value}", uri), uri, number)
    folder = run.find(value, "runs").folder
    assert folder is not None
    return from_folder(folder, number)


def _from_store(run: "Run", uri: str, number: int) -> ComparedRun:
    """Read a run of MLflow from its folder if that is here and still this run's, else from MLflow."""
    folder = own_folder(run.data.tags)
    return from_folder(folder, number) if folder is not None else from_mlflow(run, uri, number)


def find_jobs(value: str, uri: str | None, first: int | None) -> list[ComparedRun]:
    """Find the jobs of a sweep by its folder or its MLflow parent id.

    Args:
        value: the folder or the id.
        uri: of the MLflow store; for None see `saved.run.store_of`.
        first: the first run's number; None keeps the numbers of the jobs.

    Raises:
        ConfigError: it is not a sweep, or not found.
    """
    typed, folder = f"sweep={value}", folders.parse_path(value, "sweep")
    if folder.is_dir():
        jobs = jobs_of(folder)
        if not jobs:
            text = f"{typed} is not a sweep's folder: it has no jobs, which are numbered 0, 1, ..."
            suggestion = f"write runs={value} for a single run" if (folder / layout.CONFIG).is_file() else ""
            raise ConfigError(Problem("sweep", text, suggestion, topic="run"))
        return [from_folder(job, int(job.name) if first is None else first + i) for i, job in enumerate(jobs)]
    if not RUN_ID.fullmatch(value):
        suggestion = "write sweep=<a sweep's folder or MLflow parent id>"
        raise ConfigError(Problem("sweep", f"{typed}: no such folder", suggestion, topic="file"))
    uri = uri or run.store_of(value)
    child_runs = children(run.get_logged_run(value, typed, uri), uri)
    if not child_runs:
        text = f"{typed} has no child runs in MLflow"
        raise ConfigError(Problem("sweep", text, f"write runs={value} for a single run", topic="run"))
    return [_from_store(child, uri, (first or 0) + i) for i, child in enumerate(child_runs)]


def split_list(text: str) -> list[str]:
    """Split `[a,b]` or `a,b` into its items; `~` is expanded in each."""
    items = (item.strip().strip("'\"") for item in text.strip().removeprefix("[").removesuffix("]").split(","))
    return [expand_home(item) for item in items if item]


def newest() -> list[Path]:
    """Find the newest of the user's own runs in the outputs folder, and return them oldest first.

    Raises:
        ConfigError: there are none.
    """
    runs = outputs() / "runs"
    own = own_folders(runs, layout.CONFIG)
    if foreign := sum(1 for _ in runs.glob(f"*/{layout.CONFIG}")) - len(own):
        print(f"{foreign} left out: links, or folders of other users; runs=[<folder>] compares one", file=sys.stderr)
    dated = [((folder / layout.CONFIG).stat().st_mtime_ns, folder) for folder in own]
    if not dated:
        text = f"no runs of yours in {display_path(runs)}"
        suggestion = "write runs=[<folder or id>,...] or sweep=<folder or id>"
        raise ConfigError(Problem("runs", text, suggestion, topic="missing"))
    chosen = [folder for _, folder in sorted(dated)[-NEWEST:]]
    counted = f"{len(dated)} run{'s' * (len(dated) > 1)}"
    which = f"the newest {len(chosen)} of {counted}" if len(dated) > len(chosen) else counted
    print(f"{which} in {display_path(runs)}; runs=[a,b] chooses\n", file=sys.stderr)
    return chosen


def jobs_of(folder: Path) -> list[Path]:
    """Return the folders of a sweep's jobs, in the order of their numbers; without links and those of other users."""
    if not folder.is_dir() or (folder / layout.CONFIG).is_file():
        return []
    jobs = [path for path in folder.iterdir() if path.name.isdecimal() and is_part_of(folder, path)]
    return sorted(jobs, key=lambda path: int(path.name))
