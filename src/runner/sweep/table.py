"""What came of a sweep: a row a job, the best first; over seeds, a row a configuration."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from runner import tables
from runner.comparison import CELL_LENGTH, shorten
from runner.console import duration, shown
from runner.saved import result_of
from runner.schema import higher_is_better
from runner.sweep.fate import fate_of
from runner.sweep.plan import Job, short_names
from runner.tables import align
from runner.tracking.folder import owned
from runner.tracking.state import State

SEED = "seed"
MOST_ROWS = 50
"""That the terminal gets; the files have all."""

WHY_LENGTH = 60


@dataclass(frozen=True)
class Row:
    """A job and what came of it.

    Attributes:
        status: FINISHED, FAILED, KILLED, RUNNING or NOT STARTED.
        why: what kept it from its end.
        value: of the metric that the sweep goes by; None if it was not measured.
        epoch: the best one.
        seconds: from its start to its end, imports and all.
        rate: samples per second of training.
    """

    job: Job
    folder: Path
    status: str
    why: str = ""
    value: float | None = None
    epoch: int | None = None
    seconds: float | None = None
    rate: float | None = None
    run_id: str | None = None

    @property
    def whole(self) -> bool:
        """Whether it is finished, and was not pruned."""
        return self.status == "FINISHED" and not self.why


@dataclass(frozen=True)
class Table:
    """All jobs of a sweep.

    Attributes:
        metric: that the sweep goes by.
        direction: `min` or `max`, which is better.
        rows: the best first; those without a value at the end.
    """

    metric: str
    direction: str
    rows: list[Row]

    @property
    def best(self) -> Row | None:
        """The finished job with the best value."""
        return next((row for row in self.rows if row.whole and row.value is not None), None)

    def count(self, status: str) -> int:
        """How many jobs ended so."""
        return sum(row.status == status for row in self.rows)


@dataclass(frozen=True)
class Configuration:
    """What jobs that differ in their seed alone have in common.

    Attributes:
        point: their values, without the seed.
        values: of the metric, of those that finished.
    """

    point: dict[str, str]
    values: list[float]

    @property
    def mean(self) -> float | None:
        """Of the values."""
        return mean(self.values) if self.values else None

    @property
    def std(self) -> float | None:
        """The standard deviation of a sample: of n values it divides by n - 1; None of fewer than two."""
        return stdev(self.values) if len(self.values) > 1 else None


def direction_of(metric: str, wanted: str | None) -> str:
    """`min` or `max`: as it was asked for, or as follows from the metric; rates rise, times fall."""
    if wanted is not None:
        return wanted
    return "max" if higher_is_better(metric) or metric.startswith("throughput/") else "min"


def read(jobs: Sequence[Job], folder: Path, metric: str, direction: str) -> Table:
    """Read what the jobs have left in their folders.

    Args:
        jobs: all of the sweep.
        folder: the sweep's.
        metric: to sort by.
        direction: `min` or `max`.
    """
    rows = [read_row(job, folder / str(job.number), metric) for job in jobs]
    sign = 1 if direction == "min" else -1

    def place(row: Row) -> tuple[int, float, int]:
        if row.value is None:
            return 2, 0.0, row.job.number
        return (0 if row.whole else 1), sign * row.value, row.job.number

    return Table(metric, direction, sorted(rows, key=place))


def read_row(job: Job, folder: Path, metric: str) -> Row:
    """Read what one job has left."""
    result, fate = result_of(folder), fate_of(folder)
    status = result.get("status")
    if fate is not None and status != "FINISHED":  # the result is the job's own, and it would not be there again
        status = fate.status
    if status is None:
        begun = (folder / "config.yaml").exists()
        status = "RUNNING" if begun and owned(folder) else "KILLED" if begun else "NOT STARTED"
    own = result.get("status") == "FINISHED"  # by itself, after whatever else had become of it before
    why = "" if own else (fate.why if fate else "") or result.get("error", "")
    value = result.get(metric)
    value = float(value) if isinstance(value, int | float) and math.isfinite(value) else None
    return Row(
        job,
        folder,
        status,
        why=why,
        value=value,
        epoch=result.get("best_epoch") or None,
        seconds=fate.seconds if fate else None,
        rate=result.get("samples_per_second"),
        run_id=result.get("run_id") or State.load(folder).run_id,
    )


def configurations(table: Table) -> list[Configuration]:
    """The jobs gathered over their seeds, the best mean first; none where the seed is no axis, or the only one."""
    keys = {key for row in table.rows for key in row.job.point}
    if SEED not in keys:
        return []
    gathered: dict[tuple[tuple[str, str], ...], list[float]] = {}
    for row in table.rows:
        point = tuple((key, value) for key, value in row.job.point.items() if key != SEED)
        values = gathered.setdefault(point, [])
        if row.whole and row.value is not None:
            values.append(row.value)
    made = [Configuration(dict(point), values) for point, values in gathered.items()]
    sign = 1 if table.direction == "min" else -1
    return sorted(made, key=lambda c: (c.mean is None, sign * (c.mean or 0.0)))


def rows(table: Table) -> list[dict[str, Any]]:
    """A mapping a job, with every figure as it is; None where there is none."""
    keys = list(dict.fromkeys(key for row in table.rows for key in row.job.point))
    return [
        {
            "job": row.job.number,
            "name": row.job.name,
            **{key: row.job.point.get(key, "") for key in keys},
            "status": row.status,
            "why": row.why,
            table.metric: row.value,
            "epoch": row.epoch,
            "seconds": row.seconds,
            "samples_per_second": row.rate,
            "run_id": row.run_id,
            "folder": str(row.folder),
        }
        for row in table.rows
    ]


def to_csv(table: Table) -> str:
    """The rows as CSV with a header line; an empty cell where there is no value."""
    return tables.to_csv(rows(table))


def to_json(table: Table) -> str:
    """The rows, which of them is the best, and the configurations over their seeds."""
    best = table.best
    gathered = [
        {**found.point, "mean": found.mean, "std": found.std, "n": len(found.values)} for found in configurations(table)
    ]
    content = {
        "metric": table.metric,
        "direction": table.direction,
        "best": best.job.number if best else None,
        "jobs": rows(table),
        "configurations": gathered,
    }
    return json.dumps(content, indent=2) + "\n"


def to_text(table: Table) -> list[str]:
    """The lines of an aligned table of the jobs."""
    made = table.rows[:MOST_ROWS]
    axes = _axes([row.job.point for row in made])
    failed = any(row.why for row in made)
    columns = [
        [">#", *(str(row.job.number) for row in made)],
        *axes,
        ["status", *(row.status for row in made)],
        [f">{table.metric}", *("" if row.value is None else shown(table.metric, row.value).strip() for row in made)],
        [">epoch", *("" if row.epoch is None else str(row.epoch) for row in made)],
        [">time", *("" if row.seconds is None else duration(row.seconds) for row in made)],
        [">samples/s", *("" if row.rate is None else f"{row.rate:,.0f}" for row in made)],
        ["run id", *(row.run_id or "" for row in made)],
        *([["why", *(shorten(row.why, WHY_LENGTH) for row in made)]] if failed else []),
    ]
    left = len(table.rows) - len(made)
    return align(columns) + ([f"... and {left} more: see jobs.csv"] if left else [])


def configurations_to_text(table: Table) -> list[str]:
    """The lines of an aligned table of the configurations; none where there are none to speak of."""
    found = configurations(table)[:MOST_ROWS]
    if not found:
        return []
    percent = table.metric.endswith("accuracy")

    def spread(value: float | None) -> str:
        if value is None:
            return ""
        return f"{100 * value:.2f} %" if percent else f"{value:.2g}"

    columns = [
        *_axes([c.point for c in found]),
        [f">mean {table.metric}", *("" if c.mean is None else shown(table.metric, c.mean).strip() for c in found)],
        [">std", *(spread(c.std) for c in found)],
        [">n", *(str(len(c.values)) for c in found)],
    ]
    return align(columns)


def _axes(points: Sequence[Mapping[str, str]]) -> list[list[str]]:
    """A column for each axis that has more than one value."""
    keys = list(dict.fromkeys(key for point in points for key in point))
    varied = [key for key in keys if len({point.get(key) for point in points}) > 1]
    names = short_names(varied)
    return [[names[key], *(shorten(point.get(key, ""), CELL_LENGTH) for point in points)] for key in varied]
