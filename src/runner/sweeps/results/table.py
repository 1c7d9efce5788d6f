"""What came of a sweep: a row a job, the best first; over seeds, a row a configuration."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from runner.comparison.objectives import Objective, front
from runner.comparison.table import CELL_LENGTH
from runner.rundir import layout
from runner.rundir.delivery_state import DeliveryState
from runner.rundir.lock import is_locked
from runner.saved.run import read_result
from runner.sweeps.jobs import Job
from runner.sweeps.plan.plan import short_names
from runner.sweeps.results.outcome import fate_of
from runner.util import tables
from runner.util.metric_names import format_metric
from runner.util.tables import align, format_duration, shorten

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
        values: of the metrics that the sweep goes by; None if one was not measured.
        epoch: the best one.
        seconds: from its start to its end, imports and all.
        rate: samples per second of training.
    """

    job: Job
    folder: Path
    status: str
    why: str = ""
    values: tuple[float | None, ...] = ()
    epoch: int | None = None
    seconds: float | None = None
    rate: float | None = None
    run_id: str | None = None

    @property
    def value(self) -> float | None:
        """Of the first metric."""
        return self.values[0] if self.values else None

    @property
    def measured(self) -> tuple[float, ...] | None:
        """The values, if there are all of them."""
        found = tuple(value for value in self.values if value is not None)
        return found if found and len(found) == len(self.values) else None

    @property
    def whole(self) -> bool:
        """Whether it is finished, and was not pruned."""
        return self.status == "FINISHED" and not self.why


@dataclass(frozen=True)
class Table:
    """All jobs of a sweep.

    Attributes:
        objectives: that the sweep goes by: one, or two.
        rows: the best first, of two objectives the Pareto front; those without a value at the end.
    """

    objectives: list[Objective]
    rows: list[Row]

    @property
    def metric(self) -> str:
        """The first that the sweep goes by."""
        return self.objectives[0].metric

    @property
    def best(self) -> Row | None:
        """The finished job with the best value; of two objectives there is none."""
        if len(self.objectives) > 1:
            return None
        return next((row for row in self.rows if row.whole and row.value is not None), None)

    @property
    def front(self) -> list[Row]:
        """The finished jobs that no other is better than in everything; of one objective those with the best value."""
        rows = [row for row in self.rows if row.whole and row.measured is not None]
        return [rows[place] for place in front([row.measured or () for row in rows], self.objectives)]

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


def read(jobs: Sequence[Job], folder: Path, objectives: Sequence[Objective]) -> Table:
    """Read what the jobs have left in their folders.

    Args:
        jobs: all of the sweep.
        folder: the sweep's.
        objectives: to sort by.
    """
    table = Table(list(objectives), [read_row(job, folder / str(job.number), objectives) for job in jobs])
    ahead = table.front if len(table.objectives) > 1 else []

    def place(row: Row) -> tuple[bool, bool, bool, float, int]:
        cost = 0.0 if row.value is None else objectives[0].cost(row.value)
        return row.value is None, not row.whole, row not in ahead, cost, row.job.number

    return Table(table.objectives, sorted(table.rows, key=place))


def read_row(job: Job, folder: Path, objectives: Sequence[Objective]) -> Row:
    """Read what one job has left."""
    result, fate = read_result(folder), fate_of(folder)
    status = result.get("status")
    if fate is not None and status != "FINISHED":  # the result is the job's own, and it would not be there again
        status = fate.status
    if status is None:
        begun = (folder / layout.CONFIG).exists()
        status = "RUNNING" if begun and is_locked(folder) else "KILLED" if begun else "NOT STARTED"
    own = result.get("status") == "FINISHED"  # by itself, after whatever else had become of it before
    why = "" if own else (fate.why if fate else "") or result.get("error", "")
    found = [result.get(objective.metric) for objective in objectives]
    return Row(
        job,
        folder,
        status,
        why=why,
        values=tuple(float(v) if isinstance(v, int | float) and math.isfinite(v) else None for v in found),
        epoch=result.get("best_epoch") or None,
        seconds=fate.seconds if fate else None,
        rate=result.get("samples_per_second"),
        run_id=result.get("run_id") or DeliveryState.load(folder).run_id,
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
    return sorted(made, key=lambda c: (c.mean is None, table.objectives[0].cost(c.mean or 0.0)))


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
            **{objective.metric: value for objective, value in zip(table.objectives, row.values, strict=True)},
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
        **asdict(table.objectives[0]),
        **({"objectives": [asdict(objective) for objective in table.objectives]} if len(table.objectives) > 1 else {}),
        "best": best.job.number if best else None,
        **({"front": [row.job.number for row in table.front]} if len(table.objectives) > 1 else {}),
        "jobs": rows(table),
        "configurations": gathered,
    }
    return json.dumps(content, indent=2) + "\n"


def to_text(table: Table) -> list[str]:
    """The lines of an aligned table of the jobs."""
    made = table.rows[:MOST_ROWS]
    axes = _axes([row.job.point for row in made])
    failed = any(row.why for row in made)
    ahead = table.front if len(table.objectives) > 1 else []
    columns = [
        [">#", *(str(row.job.number) for row in made)],
        *axes,
        ["status", *(row.status for row in made)],
        *([["front", *("*" if row in ahead else "" for row in made)]] if ahead else []),
        *(
            [f">{o.metric}", *(cell(o.metric, row.values[place]) for row in made)]
            for place, o in enumerate(table.objectives)
        ),
        [">epoch", *("" if row.epoch is None else str(row.epoch) for row in made)],
        [">time", *("" if row.seconds is None else format_duration(row.seconds) for row in made)],
        [">samples/s", *("" if row.rate is None else f"{row.rate:,.0f}" for row in made)],
        ["run id", *(row.run_id or "" for row in made)],
        *([["why", *(shorten(row.why, WHY_LENGTH) for row in made)]] if failed else []),
    ]
    left = len(table.rows) - len(made)
    return align(columns) + ([f"... and {left} more: see jobs.csv"] if left else [])


def cell(metric: str, value: float | None) -> str:
    """A value for people; empty if there is none."""
    return "" if value is None else format_metric(metric, value).strip()


def values_in_words(row: Row, objectives: Sequence[Objective]) -> str:
    """`val/loss 0.1234, time/epoch_seconds 1.2`."""
    named = zip(objectives, row.values, strict=True)
    return ", ".join(f"{o.metric} {cell(o.metric, value)}" for o, value in named if value is not None)


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
        [f">mean {table.metric}", *(cell(table.metric, c.mean) for c in found)],
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
