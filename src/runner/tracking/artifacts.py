"""The files of an ended run: into the run's artifacts, and the model folder into a logged model."""

import contextlib
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import yaml

from runner.rundir import journal, layout
from runner.rundir.delivery_state import DeliveryState
from runner.rundir.manifest import FOLDER, RESUMED, Manifest
from runner.util.files import hard_link, load_json_or_empty, write_json
from runner.util.tags import PARAM_LENGTH, legal_model_name, with_legal_names

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import LoggedModel, Run

_EARLY = (layout.CONFIG, layout.SAMPLES, layout.ENVIRONMENT)
"""What does not change while a run trains, and is needed to go on with it where its folder is lost."""

_FILES = (
    *_EARLY, layout.LOG, layout.RESULT, layout.JOURNAL,
    layout.SWEEP_PLAN, layout.JOBS_TABLE, layout.JOBS,
)  # fmt: skip
"""Of a run's folder, and of a sweep's."""

MLMODEL = "MLmodel"
OF_MODELS = ("best/", "test/")
"""Beginnings of the metrics that are shown at the logged model: those of the weights that it has."""

BEST = f"{layout.CHECKPOINTS}/{layout.BEST}"
PINNED = f"{FOLDER}/{layout.CHECKPOINTS}"


def deliver(
    client: "MlflowClient", folder: Path, manifest: Manifest, state: DeliveryState, save: Callable[[], None]
) -> None:
    """Upload what is new or changed since the last time; `save` notes each file as it is done."""
    assert state.run_id is not None
    _fill_in_run_id(folder / layout.RESULT, state.run_id)
    for path in _files(folder, manifest, state):
        _deliver_file(client, path, path.relative_to(folder).as_posix(), state, save)
    shutil.rmtree(folder / PINNED, ignore_errors=True)
    if manifest.log_model and (folder / layout.MODEL / MLMODEL).is_file():
        _deliver_model(client, folder, manifest, state)
        save()


def deliver_early(
    client: "MlflowClient", folder: Path, pinned: Sequence[Path], state: DeliveryState, save: Callable[[], None]
) -> None:
    """Upload what a run that loses its folder goes on from: its config, and the checkpoints that were pinned."""
    for name in _EARLY:
        if (folder / name).is_file():
            _deliver_file(client, folder / name, name, state, save)
    for path in pinned:
        _deliver_file(client, path, f"{layout.CHECKPOINTS}/{path.name}", state, save)
        path.unlink()


def pin_checkpoints(folder: Path, state: DeliveryState) -> list[Path]:
    """Link the checkpoints that MLflow does not have yet to where training, which goes on, does not replace them.

    Returns:
        The links, the oldest checkpoint first: until the newest is there, the one before it is whole.
    """
    pinned = []
    for path in (folder / layout.CHECKPOINTS).glob("[!.]*.pt"):
        with contextlib.suppress(FileNotFoundError):  # just being replaced: next time
            if state.artifacts.get(f"{layout.CHECKPOINTS}/{path.name}") != _version(path):
                (folder / PINNED).mkdir(exist_ok=True)
                hard_link(path, folder / PINNED / path.name)
                pinned.append(folder / PINNED / path.name)
    return sorted(pinned, key=lambda path: path.stat().st_mtime_ns)


def _deliver_file(
    client: "MlflowClient", path: Path, name: str, state: DeliveryState, save: Callable[[], None]
) -> None:
    """Upload a file as `name`, unless MLflow has it as it is."""
    version = _version(path)
    if state.artifacts.get(name) == version:
        return
    assert state.run_id is not None
    client.log_artifact(state.run_id, str(path), name.rpartition("/")[0] or None)
    state.artifacts[name] = version
    save()


def _version(path: Path) -> list[int]:
    stat = path.stat()
    return [stat.st_size, stat.st_mtime_ns]


def _files(folder: Path, manifest: Manifest, state: DeliveryState) -> Iterator[Path]:
    """The run's files; the best weights as a checkpoint too, if no model has them.

    Once they are there they are kept up to date: a resumed run has others.
    """
    yield from (folder / name for name in _FILES if (folder / name).is_file())
    for name in (layout.PLOTS, layout.PROFILE, *([layout.CHECKPOINTS] if manifest.log_checkpoints else [])):
        yield from (path for path in sorted((folder / name).rglob("[!.]*")) if path.is_file())
    modelless = manifest.log_model and manifest.status == "FINISHED" and not (folder / layout.MODEL / MLMODEL).is_file()
    if not manifest.log_checkpoints and (modelless or BEST in state.artifacts) and (folder / BEST).is_file():
        yield folder / BEST


