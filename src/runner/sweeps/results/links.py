"""Pages of MLflow's UI that show a sweep."""

from pathlib import Path

from runner.rundir import layout
from runner.rundir.delivery_state import DeliveryState
from runner.rundir.manifest import Manifest, is_own_run, manifest_of
from runner.rundir.ownership import own_folders
from runner.tracking.pages import COMPARED_AT_MOST, compare_page, view_page
from runner.util.files import load_json_or_empty

UI = "http://127.0.0.1:5000"
"""Address of `python -m runner.ui` on its default port."""


def links(folder: Path, base: str = UI) -> dict[str, str]:
    """Return the pages of a sweep: `charts` of all its runs, and `compare` with the runs side by side.

    Args:
        folder: of the sweep, with its table.
        base: the address of the UI.

    Returns:
        Addresses by name; empty if MLflow does not have the sweep.
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
    """Return the folders of the user's newest sweeps in an outputs folder that a store has, the newest first."""
    own = own_folders(outputs / "sweeps", layout.JOBS)
    own.sort(key=lambda folder: (folder / layout.JOBS).stat().st_mtime, reverse=True)
    sweeps = ((folder, manifest_of(folder)) for folder in own if is_own_run(folder))
    return [folder for folder, manifest in sweeps if manifest is not None and manifest.uri == uri][:count]
