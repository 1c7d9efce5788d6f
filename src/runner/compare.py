"""A table and plots over runs: `python -m runner.compare [sweep=<folder or id>] [runs=[a,b]] [output=<folder>]`."""

import re
import sys
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from runner.errors import ConfigError, first_line
from runner.rundir import folders, layout
from runner.rundir.folders import outputs, short
from runner.rundir.manifest import own_folder
from runner.saved import run
from runner.util import program, uri
from runner.util.files import write_atomically
from runner.util.options import command
from runner.util.streams import print_result

if TYPE_CHECKING:
    from mlflow.entities import Run

    from runner.comparison.runs import ComparedRun

USAGE = "python -m runner.compare [key=value ...]: a table and plots over runs, and what tells them apart."
OPTIONS = {
    "runs": "[a,b]: folders or MLflow ids; without it and sweep=, the newest in the outputs folder",
    "sweep": "a sweep's folder, or its MLflow parent id: all its jobs, after those of runs=",
    "output": "the folder for table and plots; by default a new one in the outputs folder's comparisons/",
    "tracking.uri": "the MLflow store, if it is not the one of the outputs folder",
}
NEWEST = 20
RUN_ID = re.compile("[0-9a-f]{32}")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; the table goes to standard error, and as CSV to a standard output that is no terminal.

    Returns:
        0, or 2 for a wrong argument.
    """
    return command(argv, USAGE, OPTIONS, work)


def work(options: Mapping[str, str]) -> int:
    """Read the runs, compare, write.

    Raises:
        ConfigError: a run is not there, or the folder cannot be made.
    """
    runs = find(options, options.get("tracking.uri"))
    target = make_folder(options.get("output"))
    # Late: matplotlib and torch.
    from runner.comparison.table import compare, to_csv, to_json, to_text

    compared = compare(runs)
    _say(*to_text(compared), "")
    for note in notes(runs):
        _say(note)
    table = to_csv(compared)
    write_atomically(target / "comparison.csv", table)
    write_atomically(target / "comparison.json", to_json(compared))
    plots: list[Path] = []
    try:
        from runner.plots.comparison import draw

        plots = draw(compared, target, one_sweep="sweep" in options and "runs" not in options)
    except Exception as error:  # matplotlib raises anything, and the table is written
        _say(f"not all plots are drawn: {type(error).__name__}: {first_line(error)}")
    names = ", ".join(["comparison.csv", "comparison.json", *(path.name for path in plots)])
    _say(f"kept in    {short(target)} ({names})")
    if not sys.stdout.isatty():
        print_result(table.removesuffix("\n"))
    return 0


def make_folder(value: str | None) -> Path:
    """The folder that table and plots go to: the one named, or a new one.

    Raises:
        ConfigError: it cannot be made.
    """
    if value is None:
        wanted = outputs() / "comparisons" / datetime.now().strftime("%Y-%m-%d_%H-%M-%S")
        return folders.make_run_folder(str(wanted), exact=False)
    folder = folders.named(value, "output").absolute()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"output={value} cannot be made: {error.strerror}; write another folder") from error
    return folder


def notes(runs: "Sequence[ComparedRun]") -> list[str]:
    """What must be known to read the table."""
    from runner.comparison.table import differing_data

    found = []
    if any(run.epoch_seconds for run in runs):
        found.append("epoch / s, samples/s: medians over the epochs after the first, which warms up")
    if alone := [str(run.number) for run in runs if run.warm_up_only]:
        found.append(f"of the first epoch, as there is no other: run {', '.join(alone)}")
    if different := differing_data(runs):
        found.append(
            f"times and metrics are of different data: not the same {', '.join(different)}; what is so told apart has"
            " no speed-up"
        )
    if len(runs) > 1 and runs[0].epoch_time is None:
        found.append("speed-up is against the first run, which has no epoch time: name another one first")
    return found


def find(options: Mapping[str, str], uri: str | None) -> "list[ComparedRun]":
    """The runs that were asked for: those of `runs=` in the order given, then the sweep's in that of its jobs.

    Args:
        options: of the command line.
        uri: of the MLflow store that ids are looked up in; for None see `saved.store_of`.

    Raises:
        ConfigError: some are not there; each is named.
    """
    from runner.comparison.runs import from_folder

    if "runs" not in options and "sweep" not in options:
        return [from_folder(folder, number) for number, folder in enumerate(newest(), start=1)]
    runs: list[ComparedRun] = []
    problems = []
    for value in dict.fromkeys(split_list(options.get("runs", ""))):
        try:
            runs.append(find_run(value, uri, len(runs) + 1))
        except ConfigError as error:
            problems += error.problems
    if "sweep" in options:
        try:
            runs += find_jobs(options["sweep"], uri, first=len(runs) + 1 if runs else None)
        except ConfigError as error:
            problems += error.problems
    if problems:
        raise ConfigError(*problems)
    if not runs:
        raise ConfigError("runs= is empty: write runs=[<a run's folder or MLflow run id>,<another>]")
    return runs


def find_run(value: str, uri: str | None, number: int) -> "ComparedRun":
    """A run by its folder or its MLflow id.

    Raises:
        ConfigError: there is none.
    """
    from runner.comparison.runs import from_folder

    if jobs_of(folders.named(value, "runs")):
        raise ConfigError(f"runs={value} is a sweep's folder: write sweep={value}")
    if RUN_ID.fullmatch(value) and not Path(value).exists():
        uri = uri or run.store_of(value)
        return _from_store(run.get(value, f"runs={value}", uri), uri, number)
    folder = run.find(value, "runs").folder
    assert folder is not None
    return from_folder(folder, number)


def _from_store(run: "Run", uri: str, number: int) -> "ComparedRun":
    """A run that MLflow knows: from its folder if that is here and still this run's, else from MLflow."""
    from runner.comparison.runs import from_folder, from_mlflow

    folder = own_folder(run.data.tags)
    return from_folder(folder, number) if folder is not None else from_mlflow(run, uri, number)


