"""Find and finish dead runs: their process ended without recording it (SIGKILL, a power loss)."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from runner.rundir.lock import DELIVERY, is_in_use, is_locked, lock
from runner.rundir.manifest import mark_killed, own_folder
from runner.tracking.deliver import Delivery
from runner.util.tags import KEY_TAG

if TYPE_CHECKING:
    from mlflow import MlflowClient

_EXPERIMENTS = 1000


def finish_dead_run(folder: Path, uri: str | None = None, patient: bool = True) -> bool:
    """Record that a dead run was killed, and upload the rest of it.

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
        mark_killed(folder)
        return Delivery(folder, uri).step()


def find_dead_runs(client: "MlflowClient") -> Iterator[Path]:
    """Yield the local folders of runs that are RUNNING in a store but have no process; a sweep before its jobs."""
    experiments = [experiment.experiment_id for experiment in client.search_experiments(max_results=_EXPERIMENTS)]
    token: str | None = None
    while True:
        ours = f"attributes.status = 'RUNNING' AND tags.`{KEY_TAG}` LIKE '%'"
        page = client.search_runs(experiments, ours, order_by=["attributes.start_time ASC"], page_token=token)
        for run in page:
            folder = own_folder(run.data.tags)
            if folder is not None and not is_in_use(folder):
                yield folder
        token = page.token
        if not token:
            return


def close_dead_runs(client: "MlflowClient", uri: str | None) -> Iterator[Path]:
    """Finish dead runs one by one, as they are yielded; a run that cannot be finished is skipped."""
    for folder in list(find_dead_runs(client)):
        with contextlib.suppress(Exception):
            if finish_dead_run(folder, uri, patient=False):
                yield folder
