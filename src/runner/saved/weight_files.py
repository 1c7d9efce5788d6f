"""Read the weights in a file, or in a folder of such files: those of runner, plain ones, of Lightning, of Accelerate.

Nothing is unpickled that could run code.
"""

import importlib.util
import json
import warnings
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from runner.errors import ConfigError, first_line
from runner.rundir.checkpoint_file import CheckpointError, decode_checkpoint, is_checkpoint
from runner.rundir.checkpoint_parts import best_weights, weight_buffers
from runner.rundir.folders import display_path
from runner.saved.run import problem_with
from runner.util.private import is_extra_state

SUFFIXES = (".pt", ".pth", ".ckpt", ".bin", ".safetensors")

FOLDERS = ("model.safetensors", "pytorch_model.bin", "model.safetensors.index.json", "pytorch_model.bin.index.json")
"""Files in a folder of Accelerate's `save_model` and `save_state`, or Transformers' `save_pretrained`."""

INSIDE = ("state_dict", "model_state_dict", "model", "module", "network", "net", "weights")
"""Keys under which programs save a model's tensors beside other things; `state_dict` is Lightning's."""

NAMES_SHOWN = 3
PLAIN = "write a file made by torch.save(model.state_dict(), path)"


@dataclass(frozen=True)
class Weights:
    """A model's tensors by name.

    Attributes:
        tensors: parameters and buffers on the CPU, by their names in `nn.Module.state_dict`.
        source: where they come from, as text for a message.
        epoch: the epoch of the run after which they were the best; None if unknown.
        data: the fingerprint of their training data; None if unknown.
        buffers: the buffers that `state_dict` leaves out.
        task: the state of the task that they were trained for, and of its loss: their part of a checkpoint.
        lora: the keys of `model.lora` of the run; None if it is not known.
        preprocessing: how the run preprocessed its samples: see `Training.preprocessing`; None if unknown.
    """

    tensors: dict[str, Tensor]
    source: str
    epoch: int | None = None
    data: str | None = None
    buffers: dict[str, Tensor | None] = field(default_factory=dict)
    task: dict[str, Any] = field(default_factory=dict)
    preprocessing: dict[str, Any] | None = None
    lora: dict[str, Any] | None = None


def of_checkpoint(state: dict[str, Any], source: str, epoch: int | None, data: str | None = None) -> Weights:
    """Take the best weights of a decoded checkpoint of runner."""
    task: dict[str, Any] = {key: state[key] for key in ("loss", "task", "buffers") if key in state}
    return Weights(
        best_weights(state), source, epoch, data, weight_buffers(state), task, dict(state.get("preprocessing", {}))
    )


def read_folder(folder: Path, argument: str) -> Weights | None:
    """Read the weights in a folder of Accelerate or Transformers; None if it is none.

    Raises:
        ConfigError: the files cannot be read.
    """
    found = next((path for name in FOLDERS if (path := folder / name).is_file()), None)
    if found is None:
        return None
    if found.suffix != ".json":
        return read_file(found, argument)
    try:
        names = sorted(set(json.loads(found.read_text(encoding="utf-8"))["weight_map"].values()))
        parts = [read_file(folder / Path(name).name, argument).tensors for name in names]
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise ConfigError(
            problem_with(argument, f"{found.name} cannot be read: {first_line(error)}", topic="file")
        ) from error
    merged = {name: tensor for part in parts for name, tensor in part.items()}
    return Weights(merged, f"{display_path(folder.absolute())}, {len(parts)} files")


def read_file(path: Path, argument: str) -> Weights:
    """Read the weights in a file.

    Raises:
        ConfigError: it has none, or cannot be read.
    """
    if path.suffix == ".safetensors":
        return Weights(_read_safetensors(path, argument), display_path(path.absolute()))
    content = _read_torch(path, argument)
    if isinstance(content, dict) and is_checkpoint(content):  # a checkpoint of runner
        try:
            state = decode_checkpoint(content, path)
        except CheckpointError as error:
            raise ConfigError(problem_with(argument, str(error))) from error
        return of_checkpoint(state, display_path(path.absolute()), state["progress"]["best_epoch"] or None)
    inside, tensors = _model_in(content)
    if tensors is None:
        what = f"a {type(content).__name__}"
        if isinstance(content, dict):
            what = f"a dict of {', '.join(map(str, list(content)[:NAMES_SHOWN])) or 'nothing'}"
        raise ConfigError(problem_with(argument, f"holds {what}, not the tensors of a model", PLAIN, topic="file"))
    return Weights(tensors, f"{display_path(path.absolute())}{f', its {inside}' if inside else ''}")


def _model_in(content: Any) -> tuple[str, dict[str, Tensor] | None]:
    """Find the tensors of a model in the content of a file, and the key that they stand under."""
    if not isinstance(content, Mapping):
        return "", None
    for inside in ("", *INSIDE):
        tensors = content.get(inside) if inside else content
        if isinstance(tensors, Mapping):
            own = [value for name, value in tensors.items() if not is_extra_state(str(name))]
            if own and all(isinstance(value, Tensor) for value in own):
                return inside, {str(name): value for name, value in tensors.items()}
    return "", None


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
        raise ConfigError(problem_with(argument, text, PLAIN, topic="file")) from error


def _read_safetensors(path: Path, argument: str) -> dict[str, Tensor]:
    if importlib.util.find_spec("safetensors") is None:
        text = "the package safetensors is not installed"
        raise ConfigError(problem_with(argument, text, "install it with: pip install safetensors", topic="unavailable"))
    from safetensors import SafetensorError, safe_open
    from safetensors.torch import load_file

    try:
        tensors = load_file(path)
        with safe_open(path, "pt") as file:  # `save_model` writes what shares memory once, and its other names here
            shared: dict[str, str] = file.metadata() or {}
        return {**{name: tensors[kept] for name, kept in shared.items() if kept in tensors}, **tensors}
    except (SafetensorError, OSError) as error:
        text = f"the file cannot be read: {first_line(error)}"
        raise ConfigError(problem_with(argument, text, topic="file")) from error
