"""The end of a sweep over folds: predictions out of fold, and the ensemble of the best configuration, tested once."""

import logging
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from runner.rundir import layout
from runner.rundir.journal import Journal
from runner.sweeps.launchers import forkserver
from runner.sweeps.plan.folds import FOLD
from runner.sweeps.plan.seeds import SEED, configuration_of
from runner.sweeps.results.table import Row, Table
from runner.util.files import load_json_or_empty, write_json
from runner.util.metric_names import format_metric, without_details

log = logging.getLogger("runner")

COMBINE = "runner.runs.folds:combine_or_say_why"
"""The function that does it, in a process that has imported torch."""

POLL_SECONDS = 0.1

OUT_OF_FOLD = "out_of_fold"
"""The part that metrics of predictions out of fold are named by: `out_of_fold/accuracy`."""


def has_folds(table: Table) -> bool:
    """Whether the jobs of a sweep are folds."""
    return any(FOLD in row.job.point for row in table.rows)


def best_members(table: Table) -> list[Row]:
    """Return the jobs of the configuration with the best mean, by number; empty if nothing ranks several."""
    best, rows = table.best_configuration, list[Row]()
    if len(table.configurations) == 1:
        rows = table.rows
    elif best is not None:
        rows = list(best.rows)
    return sorted(rows, key=lambda row: row.job.number)


def combine(table: Table, folder: Path, saves_model: bool, elsewhere: bool, is_stopped: Callable[[], bool]) -> bool:
    """Combine the folds of the best configuration, once all jobs have finished, unless that is done.

    Args:
        table: of the sweep; all its jobs have finished.
        folder: of the sweep.
        saves_model: whether to save the ensemble for MLflow.
        elsewhere: whether the jobs ran on other machines.
        is_stopped: whether a signal asks to stop: that ends it at once.

    Returns:
        Whether it is done, or cannot be.
    """
    rows = best_members(table)
    if not rows:
        log.info("folds      not combined: nothing says which configuration is the best")
        return True
    members = [(row.job.number, int(row.job.point[FOLD]), row.job.point.get(SEED, "")) for row in rows]
    of = {"members": [row.job.number for row in rows], "values": [row.value for row in rows]}  # a resume changes these
    known = load_json_or_empty(folder / layout.FOLDS)
    is_same = all(known.get(name) == value for name, value in of.items())
    if is_same and (known.get("model") is not None or not saves_model):
        return True
    found = _call(is_stopped, folder, members, saves_model, elsewhere)
    if isinstance(found, str):
        log.error("error: the folds are not combined: %s", found)
        return False
    point = dict(configuration_of(rows[0].job.point))
    write_json(folder / layout.FOLDS, {"configuration": point, **of, **found})
    return True


def _call(is_stopped: Callable[[], bool], *arguments: Any) -> dict[str, Any] | str:
    """Combine the folds in another process; return what they have together, or why they are not combined."""
    receiving, sending = forkserver.pipe()
    answer = f"{forkserver.__name__}:{forkserver.answer.__name__}"
    child = forkserver.process(answer, sending, str(Path.cwd()), dict(os.environ), COMBINE, arguments)
    forkserver.start_process(child)
    sending.close()
    try:
        while not receiving.poll(POLL_SECONDS):
            if is_stopped():
                return "stopped by a signal"
        found: dict[str, Any] | str = receiving.recv()
        return found
    except EOFError:
        child.join()
        return f"the process that combines them has ended ({forkserver.describe_exit(child.exitcode)})"
    finally:
        child.kill()
        child.join()


def log_metrics(folder: Path, step: int) -> None:
    """Write what the folds have together into the sweep's journal."""
    known = load_json_or_empty(folder / layout.FOLDS)
    values = {f"{part}/{name}": value for part in (OUT_OF_FOLD, "test") for name, value in known.get(part, {}).items()}
    if values:
        with closing(Journal(folder / layout.JOURNAL)) as writer:
            writer.write(values, step)


def describe(folder: Path, monitor: str | None) -> list[str]:
    """Return lines about what the folds have together, for a reader.

    Args:
        folder: of the sweep.
        monitor: the metric that has chosen the best epoch of each job.
    """
    known = load_json_or_empty(folder / layout.FOLDS)
    if not known:
        return []
    (trained, tested), models = known["samples"], len(known["members"])
    by = f"{trained:,} predictions by models not trained on the sample: {layout.OUT_OF_FOLD}"
    lines = [f"out of fold {_values(known['out_of_fold'])}({by})"]
    where = f"the mean of {models} models: {layout.MODEL}"
    if known["test"]:
        who = where if known["model"] else where.partition(":")[0]
        lines.append(f"test       {_values(known['test'])}({tested:,} samples, {who})")
    elif known["model"]:
        lines.append(f"ensemble   {where}")
    lines += [f"           {note}" for note in known["notes"]]
    if monitor is not None and monitor.startswith("val/"):
        lines.append(f"           {monitor} of a fold has chosen its best epoch: the validation metrics are optimistic")
    return lines


def _values(metrics: Mapping[str, Any]) -> str:
    shown: Sequence[tuple[str, float]] = list(without_details(metrics).items())
    return "".join(f"{name} {format_metric(name, value).strip()}   " for name, value in shown)
