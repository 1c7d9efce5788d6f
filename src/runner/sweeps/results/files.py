"""Files that a sweep writes about its jobs: the table as CSV and JSON, and the plots."""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from runner.comparison.runs import from_folder
from runner.comparison.table import compare
from runner.errors import describe_error
from runner.rundir import layout
from runner.rundir.delivery_state import DeliveryState
from runner.sweeps.results import table as tables
from runner.sweeps.results.table import Row, Table
from runner.util.files import write_atomically

if TYPE_CHECKING:
    from runner.comparison.verdict import Verdict

SWEEP_PLOT = f"{layout.PLOTS}/sweep.png"
VERDICT_PLOT = f"{layout.PLOTS}/verdict.png"
FRONT_PLOT = f"{layout.PLOTS}/front.png"


def draw_files_or_say_why(table: Table, folder: Path, verdict: "Verdict | None") -> list[str] | str:
    """Draw the sweep in another process; return the names of the files, or why not all of them are drawn."""
    try:
        return draw_files(table, folder, verdict)
    except Exception as error:  # a full disk, or anything that matplotlib raises
        return describe_error(error)


def draw_files(table: Table, folder: Path, verdict: "Verdict | None" = None) -> list[str]:
    """Draw the sweep, and its verdict if there is one.

    Returns:
        The names of the files in the folder.
    """
    by_number = sorted(table.rows, key=lambda row: row.job.number)
    picture = draw(by_number, table.metric, folder) if table.is_ranked else None
    pictures = [*([picture] if picture else []), *draw_front(table, folder), *_draw_verdict(verdict, folder)]
    return [file.relative_to(folder).as_posix() for file in pictures]


def _draw_verdict(verdict: "Verdict | None", folder: Path) -> list[Path]:
    if verdict is None:
        return []
    from runner.plots.verdict import draw_verdict  # matplotlib takes half a second to import

    file = folder / VERDICT_PLOT
    file.parent.mkdir(exist_ok=True)
    drawn = draw_verdict(verdict, file)
    return [] if drawn is None else [drawn]


def with_late_ids(table: Table) -> Table:
    """Return the table with the run ids that jobs have got since: MLflow was away until the sweep's end."""
    rows = [replace(row, run_id=DeliveryState.load(row.folder).run_id or row.run_id) for row in table.rows]
    return replace(table, rows=rows)


def write_table(table: Table, folder: Path) -> None:
    """Write the table as CSV and JSON."""
    write_atomically(folder / layout.JOBS_TABLE, tables.to_csv(table), private=True)
    write_atomically(folder / layout.JOBS, tables.to_json(table), private=True)


def draw_front(table: Table, folder: Path) -> list[Path]:
    """Draw two objectives against each other, if the sweep has two."""
    rows = [row for row in table.rows if row.ran_to_end and row.measured]
    if not table.trades_off or not rows:
        return []
    from runner.plots.search import draw_front  # matplotlib takes half a second to import

    points = [(row.job.number, row.measured or (), row in table.front) for row in rows]
    if table.is_repeated:  # the means, by the first job of each configuration
        ranked = [each for each in table.configurations if each.is_complete]
        numbers = [min(row.job.number for row in each.rows) for each in ranked]
        ahead = table.front_configurations
        points = [(n, each.means or (), each in ahead) for n, each in zip(numbers, ranked, strict=True)]
    if not points:
        return []
    return [draw_front(points, table.objectives, folder / FRONT_PLOT)]


def draw(rows: Sequence[Row], metric: str, folder: Path) -> Path | None:
    """Draw the metric over the varied parameters."""
    from runner.plots.sweep import draw_sweep  # matplotlib takes half a second to import

    compared = compare([from_folder(row.folder, row.job.number) for row in rows])
    file = folder / SWEEP_PLOT
    file.parent.mkdir(exist_ok=True)
    drawn = draw_sweep(compared, file, metric)
    if drawn is None:
        file.unlink(missing_ok=True)  # from before the sweep was resumed
        with suppress(OSError):  # the folder holds other files
            file.parent.rmdir()
    return drawn
