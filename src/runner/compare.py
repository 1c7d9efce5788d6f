"""Compare runs in a table and plots: `python -m runner.compare [sweep=<folder>] [runs=[a,b]] [output=<folder>]`."""

import shutil
import sys
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from runner.errors import ConfigError, Problem, first_line
from runner.rundir import folders
from runner.rundir.folders import display_path, outputs
from runner.util import program
from runner.util.files import write_atomically
from runner.util.options import run_with_options
from runner.util.streams import print_result

if TYPE_CHECKING:
    from runner.comparison.table import Comparison
    from runner.comparison.verdict import Verdict

USAGE = "python -m runner.compare [key=value ...]: compare runs in a table and plots, with what differs between them."
OPTIONS = {
    "runs": "[a,b]: folders or MLflow ids; without it and sweep=, the newest in the outputs folder",
    "sweep": "a sweep's folder or MLflow parent id: all its jobs, after those of runs=",
    "output": "the folder for table and plots; by default a new one in the outputs folder's comparisons/",
    "tracking.uri": "the MLflow store; by default that of the outputs folder",
}

FILES = 5
"""Differing files of the code that are named."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; the table goes to standard error, and as CSV to standard output unless that is a terminal.

    Returns:
        0, or 2 for a wrong argument.
    """
    return run_with_options(argv, USAGE, OPTIONS, work)


def work(options: Mapping[str, str]) -> int:
    """Read the runs, compare them, and write table and plots.

    Raises:
        ConfigError: a run is not found, or the folder cannot be created.
    """
    from runner.comparison.find import find

    runs = find(options.get("runs"), options.get("sweep"), options.get("tracking.uri"))
    target = make_folder(options.get("output"))
    # Late: matplotlib and torch.
    from runner.comparison.table import compare, to_csv, to_json, to_text

    compared = compare(runs)
    width = shutil.get_terminal_size().columns if sys.stderr.isatty() else None
    _say(*to_text(compared, width), "")
    for note in notes(compared):
        _say(note)
    table = to_csv(compared)
    write_atomically(target / "comparison.csv", table)
    write_atomically(target / "comparison.json", to_json(compared))
    one_sweep = "sweep" in options and "runs" not in options
    verdict, files = _conclude(compared, target, folders.parse_path(options["sweep"], "sweep") if one_sweep else None)
    plots: list[Path] = []
    try:
        from runner.plots.comparison import draw
        from runner.plots.verdict import draw_verdict

        plots = draw(compared, target, one_sweep)
        if verdict is not None and (forest := draw_verdict(verdict, target / "verdict.png")) is not None:
            plots.append(forest)
    except Exception as error:  # matplotlib may raise anything, and the table is written already
        _say(f"not all plots were drawn: {type(error).__name__}: {first_line(error)}")
    names = ", ".join(["comparison.csv", "comparison.json", *files, *(path.name for path in plots)])
    _say(f"saved in   {display_path(target)} ({names})")
    if not sys.stdout.isatty():
        print_result(table.removesuffix("\n"))
    return 0


def _conclude(compared: "Comparison", target: Path, sweep: Path | None) -> tuple["Verdict | None", list[str]]:
    """Print and write the verdict, if runs differ in nothing but their seed.

    Args:
        compared: the runs.
        target: where its files go.
        sweep: the folder that they are the jobs of, if they are those of one.

    Returns:
        The verdict, and the names of its files; None and an empty list without one.
    """
    from runner.comparison.repeated_runs import find_objective, find_repetitions, find_settings
    from runner.comparison.results import are_comparable
    from runner.comparison.verdict_files import conclude
    from runner.comparison.verdict_text import to_table, to_text

    objective = find_objective(compared, sweep)
    repetitions = find_repetitions(compared, objective.metric) if objective is not None else []
    if objective is None or not repetitions:
        return None, []
    if not are_comparable([run for run in compared.runs if run.config], objective.metric):
        _say("", "no verdict on the configurations: their data or losses differ")
        return None, []
    verdict, files = conclude(repetitions, objective, compared.runs, target, **find_settings(sweep))
    _say("", *to_table(verdict), "", *to_text(verdict))
    return verdict, files


def make_folder(value: str | None) -> Path:
    """Create the folder for table and plots: the given one, or a new one.

    Raises:
        ConfigError: it cannot be created.
    """
    if value is None:
        path = outputs() / "comparisons" / datetime.now().strftime("%Y-%m-%d_%H-%M-%S")
        return folders.make_run_folder(str(path), exact=False)
    folder = folders.parse_path(value, "output").absolute()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        text = f"output={value} cannot be created: {error.strerror}"
        raise ConfigError(Problem("output", text, "write another folder", topic="file")) from error
    return folder


def notes(compared: "Comparison") -> list[str]:
    """Return remarks on the figures of the table."""
    from runner.comparison.code import differing_files
    from runner.comparison.table import differing_data

    runs, lines = compared.runs, []
    if any(compared.best.values()):
        lines.append("*: the best of the runs with the same data, and for a loss with the same loss and task")
    if any(run.epoch_time is not None for run in runs):
        lines.append("epoch / s, samples/s: medians over the epochs after the first, which warms up")
    if files := list(differing_files(runs).values()):
        more = f" and {len(files) - FILES} more" if len(files) > FILES else ""
        names = "the commit, +: uncommitted changes; without a repository a hash of the files"
        lines.append(f"the code differs in {', '.join(files[:FILES])}{more}; code: {names}")
    if alone := [str(run.number) for run in runs if run.warm_up_only]:
        lines.append(f"run{'s' * (len(alone) > 1)} {', '.join(alone)}: times of the first epoch, the only one")
    if different := differing_data(runs):
        lines.append(f"runs differ in {', '.join(different)}: no speed-up between them")
    if len(runs) > 1 and runs[0].epoch_time is None:
        lines.append("speed-ups are relative to the first run, which has no epoch time: put another one first")
    return lines


def _say(*lines: str) -> None:
    print(*lines, sep="\n", file=sys.stderr)


if __name__ == "__main__":
    program.run(main)
