"""Load trained weights into a model: the best of a run, or those of a file.

`model.weights=<file or run>` starts training from them; `runner.evaluate`, `predict` and `export` use a run's best.
"""

import importlib.util
import logging
import warnings
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from runner.errors import ConfigError, first_line
from runner.rundir import layout
from runner.rundir.checkpoint import (
    CheckpointError,
    best_weights,
    decode_checkpoint,
    is_checkpoint,
    load,
    weight_buffers,
)
from runner.rundir.folders import display_path, parse_path
from runner.saved.run import SavedRun, find, problem_with
from runner.util.buffers import fit_buffers, load_buffers, load_module, unsaved_buffers
from runner.util.private import is_extra_state, unwrapped_name
from runner.util.tags import DATA_TAG

log = logging.getLogger("runner")

SUFFIXES = (".pt", ".pth", ".safetensors")
NAMES_SHOWN = 3


@dataclass(frozen=True)
class Weights:
    """A model's tensors by name.

    Attributes:
        tensors: parameters and buffers on the CPU, by their names in `nn.Module.state_dict`.
        source: where they come from, as text for a message.
        epoch: the epoch of the run after which they were the best; None if unknown.
        data: the fingerprint of their training data; None if unknown.
        buffers: the buffers that `state_dict` leaves out.
        loss: the state of the loss that was trained with them: its part of a checkpoint.
        preprocessing: how the run preprocessed its samples: see `Training.preprocessing`; None if unknown.
    """

    tensors: dict[str, Tensor]
    source: str
    epoch: int | None = None
    data: str | None = None
    buffers: dict[str, Tensor | None] = field(default_factory=dict)
    loss: dict[str, Any] = field(default_factory=dict)
    preprocessing: dict[str, Any] | None = None


def load_into(model: nn.Module, value: str, uri: str | None = None) -> dict[str, Any] | None:
    """Load pretrained weights into a model: `model.weights=<value>`.

    If only the output layer differs, by its number of outputs, it keeps its own initial weights. A line reports that.

    Args:
        model: on the CPU; its weights are overwritten.
        value: a file (.pt, .pth or .safetensors), a run's folder or an MLflow run id.
        uri: the address of the MLflow store that has the run.

    Returns:
        How the run of these weights preprocessed its samples; None if unknown, or if the output layer is a new one.

    Raises:
        ConfigError: the weights cannot be read, or belong to another model.
    """
    weights = read_weights(value, uri)
    new_layer = copy_into(model, weights.tensors, f"model.weights={value}")
    own = {name: buffer.shape for name, buffer in unsaved_buffers(model).items() if buffer is not None}
    load_buffers(model, {name: b for name, b in weights.buffers.items() if b is not None and own.get(name) == b.shape})
    log.info("weights    from %s%s", weights.source, f"; {new_layer}" if new_layer else "")
    return None if new_layer else weights.preprocessing


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
        return _from_file(path, f"model.weights={value}")
    return weights_of_run(find(value, "model.weights", uri))


def weights_of_run(run: SavedRun) -> Weights:
    """Read a run's best weights, averaged if the run averaged them. Without best weights, its last, with a warning.

    Raises:
        ConfigError: the run has no weights, neither in its folder nor in MLflow.
    """
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
            epoch = len(progress["epoch_seconds"])
        return _of_checkpoint(state, run.place, epoch, progress["data"])
    if run.folder is not None and (graph := run.file("model/data/model.pt2")):
        return _of_graph(graph, run)
    if run.run_id is not None:
        return _of_logged_model(run)
    raise ConfigError(run.problem(f"no weights, {run.place}/{layout.CHECKPOINTS} has no checkpoint"))


def _of_checkpoint(state: dict[str, Any], source: str, epoch: int | None, data: str | None = None) -> Weights:
    loss: dict[str, Any] = {key: state[key] for key in ("loss", "buffers") if key in state}
    return Weights(
        best_weights(state), source, epoch, data, weight_buffers(state), loss, dict(state.get("preprocessing", {}))
    )


def _of_logged_model(run: SavedRun) -> Weights:
    """Read the weights of the model that the run logged to MLflow; of the newest if it was resumed."""
    client = run.client()
    from mlflow.artifacts import download_artifacts

    try:
        logged = client.get_run(run.run_id).outputs.model_outputs
        models = [client.get_logged_model(output.model_id) for output in logged]
        if not models:
            text = "no weights in MLflow, as tracking.log_model and tracking.log_checkpoints were false"
            raise ConfigError(run.problem(text, "write the folder of the run"))
        newest = max(models, key=lambda model: model.creation_timestamp)
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
    return Weights(tensors, run.place, data=fingerprint, preprocessing={"targets": scale} if scale else {})


