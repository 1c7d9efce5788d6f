"""The pages of MLflow's web UI: their addresses, and stored views of an experiment's runs, or of one sweep.

The addresses and the format of stored views are undocumented. They were read from MLflow 3.16 and 3.17, and
tests/tracking/test_pages.py opens them.
"""

import json
import zlib
from collections.abc import Mapping, Sequence
from datetime import datetime
from urllib.parse import quote

TRAINING = "workflowType=machine_learning"
"""Without it the sidebar is the one for language models, even for other kinds of experiments."""

VIEW_TAG = "mlflow.sharedViewState."
"""Prefix of the experiment tags in which the UI stores shared views."""

TABLE_KEY = "runner-"
"""Prefix of the keys of views with all runs of an experiment."""

TABLE_PARAMS = ("model", "data", "optimizer", "optimizer.lr", "data.batch_size")
"""Parameters that are columns of these views."""

COMPARED_AT_MOST = 100
"""The largest number of run ids in an address that browsers and the UI can handle."""


def run_page(base: str, experiment_id: str, run_id: str) -> str:
    """Return the address of a run's page."""
    return f"{base}/#/experiments/{experiment_id}/runs/{run_id}?{TRAINING}"


def experiments_page(base: str) -> str:
    """Return the address of the list of experiments."""
    return f"{base}/#/experiments?{TRAINING}"


def table_page(base: str, experiment_id: str, key: str) -> str:
    """Return the address of a stored table: see `table_view`."""
    return f"{base}/#/experiments/{experiment_id}/runs?{TRAINING}&viewStateShareKey={quote(key)}"


def view_page(base: str, experiment_id: str, key: str) -> str:
    """Return the address of stored charts: see `sweep_view`."""
    return f"{base}/#/experiments/{experiment_id}/runs?{TRAINING}&compareRunsMode=CHART&viewStateShareKey={quote(key)}"


def compare_page(base: str, experiment_id: str, run_ids: Sequence[str]) -> str:
    """Return the address of the comparison of these runs: parallel coordinates, parameters and metrics."""
    return f"{base}/#/compare-runs?runs={_json(list(run_ids))}&experiments={_json([experiment_id])}&{TRAINING}"


def _json(value: object) -> str:
    return quote(json.dumps(value, separators=(",", ":")), safe="")


def best_name(metric: str) -> str:
    """Return the name of a metric's best value in MLflow; the plain name has the value of the last epoch."""
    return f"best/{metric}" if metric.startswith(("val/", "test/", "train/")) else metric


def table_view(metrics: Sequence[str], ascending: bool, created: int) -> tuple[str, str]:
    """Make a view of all runs of an experiment as a table of settings and metrics.

    Args:
        metrics: the metric columns; the runs are sorted by the first, the best first.
        ascending: whether lower is better.
        created: milliseconds since the epoch.

    Returns:
        Name and value of the experiment tag that stores the view. The same columns in the same order have the same
        name.
    """
    state = {
        "searchFilter": "",
        "orderByKey": f"metrics.`{metrics[0]}`",
        "orderByAsc": ascending,
        "runsHiddenMode": "FIRST_20_RUNS",
        "selectedColumns": [
            *(f"metrics.`{name}`" for name in metrics),
            *(f"params.`{name}`" for name in TABLE_PARAMS),
        ],
    }
    stored = json.dumps(state)
    key = f"{TABLE_KEY}{zlib.crc32(stored.encode()):08x}"
    content = {"name": f"runs by {metrics[0]}", "createdAt": created, "state": stored}
    return VIEW_TAG + key, json.dumps(content)


def newest_table(tags: Mapping[str, str]) -> str | None:
    """Return the key of the newest view with all runs; None if no run has stored one."""
    created = {}
    for name, value in tags.items():
        if name.startswith(VIEW_TAG + TABLE_KEY):
            created[name.removeprefix(VIEW_TAG)] = _created(value)
    return max(created, key=created.__getitem__) if created else None


def is_same_view(view: str, other: str | None) -> bool:
    """Return whether two views, as they are stored, differ at most in when they were created."""
    try:
        contents = [json.loads(each or "{}") | {"createdAt": 0} for each in (view, other)]
    except (ValueError, TypeError):  # another kind of tag
        return view == other
    return bool(contents[0] == contents[1])


def _created(view: str) -> float:
    """Return when a view was stored; 0 for a tag that holds something else, as anyone can set it."""
    try:
        return float(json.loads(view)["createdAt"])
    except (ValueError, TypeError, KeyError, RecursionError, OverflowError):
        return 0.0


def sweep_view(
    key: str, name: str, created: int, parent_run_id: str, metric: str, ascending: bool, params: Sequence[str]
) -> tuple[str, str]:
    """Make a view of all runs of a sweep, and of no others, the best first; its first chart has the metric's curves.

    Args:
        key: the view's name in its address.
        name: its name in the UI.
        created: milliseconds since the epoch.
        parent_run_id: the id of the sweep's run.
        metric: the sweep's metric; runs are sorted by its best value if that is logged.
        ascending: whether lower is better.
        params: the sweep's axes.

    Returns:
        Name and value of the experiment tag that stores the view.
    """
    best = best_name(metric)
    # The UI sorts sections by their names, together with its own of all metrics, such as best/val.
    date = datetime.fromtimestamp(created / 1000).strftime("%Y-%m-%d")
    chart = {"metricSectionId": "sweep", "deleted": False, "isGenerated": False}
    curves = {
        "uuid": "sweep-curves",
        "type": "LINE",
        "metricKey": metric,
        "selectedMetricKeys": [metric],
        "lineSmoothness": 0,
        "xAxisKey": "step",
        "useGlobalLineSmoothing": True,
        "useGlobalXaxisKey": True,
        **chart,
    }
    parallel = {
        "uuid": "sweep-parallel",
        "type": "PARALLEL",
        "selectedParams": list(params),
        "selectedMetrics": [best],
        **chart,
    }
    state = {
        "searchFilter": f"tags.`mlflow.parentRunId` = '{parent_run_id}'",
        "orderByKey": f"metrics.`{best}`",
        "orderByAsc": ascending,
        "runsHiddenMode": "SHOW_ALL",
        "selectedColumns": [f"metrics.`{best}`", *(f"params.`{name}`" for name in params)],
        "compareRunSections": [
            {"uuid": "sweep", "name": f"{date}: {name}", "display": True, "isReordered": False, "columns": 2},
        ],
        "compareRunCharts": [curves, parallel],
    }
    return VIEW_TAG + key, json.dumps({"name": name, "createdAt": created, "state": json.dumps(state)})
