"""Load trained weights into a model: the best of a run, or those of a file.

`model.weights=<file or run>` starts training from them; `runner.evaluate`, `predict` and `export` use a run's best.
"""

import logging
from collections import Counter
from collections.abc import Collection, Mapping
from copy import deepcopy
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from runner.errors import ConfigError, first_line
from runner.model.lora import add_adapters, is_adapted, merge
from runner.rundir import cleaned, layout
from runner.rundir.checkpoint_file import CheckpointError, load
from runner.rundir.folders import parse_path
from runner.saved.run import SavedRun, find, problem_with
from runner.saved.weight_files import NAMES_SHOWN, SUFFIXES, Weights, of_checkpoint, read_file, read_folder
from runner.tracking.local_files import refuse_links
from runner.tracking.store import ui_of
from runner.util.buffers import fit_buffers, load_buffers, load_module, unsaved_buffers
from runner.util.private import is_extra_state, unwrapped_name
from runner.util.tags import DATA_TAG

log = logging.getLogger("runner")


def load_into(model: nn.Module, value: str, uri: str | None = None) -> dict[str, Any] | None:
    """Load pretrained weights into a model: `model.weights=<value>`.

    If only the output layer differs, by its number of outputs, it keeps its own initial weights. A line reports that.

    Args:
        model: on the CPU; its weights are overwritten.
        value: a file (see `weight_files`), a folder of Accelerate, a run's folder or an MLflow run id.
        uri: the address of the MLflow store that has the run.

    Returns:
        How the run of these weights preprocessed its samples; None if unknown, or if the output layer is a new one.

    Raises:
        ConfigError: the weights cannot be read, or belong to another model.
    """
    weights = read_weights(value, uri)
    state = model.state_dict()
    if is_adapted(weights.tensors) and not is_adapted(state):
        removed, new_layer = "", _copy_merged(model, weights, f"model.weights={value}")
    else:
        tensors, removed = fit_names(weights.tensors, [name for name in state if not is_extra_state(name)])
        new_layer = copy_into(model, tensors, f"model.weights={value}")
    own = {name: buffer.shape for name, buffer in unsaved_buffers(model).items() if buffer is not None}
    load_buffers(model, {name: b for name, b in weights.buffers.items() if b is not None and own.get(name) == b.shape})
    notes = [*([removed] if removed else []), *([new_layer] if new_layer else [])]
    log.info("weights    %s", "; ".join([f"from {weights.source}", *notes]))
    return None if new_layer else weights.preprocessing


def _copy_merged(model: nn.Module, weights: Weights, argument: str) -> str | None:
    """Copy the weights of a run with adapters into a model without: added to the weights, as for export."""
    if weights.lora is None:
        text = "has the adapters of model.lora, without their scale"
        raise ConfigError(problem_with(argument, text, "write the folder of its run", topic="file"))
    adapted = deepcopy(model)
    add_adapters(adapted, **weights.lora)
    new_layer = copy_into(adapted, weights.tensors, argument)
    model.load_state_dict(merge(adapted).state_dict())
    return new_layer


def read_weights(value: str, uri: str | None = None) -> Weights:
    """Read the weights of a file, or the best weights of a run.

    Raises:
        ConfigError: there are none.
    """
    path = parse_path(value, "model.weights")
    is_file = path.is_file()
    if not is_file and path.suffix in SUFFIXES and not path.is_dir():
        text = "the file does not exist"
        raise ConfigError(
            problem_with(f"model.weights={value}", text, "write the path of a file of weights, or a run", topic="file")
        )
    if is_file:
        return read_file(path, f"model.weights={value}")
    if path.is_dir() and (found := read_folder(path, f"model.weights={value}")):
        return found
    return weights_of_run(find(value, "model.weights", uri))


def weights_of_run(run: SavedRun) -> Weights:
    """Read a run's best weights, averaged if the run averaged them. Without best weights, its last, with a warning.

    Raises:
        ConfigError: the run has no weights, neither in its folder nor in MLflow.
    """
    if run.model_id is not None:
        return _of_logged_model(run)
    for name in (f"{layout.CHECKPOINTS}/{file}" for file in (layout.BEST, layout.LAST)):
        path = run.file(name)
        if path is None:
            continue
        try:
            state = load(path)
        except CheckpointError as error:
            raise ConfigError(run.problem(str(error))) from error
        progress = state["progress"]
        epoch = progress["best_epoch"] or None
        if name.endswith(layout.LAST):
            log.warning("%s has no checkpoints/best.pt: using its last weights", run.place)
            epoch = progress["epoch"] - 1
        lora = run.config["model"].get("lora")
        return replace(of_checkpoint(state, run.place, epoch, progress["data"]), lora=lora)
    if run.folder is not None and (graph := run.file("model/data/model.pt2")):
        return _of_graph(graph, run)
    removed = cleaned.describe(run.folder)
    if run.run_id is not None and (removed is None or ui_of(run.uri or "") is not None):
        return _of_logged_model(run)
    if removed is not None:
        raise ConfigError(run.problem(removed, "train it again: its config.yaml begins with the command"))
    raise ConfigError(run.problem(f"no weights, {run.place}/{layout.CHECKPOINTS} has no checkpoint"))


