"""Weights that were trained before: the best of a run, or those of a file, put into a model.

`model.weights=<file or run>` starts from them; `runner.evaluate`, `predict` and `export` use a run's best.
"""

import importlib.util
import logging
import re
import warnings
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import _EXTRA_STATE_KEY_SUFFIX

from runner.errors import ConfigError, first_line
from runner.rundir import layout
from runner.rundir.checkpoint import CheckpointError, decode_checkpoint, is_checkpoint, load, weight_buffers
from runner.rundir.checkpoint import best_weights as best_of
from runner.rundir.folders import display_path, parse_path
from runner.saved.run import SavedRun, find
from runner.util.buffers import fit_buffers, load_buffers, load_module, unsaved_buffers
from runner.util.tags import DATA_TAG

log = logging.getLogger("runner")

SUFFIXES = (".pt", ".pth", ".safetensors")
NAMES_SHOWN = 3

_WRAPPED = re.compile(r"^(?:module\.|_orig_mod\.)+|_orig_mod\.")
"""What DataParallel and `torch.compile` put before names."""


@dataclass(frozen=True)
class Weights:
    """A model's tensors by name.

    Attributes:
        tensors: on the CPU; parameters and buffers, as `nn.Module.state_dict` names them.
        source: where they are from, for people.
        epoch: of the run, after which they were the best; None if that is not known.
        data: the fingerprint of the samples they were trained on; None if that is not known.
        buffers: those that `state_dict` does not name.
        loss: what the loss had learnt with them: its part of a checkpoint.
        preprocessing: how the run prepared its samples: see `Training.preprocessing`; None if that is not known.
    """

    tensors: dict[str, Tensor]
    source: str
    epoch: int | None = None
    data: str | None = None
    buffers: dict[str, Tensor | None] = field(default_factory=dict)
    loss: dict[str, Any] = field(default_factory=dict)
    preprocessing: dict[str, Any] | None = None


def load_into(model: nn.Module, value: str, uri: str | None = None) -> dict[str, Any] | None:
    """Start a model from given weights: `model.weights=<value>`.

    If the output layer alone has another number of outputs, it starts anew, as the model has it; a line says so.

    Args:
        model: on the CPU; its own weights are overwritten.
        value: a file (.pt, .pth or .safetensors), a run's folder or an MLflow run id.
        uri: of the MLflow store that knows the run.

    Returns:
        How the run that they are of prepared its samples; None if that is not known, or its outputs are no more those
        of this model.

    Raises:
        ConfigError: there are no such weights, or they are another model's.
    """
    found = read_weights(value, uri)
    anew = copy_into(model, found.tensors, f"model.weights={value}")
    own = {name: buffer.shape for name, buffer in unsaved_buffers(model).items() if buffer is not None}
    load_buffers(model, {name: b for name, b in found.buffers.items() if b is not None and own.get(name) == b.shape})
    log.info("weights    from %s%s", found.source, f"; {anew}" if anew else "")
    return None if anew else found.preprocessing


def read_weights(value: str, uri: str | None = None) -> Weights:
    """The weights that a file holds, or the best of a run.

    Raises:
        ConfigError: there are none.
    """
    path = parse_path(value, "model.weights")
    is_file = path.is_file()
    if not is_file and path.suffix in SUFFIXES and not path.is_dir():
        raise ConfigError(f"model.weights={value}: there is no such file; write one that is there, or a run")
    if is_file:
        return _from_file(path, f"model.weights={value}")
    return weights_of_run(find(value, "model.weights", uri))


def weights_of_run(run: SavedRun) -> Weights:
    """A run's best weights, averaged if it averaged them; its last if none were the best, which a line says.

    Raises:
        ConfigError: there are none, neither in the run's folder nor in MLflow.
    """
    for name in (f"{layout.CHECKPOINTS}/{file}" for file in (layout.BEST, layout.LAST)):
        path = run.file(name)
        if path is None:
            continue
        try:
            state = load(path)
        except CheckpointError as error:
            raise ConfigError(f"{run.argument}: {error}") from error
        progress = state["progress"]
        epoch = progress["best_epoch"] or None
        if name.endswith(layout.LAST):
            log.warning("%s has no checkpoints/best.pt: these are its last weights", run.place)
            epoch = len(progress["epoch_seconds"])
        return _of_checkpoint(state, run.place, epoch, progress["data"])
    if run.folder is not None and (graph := run.file("model/data/model.pt2")):
        return _of_graph(graph, run)
    if run.run_id is not None:
        return _of_logged_model(run)
    raise ConfigError(f"{run.argument} has no weights: there is no checkpoint in {run.place}/checkpoints")


