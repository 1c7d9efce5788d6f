"""Upload the files of a run as its artifacts, and the model folder as a logged model.

No link is followed, in the run's folder or in a local artifact store: it may lead to any file of this user.
"""

import contextlib
import logging
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from runner.rundir import journal, layout
from runner.rundir.delivery_state import DeliveryState
from runner.rundir.folders import display_path
from runner.rundir.manifest import FOLDER, RESUMED, Manifest
from runner.rundir.ownership import is_real_file, is_real_folder, real_files
from runner.rundir.uploaded_files import UploadedFiles
from runner.tracking.changed_folders import ChangedFolders
from runner.tracking.file_upload import FileUpload, version_of
from runner.tracking.local_files import copy_into, first_link, link_into, local_folder, refuse_links
from runner.tracking.open_run import OpenRun
from runner.tracking.trouble import refuses_content
from runner.util.files import hard_link, load_json_or_empty, read_text, write_json
from runner.util.tags import PARAM_LENGTH, PAUSED, legal_model_name, with_legal_names

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import LoggedModel, Run

log = logging.getLogger("runner")

_EARLY = (layout.CONFIG, layout.SAMPLES, layout.ENVIRONMENT)
"""Files that do not change while a run trains, and that a resume needs if the folder is lost."""

_FILES = (
    *_EARLY, layout.LOG, layout.RESULT, layout.JOURNAL, layout.EPOCH_SECONDS,
    layout.SWEEP_PLAN, layout.JOBS_TABLE, layout.JOBS, layout.FOLDS, layout.OUT_OF_FOLD,
    layout.VERDICT, layout.VERDICT_TABLE, layout.VERDICT_TEXT,
)  # fmt: skip
"""Files of a run's folder, and of a sweep's."""

_FOLDERS = (layout.CODE, layout.OBJECTS, layout.ARTIFACTS, layout.PLOTS, layout.PROFILE)
_UPLOADED = (*_FILES, *_FOLDERS, layout.CHECKPOINTS, layout.MODEL)

MLMODEL = "MLmodel"
OF_MODELS = ("best/", "test/", "out_of_fold/")
"""Prefixes of the metrics that are logged for the model: those of its weights."""

YAML_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
YAML_DUMPER = getattr(yaml, "CSafeDumper", yaml.SafeDumper)
"""Those in C are ten times as fast, and not part of every installation."""

BEST = f"{layout.CHECKPOINTS}/{layout.BEST}"
PINNED = f"{FOLDER}/{layout.CHECKPOINTS}"


def deliver(
    client: "MlflowClient",
    folder: Path,
    opened: OpenRun,
    manifest: Manifest,
    state: DeliveryState,
    uploaded: UploadedFiles,
) -> None:
    """Upload the files that are new or changed, and the model; the state gets the latter, and what is refused."""
    if is_real_file(folder / layout.RESULT):
        _fill_in_ids(folder / layout.RESULT, state)
    if links := [name for name in _UPLOADED if (folder / name).is_symlink()]:
        log.warning("not uploaded, as links are not followed: %s in %s", ", ".join(links), display_path(folder))
    uploaded.refused.clear()
    upload = FileUpload(client, folder, opened.run, uploaded)
    for path in _files(folder, manifest, uploaded):
        upload.send(path, path.relative_to(folder).as_posix())
    shutil.rmtree(folder / PINNED, ignore_errors=True)
    # A run that pauses has no model: one that is there now is of its next start, whose metrics are not uploaded yet.
    if manifest.log_model and PAUSED not in manifest.tags and _has_model(folder):
        upload.send_model(lambda: _deliver_model(client, folder, opened, manifest, state))
    state.refused = upload.finish()