def _of_logged_model(run: SavedRun) -> Weights:
    """Read the weights of a model that the run logged to MLflow: that of `model_id`, or else the newest."""
    client = run.client()
    from mlflow.artifacts import download_artifacts

    try:
        logged = [run.model_id]
        if run.model_id is None:
            logged = [output.model_id for output in client.get_run(run.run_id).outputs.model_outputs]
        models = [client.get_logged_model(model_id) for model_id in logged]
        if not models:
            text = "no weights in MLflow, as tracking.log_model and tracking.log_checkpoints were false"
            raise ConfigError(run.problem(text, "write the folder of the run"))
        newest = max(models, key=lambda model: model.creation_timestamp)
        refuse_links(newest.artifact_location, "data")
        folder = download_artifacts(
            artifact_uri=f"{newest.artifact_location}/data", dst_path=run.scratch(), tracking_uri=run.uri
        )
    except ConfigError:
        raise
    except Exception as error:  # each artifact store raises its own exceptions
        text = f"its model cannot be downloaded from MLflow: {first_line(error)}"
        raise ConfigError(run.problem(text, topic="store")) from error
    return _of_graph(Path(folder) / "model.pt2", run)


def _of_graph(path: Path, run: SavedRun) -> Weights:
    """Read the weights of an exported `serving.ServingModel`; its model is the attribute `model`."""
    try:
        state = torch.export.load(path).state_dict
    except Exception as error:  # for example of another version of torch
        text = f"its logged model cannot be read: {first_line(error)}"
        raise ConfigError(run.problem(text, topic="file")) from error
    tensors = {name.removeprefix("model."): t.detach() for name, t in state.items() if name.startswith("model.")}
    scale = {name: state[f"target_{name}"].tolist() for name in ("mean", "std") if f"target_{name}" in state}
    fingerprint = run.tags.get(DATA_TAG)
    own = {name.removeprefix("task."): t.detach() for name, t in state.items() if name.startswith("task.")}
    task = {"task": {name: t for name, t in own.items() if not name.startswith("loss.")}} if own else {}
    preprocessing = {"targets": scale} if scale else {}
    return Weights(tensors, run.place, data=fingerprint, task=task, preprocessing=preprocessing)


def fit_names(tensors: Mapping[str, Tensor], own: Collection[str]) -> tuple[dict[str, Tensor], str]:
    """Remove the prefixes that other programs put before a model's names: `module.`, `model.`, `_orig_mod.`.

    Args:
        tensors: by name, as they were saved.
        own: the names of the model.

    Returns:
        The tensors under the model's names, and a note about what was removed; empty if nothing was. If all of the
        model was found under a prefix, tensors without it (of a loss, of metrics) are left out.
    """
    names = {name: name if name in own else unwrapped_name(name) for name in tensors}
    removed = {name[: -len(new)] if name.endswith(new) else "_orig_mod." for name, new in names.items() if name != new}
    left_out: list[str] = []
    prefix, found = _commonest_prefix(names.values(), own)
    if found > len(set(own) & set(names.values())):
        names = {name: new.removeprefix(prefix) for name, new in names.items() if new.startswith(prefix)}
        removed.add(prefix)
    if removed and set(own) <= set(names.values()):
        inside = {name: new for name, new in names.items() if new in own}
        left_out = [name for name in tensors if name not in inside and not is_extra_state(name)]
        names = inside | {name: new for name, new in names.items() if is_extra_state(new)}
    else:
        names |= {name: name for name in tensors if name not in names}
    note = f"without the prefix {' and '.join(sorted(removed))}" if removed else ""
    if left_out:
        more = f" and {len(left_out) - NAMES_SHOWN} more" if len(left_out) > NAMES_SHOWN else ""
        note += f"; not of the model, left out: {', '.join(left_out[:NAMES_SHOWN])}{more}"
    return {new: tensors[name] for name, new in names.items()}, note