def _of_checkpoint(state: dict[str, Any], source: str, epoch: int | None, data: str | None = None) -> Weights:
    loss: dict[str, Any] = {key: state[key] for key in ("loss", "buffers") if key in state}
    return Weights(
        best_of(state), source, epoch, data, weight_buffers(state), loss, dict(state.get("preprocessing", {}))
    )


def _of_logged_model(run: SavedRun) -> Weights:
    """Out of the model that the run has logged to MLflow: the newest, if it was resumed."""
    client = run.client()
    from mlflow.artifacts import download_artifacts

    try:
        logged = client.get_run(run.run_id).outputs.model_outputs
        models = [client.get_logged_model(output.model_id) for output in logged]
        if not models:
            raise ConfigError(
                f"{run.argument} has no weights in MLflow: it logged neither a model nor checkpoints"
                " (tracking.log_model, tracking.log_checkpoints); write the run's folder"
            )
        newest = max(models, key=lambda model: model.creation_timestamp)
        folder = download_artifacts(
            artifact_uri=f"{newest.artifact_location}/data", dst_path=run.scratch(), tracking_uri=run.uri
        )
    except ConfigError:
        raise
    except Exception as error:  # an artifact store answers with exceptions of its own
        raise ConfigError(f"{run.argument}: its model cannot be fetched from MLflow: {first_line(error)}") from error
    return _of_graph(Path(folder) / "model.pt2", run)


def _of_graph(path: Path, run: SavedRun) -> Weights:
    """The weights inside an exported `serving.ServingModel`, whose model is called `model`."""
    try:
        state = torch.export.load(path).state_dict
    except Exception as error:  # of another version of torch, say
        raise ConfigError(f"{run.argument}: its logged model cannot be read: {first_line(error)}") from error
    tensors = {name.removeprefix("model."): t.detach() for name, t in state.items() if name.startswith("model.")}
    scale = {name: state[f"target_{name}"].tolist() for name in ("mean", "std") if f"target_{name}" in state}
    fingerprint = run.tags.get(DATA_TAG)
    return Weights(tensors, run.place, data=fingerprint, preprocessing={"targets": scale} if scale else {})


def _from_file(path: Path, given: str) -> Weights:
    if path.suffix == ".safetensors":
        return Weights(_read_safetensors(path, given), display_path(path.absolute()))
    content = _read_torch(path, given)
    if isinstance(content, dict) and is_checkpoint(content):  # of runner's
        try:
            state = decode_checkpoint(content, path)
        except CheckpointError as error:
            raise ConfigError(f"{given}: {error}") from error
        return _of_checkpoint(state, display_path(path.absolute()), state["progress"]["best_epoch"] or None)
    tensors = [value for name, value in content.items() if not _is_extra(name)] if isinstance(content, dict) else []
    if not tensors or not all(isinstance(t, Tensor) for t in tensors):
        what = f"a {type(content).__name__}"
        if isinstance(content, dict):
            what = f"a dict of {', '.join(map(str, list(content)[:NAMES_SHOWN])) or 'nothing'}"
        raise ConfigError(
            f"{given} holds {what}, not the tensors of a model: write it by torch.save(model.state_dict(), path)"
        )
    return Weights({str(name): tensor for name, tensor in content.items()}, display_path(path.absolute()))


def _read_torch(path: Path, given: str) -> Any:
    """What a file of `torch.save` holds; nothing that could run code is loaded."""
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as container:  # torch.load does not look at the checksums
                if damaged := container.testzip():
                    raise ConfigError(f"{given} is damaged ({damaged}): write another file")
        with warnings.catch_warnings():  # about a pickle that is about to be refused
            warnings.simplefilter("ignore")
            return torch.load(path, map_location="cpu", weights_only=True)
    except ConfigError:
        raise
    except OSError as error:
        raise ConfigError(f"{given} cannot be read: {error.strerror or error}") from error
    except Exception as error:  # whatever the unpickler meets
        raise ConfigError(
            f"{given} is refused: it holds more than tensors, which could run code when loaded, or is no file of"
            " weights; write one made by torch.save(model.state_dict(), path)"
        ) from error