def _from_file(path: Path, argument: str) -> Weights:
    if path.suffix == ".safetensors":
        return Weights(_read_safetensors(path, argument), display_path(path.absolute()))
    content = _read_torch(path, argument)
    if isinstance(content, dict) and is_checkpoint(content):  # a checkpoint of runner
        try:
            state = decode_checkpoint(content, path)
        except CheckpointError as error:
            raise ConfigError(problem_with(argument, str(error))) from error
        return _of_checkpoint(state, display_path(path.absolute()), state["progress"]["best_epoch"] or None)
    tensors = (
        [value for name, value in content.items() if not is_extra_state(name)] if isinstance(content, dict) else []
    )
    if not tensors or not all(isinstance(t, Tensor) for t in tensors):
        what = f"a {type(content).__name__}"
        if isinstance(content, dict):
            what = f"a dict of {', '.join(map(str, list(content)[:NAMES_SHOWN])) or 'nothing'}"
        suggestion = "write a file made by torch.save(model.state_dict(), path)"
        raise ConfigError(problem_with(argument, f"holds {what}, not the tensors of a model", suggestion, topic="file"))
    return Weights({str(name): tensor for name, tensor in content.items()}, display_path(path.absolute()))


def _read_torch(path: Path, argument: str) -> Any:
    """Read a file of `torch.save`, without loading anything that could run code."""
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as container:  # torch.load does not verify the checksums
                if damaged := container.testzip():
                    raise ConfigError(
                        problem_with(argument, f"the file is damaged ({damaged})", "write another file", topic="file")
                    )
        with warnings.catch_warnings():  # about a pickle that is refused below
            warnings.simplefilter("ignore")
            return torch.load(path, map_location="cpu", weights_only=True)
    except ConfigError:
        raise
    except OSError as error:
        text = f"the file cannot be read: {error.strerror or error}"
        raise ConfigError(problem_with(argument, text, topic="file")) from error
    except Exception as error:  # the unpickler raises many types
        text = "not a file of weights, or it holds more than tensors, which could run code when loaded"
        suggestion = "write a file made by torch.save(model.state_dict(), path)"
        raise ConfigError(problem_with(argument, text, suggestion, topic="file")) from error


def _read_safetensors(path: Path, argument: str) -> dict[str, Tensor]:
    if importlib.util.find_spec("safetensors") is None:
        text = "the package safetensors is not installed"
        raise ConfigError(problem_with(argument, text, "install it with: pip install safetensors", topic="unavailable"))
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        text = f"the file cannot be read: {first_line(error)}"
        raise ConfigError(problem_with(argument, text, topic="file")) from error


def copy_into(model: nn.Module, tensors: Mapping[str, Tensor], argument: str) -> str | None:
    """Copy tensors into a model, except those of an output layer with another number of outputs.

    Args:
        model: its tensors are overwritten.
        tensors: by the model's own names, or with the prefixes of DataParallel and `torch.compile`.
        argument: the option that named them, for the error.

    Returns:
        A note about the layer that keeps its initial weights; None if all are copied.

    Raises:
        ConfigError: the tensors belong to another model.
    """
    fit_buffers(model, tensors, replace=False)
    state = model.state_dict()
    loaded = {name if name in state else unwrapped_name(name): value for name, value in tensors.items()}
    extra = {name: value for name, value in loaded.items() if is_extra_state(name) and name in state}
    own = {name: tensor for name, tensor in state.items() if not is_extra_state(name)}
    tensors = {name: tensor for name, tensor in loaded.items() if not is_extra_state(name)}
    misfits = {
        name: (t.shape, own[name].shape) for name, t in tensors.items() if name in own and t.shape != own[name].shape
    }
    surplus = [
        f"{name} {_show(tensor.shape)} is in the weights only" for name, tensor in tensors.items() if name not in own
    ]
    missing = [f"{name} {_show(tensor.shape)} is missing" for name, tensor in own.items() if name not in tensors]
    if surplus or missing or (misfits and not _only_outputs(misfits)):
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
    try:
        load_module(model, weights.tensors, weights.buffers)
    except RuntimeError as error:
        misfit = str(error).splitlines()[-1].strip().rstrip(".")
        text = f"its weights do not fit its model, the model's code has changed: {misfit}"
        raise ConfigError(problem_with(argument, text, topic="shape")) from error


def fingerprint(model: nn.Module) -> str:
    """Hash a model's parameters and buffers, with their names, independent of device and memory layout."""
    digest = sha256()
    tensors = {name: tensor for name, tensor in model.state_dict().items() if not is_extra_state(name)}
    for name, tensor in tensors.items():
        digest.update(repr((name, tensor.dtype, tuple(tensor.shape))).encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()[:32]


def _only_outputs(misfits: Mapping[str, tuple[torch.Size, torch.Size]]) -> bool:
    """Whether only the number of outputs differs. A hidden layer of another width also changes the next layer."""
    shapes = list(misfits.values())
    same_otherwise = all(len(there) == len(here) > 0 and there[1:] == here[1:] for there, here in shapes)
    return same_otherwise and len({(there[0], here[0]) for there, here in shapes}) == 1


def _show(shape: torch.Size) -> str:
    return f"({', '.join(map(str, shape))})"
