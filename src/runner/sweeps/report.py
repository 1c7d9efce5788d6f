"""The closing report of a sweep: its table, best job, duration and files."""

import logging
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from runner.errors import describe_error
from runner.rundir import layout
from runner.rundir.energy import METRIC
from runner.rundir.folders import display_path, for_shell, shell_path
from runner.rundir.manifest import PAUSE
from runner.saved.run import lacks_artifacts, read_result
from runner.sweeps.launchers import forkserver
from runner.sweeps.plan.seeds import arguments_for_more, is_staged
from runner.sweeps.prepared import PreparedSweep
from runner.sweeps.results import table
from runner.sweeps.results.energy import energy_of
from runner.sweeps.results.files import draw_files, draw_files_or_say_why, write_table
from runner.sweeps.results.folds import has_folds
from runner.sweeps.results.parent_run import ParentRun
from runner.sweeps.results.table import Table
from runner.sweeps.results.verdict import conclude_sweep
from runner.util.metric_names import format_metric
from runner.util.tables import format_duration

if TYPE_CHECKING:
    from runner.comparison.verdict import Verdict

log = logging.getLogger("runner")

MIN_SPEED_UP = 1.05
"""Smallest speed-up over a sequential run that is reported: jobs in parallel share caches and memory."""

MAX_FRONT = 10
"""Jobs of a Pareto front that are listed below the table, which marks all of them."""


def report(
    result: Table,
    folder: Path,
    run_now: Collection[int],
    seconds: float,
    draw_schedule: Callable[[], list[str]],
    prepared: PreparedSweep,
) -> tuple[bool, list[str]]:
    """Write the sweep's files, and log the table and where they are.

    Args:
        result: the table.
        folder: of the sweep.
        run_now: the numbers of the jobs that this start of the sweep has run.
        seconds: that it took.
        draw_schedule: see `Schedule.draw`.
        prepared: the sweep.

    Returns:
        Whether the table is written, and what can be said in a few lines: the verdict, or else the best.
    """
    verdict, of_verdict = _conclude(result, folder, prepared)
    if verdict is None:
        head, words, conclusion = table.configurations_to_text(result), _why_no_verdict(result), []
    else:
        from runner.comparison.verdict_text import summarize, to_table, to_text

        conclusion = summarize(verdict)
        head, words = to_table(verdict), [*to_text(verdict), *_how_to_go_on(verdict, folder, prepared)]
    for lines in (head, table.to_text(result), words):
        if lines:
            log.info("")
        for line in lines:
            log.info(line)
    log.info("")
    files = _write(result, folder, draw_schedule, verdict, of_verdict)
    conclusion += _log_best(result)
    if paused := result.count(PAUSE):
        text = "paused     %d job%s; to train all of them to their end, add sweep.extend=true to sweep.resume=%s"
        log.info(text, paused, "s" * (paused != 1), shell_path(folder))
    if not result.is_ranked:
        names = [objective.metric for objective in result.objectives]
        log.info("unranked   the task measures no loss: to rank the jobs, write sweep.metric=%s", " or ".join(names))
    each = [row.seconds for row in result.rows if row.job.number in run_now and row.seconds]
    _log_time(each, seconds, prepared.launcher.stacks)
    if (kwh := energy_of(result)) is not None:
        log.info("energy     %s kWh of training in all jobs", format_metric(METRIC, kwh))
    listed = "; " + ", ".join(files) if files else ""
    log.info("saved in   %s (a folder per job, named by its number%s)", display_path(folder), listed)
    return files is not None, conclusion


def _why_no_verdict(result: Table) -> list[str]:
    """Return why the intervals of configurations over folds tell none from another; empty if there are none such."""
    if len(result.configurations) < 2 or not has_folds(result):
        return []
    from runner.comparison.verdict_text import NONE_ON_FOLDS

    return [NONE_ON_FOLDS]


def _how_to_go_on(verdict: "Verdict", folder: Path, prepared: PreparedSweep) -> list[str]:
    """Return the command that gives the configurations so many seeds that more can be told; empty without one."""
    count = verdict.seeds_to_tell
    more = arguments_for_more(prepared.plan, prepared.config, count) if count is not None else []
    command = ["python -m runner --multirun", f"sweep.resume={shell_path(folder)}", *map(for_shell, more)]
    return [f"go on      {' '.join(command)}"] if more else []