def deliver_early(
    client: "MlflowClient",
    folder: Path,
    run: "Run",
    pinned: Sequence[Path],
    uploaded: UploadedFiles,
    changed: ChangedFolders,
) -> None:
    """Upload what a resume needs if the folder is lost: the config, the pinned checkpoints, and files from before."""
    upload = FileUpload(client, folder, run, uploaded)
    try:
        for name in _EARLY:
            if is_real_file(folder / name):
                upload.send(folder / name, name)
        for path in real_files(folder / layout.OBJECTS):
            upload.send(path, path.relative_to(folder).as_posix())
        for path in changed.new_files():
            upload.send(path, path.relative_to(folder).as_posix())
        changed.done()
        for path in pinned:
            upload.send(path, f"{layout.CHECKPOINTS}/{path.name}")
        upload.finish()
    finally:
        for path in pinned:
            path.unlink(missing_ok=True)


def pin_checkpoints(folder: Path, uploaded: UploadedFiles) -> list[Path]:
    """Link the checkpoints that MLflow does not have yet into a folder where training does not replace them.

    Returns:
        The links, the oldest checkpoint first, so that a complete one is in MLflow while the newest is uploaded.
    """
    pinned = []
    for path in real_files(folder / layout.CHECKPOINTS, "[!.]*.pt"):
        with contextlib.suppress(FileNotFoundError):  # it is being replaced: the next call pins it
            if not uploaded.has(f"{layout.CHECKPOINTS}/{path.name}", version_of(path)):
                (folder / PINNED).mkdir(exist_ok=True)
                hard_link(path, folder / PINNED / path.name)
                pinned.append(folder / PINNED / path.name)
    return sorted(pinned, key=lambda path: path.stat().st_mtime_ns)


def _files(folder: Path, manifest: Manifest, uploaded: UploadedFiles) -> Iterator[Path]:
    """Yield the run's files; with the best checkpoint if no model has its weights.

    Once MLflow has that checkpoint, it is updated, as a resumed run may have a better one.
    """
    yield from (folder / name for name in _FILES if is_real_file(folder / name))
    for name in (*_FOLDERS, *([layout.CHECKPOINTS] if manifest.log_checkpoints else [])):
        yield from real_files(folder / name)
    modelless = manifest.log_model and manifest.status == "FINISHED" and not _has_model(folder)
    best = folder / BEST
    if not manifest.log_checkpoints and (modelless or BEST in uploaded) and best in real_files(best.parent):
        yield best


def _has_model(folder: Path) -> bool:
    """Whether a run has saved its model, in a folder without links."""
    model = folder / layout.MODEL
    return is_real_folder(model) and is_real_file(model / MLMODEL) and first_link(model) is None


def _fill_in_ids(path: Path, state: DeliveryState) -> None:
    """Add the ids of the run and its sweep to a result that was written while the store was unreachable."""
    result, ids = load_json_or_empty(path), {"run_id": state.run_id, "parent_run_id": state.parent_run_id}
    missing = {name: run_id for name, run_id in ids.items() if run_id is not None and result.get(name, run_id) is None}
    if missing:
        write_json(path, result | missing)


def _deliver_model(
    client: "MlflowClient", folder: Path, opened: OpenRun, manifest: Manifest, state: DeliveryState
) -> None:
    """Make the saved model the run's logged model; it is READY once all its files are uploaded.

    A resumed run may end with another best model. Each saved folder (MLflow gives it a `model_uuid`) becomes a
    separate logged model with the name of the run. The newest is also the run's artifact `model`, because
    `runs:/<run id>/model` finds a logged model only by its name.
    """
    from mlflow.entities import LoggedModelOutput

    source, is_known = folder / layout.MODEL, opened.is_known
    # The file's format is public. MLflow's class for it would import pandas: see `slim_import`.
    description = yaml.load(read_text(source / MLMODEL), YAML_LOADER)
    model_uuid = description["model_uuid"]
    if state.model_uuid == model_uuid:
        return
    run = opened.run if is_known else client.get_run(opened.run.info.run_id)
    opened.has_failed = True  # until the end: another attempt searches for what this one has made
    model = None if is_known else _find_model(client, run, model_uuid)
    if model is None:
        model = _create_model(client, run, model_uuid, _params(manifest))
    refuse_links(model.artifact_location)
    try:
        _upload_model(client, run, model, source, description)
    except Exception as error:
        if refuses_content(error):  # MLflow's pages show that it is not complete
            client.finalize_logged_model(model.model_id, "FAILED")
        raise
    outputs = run.outputs.model_outputs if run.outputs is not None else []
    if model.model_id not in {output.model_id for output in outputs}:
        client.log_outputs(run.info.run_id, [LoggedModelOutput(model.model_id, step=0)])
    _link_metrics(client, folder, manifest, state, model.model_id)
    client.finalize_logged_model(model.model_id, "READY")
    state.model_id, state.model_uuid = model.model_id, model_uuid
    opened.has_failed = not is_known


