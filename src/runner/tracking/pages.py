"""The pages of MLflow's web UI: their addresses, and views of it that show an experiment's runs, or one sweep.

The addresses and the stored view are the UI's own ways, which it describes nowhere: seen in MLflow 3.16 and 3.17, and
opened by tests/tracking/test_pages.py.
"""

import json
import zlib
from collections.abc import Mapping, Sequence
from datetime import datetime
from urllib.parse import quote

TRAINING = "workflowType=machine_learning"
"""Without it the side bar is the one for language models, whatever the experiment's kind."""

VIEW_TAG = "mlflow.sharedViewState."
"""Begins the experiment tags in which the UI keeps views that are shared by their address."""

TABLE_KEY = "runner-"
"""Begins the keys of the views that show all runs of an experiment."""

TABLE_PARAMS = ("model", "data", "optimizer", "optimizer.lr", "data.batch_size")
"""Parameters that are columns of these."""

COMPARED_AT_MOST = 100
"""Runs whose ids an address takes: browsers and the UI cope with as many."""


def run_page(base: str, experiment_id: str, run_id: str) -> str:
    """A run's page."""
    return f"{base}/#/experiments/{experiment_id}/runs/{run_id}?{TRAINING}"


def experiments_page(base: str) -> str:
    """The list of experiments."""
    return f"{base}/#/experiments?{TRAINING}"


def table_page(base: str, experiment_id: str, key: str) -> str:
    """The table of a stored view, see `table_view`."""
    return f"{base}/#/experiments/{experiment_id}/runs?{TRAINING}&viewStateShareKey={quote(key)}"


def view_page(base: str, experiment_id: str, key: str) -> str:
    """The charts of a stored view, see `view`."""
    return f"{base}/#/experiments/{experiment_id}/runs?{TRAINING}&compareRunsMode=CHART&viewStateShareKey={quote(key)}"


def compare_page(base: str, experiment_id: str, run_ids: Sequence[str]) -> str:
    """The comparison of exactly these runs: parallel coordinates, parameters and metrics side by side."""
    return f"{base}/#/compare-runs?runs={_json(list(run_ids))}&experiments={_json([experiment_id])}&{TRAINING}"


def _json(value: object) -> str:
    return quote(json.dumps(value, separators=(",", ":")), safe="")


def best_name(metric: str) -> str:
    """The name under which MLflow has the best value of a metric; that of the last epoch has the plain one."""
    return f"best/{metric}" if metric.startswith(("val/", "test/", "train/")) else metric


def table_view(metrics: Sequence[str], ascending: bool, created: int) -> tuple[str, str]:
    """A view of all runs of an experiment as a table: what was trained on what, and what came of it.

    Args:
        metrics: columns; the first is what the runs are sorted by, the best first.
        ascending: whether lower is better.
        created: milliseconds since the epoch.

    Returns:
        The experiment tag, name and value, that stores it. The same columns in the same order have the same name.
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
    """The key of the view that shows all runs, of the run that began last; None if no run has stored one."""
    found = {}
    for name, value in tags.items():
        if name.startswith(VIEW_TAG + TABLE_KEY):
            found[name.removeprefix(VIEW_TAG)] = json.loads(value).get("createdAt", 0)
    return max(found, key=found.__getitem__) if found else None


def sweep_view(
    key: str, name: str, created: int, parent_run_id: str, metric: str, ascending: bool, params: Sequence[str]
) -> tuple[str, str]:
    """A view of a sweep's runs alone, all of them, the best first; as charts, the metric's curves come first.

    Args:
        key: names the view in its address.
        name: for people.
        created: milliseconds since the epoch.
        parent_run_id: of the sweep.
        metric: that the sweep goes by; runs are sorted by its best value, where it has one.
        ascending: whether lower is better.
        params: the sweep's axes.

    Returns:
        The experiment tag, name and value, that stores it.
    """
    best = best_name(metric)
    # The UI sorts sections by their names, with those that it makes itself of all metrics, such as best/val.
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
