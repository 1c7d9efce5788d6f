"""The networks of timm, adapted to the data: `model=timm model.name=resnet18`."""

import logging
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import nn

from runner.errors import ConfigError, Problem, close_match, first_line
from runner.model.pretrained import from_hub, weights_wanted
from runner.util.hub import library

log = logging.getLogger("runner")

ON_HUB, IN_FOLDER = ("hf-hub:", "hf_hub:"), "local-dir:"
"""How the names of networks begin that timm itself does not know."""


def network(
    input_shape: Sequence[int], num_outputs: int, name: str, pretrained: bool | str = False, **options: Any
) -> nn.Module:
    """Create a network of timm (`timm.create_model`).

    Its first layer takes the channels of the data, its last one has the outputs that data and loss need; timm converts
    pretrained weights to these channels. A network that is made for one size of images is made for that of the data.

    Args:
        input_shape: (C, H, W) of one image; comes from the data.
        num_outputs: classes or values; comes from data and loss.
        name: one of `timm.list_models()`, `hf-hub:<owner>/<model>`, or `local-dir:<folder>`.
        pretrained: True: weights from the hub, or its cache; a text: those of this file.
        **options: of the network, such as `drop_path_rate`.

    Raises:
        ConfigError: the name is unknown, the weights cannot be had, or the network does not take such samples.
    """
    timm = library("timm", "model=timm", "timm")
    if len(input_shape) != 3:
        text = f"model=timm requires images (C, H, W), the samples have shape {tuple(input_shape)}"
        raise ConfigError(Problem("model", text, "write model=mlp, or model=gpt for tokens", topic="shape"))
    if not name.startswith((*ON_HUB, IN_FOLDER)) and not timm.is_model(name):
        close = close_match(name, timm.list_models())
        suggestion = f"did you mean {close}?" if close else "write model.name=resnet18, or one of timm.list_models()"
        text = f"model.name={name} is not a network of timm"
        raise ConfigError(Problem("model.name", text, suggestion, topic="unknown"))
    channels, height, width = input_shape
    if name.startswith(ON_HUB):
        name = f"{IN_FOLDER}{_folder_of(name.partition(':')[2])}"
    known = timm.get_pretrained_cfg(name, allow_unregistered=True) if timm.is_model(name) else None
    options = {"in_chans": channels, **options}
    if known is not None and known.fixed_input_size:
        options = {"img_size": (height, width), **options}
    if not pretrained or not weights_wanted():
        return _create(timm, name, num_classes=num_outputs, **options)
    return _pretrained(timm, name, pretrained, known, num_outputs, options)


def _create(timm: Any, name: str, **options: Any) -> nn.Module:
    try:
        return timm.create_model(name, **options)
    except TypeError as error:
        unknown = re.search(r"unexpected keyword argument '(\w+)'", str(error))
        if unknown is None:
            raise
        key = f"model.{unknown[1]}"
        text = f"{key}: {name} of timm takes no {unknown[1]}"
        raise ConfigError(Problem(key, text, "leave it out", topic="unknown")) from error


def _pretrained(
    timm: Any, name: str, source: bool | str, known: Any, num_outputs: int, options: dict[str, Any]
) -> nn.Module:
    """Create a network with weights of a file, or of the hub.

    It is made with the outputs of the weights, and then gets new ones: where timm 1.0 leaves out the output layer, it
    accepts any other tensor to be missing too, so that a ResNet-34 starts from a ResNet-18 without a word.
    """
    file: Path | None = None
    if isinstance(source, str):
        file = Path(source).expanduser()
    elif known is not None and known.hf_hub_id:
        file = _file_of(known)
    elif known is not None:
        text = f"model.pretrained=true: timm has no weights for {name}"
        instead = "write model.pretrained=<file>, or choose one of timm.list_models(pretrained=True)"
        raise ConfigError(Problem("model.pretrained", text, instead, topic="unavailable"))
    where = {"pretrained_cfg_overlay": {"file": str(file)}} if file is not None else {}
    try:
        with _quiet():
            model: Any = _create(timm, name, pretrained=True, **where, **options)
    except FileNotFoundError as error:
        text = f"model.pretrained={source}: the file does not exist"
        raise ConfigError(Problem("model.pretrained", text, "write a file of weights", topic="file")) from error
    except (OSError, RuntimeError, KeyError, ValueError) as error:
        text = f"model.pretrained={source}: these are not weights of {name}: {_misfit(error)}"
        raise ConfigError(Problem("model.pretrained", text, "write a file of its weights", topic="shape")) from error
    renewed = model.num_classes != num_outputs
    if renewed:
        model.reset_classifier(num_outputs)
    log.info("weights    from %s%s", file or name, "; the output layer is initialized" if renewed else "")
    return model


def _misfit(error: Exception) -> str:
    """Return what torch says about the first misfit: its first line has only the name of the class."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[1] if len(lines) > 1 else first_line(error)).partition(",")[0]


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence the log of timm, which repeats what the error says."""
    timms = logging.getLogger("timm")
    level = timms.level
    timms.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        timms.setLevel(level)


def _file_of(known: Any) -> Path:
    """Return the file with the weights of a network, from the cache of the hub, or from the hub."""
    from huggingface_hub import hf_hub_download

    hub, filename = known.hf_hub_id, known.hf_hub_filename or "model.safetensors"
    instead = f"model.pretrained=<folder>/{filename}"
    return Path(from_hub(hub, lambda cached: hf_hub_download(hub, filename, local_files_only=cached), None, instead))


def _folder_of(hub: str) -> Path:
    """Return the folder of a network on the hub, from its cache, or from the hub."""
    from huggingface_hub import snapshot_download

    name, _, revision = hub.partition("@")
    at, instead = revision or None, f"model.name={IN_FOLDER}<folder>"
    return Path(
        from_hub(name, lambda cached: snapshot_download(name, revision=at, local_files_only=cached), at, instead)
    )
