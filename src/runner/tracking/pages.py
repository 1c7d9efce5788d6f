"""The pages of MLflow's web UI: their addresses, and a view of it that shows one sweep.

The addresses and the stored view are the UI's own ways, which it describes nowhere: seen in MLflow 3.16 and 3.17, and
opened by tests/test_pages.py.
"""

import json
from collections.abc import Sequence
from urllib.parse import quote

TRAINING = "workflowType=machine_learning"
"""Without it the side bar is the one for language models, whatever the experiment's kind."""

VIEW_TAG = "mlflow.sharedViewState."
"""Begins the experiment tags in which the UI keeps views that are shared by their address."""

COMPARED_AT_MOST = 100
"""Runs whose ids an address takes: browsers and the UI cope with as many."""


def run_page(base: str, experiment_id: str, run_id: str) -> str:
    """A run's page."""
    return f"{base}/#/experiments/{experiment_id}/runs/{run_id}?{TRAINING}"


def view_page(base: str, experiment_id: str, key: str) -> str:
    """The charts of a stored view, see `view`."""
    return f"{base}/#/experiments/{experiment_id}/runs?{TRAINING}&compareRunsMode=CHART&viewStateShareKey={quote(key)}"


def compare_page(base: str, experiment_id: str, run_ids: Sequence[str]) -> str:
    """The comparison of exactly these runs: parallel coordinates, parameters and metrics side by side."""
    return f"{base}/#/compare-runs?runs={_json(list(run_ids))}&experiments={_json([experiment_id])}&{TRAINING}"


def _json(value: object) -> str:
    return quote(json.dumps(value, separators=(",", ":")), safe="")


def view(
    key: str, name: str, created: int, parent_run_id: str, metric: str, ascending: bool, params: Sequence[str]
) -> tuple[str, str]:
    """A view of a sweep's runs alone, all of them, the best first; as charts, the metric's curves come first.

    Args:
        key: names the view in its address.
        name: for people.
        created: milliseconds since the epoch.
        parent_run_id: of the sweep.
        metric: that the sweep goes by.
        ascending: whether lower is better.
        params: the sweep's axes.

    Returns:
        The experiment tag, name and value, that stores it.
    """
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
        "selectedMetrics": [metric],
        **chart,
    }
    state = {
        "searchFilter": f"tags.`mlflow.parentRunId` = '{parent_run_id}'",
        "orderByKey": f"metrics.`{metric}`",
        "orderByAsc": ascending,
        "runsHiddenMode": "SHOW_ALL",
        "selectedColumns": [f"metrics.`{metric}`", *(f"params.`{name}`" for name in params)],
        "compareRunSections": [
            {"uuid": "sweep", "name": name, "display": True, "isReordered": False, "columns": 2},
        ],
        "compareRunCharts": [curves, parallel],
    }
    return VIEW_TAG + key, json.dumps({"name": name, "createdAt": created, "state": json.dumps(state)})
