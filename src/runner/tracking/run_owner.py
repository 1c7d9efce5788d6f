"""Which folder an MLflow run belongs to, if several have its key: the store lets only one of them write to it.

A moved folder takes its run over from the former place. Two copies may do so at the same moment, on two machines. A
tag would be overwritten by the later one. A parameter is immutable, so the first wins, and the second is refused.
"""

from typing import TYPE_CHECKING

from runner.errors import StoreError, abbreviate, to_one_line
from runner.rundir.manifest import Manifest
from runner.util.tags import FOLDER_TAG, OWNER_TAG, SUCCESSOR_PARAM

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run


class NotOwner(StoreError):
    """The MLflow run belongs to another folder; nothing may be written to it."""


def take_over(client: "MlflowClient", run: "Run", manifest: Manifest) -> None:
    """Check that a run belongs to the folder of a manifest, or make it so if the folder was moved.

    Args:
        client: of the store.
        run: the run, as the store has it now.
        manifest: of the folder, after `claim`.

    Raises:
        NotOwner: it belongs to another folder.
        MlflowException: the store does not answer.
    """
    from mlflow.exceptions import MlflowException

    owner = run.data.tags.get(OWNER_TAG, "")
    if owner == manifest.owner:
        return
    run_id, successor = run.info.run_id, SUCCESSOR_PARAM + (owner or "first")
    if owner not in manifest.former_owners or run.data.params.get(successor, manifest.owner) != manifest.owner:
        raise _of_another(run)
    try:
        client.log_param(run_id, successor, manifest.owner)
    except MlflowException:
        if client.get_run(run_id).data.params.get(successor) not in (None, manifest.owner):
            raise _of_another(run) from None
        raise
    client.set_tag(run_id, OWNER_TAG, manifest.owner)


def _of_another(run: "Run") -> NotOwner:
    other = abbreviate(to_one_line(run.data.tags.get(FOLDER_TAG, "another folder")))
    return NotOwner(f"the MLflow run {run.info.run_id} belongs to a copy of this folder now (last seen in {other})")
