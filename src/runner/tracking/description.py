"""Upload what describes a run: its parameters and data set once, and tags that are new or changed."""

import json
import logging
from collections.abc import Callable, Sequence
from functools import cache
from typing import TYPE_CHECKING, TypeVar

from runner.rundir.delivery_state import DeliveryState
from runner.rundir.manifest import NOTE, Dataset, Manifest
from runner.tracking.open_run import tags_of
from runner.tracking.pages import is_same_view
from runner.tracking.pieces import send_each, takes_tags
from runner.util.tags import PARAM_LENGTH, with_legal_names
from runner.util.terminal import TRACKING, about

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import DatasetInput, Param, RunTag

log = logging.getLogger("runner")

T = TypeVar("T", "Param | RunTag", "DatasetInput")

_KINDS = {"Param": "parameter", "RunTag": "tag", "DatasetInput": "data set"}
"""What MLflow's classes are called in a warning."""


def describe(client: "MlflowClient", run_id: str, manifest: Manifest, state: DeliveryState) -> None:
    """Upload what MLflow does not have yet, and note it in the state. What it refuses is left out, with a warning.

    Raises:
        Exception: the store takes nothing at the moment.
    """
    _send_params_and_tags(client, run_id, manifest, state)
    _send_experiment_tags(client, manifest, state)
    if state.parent_run_id is not None and manifest.parent_run_id is None and manifest.parent_key is None:
        client.delete_tag(run_id, "mlflow.parentRunId")  # its job was restarted as another run
        state.parent_run_id = None
    if manifest.dataset is not None and not state.dataset:
        dataset = _dataset_input(manifest.dataset)
        _send(client, run_id, lambda some: client.log_inputs(run_id, some), [dataset])
        state.dataset = True


def _send_params_and_tags(client: "MlflowClient", run_id: str, manifest: Manifest, state: DeliveryState) -> None:
    from mlflow.entities import Param, RunTag

    params = []
    if manifest.params and not state.params:
        params = [Param(key, value[:PARAM_LENGTH]) for key, value in with_legal_names(manifest.params).items()]
    tags = tags_of(manifest)
    changed = [RunTag(key, value) for key, value in tags.items() if state.tags.get(key) != value]
    if NOTE in state.tags and NOTE in (tag.key for tag in changed):
        now = client.get_run(run_id).data.tags.get(NOTE)
        if now != state.tags[NOTE]:  # a user has edited it in the UI
            changed = [tag for tag in changed if tag.key != NOTE]

    def send(items: "Sequence[Param | RunTag]") -> None:
        of_kind = {kind: [item for item in items if isinstance(item, kind)] for kind in (Param, RunTag)}
        client.log_batch(run_id, params=of_kind[Param], tags=of_kind[RunTag])

    _send(client, run_id, send, [*params, *changed])
    for key in [key for key in state.tags if key not in tags]:  # why the run ended before it was resumed
        client.delete_tag(run_id, key)
    state.params, state.tags = state.params or bool(manifest.params), tags


def _send_experiment_tags(client: "MlflowClient", manifest: Manifest, state: DeliveryState) -> None:
    """Set the tags that no run of this process has set: the jobs of a sweep have the same view of a table."""
    assert state.experiment_id is not None
    set_before = _experiment_tags(client.tracking_uri, state.experiment_id)
    for key, value in manifest.experiment_tags.items():
        if state.experiment_tags.get(key) == value:
            continue
        if not is_same_view(value, set_before.get(key)):
            client.set_experiment_tag(state.experiment_id, key, value)
            set_before[key] = value
        state.experiment_tags[key] = value


@cache
def _experiment_tags(uri: str, experiment_id: str) -> dict[str, str]:
    """Return the tags of an experiment that this process has set."""
    return {}


def _send(client: "MlflowClient", run_id: str, send: Callable[[Sequence[T]], object], items: Sequence[T]) -> None:
    """Send items together, and warn of those that the store refuses."""
    refused = send_each(send, items, lambda: takes_tags(client, run_id)) if items else []
    for kind, described in _KINDS.items():
        names = {_name(item): reason for item, reason in refused if type(item).__name__ == kind}
        if names:
            reason = next(iter(names.values()))
            log.warning("MLflow does not get the %s %s: %s", described, ", ".join(names), reason, extra=about(TRACKING))


def _name(item: "Param | RunTag | DatasetInput") -> str:
    return str(item.dataset.name if hasattr(item, "dataset") else item.key)


def _dataset_input(dataset: Dataset) -> "DatasetInput":
    from mlflow.entities import Dataset as MlflowDataset
    from mlflow.entities import DatasetInput, InputTag

    remote = dataset.origin.startswith(("http://", "https://"))
    source = {"url": dataset.origin} if remote else {"uri": dataset.origin}
    return DatasetInput(
        MlflowDataset(
            name=dataset.name,
            digest=dataset.digest,
            source_type="http" if remote else "local",
            source=json.dumps(source),
            profile=json.dumps(dataset.profile),
        ),
        [InputTag("mlflow.data.context", "training")],
    )
