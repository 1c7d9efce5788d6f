"""Find and finish dead runs: their process ended without recording it (SIGKILL, a power loss)."""

import contextlib
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from runner.rundir import journal_check, layout
from runner.rundir.claim import become_another_run, claim
from runner.rundir.delivery_state import DeliveryState
from runner.rundir.folders import display_path
from runner.rundir.lock import DELIVERY, is_in_use, is_locked, lock
from runner.rundir.manifest import Manifest, mark_killed, own_folder
from runner.rundir.ownership import is_in_own_outputs
from runner.tracking.deliver import Delivery
from runner.tracking.run_owner import NotOwner
from runner.util.tags import KEY_TAG
from runner.util.uri import strip_credentials

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

log = logging.getLogger("runner")

_EXPERIMENTS = 1000


def finish_dead_run(folder: Path, uri: str | None = None, patient: bool = True) -> bool:
    """Record that a dead run was killed, and upload the rest of it; as another run if its folder is a copy.

    Args:
        folder: the run's folder.
        uri: see `Delivery`.
        patient: whether to wait for another process that does the same.

    Returns:
        True if MLflow has everything.

    Raises:
        ConfigError: a running process has the folder.
        Exception: the upload failed.
    """
    with lock(folder, DELIVERY, patient):
        if is_locked(folder.parent):  # its sweep was resumed meanwhile
            return False
        claim(folder)
        mark_killed(folder)
        found, damaged = journal_check.repair(folder / layout.JOURNAL)
        if found:
            log.warning("%s: %s", display_path(folder.absolute()), found)
        delivery = Delivery(folder, uri)
        delivery.state.lacks_points |= damaged
        try:
            return delivery.step()
        except NotOwner:
            become_another_run(folder)
            return Delivery(folder, uri).step()


def find_dead_runs(client: "MlflowClient") -> Iterator[Path]:
    """Yield the local folders of runs that are RUNNING in a store but have no process; a sweep before its jobs.

    Only folders below this user's own outputs folder count: whoever may write to the store can name any.
    """
    experiments = [experiment.experiment_id for experiment in client.search_experiments(max_results=_EXPERIMENTS)]
    token: str | None = None
    while True:
        ours = f"attributes.status = 'RUNNING' AND tags.`{KEY_TAG}` LIKE '%'"
        page = client.search_runs(experiments, ours, order_by=["attributes.start_time ASC"], page_token=token)
        for run in page:
            folder = own_folder(run.data.tags)
            if folder is None or not is_in_own_outputs(folder) or is_in_use(folder):
                continue
            if _is_of(folder, run, client.tracking_uri):
                yield folder
        token = page.token
        if not token:
            return


def _is_of(folder: Path, run: "Run", uri: str) -> bool:
    """Whether a run of a store is the one that a folder delivers to; its key may have been copied to another run."""
    run_id = DeliveryState.load(folder).run_id
    if run_id is not None:
        return run_id == str(run.info.run_id)
    return Manifest.load(folder).uri == strip_credentials(uri)  # killed before it had noted the id


def close_dead_runs(client: "MlflowClient", uri: str | None) -> Iterator[Path]:
    """Finish dead runs one by one, as they are yielded; a run that cannot be finished is skipped."""
    for folder in list(find_dead_runs(client)):
        with contextlib.suppress(Exception):
            if finish_dead_run(folder, uri, patient=False):
                yield folder
