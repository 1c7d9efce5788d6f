"""The table of a sweep: a row per job, the best first; over several seeds, also a row per configuration."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from runner.comparison.objectives import SHOWN, Objective, pareto_front
from runner.comparison.table import CELL_LENGTH
from runner.rundir import layout
from runner.rundir.delivery_state import DeliveryState
from runner.rundir.lock import is_locked
from runner.rundir.manifest import PAUSE, has_manifest
from runner.saved.run import read_result
from runner.sweeps.jobs import Job
from runner.sweeps.plan.plan import short_names
from runner.sweeps.results import configurations
from runner.sweeps.results.configurations import Configuration
from runner.sweeps.results.outcome import outcome_of
from runner.util import tables
from runner.util.metric_names import format_metric
from runner.util.tables import align, format_duration, setting_column, shorten

MAX_ROWS = 50
"""On the terminal; the files have all rows."""

REASON_LENGTH = 60


@dataclass(frozen=True)
class Row:
    """A job and its results.

    Attributes:
        status: FINISHED, PAUSED, FAILED, KILLED, RUNNING or NOT STARTED.
        reason: why it ended early.
        values: of the objectives; None for one that was not measured.
        epoch: the best one.
        seconds: from its start to its end, imports included.
        rate: samples per second of training.
    """

    job: Job
    folder: Path
    status: str
    reason: str = ""
    values: tuple[float | None, ...] = ()
    epoch: int | None = None
    seconds: float | None = None
    rate: float | None = None
    run_id: str | None = None

    @property
    def value(self) -> float | None:
        """The value of the first objective."""
        return self.values[0] if self.values else None

    @property
    def measured(self) -> tuple[float, ...] | None:
        """The values; None unless all objectives were measured."""
        known = tuple(value for value in self.values if value is not None)
        return known if known and len(known) == len(self.values) else None

    @property
    def ran_to_end(self) -> bool:
        """Whether it has finished, and was not pruned."""
        return self.status == "FINISHED" and not self.reason


@dataclass(frozen=True)
class Table:
    """All jobs of a sweep.

    Attributes:
        objectives: of the sweep, one or two; or any number that are only shown.
        rows: the best first, or the Pareto front of two objectives; those without a value last. Without a metric to
            rank by, in the order of their numbers.
        by_jobs: jobs are ranked also where they repeat configurations, as version 0.1.0 did.
    """

    objectives: list[Objective]
    rows: list[Row]
    by_jobs: bool = False

    @cached_property
    def configurations(self) -> list[Configuration]:
        """The configurations whose jobs differ in their seed or fold alone, the best first; empty without such jobs."""
        return configurations.group(self.rows, self.objectives)

    @property
    def is_repeated(self) -> bool:
        """Whether configurations are ranked, each by the mean over its jobs, and not single jobs."""
        return not self.by_jobs and any(each.asked > 1 for each in self.configurations)

    @property
    def best_configuration(self) -> Configuration | None:
        """The configuration with the best mean; None if jobs are ranked, or nothing is."""
        if not self.is_repeated or not self.is_ranked or self.trades_off:
            return None
        return next((each for each in self.configurations if each.is_complete), None)

    @property
    def metric(self) -> str:
        """The metric of the first objective."""
        return self.objectives[0].metric

    @property
    def is_ranked(self) -> bool:
        """Whether there is a metric to rank by."""
        return self.objectives[0].direction != SHOWN

    @property
    def trades_off(self) -> bool:
        """Whether two objectives have a Pareto front."""
        return self.is_ranked and len(self.objectives) > 1

    @property
    def best(self) -> Row | None:
        """The finished job with the best value, of the best configuration; None for two objectives, or none."""
        if not self.is_ranked or self.trades_off:
            return None
        if self.is_repeated:
            return self.best_configuration.rows[0] if self.best_configuration is not None else None
        return next((row for row in self.rows if row.ran_to_end and row.value is not None), None)

    @property
    def front(self) -> list[Row]:
        """The finished jobs on the Pareto front; for one objective, those with the best value.

        If configurations are ranked, all jobs of those on the front of the means.
        """
        if not self.is_ranked:
            return []
        if self.is_repeated:
            return [row for each in self.front_configurations for row in each.rows]
        rows = [row for row in self.rows if row.ran_to_end and row.measured is not None]
        return [rows[place] for place in pareto_front([row.measured or () for row in rows], self.objectives)]

    @property
    def front_configurations(self) -> list[Configuration]:
        """The configurations on the front of their means; empty if jobs are ranked."""
        return configurations.front(self.configurations, self.objectives) if self.is_repeated else []

    @property
    def lacks_run_ids(self) -> bool:
        """Whether MLflow has not assigned a run id yet to each tracked job that has started."""
        return any(row.run_id is None and has_manifest(row.folder) for row in self.rows)

    def count(self, status: str) -> int:
        """Count the jobs with a status."""
        return sum(row.status == status for row in self.rows)


def read(jobs: Sequence[Job], folder: Path, objectives: Sequence[Objective], by_jobs: bool = False) -> Table:
    """Read the results of all jobs from their folders.

    Args:
        jobs: of the sweep.
        folder: of the sweep.
        objectives: to sort by.
        by_jobs: see `Table`.
    """
    table = Table(list(objectives), [read_row(job, folder / str(job.number), objectives) for job in jobs], by_jobs)
    ahead = table.front if table.trades_off else []

    def place(row: Row) -> tuple[bool, bool, bool, float, int]:
        cost = 0.0 if row.value is None else objectives[0].cost(row.value)
        unknown, ended = (row.value is None, not row.ran_to_end) if table.is_ranked else (False, False)
        return unknown, ended, row not in ahead, cost, row.job.number

    return Table(table.objectives, sorted(table.rows, key=place), by_jobs)


def read_row(job: Job, folder: Path, objectives: Sequence[Objective]) -> Row:
    """Read the results of one job."""
    result, outcome = read_result(folder), outcome_of(folder)
    status = result.get("status")
    if outcome is not None and status != "FINISHED":  # a finished result is newer: a start of the run removes it
        status = outcome.status
    if status is None:
        started = (folder / layout.CONFIG).exists()
        status = "RUNNING" if started and is_locked(folder) else "KILLED" if started else "NOT STARTED"
    finished = result.get("status") == "FINISHED"  # maybe outside of the sweep, after an earlier end
    if finished:
        reason = ""
    elif status == PAUSE:  # maybe later than its sweep has seen
        reason = f"after epoch {result.get('epochs')}"
    else:
        reason = (outcome.reason if outcome else "") or result.get("error", "")
    values = [result.get(objective.metric) for objective in objectives]
    return Row(
        job,
        folder,
        status,
        reason=reason,
        values=tuple(float(v) if isinstance(v, int | float) and math.isfinite(v) else None for v in values),
        epoch=result.get("best_epoch") or None,
        seconds=outcome.seconds if outcome else None,
        rate=result.get("samples_per_second"),
        run_id=result.get("run_id") or DeliveryState.load(folder).run_id,
    )


def rows(table: Table) -> list[dict[str, Any]]:
    """Return a mapping per job with unrounded figures; None where there is none."""
    keys = list(dict.fromkeys(key for row in table.rows for key in row.job.point))
    return [
        {
            "job": row.job.number,
            "name": row.job.name,
            **{key: row.job.point.get(key, "") for key in keys},
            "status": row.status,
            "why": row.reason,
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
    """Return the rows as CSV with a header line; a cell without a value is empty."""
    return tables.to_csv(rows(table))


def to_json(table: Table) -> str:
    """Return the rows, the best of them, and the configurations over their seeds, as JSON."""
    best = table.best
    grouped = [
        {
            **each.point,
            "mean": each.mean,
            "std": each.std,
            "n": len(each.values),
            "ranked": each.is_complete,
            **({"interval": each.interval} if each.folds else {}),
        }
        for each in table.configurations
    ]
    content = {
        **asdict(table.objectives[0]),
        **({"objectives": [asdict(objective) for objective in table.objectives]} if len(table.objectives) > 1 else {}),
        "best": best.job.number if best else None,
        **({"front": [row.job.number for row in table.front]} if table.trades_off else {}),
        "jobs": rows(table),
        "configurations": grouped,
    }
    return json.dumps(content, indent=2) + "\n"


def to_text(table: Table) -> list[str]:
    """Return the lines of an aligned table of the jobs."""
    shown = table.rows[:MAX_ROWS]
    axes = _axes([row.job.point for row in shown])
    failed = any(row.reason for row in shown)
    ahead = table.front if table.trades_off else []
    columns = [
        [">#", *(str(row.job.number) for row in shown)],
        *axes,
        ["status", *(row.status for row in shown)],
        *([["front", *("*" if row in ahead else "" for row in shown)]] if ahead else []),
        *(
            [f">{o.metric}", *(format_cell(o.metric, row.values[place]) for row in shown)]
            for place, o in enumerate(table.objectives)
        ),
        [">epoch", *("" if row.epoch is None else str(row.epoch) for row in shown)],
        [">time", *("" if row.seconds is None else format_duration(row.seconds) for row in shown)],
        [">samples/s", *("" if row.rate is None else f"{row.rate:,.0f}" for row in shown)],
        ["run id", *(row.run_id or "" for row in shown)],
        *([["why", *(shorten(row.reason, REASON_LENGTH) for row in shown)]] if failed else []),
    ]
    left = len(table.rows) - len(shown)
    return align(columns) + ([f"... and {left} more: see jobs.csv"] if left else [])


def format_cell(metric: str, value: float | None) -> str:
    """Format a value; empty if there is none."""
    return "" if value is None else format_metric(metric, value).strip()


def describe_values(row: Row, objectives: Sequence[Objective]) -> str:
    """Describe a job's values: `val/loss 0.1234, time/epoch_seconds 1.2`."""
    pairs = zip(objectives, row.values, strict=True)
    return ", ".join(f"{o.metric} {format_cell(o.metric, value)}" for o, value in pairs if value is not None)


