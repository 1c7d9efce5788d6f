"""Files with the weights of a model alone, for programs without runner: safetensors, or torch's `state_dict`."""

import json
import zipfile
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from runner.runs.file_description import METADATA, Description
from runner.saved.input_spec import InputSpec

FORMATS = ("safetensors", "state_dict")


def describe_weights(
    description: Description, spec: InputSpec, config: Mapping[str, Any], target_scale: Mapping[str, Any] | None
) -> dict[str, Any]:
    """Return the metadata of such a file.

    Args:
        description: of a file that takes raw samples.
        spec: the samples: their normalisation is not part of the model.
        config: of the run, with class and arguments of the model.
        target_scale: what the outputs of a regression are multiplied by, and then shifted by; None: nothing.
    """
    scale = {} if target_scale is None else {"target_scale": dict(target_scale)}
    return {**description.metadata(), "samples": asdict(spec), **scale, "config": dict(config)}


def save_weights(model: nn.Module, file: Path, format: str, metadata: Mapping[str, Any]) -> None:
    """Write the weights, each in its own type; tensors that share memory are written once.

    Raises:
        ValueError: the format cannot hold them.
    """
    if format == "state_dict":
        with file.open("wb") as opened:
            torch.save(model.state_dict(), opened)
        with zipfile.ZipFile(file, "a") as container:
            container.writestr(f"archive/{METADATA}", _json(metadata))
        return
    if extra := [name for name, value in model.state_dict().items() if not isinstance(value, Tensor)]:
        raise ValueError(f"{extra[0]} is no tensor; write format=state_dict")
    from safetensors.torch import save_model

    texts = {name: value if isinstance(value, str) else _json(value) for name, value in metadata.items()}
    save_model(model, str(file), {"format": "pt", **texts})


def load_weights(model: nn.Module, file: Path, format: str) -> None:
    """Load the weights as a program without runner does.

    Raises:
        RuntimeError: they do not fit.
    """
    if format == "state_dict":
        model.load_state_dict(torch.load(file, weights_only=True))
        return
    from safetensors.torch import load_model

    load_model(model, file)


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)
