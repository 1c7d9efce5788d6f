"""What is kept of a run besides its numbers: the config, how MLflow is told of it, the model to serve."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor, nn

from . import __version__
from .build import Experiment
from .data.splits import Normalize, size
from .folders import for_shell
from .folders import outputs as outputs_folder
from .model.probe import parameter_count
from .schema import flatten, show
from .tracking.environment import git_tags
from .tracking.files import write_atomically
from .tracking.manifest import Dataset, Manifest
from .tracking.model import save_model
from .tracking.store import place
from .tracking.uri import redacted, strip_credentials
from .weights import fingerprint


def write_config(config: Mapping[str, Any], folder: Path) -> None:
    """Keep the resolved config in the run's folder, without credentials."""
    text = yaml.safe_dump(without_credentials(config), sort_keys=False, allow_unicode=True)
    first_line = f"# python -m runner resume={for_shell(str(folder))}"
    # Not for a moment is there half of one: without its config, a run that is killed cannot go on.
    write_atomically(folder / "config.yaml", f"{first_line}\n{text}")


def without_credentials(config: Mapping[str, Any]) -> dict[str, Any]:
    """The config with user and password taken out of the tracking URI, and every secret out of all of it."""
    uri = config["tracking"]["uri"]
    tracking = {**config["tracking"], "uri": strip_credentials(uri) if uri else uri}
    return redacted({**config, "tracking": tracking})


def describe(x: Experiment, folder: Path, begun: bool = False) -> Manifest | None:
    """What MLflow is to be told about the run; None if nothing is.

    Args:
        x: with the weights that the run begins with, unless it has `begun` already.
        folder: the run's own.
        begun: whether a checkpoint is to replace the weights.
    """
    if x.tracking.name == "off":
        return None
    uri, artifact_root = place(x.tracking.uri, outputs_folder())
    splits = x.splits
    sizes = {"train": size(splits.train), "val": size(splits.val), "test": size(splits.test)}
    return Manifest(
        uri=uri,
        experiment=x.tracking.experiment,
        run_name=x.tracking.run_name or folder.name,
        artifact_root=artifact_root,
        params=logged_params(without_credentials(x.config), x.choices),
        tags={
            "runner.version": __version__,
            "runner.folder": str(folder),
            "runner.device": str(x.device.torch),
            **{f"runner.{name}": value for name, value in x.device.gpu().items()},
            "runner.threads": str(x.device.threads),
            "runner.precision": str(x.precision),
            "runner.parameters": str(parameter_count(x.model)),
            "runner.flops_per_sample": show(x.flops),
            "runner.data_fingerprint": splits.fingerprint,
            **({"runner.warm_start_from": x.config["resume"]} if x.config["resume_mode"] == "warm_start" else {}),
            **({"runner.initial_weights": fingerprint(x.model)} if were_given(x.config) and not begun else {}),
            **git_tags(Path.cwd()),
        },
        dataset=Dataset(
            name=splits.name,
            digest=splits.fingerprint,
            origin=splits.origin,
            profile={**sizes, "input_shape": list(splits.input_shape), "classes": list(splits.classes or [])},
        ),
        log_model=x.tracking.log_model,
        log_checkpoints=x.tracking.log_checkpoints,
    )


def logged_params(config: Mapping[str, Any], choices: Mapping[str, str]) -> dict[str, str]:
    """The parameters of a run: what is set in its config, and which member of each group was chosen."""
    own = {key: value for key, value in config.items() if key not in ("resume", "resume_mode", "runner")}
    return flatten(own) | dict(choices)


def were_given(config: Mapping[str, Any]) -> bool:
    """Whether a run of this config begins with weights from elsewhere, and not with random ones."""
    return config["model"].get("weights") is not None or config.get("resume_mode") == "warm_start"


class Served(nn.Module):
    """A model together with its normalisation: what is logged to MLflow.

    Takes float32 samples as the data set holds them (features as they are; image pixels scaled to [0, 1]).
    """

    mean: Tensor
    std: Tensor

    def __init__(self, model: nn.Module, normalize: Normalize, dtype: torch.dtype) -> None:
        super().__init__()
        self.model, self.dtype = model, dtype
        self.register_buffer("mean", normalize.mean.to(dtype))
        self.register_buffer("std", normalize.std.to(dtype))

    def forward(self, inputs: Tensor) -> Tensor:
        """(N, ...) raw samples -> (N, K) outputs: logits or values."""
        return self.model((inputs.to(self.dtype) - self.mean) / self.std)


def served_samples(x: Experiment) -> Tensor:
    """Two samples as `Served` takes them: any of the right shape and range will do."""
    example, _ = next(iter(x.loaders.train.epoch(0)))
    raw = example[:2].cpu().double() * x.splits.normalize.std + x.splits.normalize.mean
    return raw.float().contiguous()


def served(x: Experiment, example: Tensor, folder: Path) -> None:
    """Save the model with the weights it has now, so that MLflow can serve it; `example` is of `served_samples`."""
    save_model(Served(x.model, x.splits.normalize, x.precision.dtype), example, folder)