def describe_means(each: Configuration, objectives: Sequence[Objective]) -> str:
    """Describe the means of a configuration: `val/loss 0.1234, time/epoch_seconds 1.2`; over folds with an interval."""
    pairs = zip(objectives, each.means or (), strict=True)
    means = ", ".join(f"{o.metric} {format_cell(o.metric, value)}" for o, value in pairs)
    return means if each.interval is None else f"{means} {_format_interval(objectives[0].metric, each)}"


def _format_interval(metric: str, each: Configuration) -> str:
    if each.interval is None:
        return ""
    low, high = (format_cell(metric, end) for end in each.interval)
    return f"[{low}, {high}]"


def configurations_to_text(table: Table) -> list[str]:
    """Return the lines of an aligned table of the configurations; empty without several jobs of one."""
    shown = table.configurations[:MAX_ROWS]
    if all(each.asked < 2 for each in shown):
        return []
    percent = table.metric.endswith("accuracy")
    ahead = table.front_configurations if table.trades_off else []
    incomplete = table.is_repeated and any(not c.is_complete for c in shown)

    def spread(value: float | None) -> str:
        if value is None:
            return ""
        return f"{100 * value:.2f} %" if percent else f"{value:.2g}"

    columns = [
        *_axes([c.point for c in shown]),
        *(
            [f">mean {o.metric}", *(format_cell(o.metric, c.means[place] if c.means else None) for c in shown)]
            for place, o in enumerate(table.objectives)
        ),
        [">sd", *(spread(c.std) for c in shown)],
        [">n", *(str(len(c.values)) for c in shown)],
        *([["95 % interval", *(_format_interval(table.metric, c) for c in shown)]] if shown[0].folds else []),
        *([["front", *("*" if c in ahead else "" for c in shown)]] if ahead else []),
        *([["ranked", *("" if c.is_complete else f"no: {c.asked} are needed" for c in shown)]] if incomplete else []),
    ]
    left = len(table.configurations) - len(shown)
    return align(columns) + ([f"... and {left} more: see jobs.json"] if left else [])


def _axes(points: Sequence[Mapping[str, str]]) -> list[list[str]]:
    """Return a column for each axis with more than one value."""
    keys = list(dict.fromkeys(key for point in points for key in point))
    varied = [key for key in keys if len({point.get(key) for point in points}) > 1]
    names = short_names(varied)
    cells = {key: [shorten(point.get(key, ""), CELL_LENGTH) for point in points] for key in varied}
    return [setting_column(names[key], cells[key]) for key in varied]
