"""Models of Transformers, of any of its `AutoModel` classes: `model=huggingface model.name=<folder or name>`."""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from runner.errors import ConfigError, Problem, close_match, first_line
from runner.model.pretrained import from_hub, weights_wanted
from runner.util.hub import library

log = logging.getLogger("runner")

SMALL = {
    "model_type": "vit", "hidden_size": 64, "num_hidden_layers": 4, "num_attention_heads": 4, "intermediate_size": 128,
    "patch_size": 4,
}  # fmt: skip
"""The model without a name and a type, for images: a vision transformer of 140,000 parameters."""

NAMES_SHOWN = 3


def automodel(
    input_shape: Any = None,
    num_outputs: int | None = None,
    name: str | None = None,
    auto: str = "AutoModelForImageClassification",
    config: Mapping[str, Any] | None = None,
    pretrained: bool = False,
    revision: str | None = None,
) -> nn.Module:
    """Create a model of Transformers, with random weights by default.

    Args:
        input_shape: (C, H, W) of one image, or the shapes of other inputs; comes from the data. A model that is made
            for one size of images, with random weights, is made for that of the data.
        num_outputs: becomes `num_labels`; comes from data and task.
        name: a folder (of `save_pretrained`), or a name on the hub.
        auto: the class, such as `AutoModelForSequenceClassification`.
        config: keys of the configuration. Without a name, `model_type` chooses the architecture.
        pretrained: load the weights of `name`, not only its configuration.
        revision: a branch, a tag or a commit of the hub.

    Raises:
        ConfigError: there is no such class, model or key, or its files cannot be had.
    """
    transformers = library("transformers", "model=huggingface", "huggingface")
    kinds = [kind for kind in dir(transformers) if kind.startswith("AutoModel")]
    if auto not in kinds:
        close = close_match(auto, kinds)
        suggestion = f"did you mean {close}?" if close else "write model.auto=AutoModelForSequenceClassification"
        raise ConfigError(
            Problem("model.auto", f"model.auto={auto} is not a class of Transformers", suggestion, topic="choice")
        )
    made = _configuration(transformers, name, dict(config or {}), revision, auto, input_shape)
    if pretrained and name is None:
        text = "model.pretrained=true needs a model"
        raise ConfigError(
            Problem("model.pretrained", text, "write model.name=<folder or name on the hub>", topic="missing")
        )
    if num_outputs is not None and ("Classification" in auto or "Segmentation" in auto):
        made.num_labels = num_outputs
    kind = getattr(transformers, auto)
    if type(made) not in kind._model_mapping:
        others = [other for other in kinds if type(made) in getattr(transformers, other)._model_mapping]
        text = f"model.auto={auto} has no model of the type {made.model_type}"
        others.sort(key=lambda other: "Classification" not in other)
        instead = f"write model.auto={others[0]}" if others else "choose another model"
        raise ConfigError(Problem("model.auto", text, instead, topic="conflict"))
    if name is not None and pretrained and weights_wanted():
        return _pretrained(transformers, kind, name, made, revision)
    return kind.from_config(made, dtype=torch.float32)


def _configuration(
    transformers: Any, name: str | None, keys: dict[str, Any], revision: str | None, auto: str, input_shape: Any
) -> Any:
    """Make the configuration: that of the model with this name, or of this type, with some keys changed."""
    image = _image(input_shape)
    if name is None and "model_type" not in keys:
        if auto != "AutoModelForImageClassification" or image is None:
            text = "model=huggingface needs a model"
            instead = "write model.name=<folder or name on the hub>, or model.config.model_type=bert"
            raise ConfigError(Problem("model.name", text, instead, topic="missing"))
        keys = SMALL | keys
    given = {key: value for key, value in keys.items() if key != "model_type"}
    if name is not None:
        _refuse_type(keys)
        plain = _load(name, transformers.AutoConfig.from_pretrained, revision)
        _check_keys(given, plain)
        return _load(name, transformers.AutoConfig.from_pretrained, revision, **given) if given else plain
    plain = _of_type(transformers, keys["model_type"])
    _check_keys(given, plain)
    if image is not None:
        given = {key: value for key, value in image.items() if hasattr(plain, key)} | given
    try:
        return transformers.AutoConfig.for_model(keys["model_type"], **given)
    except Exception as error:  # the configurations raise their own types
        raise ConfigError(_wrong_value(error)) from error


