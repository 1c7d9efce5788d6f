"""What is kept of a run besides its numbers: the config, how MLflow is told of it, the model to serve."""

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor, nn

from runner import __version__
from runner.assembly.experiment import Experiment
from runner.config.invocation import MARK, command, description, own_tags, run_name, written_to
from runner.config.keys import flatten, show
from runner.data.splits import Normalize, size
from runner.data.target_scale import TargetScale
from runner.loss import Loss, answer_names, answers
from runner.model.probe import parameter_count
from runner.rundir import layout
from runner.rundir.folders import for_shell
from runner.rundir.folders import outputs as outputs_folder
from runner.rundir.manifest import NOTE, Dataset, Manifest
from runner.saved.weights import fingerprint
from runner.tracking.environment import git_tags
from runner.tracking.model import TableNames, save_model
from runner.tracking.pages import best_of, table_view
from runner.tracking.store import place
from runner.util.files import write_atomically
from runner.util.tags import DATA_TAG, FOLDER_TAG
from runner.util.uri import redacted, strip_credentials


def write_config(config: Mapping[str, Any], folder: Path, typed: Sequence[str] | None = None) -> list[str]:
    """Keep the resolved config in the run's folder, without credentials, below the commands that it came from.

    Args:
        config: resolved.
        folder: the run's own.
        typed: the arguments of the command line, without credentials; none where nobody typed any.

    Returns:
        The commands: the one that began the run, and those that resumed it.
    """
    path = folder / layout.CONFIG
    commands = written_to(path) + ([command(typed)] if typed is not None else [])
    text = yaml.safe_dump(without_credentials(config), sort_keys=False, allow_unicode=True)
    head = [f"# python -m runner resume={for_shell(str(folder))}", *(f"{MARK}{line}" for line in commands)]
    # Not for a moment is there half of one: without its config, a run that is killed cannot go on.
    write_atomically(path, "\n".join([*head, text]))
    return commands


def without_credentials(config: Mapping[str, Any]) -> dict[str, Any]:
    """The config with user and password taken out of the tracking URI, and every secret out of all of it."""
    uri = config["tracking"]["uri"]
    tracking = {**config["tracking"], "uri": strip_credentials(uri) if uri else uri}
    return redacted({**config, "tracking": tracking})


def describe(x: Experiment, folder: Path, begun: bool = False, commands: Sequence[str] = ()) -> Manifest | None:
    """What MLflow is to be told about the run; None if nothing is.

    Args:
        x: with the weights that the run begins with, unless it has `begun` already.
        folder: the run's own.
        begun: whether a checkpoint is to replace the weights.
        commands: that began the run, and that resumed it.
    """
    if x.tracking.name == "off":
        return None
    uri, artifact_root = place(x.tracking.uri, outputs_folder())
    ascending = not x.loss.higher_is_better(x.trainer.monitor)
    splits = x.splits
    sizes = {"train": size(splits.train), "val": size(splits.val), "test": size(splits.test)}
    return Manifest(
        uri=uri,
        experiment=x.tracking.experiment,
        run_name=x.tracking.run_name or run_name(x.typed or (), x.choices, folder),
        artifact_root=artifact_root,
        params=logged_params(without_credentials(x.config), x.choices),
        tags={
            **own_tags(x.tracking.tags),
            NOTE: description(x.tracking.description, commands),
            "runner.version": __version__,
            FOLDER_TAG: str(folder),
            "runner.device": str(x.device.torch),
            **{f"runner.{name}": value for name, value in x.device.gpu().items()},
            "runner.threads": str(x.device.threads),
            "runner.precision": str(x.precision),
            "runner.parameters": str(parameter_count(x.model)),
            "runner.flops_per_sample": show(x.flops),
            DATA_TAG: splits.fingerprint,
            **({"runner.warm_start_from": x.config["resume"]} if x.config["resume_mode"] == "warm_start" else {}),
            **({"runner.initial_weights": fingerprint(x.model)} if were_given(x.config) and not begun else {}),
            **git_tags(Path.cwd()),
        },
        experiment_tags=dict([table_view(columns(x), ascending, created=round(time.time() * 1000))]),
        dataset=Dataset(
            name=splits.name,
            digest=splits.fingerprint,
            origin=splits.origin,
            profile={**sizes, "input_shape": list(splits.input_shape), "classes": list(splits.classes or [])},
        ),
        log_model=x.tracking.log_model,
        log_checkpoints=x.tracking.log_checkpoints,
    )