def _find_model(client: "MlflowClient", run: "Run", model_uuid: str) -> "LoggedModel | None":
    same_model = f"source_run_id = '{run.info.run_id}' AND tags.`runner.model_uuid` = '{model_uuid}'"
    models = client.search_logged_models([run.info.experiment_id], same_model, max_results=1)
    return models[0] if models else None


def _create_model(client: "MlflowClient", run: "Run", model_uuid: str, params: dict[str, str]) -> "LoggedModel":
    name, tags = legal_model_name(run.info.run_name or ""), {"runner.model_uuid": model_uuid}
    return client.create_logged_model(run.info.experiment_id, name, run.info.run_id, tags, params)


def _params(manifest: Manifest) -> dict[str, str]:
    """Return the parameters that the model was trained with: the run's, with the changes of a resume."""
    changed = {key.removeprefix(RESUMED): text for key, text in manifest.tags.items() if key.startswith(RESUMED)}
    return {key: text[:PARAM_LENGTH] for key, text in with_legal_names(manifest.params | changed).items()}


def _upload_model(
    client: "MlflowClient", run: "Run", model: "LoggedModel", source: Path, description: dict[str, Any]
) -> None:
    """Upload the files of a model, as the logged model's and as the run's; on a local disk as links."""
    of_model, of_run = map(local_folder, (model.artifact_location, run.info.artifact_uri))
    # The model was saved without MLflow's ids: add those that `log_model` would have written.
    ids = {"run_id": run.info.run_id, "model_id": model.model_id, "artifact_path": model.artifact_location}
    with tempfile.TemporaryDirectory() as temporary:
        mlmodel = Path(temporary) / MLMODEL
        mlmodel.write_text(yaml.dump(description | ids, Dumper=YAML_DUMPER), encoding="utf-8")
        if of_model is not None and of_run is not None:
            refuse_links(run.info.artifact_uri, layout.MODEL)
            for path in [path for path in real_files(source, "*") if path != source / MLMODEL]:
                link_into(of_model, path.relative_to(source).as_posix(), path)
                link_into(of_run, path.relative_to(source.parent).as_posix(), path)
            copy_into(of_model, MLMODEL, mlmodel)
            link_into(of_run, f"{layout.MODEL}/{MLMODEL}", of_model / MLMODEL)
            return
        client.log_model_artifacts(model.model_id, str(source))
        client.log_model_artifact(model.model_id, str(mlmodel))
        client.log_artifacts(run.info.run_id, str(source), layout.MODEL)
        client.log_artifact(run.info.run_id, str(mlmodel), layout.MODEL)


def _link_metrics(
    client: "MlflowClient", folder: Path, manifest: Manifest, state: DeliveryState, model_id: str
) -> None:
    """Log the metrics of the best weights again, linked to the model and the data set, so that the model shows them."""
    from mlflow.entities import Metric

    assert state.run_id is not None
    points, _ = journal.read(folder / layout.JOURNAL, names=OF_MODELS)
    last = {point.name: point for point in points}
    data = manifest.dataset
    named = {} if data is None else {"dataset_name": data.name, "dataset_digest": data.digest}
    metrics = [
        Metric(state.keys[name], value, round(time * 1000), step, model_id=model_id, run_id=state.run_id, **named)
        for name, value, step, time in last.values()
    ]
    if metrics:
        client.log_batch(state.run_id, metrics=metrics)