def _commonest_prefix(names: Collection[str], own: Collection[str]) -> tuple[str, int]:
    """Return the prefix under which most of the model's own names are found, and how many."""
    own, counts = set(own), Counter[str]()
    for name in names:
        parts = name.split(".")
        for count in range(1, len(parts)):
            if ".".join(parts[count:]) in own:
                counts[".".join(parts[:count]) + "."] += 1
    return max(counts.items(), key=lambda item: item[1], default=("", 0))


def copy_into(model: nn.Module, tensors: Mapping[str, Tensor], argument: str) -> str | None:
    """Copy tensors into a model, except those of an output layer with another number of outputs.

    Args:
        model: its tensors are overwritten.
        tensors: by the model's own names, see `fit_names`.
        argument: the option that named them, for the error.

    Returns:
        A note about the layer that keeps its initial weights; None if all are copied.

    Raises:
        ConfigError: the tensors belong to another model.
    """
    fit_buffers(model, tensors, replace=False)
    state = model.state_dict()
    extra = {name: value for name, value in tensors.items() if is_extra_state(name) and name in state}
    own = {name: tensor for name, tensor in state.items() if not is_extra_state(name)}
    tensors = {name: tensor for name, tensor in tensors.items() if not is_extra_state(name)}
    misfits = {
        name: (t.shape, own[name].shape) for name, t in tensors.items() if name in own and t.shape != own[name].shape
    }
    surplus = [
        f"{name} {_show(tensor.shape)} is in the weights only" for name, tensor in tensors.items() if name not in own
    ]
    missing = [f"{name} {_show(tensor.shape)} is missing" for name, tensor in own.items() if name not in tensors]
    if surplus or missing or (misfits and not _only_outputs(misfits, own)):
        differing = [
            f"{name} is {_show(there)}, the model needs {_show(here)}" for name, (there, here) in misfits.items()
        ]
        shown = [*differing[:NAMES_SHOWN], *missing[:NAMES_SHOWN], *surplus[:NAMES_SHOWN]][:NAMES_SHOWN]
        more = len(differing) + len(missing) + len(surplus) - len(shown)
        text = f"the weights of another model: {', '.join(shown)}{f', and {more} more' if more else ''}"
        raise ConfigError(
            problem_with(
                argument, text, "choose the model of these weights with model=<name> and its keys", topic="shape"
            )
        )
    fitting = {name: tensor for name, tensor in tensors.items() if name not in misfits}
    model.load_state_dict(fitting | extra, strict=False)
    if not misfits:
        return None
    layers = ", ".join(dict.fromkeys(name.rpartition(".")[0] for name in misfits))
    (there, here), *_ = misfits.values()
    return f"the output layer ({layers}) is initialized: it has {here[0]} outputs, had {there[0]}"


def load_exactly(model: nn.Module, weights: Weights, argument: str) -> None:
    """Load weights into the model that was built again from their run's config.

    Raises:
        ConfigError: the model has changed.
    """
    if is_adapted(model.state_dict()) and not is_adapted(weights.tensors):  # those of a logged model are merged
        merge(model)
    try:
        load_module(model, weights.tensors, weights.buffers)
    except RuntimeError as error:
        misfit = str(error).splitlines()[-1].strip().rstrip(".")
        text = f"its weights do not fit its model, the model's code has changed: {misfit}"
        raise ConfigError(problem_with(argument, text, topic="shape")) from error


def fingerprint(model: nn.Module) -> str:
    """Hash a model's parameters and buffers, with their names, independent of device and memory layout."""
    return hash_tensors(model.state_dict())


def hash_tensors(tensors: Mapping[str, Tensor]) -> str:
    """Hash the tensors of a model by name, without extra state."""
    digest = sha256()
    for name, tensor in tensors.items():
        if is_extra_state(name):
            continue
        digest.update(repr((name, tensor.dtype, tuple(tensor.shape))).encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()[:32]


def _only_outputs(misfits: Mapping[str, tuple[torch.Size, torch.Size]], own: Mapping[str, Tensor]) -> bool:
    """Whether only the number of outputs differs. A hidden layer of another width also changes the next layer.

    The weights and biases of a layer have as many rows as it has outputs: either all of them differ, or none.
    """
    shapes = list(misfits.values())
    same_otherwise = all(len(there) == len(here) > 0 and there[1:] == here[1:] for there, here in shapes)
    if not same_otherwise or len({(there[0], here[0]) for there, here in shapes}) > 1:
        return False
    layers, outputs = {name.rpartition(".")[0] for name in misfits}, shapes[0][1][0]
    return not any(
        name.rpartition(".")[0] in layers and name not in misfits and tensor.shape[:1] == (outputs,)
        for name, tensor in own.items()
    )


def _show(shape: torch.Size) -> str:
    return f"({', '.join(map(str, shape))})"