def _fill_in_run_id(path: Path, run_id: str) -> None:
    """Complete a result written while the store was away: nobody could know the run's id then."""
    result = load_json_or_empty(path)
    if result.get("run_id", run_id) is None:
        write_json(path, result | {"run_id": run_id})


def _deliver_model(client: "MlflowClient", folder: Path, manifest: Manifest, state: DeliveryState) -> None:
    """Turn the saved model into the run's logged model, READY once all its files are there.

    A resumed run may end with another best model: each saved folder (MLflow gives it a `model_uuid`)
    becomes a logged model of its own. Both are named like the run, and the newest is the run's artifact `model` too,
    as `runs:/<run id>/model` finds a logged model by its name alone.
    """
    from mlflow.entities import LoggedModelOutput

    assert state.run_id is not None
    source = folder / layout.MODEL
    # The file's format is public; MLflow's own class for it would import pandas: see `slim_import`.
    description = yaml.safe_load((source / MLMODEL).read_text(encoding="utf-8"))
    model_uuid = description["model_uuid"]
    if state.model_uuid == model_uuid:
        return
    run = client.get_run(state.run_id)
    model = _find_or_create_model(client, run, model_uuid, _params(manifest))
    client.log_model_artifacts(model.model_id, str(source))
    # What was saved before MLflow knew of it gets the ids that `log_model` would have written.
    ids = {"run_id": state.run_id, "model_id": model.model_id, "artifact_path": model.artifact_location}
    with tempfile.TemporaryDirectory() as temporary:
        path = Path(temporary) / MLMODEL
        path.write_text(yaml.safe_dump(description | ids), encoding="utf-8")
        client.log_model_artifact(model.model_id, str(path))
        _copy_to_run(client, run, model, source, path)
    outputs = run.outputs.model_outputs if run.outputs is not None else []
    if model.model_id not in {output.model_id for output in outputs}:
        client.log_outputs(state.run_id, [LoggedModelOutput(model.model_id, step=0)])
    _link_metrics(client, folder, manifest, state, model.model_id)
    client.finalize_logged_model(model.model_id, "READY")
    state.model_id, state.model_uuid = model.model_id, model_uuid


def _find_or_create_model(client: "MlflowClient", run: "Run", model_uuid: str, params: dict[str, str]) -> "LoggedModel":
    ours = f"source_run_id = '{run.info.run_id}' AND tags.`runner.model_uuid` = '{model_uuid}'"
    found = client.search_logged_models([run.info.experiment_id], ours, max_results=1)
    if found:
        return found[0]
    name, tags = legal_model_name(run.info.run_name or ""), {"runner.model_uuid": model_uuid}
    return client.create_logged_model(run.info.experiment_id, name, run.info.run_id, tags, params)


def _params(manifest: Manifest) -> dict[str, str]:
    """The parameters that the model was trained with: the run's, with what a resume has changed."""
    changed = {key.removeprefix(RESUMED): text for key, text in manifest.tags.items() if key.startswith(RESUMED)}
    return {key: text[:PARAM_LENGTH] for key, text in with_legal_names(manifest.params | changed).items()}


def _copy_to_run(client: "MlflowClient", run: "Run", model: "LoggedModel", source: Path, mlmodel: Path) -> None:
    """Put the files of a logged model among the run's artifacts; on a disk of ours they are the same files."""
    from mlflow.utils.file_utils import local_file_uri_to_path

    if run.info.artifact_uri.startswith("file:") and model.artifact_location.startswith("file:"):
        of_model, of_run = map(local_file_uri_to_path, (model.artifact_location, run.info.artifact_uri))
        shutil.copytree(of_model, Path(of_run) / layout.MODEL, copy_function=_link, dirs_exist_ok=True)
        return
    client.log_artifacts(run.info.run_id, str(source), layout.MODEL)
    client.log_artifact(run.info.run_id, str(mlmodel), layout.MODEL)


def _link(source: str, target: str) -> None:
    hard_link(Path(source), Path(target))


def _link_metrics(
    client: "MlflowClient", folder: Path, manifest: Manifest, state: DeliveryState, model_id: str
) -> None:
    """Show the metrics of the best weights at the model, by data set: the same points once more, with both named."""
    from mlflow.entities import Metric

    assert state.run_id is not None
    points, _ = journal.read(folder / layout.JOURNAL)
    last = {point.name: point for point in points if point.name.startswith(OF_MODELS)}
    data = manifest.dataset
    named = {} if data is None else {"dataset_name": data.name, "dataset_digest": data.digest}
    metrics = [
        Metric(state.keys[name], value, round(time * 1000), step, model_id=model_id, run_id=state.run_id, **named)
        for name, value, step, time in last.values()
    ]
    if metrics:
        client.log_batch(state.run_id, metrics=metrics)
