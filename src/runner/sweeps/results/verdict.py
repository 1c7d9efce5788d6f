"""The verdict at a sweep's end: which configuration is really better, where they have several seeds."""

from pathlib import Path
from typing import TYPE_CHECKING

from runner.comparison.repetitions import Repetition
from runner.comparison.runs import from_folder
from runner.rundir.manifest import PAUSE
from runner.sweeps.plan.seeds import FOLD, SEED, configuration_of
from runner.sweeps.results.table import Table

if TYPE_CHECKING:
    from runner.comparison.verdict import Verdict


def conclude_sweep(
    table: Table, folder: Path, smallest_difference: float | None, max_seeds: int | None = None
) -> tuple["Verdict | None", list[str]]:
    """Judge the configurations of a sweep, and write the verdict's files.

    Args:
        table: of the sweep.
        folder: of the sweep.
        smallest_difference: that matters; None for half of the width of each interval.
        max_seeds: if seeds came in stages: the most of a configuration.

    Returns:
        The verdict, and the names of its files. None without one objective, or without several seeds; or if the data or
        losses of the jobs differ, or folds, which share samples, are repetitions too.

    Raises:
        OSError: a file cannot be written.
    """
    keys = {key for row in table.rows for key in row.job.point}
    if not table.is_ranked or table.trades_off or SEED not in keys or FOLD in keys:
        return None, []
    if all(each.asked < 2 for each in table.configurations):
        return None, []
    from runner.comparison.results import are_comparable  # late: NumPy and SciPy
    from runner.comparison.verdict_files import conclude

    by_number = sorted(table.rows, key=lambda row: row.job.number)
    runs = [from_folder(row.folder, row.job.number) for row in by_number]
    if not are_comparable([run for run in runs if run.config], table.metric):
        return None, []
    repetitions = [
        Repetition(
            dict(configuration_of(row.job.point)),
            row.job.point.get(SEED, ""),
            row.value if row.ran_to_end else None,
            row.status == PAUSE,
        )
        for row in by_number
    ]
    return conclude(repetitions, table.objectives[0], runs, folder, smallest_difference, max_seeds, private=True)
