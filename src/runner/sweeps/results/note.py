"""The results of a sweep as tags and a description of its run in MLflow."""

from collections.abc import Sequence
from pathlib import Path
from urllib.parse import quote

from runner.config.invocation import format_description
from runner.rundir import layout
from runner.rundir.delivery_state import DeliveryState
from runner.rundir.manifest import NOTE, PAUSE, Manifest
from runner.sweeps.results import table as tables
from runner.sweeps.results.files import FRONT_PLOT, SWEEP_PLOT, VERDICT_PLOT
from runner.sweeps.results.links import links
from runner.sweeps.results.table import Row, Table
from runner.tracking.pages import run_page, sweep_view
from runner.util.files import load_json_or_empty
from runner.util.tags import BEST_JOB_TAG

NOTE_ROWS = 20

COMMANDS = "runner.commands"
"""Tag of a sweep's run: the commands that started and resumed it, one per line."""

DESCRIPTION = "runner.description"
"""Tag of a sweep's run: the user's own description."""


def commands_of(manifest: Manifest) -> list[str]:
    """Return the commands that started and resumed a sweep; 0.1.0 recorded none."""
    return manifest.tags.get(COMMANDS, "").splitlines()


def record_results(manifest: Manifest, table: Table, folder: Path, axes: Sequence[str]) -> None:
    """Write a sweep's results into the tags of its manifest, with the run ids that are known so far."""
    statuses = ("FINISHED", "FAILED", "KILLED", *([PAUSE] if table.count(PAUSE) else []))
    tags = {f"runner.{name.lower()}": str(table.count(name)) for name in statuses}
    parts = (manifest.tags.get(DESCRIPTION), note(table, folder), format_description(None, commands_of(manifest)))
    tags |= {
        "runner.metric": ",".join(o.metric for o in table.objectives),
        NOTE: "\n\n".join(part for part in parts if part),
    }
    ranked = table.best_configuration
    if best := table.best:
        tags |= {
            BEST_JOB_TAG: str(best.job.number),
            "runner.best_name": best.job.name if ranked is None else ranked.name,
            "runner.best_value": str(best.value if ranked is None else ranked.mean),
            "runner.best_run_id": best.run_id or "",
        }
    elif table.front:
        tags |= {
            "runner.front_jobs": ",".join(str(row.job.number) for row in table.front),
            "runner.front_run_ids": ",".join(row.run_id or "" for row in table.front),
        }
    manifest.tags.update(tags)
    parent = DeliveryState.load(folder).run_id
    if parent is not None and table.is_ranked:
        name, start, ascending = manifest.run_name, manifest.start_time, table.objectives[0].direction == "min"
        stored = sweep_view(manifest.key, name, start, parent, table.metric, ascending, axes)
        manifest.experiment_tags.update([stored])


def note(table: Table, folder: Path) -> str:
    """Return the description that MLflow's UI shows of a sweep, in Markdown: best run, pages, plots, first rows.

    The links are relative to the UI that shows them.
    """
    state = DeliveryState.load(folder)
    lines = []
    head = "Best" if table.best else "On the front"
    for each in [table.best_configuration] if table.best_configuration else table.front_configurations:
        means = tables.describe_means(each, table.objectives)
        lines += [f"{head}: {each.name}, mean of {each.asked} jobs: {means}", ""]
    verdict = load_json_or_empty(folder / layout.VERDICT)
    if words := [each["words"] for each in verdict.get("configurations", []) if each["words"]]:
        lines += ["Verdict on it:", "", *(f"- {each}" for each in words[:NOTE_ROWS]), ""]
    for row in [table.best] if table.best else table.front:
        values = tables.describe_values(row, table.objectives)
        head = "Its best job" if table.best_configuration else head
        lines += [f"{head}: {_link(row, state.experiment_id)}, {values}", ""]
    lines += [" · ".join(f"[{name}]({page.lstrip('/')})" for name, page in links(folder, "").items()), ""]
    for picture in (FRONT_PLOT, VERDICT_PLOT, SWEEP_PLOT):
        if (folder / picture).is_file():
            lines += [f"![sweep](get-artifact?path={quote(picture, safe='')}&run_uuid={state.run_id})", ""]
    names = [objective.metric for objective in table.objectives]
    lines += [f"| job | {' | '.join(names)} | epoch | status |", "|---" * (len(names) + 3) + "|"]
    for row in table.rows[:NOTE_ROWS]:
        cells = " | ".join(map(tables.format_cell, names, row.values))
        lines.append(f"| {_link(row, state.experiment_id)} | {cells} | {row.epoch or ''} | {row.status} |")
    if len(table.rows) > NOTE_ROWS:
        lines += ["", f"The first {NOTE_ROWS} of {len(table.rows)}; all are in the artifact jobs.csv."]
    return "\n".join(lines)


def _link(row: Row, experiment_id: str | None) -> str:
    name = row.job.name.replace("|", "\\|")
    if row.run_id is None or experiment_id is None:
        return name
    return f"[{name}]({run_page('', experiment_id, row.run_id).lstrip('/')})"