def find_jobs(value: str, uri: str | None, first: int | None) -> "list[ComparedRun]":
    """The jobs of a sweep by its folder or its MLflow parent id.

    Args:
        value: the folder or the id.
        uri: of the MLflow store; for None see `saved.store_of`.
        first: what to count from; None keeps the numbers of the jobs.

    Raises:
        ConfigError: there is no such sweep.
    """
    from runner.comparison.runs import children, from_folder

    given, folder = f"sweep={value}", folders.named(value, "sweep")
    if folder.is_dir():
        jobs = jobs_of(folder)
        if not jobs:
            raise ConfigError(f"{given} is no sweep's folder: there are no jobs in it, numbered 0, 1, ...")
        return [from_folder(job, int(job.name) if first is None else first + i) for i, job in enumerate(jobs)]
    if not RUN_ID.fullmatch(value):
        raise ConfigError(f"{given}: there is no such folder; write a sweep's folder or MLflow parent id")
    uri = uri or run.store_of(value)
    found = children(run.get(value, given, uri), uri)
    if not found:
        raise ConfigError(f"{given} has no children in MLflow; for a single run write runs={value}")
    return [_from_store(run, uri, (first or 0) + i) for i, run in enumerate(found)]


def split_list(text: str) -> list[str]:
    """`[a,b]` or `a,b` as its items; `~` is the home folder in each."""
    items = (item.strip().strip("'\"") for item in text.strip().removeprefix("[").removesuffix("]").split(","))
    return [uri.expand_home(item) for item in items if item]


def newest() -> list[Path]:
    """The newest runs of the outputs folder, oldest first.

    Raises:
        ConfigError: there is none.
    """
    runs = outputs() / "runs"
    found = [(path.stat().st_mtime_ns, path.parent) for path in runs.glob("*/config.yaml")]
    if not found:
        raise ConfigError(
            f"there are no runs in {short(runs)}: write runs=[<folder or id>,...] or sweep=<folder or id>"
        )
    chosen = [folder for _, folder in sorted(found)[-NEWEST:]]
    of = f"newest {len(chosen)} of {len(found)}" if len(found) > len(chosen) else str(len(found))
    _say(f"the {of} runs in {short(runs)}; runs=[a,b] chooses", "")
    return chosen


def jobs_of(folder: Path) -> list[Path]:
    """The folders of a sweep's jobs, by their numbers."""
    if not folder.is_dir() or (folder / layout.CONFIG).is_file():
        return []
    jobs = [path for path in folder.iterdir() if path.name.isdecimal() and path.is_dir()]
    return sorted(jobs, key=lambda path: int(path.name))


def _say(*lines: str) -> None:
    print(*lines, sep="\n", file=sys.stderr)


if __name__ == "__main__":
    program.run(main)
