"""Where in MLflow's UI a sweep is looked at."""

from pathlib import Path

from runner.rundir import layout
from runner.rundir.delivery_state import DeliveryState
from runner.rundir.manifest import Manifest, has_manifest
from runner.tracking.pages import COMPARED_AT_MOST, compare_page, view_page
from runner.util.files import load_json_or_empty

UI = "http://127.0.0.1:5000"
"""Where `python -m runner.ui` serves, if no other port is asked for."""


def links(folder: Path, base: str = UI) -> dict[str, str]:
    """The pages of a sweep: `charts` of all its runs, and the runs side by side to `compare`; none if MLflow has none.

    Args:
        folder: the sweep's, with its table.
        base: the address of the UI.
    """
    state = DeliveryState.load(folder)
    if state.run_id is None or state.experiment_id is None:
        return {}
    jobs = load_json_or_empty(folder / layout.JOBS).get("jobs", [])
    ids = [job["run_id"] for job in jobs if job["run_id"] is not None]
    pages = {"charts": view_page(base, state.experiment_id, Manifest.load(folder).key)}
    return pages | (
        {"compare": compare_page(base, state.experiment_id, ids[:COMPARED_AT_MOST])} if len(ids) > 1 else {}
    )


def newest(outputs: Path, uri: str, count: int) -> list[Path]:
    """The folders of the newest sweeps of an outputs folder that a store knows, the newest first."""
    found = sorted((outputs / "sweeps").glob("*/jobs.json"), key=lambda path: path.stat().st_mtime, reverse=True)
    sweeps = [path.parent for path in found if has_manifest(path.parent)]
    return [folder for folder in sweeps if Manifest.load(folder).uri == uri][:count]