def _check_keys(keys: Mapping[str, Any], plain: Any) -> None:
    """Check that a configuration has all keys: Transformers would keep others, and never read them."""
    for key in keys:
        if not hasattr(plain, key):
            hint = close_match(key, [other for other in plain.to_dict() if not other.startswith("_")])
            suggestion = f"did you mean model.config.{hint}?" if hint else "leave it out"
            text = f"model.config.{key}: the configuration of {plain.model_type} has no {key}"
            raise ConfigError(Problem(f"model.config.{key}", text, suggestion, topic="unknown"))


def _image(input_shape: Any) -> dict[str, Any] | None:
    """Return the keys of a configuration that follow from the shape of an image; None for other inputs."""
    sizes = input_shape
    if isinstance(input_shape, Mapping):
        sizes = input_shape.get("pixel_values")
    if not isinstance(sizes, Sequence) or len(sizes) != 3 or not all(isinstance(size, int) for size in sizes):
        return None
    channels, height, width = sizes
    return {"num_channels": channels, "image_size": height if height == width else [height, width]}


def _of_type(transformers: Any, kind: str) -> Any:
    """Return the default configuration of an architecture."""
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES

    if kind not in CONFIG_MAPPING_NAMES:
        close = close_match(str(kind), CONFIG_MAPPING_NAMES)
        suggestion = f"write model.config.model_type={close or 'bert'}"
        text = f"model.config.model_type={kind} is not an architecture of Transformers"
        raise ConfigError(Problem("model.config.model_type", text, suggestion, topic="choice"))
    return transformers.AutoConfig.for_model(kind)


def _refuse_type(keys: Mapping[str, Any]) -> None:
    if "model_type" in keys:
        key = "model.config.model_type"
        text = f"{key}={keys['model_type']} and model.name exclude each other"
        raise ConfigError(Problem(key, text, "leave it out", topic="conflict"))


def _load(name: str, load: Any, revision: str | None, **options: Any) -> Any:
    """Load from a folder, or from the hub."""
    folder = Path(name).expanduser()
    if not folder.exists():
        instead = "model.name=<folder>"
        return from_hub(
            name, lambda cached: load(name, revision=revision, local_files_only=cached, **options), revision, instead
        )
    if not (folder / "config.json").is_file():
        text = f"model.name={name} is not a model of Transformers: it has no config.json"
        raise ConfigError(Problem("model.name", text, "write a folder of save_pretrained", topic="file"))
    try:
        return load(str(folder), local_files_only=True, **options)
    except OSError as error:
        text = f"model.name={name} cannot be read: {first_line(error)}"
        raise ConfigError(Problem("model.name", text, "write a folder of save_pretrained", topic="file")) from error
    except Exception as error:  # the configurations raise their own types
        raise ConfigError(_wrong_value(error)) from error


def _pretrained(transformers: Any, kind: Any, name: str, made: Any, revision: str | None) -> nn.Module:
    """Load a model with its weights; what they lack, such as another number of outputs, is initialized."""
    transformers.utils.logging.set_verbosity_error()  # it reports what is initialized, as the line below does
    transformers.utils.logging.disable_progress_bar()
    model, found = _load(
        name, kind.from_pretrained, revision, config=made, dtype=torch.float32, ignore_mismatched_sizes=True,
        output_loading_info=True,
    )  # fmt: skip
    new = sorted(
        {*found["missing_keys"], *(key[0] if isinstance(key, tuple) else key for key in found["mismatched_keys"])}
    )
    more = f" and {len(new) - NAMES_SHOWN} more" if len(new) > NAMES_SHOWN else ""
    log.info("weights    from %s%s", name, f"; initialized: {', '.join(new[:NAMES_SHOWN])}{more}" if new else "")
    return model


def _wrong_value(error: Exception) -> Problem:
    reason = "; ".join(line.strip().rstrip(":") for line in str(error).strip().splitlines())
    return Problem("model.config", f"model.config is refused: {reason}", topic="type")