def _log_best(result: Table) -> list[str]:
    """Log the best job, or the front; where configurations are ranked, the best one with its best job.

    Returns:
        The lines without the folders.
    """
    lines = []
    best, ahead = result.best_configuration, result.front_configurations[:MAX_FRONT]
    for place, each in enumerate([best] if best is not None else ahead):
        name = "" if place else "best" if best is not None else "front"
        means = table.describe_means(each, result.objectives)
        text = f"{each.name}, mean of {each.asked} {'folds' if each.folds else 'jobs'}: {means}"
        lines.append(f"{'best' if best is not None else 'front'}: {text}")
        log.info("%-10s %s", name, text)
    if best is not None and best.folds:  # one fold is not better than another
        return lines
    rows = [result.best] if result.best else [each.rows[0] for each in ahead] or result.front[:MAX_FRONT]
    for place, row in enumerate(rows):
        name = "" if place or best is not None or ahead else "best" if result.best else "front"
        text = f"job {row.job.number} ({row.job.name}): {table.describe_values(row, result.objectives)}"
        lines.append(f"{'best' if result.best else 'front'}: {text}")
        log.info("%-10s %s", name, text)
        log.info("           %s%s", display_path(row.folder), f", run {row.run_id}" if row.run_id else "")
        if lacks_artifacts(read_result(row.folder)):  # it was not the best by the metric of an earlier start
            log.info(
                "           no plots and no saved model; make them: python -m runner resume=%s", shell_path(row.folder)
            )
    return lines


def _conclude(result: Table, folder: Path, prepared: PreparedSweep) -> tuple["Verdict | None", list[str]]:
    """Judge the configurations; None if that is not possible, which is logged if a file cannot be written."""
    settings = prepared.settings
    max_seeds = settings.max_seeds if is_staged(prepared.config) else None
    try:
        return conclude_sweep(result, folder, settings.smallest_difference, max_seeds)
    except OSError as error:  # a full disk
        log.error("error: the verdict is not written: %s", describe_error(error))
        return None, []


def report_late_ids(result: Table, parent_run: ParentRun) -> bool:
    """Add the run ids that MLflow has assigned after the table was written, as the store was away.

    Returns:
        Whether there are any: the sweep's own run has to be delivered again.
    """
    try:
        late = parent_run.add_late_ids(result)
    except (OSError, ValueError) as error:
        log.warning("the run ids of late uploads are not in the table: %s", describe_error(error))
        return False
    if late:
        log.info("uploaded   the rest; jobs.csv and jobs.json now have all run ids")
    return late


def _write(
    result: Table,
    folder: Path,
    draw_schedule: Callable[[], list[str]],
    verdict: "Verdict | None",
    of_verdict: Sequence[str],
) -> list[str] | None:
    """Write the table and the plots; return the names of the files, or None without the table."""
    try:
        write_table(result, folder)
    except OSError as error:  # a full disk
        log.error("error: the table is not written: %s", describe_error(error))
        return None
    files = [layout.JOBS_TABLE, layout.JOBS, *of_verdict]
    try:
        files += [*_draw(result, folder, verdict), *draw_schedule()]
    except Exception as error:  # a full disk, or anything that matplotlib raises
        log.warning("not all plots are drawn: %s", describe_error(error))
        log.debug("", exc_info=True)
    return files


def _draw(result: Table, folder: Path, verdict: "Verdict | None") -> list[str]:
    """Draw the sweep, by the process that has imported matplotlib already if there is one.

    Raises:
        RuntimeError: the process could not.
    """
    if not forkserver.is_running():
        return draw_files(result, folder, verdict)
    function = f"{draw_files_or_say_why.__module__}:{draw_files_or_say_why.__name__}"
    drawn = forkserver.call(function, result, folder, verdict)
    if isinstance(drawn, str):
        raise RuntimeError(drawn)
    return drawn


def log_links(parent_run: ParentRun) -> None:
    """Log the pages of the sweep in MLflow; that which compares its jobs needs their run ids."""
    for line in parent_run.links():
        log.info(line)


def _log_time(each: Sequence[float], seconds: float, stacks: bool) -> None:
    """Log the duration of the jobs, and the speed-up over running them one after the other; unknown for stacks."""
    if not each:
        return
    total = sum(each)
    speed_up = total / seconds
    gain = f"; {format_duration(total)} of work, {speed_up:.1f}x faster than sequential"
    jobs = f"{len(each)} job{'s' * (len(each) > 1)}"
    log.info(
        "time       %s in %s%s", jobs, format_duration(seconds), gain if speed_up >= MIN_SPEED_UP and not stacks else ""
    )
