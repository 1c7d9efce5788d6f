"""Runs whose process is gone without a word (SIGKILL, a power loss): which they are, and the truth about them."""

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
    """Say of a run whose process is gone that it was killed, and deliver what is left of it.

    Args:
        folder: the run's, which nobody may have.
        uri: see `Delivery`.
        patient: wait for another process that is doing the same.

    Returns:
        True when MLflow has all of it.

    Raises:
        ConfigError: a living process has the folder.
        Exception: whatever keeps it from being delivered.
    """
    with lock(folder, DELIVERY, patient):
        if is_locked(folder.parent):  # its sweep was resumed meanwhile
            return False
        mark_killed(folder)
        return Delivery(folder, uri).step()


def find_dead_runs(client: "MlflowClient") -> Iterator[Path]:
    """The folders, those that are here, of runs that a store calls running while no living process has them.

    A sweep comes before its jobs.
    """
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
    """Complete the records of those `found`, one each time the next is asked for; one that cannot be is left."""
    for folder in list(find_dead_runs(client)):
        with contextlib.suppress(Exception):
            if finish_dead_run(folder, uri, patient=False):
                yield folder