def columns(x: Experiment) -> list[str]:
    """The metrics that are columns of MLflow's table of runs: few, as the settings beside them are to be seen too."""
    parts = {"val": x.splits.val, "test": x.splits.test}
    metric = next(iter(x.loss.metrics), "loss")
    held_out = [f"{part}/{metric}" for part in parts if parts[part] is not None]
    return [best_of(name) for name in dict.fromkeys([x.trainer.monitor, *held_out])]


def logged_params(config: Mapping[str, Any], choices: Mapping[str, str]) -> dict[str, str]:
    """The parameters of a run: what is set in its config, and which member of each group was chosen."""
    own = {key: value for key, value in config.items() if key not in ("resume", "resume_mode", "runner")}
    return flatten(own) | dict(choices)


def were_given(config: Mapping[str, Any]) -> bool:
    """Whether a run of this config begins with weights from elsewhere, and not with random ones."""
    return config["model"].get("weights") is not None or config.get("resume_mode") == "warm_start"


class Served(nn.Module):
    """A model together with its normalisation, and the units of its targets: what is logged to MLflow.

    Takes samples as the data set holds them (features as they are; image pixels scaled to [0, 1]).

    Args:
        model: as it was trained.
        normalize: from raw inputs to what the model sees.
        dtype: of the model.
        scale: of the targets that it was trained on, if they were standardised.
    """

    mean: Tensor
    std: Tensor
    target_mean: Tensor
    target_std: Tensor

    def __init__(
        self, model: nn.Module, normalize: Normalize, dtype: torch.dtype, scale: TargetScale | None = None
    ) -> None:
        super().__init__()
        self.model, self.dtype = model, dtype
        self.exact = torch.float64 if normalize.wide else dtype  # in which inputs are normalised, as in training
        self.register_buffer("mean", normalize.mean.to(self.exact))
        self.register_buffer("std", normalize.std.to(self.exact))
        self.scaled = scale is not None and scale.standardizes
        if scale is not None and self.scaled:
            self.register_buffer("target_mean", scale.mean)
            self.register_buffer("target_std", scale.std)

    def forward(self, inputs: Tensor) -> Tensor:
        """(N, ...) raw samples -> (N, K) outputs: logits, or values in the units of the data."""
        outputs = self.model(((inputs.to(self.exact) - self.mean) / self.std).to(self.dtype))
        # In float32 a value of 10,000,000 would have no decimals left.
        return outputs.double() * self.target_std + self.target_mean if self.scaled else outputs


class Answering(Served):
    """A served model that gives what `runner.predict` gives: probabilities, no logits."""

    def __init__(
        self, model: nn.Module, normalize: Normalize, dtype: torch.dtype, scale: TargetScale | None, loss: Loss
    ) -> None:
        super().__init__(model, normalize, dtype, scale)
        self.loss = loss

    def forward(self, inputs: Tensor) -> Tensor:
        """(N, F) raw samples -> (N, K) probabilities, or values in the units of the data."""
        return answers(self.loss, super().forward(inputs))


def served_samples(x: Experiment) -> Tensor:
    """Two samples as `Served` takes them: any of the right shape and range will do.

    Those of a table are float64, as are others that float32 would round.
    """
    example, _ = next(iter(x.loaders.train.epoch(0)))
    raw = example[:2].cpu().double() * x.splits.normalize.std + x.splits.normalize.mean
    return (raw if x.splits.columns or x.splits.normalize.wide else raw.float()).contiguous()


def served(x: Experiment, example: Tensor, folder: Path) -> None:
    """Save the model with the weights it has now, so that MLflow can serve it; `example` is of `served_samples`."""
    parts = x.model, x.splits.normalize, x.precision.dtype, x.target_scale
    if not x.splits.columns:
        save_model(Served(*parts), example, folder)
        return
    features = [name for name in x.splits.columns if name != x.splits.target]
    names = TableNames(features, answer_names(x.loss, x.num_outputs, x.splits.classes))
    save_model(Answering(*parts, x.loss), example, folder, names)
