"""A table and plots over runs: `python -m runner.compare [sweep=<folder or id>] [runs=[a,b]] [output=<folder>]`."""

import sys
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from runner.errors import ConfigError, first_line
from runner.rundir import folders
from runner.rundir.folders import display_path, outputs
from runner.util import program
from runner.util.files import write_atomically
from runner.util.options import run_with_options
from runner.util.streams import print_result

if TYPE_CHECKING:
    from runner.comparison.runs import ComparedRun

USAGE = "python -m runner.compare [key=value ...]: a table and plots over runs, and what tells them apart."
OPTIONS = {
    "runs": "[a,b]: folders or MLflow ids; without it and sweep=, the newest in the outputs folder",
    "sweep": "a sweep's folder, or its MLflow parent id: all its jobs, after those of runs=",
    "output": "the folder for table and plots; by default a new one in the outputs folder's comparisons/",
    "tracking.uri": "the MLflow store, if it is not the one of the outputs folder",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; the table goes to standard error, and as CSV to a standard output that is no terminal.

    Returns:
        0, or 2 for a wrong argument.
    """
    return run_with_options(argv, USAGE, OPTIONS, work)


def work(options: Mapping[str, str]) -> int:
    """Read the runs, compare, write.

    Raises:
        ConfigError: a run is not there, or the folder cannot be made.
    """
    from runner.comparison.find import find

    runs = find(options.get("runs"), options.get("sweep"), options.get("tracking.uri"))
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
    _say(f"kept in    {display_path(target)} ({names})")
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
    folder = folders.parse_path(value, "output").absolute()
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


def _say(*lines: str) -> None:
    print(*lines, sep="\n", file=sys.stderr)


if __name__ == "__main__":
    program.run(main)