def _read_safetensors(path: Path, given: str) -> dict[str, Tensor]:
    if importlib.util.find_spec("safetensors") is None:
        raise ConfigError(f"{given} needs the package safetensors: pip install safetensors")
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise ConfigError(f"{given} cannot be read: {first_line(error)}") from error


def copy_into(model: nn.Module, tensors: Mapping[str, Tensor], given: str) -> str | None:
    """Copy tensors into a model, all but those of an output layer with another number of outputs.

    Args:
        model: its tensors are overwritten.
        tensors: by the model's own names, or with the prefixes of DataParallel and `torch.compile`.
        given: the option they were given by, for the error.

    Returns:
        What starts anew, in words; None if nothing does.

    Raises:
        ConfigError: they are another model's.
    """
    fit_buffers(model, tensors, replace=False)
    state = model.state_dict()
    given_state = {name if name in state else _WRAPPED.sub("", name): value for name, value in tensors.items()}
    extra = {name: value for name, value in given_state.items() if _is_extra(name) and name in state}
    own = {name: tensor for name, tensor in state.items() if not _is_extra(name)}
    tensors = {name: tensor for name, tensor in given_state.items() if not _is_extra(name)}
    misfits = {
        name: (t.shape, own[name].shape) for name, t in tensors.items() if name in own and t.shape != own[name].shape
    }
    strangers = [
        f"{name} {_show(tensor.shape)} is there, but not in the model"
        for name, tensor in tensors.items()
        if name not in own
    ]
    missing = [f"{name} {_show(tensor.shape)} is missing there" for name, tensor in own.items() if name not in tensors]
    if strangers or missing or (misfits and not _only_outputs(misfits)):
        differing = [
            f"{name} is {_show(there)} there and {_show(here)} here" for name, (there, here) in misfits.items()
        ]
        shown = [*differing[:NAMES_SHOWN], *missing[:NAMES_SHOWN], *strangers[:NAMES_SHOWN]][:NAMES_SHOWN]
        more = len(differing) + len(missing) + len(strangers) - len(shown)
        raise ConfigError(
            f"{given} is of another model: {'; '.join(shown)}{f'; and {more} more' if more else ''}: write the model"
            " that they are of, by model=... and its keys"
        )
    fitting = {name: tensor for name, tensor in tensors.items() if name not in misfits}
    model.load_state_dict(fitting | extra, strict=False)
    if not misfits:
        return None
    layers = ", ".join(dict.fromkeys(name.rpartition(".")[0] for name in misfits))
    (there, here), *_ = misfits.values()
    return f"the output layer ({layers}) starts anew: it had {there[0]} outputs, now {here[0]}"


def load_exactly(model: nn.Module, found: Weights, given: str) -> None:
    """Give a model that was made again from its config the weights it had.

    Raises:
        ConfigError: it is not the same any more.
    """
    try:
        load_module(model, found.tensors, found.buffers)
    except RuntimeError as error:
        misfit = str(error).splitlines()[-1].strip().rstrip(".")
        raise ConfigError(f"{given}: its weights do not fit its model, whose code has changed: {misfit}") from error


def fingerprint(model: nn.Module) -> str:
    """A hash of a model's parameters and buffers, by their names, wherever they are and in whatever layout."""
    digest = sha256()
    tensors = {name: tensor for name, tensor in model.state_dict().items() if not _is_extra(name)}
    for name, tensor in tensors.items():
        digest.update(repr((name, tensor.dtype, tuple(tensor.shape))).encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()[:32]


def _is_extra(name: str) -> bool:
    """Whether it is what a module's `get_extra_state` gives: of any type."""
    return name.rpartition(".")[2] == _EXTRA_STATE_KEY_SUFFIX


def _only_outputs(misfits: Mapping[str, tuple[torch.Size, torch.Size]]) -> bool:
    """Whether only numbers of outputs differ: another width of any other layer also changes the inputs of the next."""
    shapes = list(misfits.values())
    same_otherwise = all(len(there) == len(here) > 0 and there[1:] == here[1:] for there, here in shapes)
    return same_otherwise and len({(there[0], here[0]) for there, here in shapes}) == 1


def _show(shape: torch.Size) -> str:
    return f"({', '.join(map(str, shape))})"
