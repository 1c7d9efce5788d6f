"""Record a run besides its metrics: its config, its manifest for MLflow, and its input specification."""

import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from math import inf, isfinite
from pathlib import Path
from typing import Any

import torch
import yaml

from runner import __version__
from runner.assembly.experiment import Experiment
from runner.config.invocation import (
    MARK,
    describe_command,
    format_description,
    format_tags,
    make_run_name,
    named_choices,
    read_commands,
)
from runner.config.keys import flatten, format_value
from runner.data.part import Part
from runner.model.probe import parameter_count
from runner.rundir import layout
from runner.rundir.folders import for_shell
from runner.rundir.folders import outputs as outputs_folder
from runner.rundir.manifest import NOTE, Dataset, Manifest
from runner.runs.inputs import describe_inputs
from runner.saved.input_spec import InputSpec
from runner.saved.weights import fingerprint
from runner.task import higher_is_better
from runner.tracking.environment import git_tags
from runner.tracking.pages import best_name, table_view
from runner.tracking.store import resolve_store
from runner.util.files import write_atomically, write_json
from runner.util.git import Repositories
from runner.util.redaction import redact_all
from runner.util.tags import DATA_TAG, FOLDER_TAG
from runner.util.trees import is_shape
from runner.util.uri import strip_credentials

LOOKED_AT = 64  # samples that the range of values is read from if samples are loaded one by one


def write_config(config: Mapping[str, Any], folder: Path, typed: Sequence[str] | None = None) -> list[str]:
    """Write the resolved config into the run's folder, without credentials, with its commands in the first lines.

    Args:
        config: the resolved config.
        folder: the run's folder.
        typed: the arguments of the command line, without credentials; None without a command line.

    Returns:
        The commands: the one that started the run, and those that resumed it.
    """
    path = folder / layout.CONFIG
    commands = read_commands(path) + ([describe_command(typed)] if typed is not None else [])
    text = yaml.safe_dump(without_credentials(config), sort_keys=False, allow_unicode=True)
    head = [f"# python -m runner resume={for_shell(str(folder))}", *(f"{MARK}{line}" for line in commands)]
    # Atomically: a run that is killed cannot be resumed without its config.
    write_atomically(path, "\n".join([*head, text]), private=True)
    return commands


def without_credentials(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the config without user and password in the tracking URI, and without secrets."""
    uri = config["tracking"]["uri"]
    tracking = {**config["tracking"], "uri": strip_credentials(uri) if uri else uri}
    return redact_all({**config, "tracking": tracking})


def describe_run(
    experiment: Experiment,
    folder: Path,
    resumed: bool = False,
    commands: Sequence[str] = (),
    repositories: Repositories | None = None,
) -> Manifest | None:
    """Make the manifest of the run for MLflow; None if it is not tracked.

    Args:
        experiment: the experiment, with the initial weights if the run is new.
        folder: the run's folder.
        resumed: whether the run is resumed, so that a checkpoint replaces the weights.
        commands: the command that started the run, and those that resumed it.
        repositories: those whose states are known already.
    """
    if experiment.tracking.name == "off":
        return None
    uri, artifact_root = resolve_store(experiment.tracking.uri, outputs_folder())
    ascending = not higher_is_better(experiment.task, experiment.trainer.monitor)
    splits, named = experiment.splits, named_choices(experiment.choices, experiment.config)
    return Manifest(
        uri=uri,
        experiment=experiment.tracking.experiment,
        run_name=experiment.tracking.run_name or make_run_name(experiment.typed or (), named, folder),
        artifact_root=artifact_root,
        params=logged_params(without_credentials(experiment.config), experiment.choices),
        tags={
            **format_tags(experiment.tracking.tags),
            NOTE: format_description(experiment.tracking.description, commands),
            "runner.version": __version__,
            FOLDER_TAG: str(folder),
            "runner.device": str(experiment.device.torch),
            **{f"runner.{name}": value for name, value in experiment.device.gpu().items()},
            "runner.threads": str(experiment.device.threads),
            "runner.precision": str(experiment.precision),
            **({"runner.strategy": str(experiment.strategy)} if experiment.strategy.ranks > 1 else {}),
            "runner.parameters": str(parameter_count(experiment.model)),
            "runner.flops_per_sample": format_value(experiment.cost.flops),
            DATA_TAG: splits.fingerprint,
            **(
                {"runner.warm_start_from": experiment.config["resume"]}
                if experiment.config["resume_mode"] == "warm_start"
                else {}
            ),
            **(
                {"runner.initial_weights": fingerprint(experiment.model)}
                if starts_from_weights(experiment.config) and not resumed
                else {}
            ),
            **git_tags(Path.cwd(), repositories),
        },
        experiment_tags=dict([table_view(table_columns(experiment), ascending, created=round(time.time() * 1000))]),
        dataset=Dataset(
            name=splits.name,
            digest=splits.fingerprint,
            origin=splits.origin,
            profile={**splits.sizes, "input_shape": splits.input_shape, "classes": list(splits.classes or [])},
        ),
        log_model=experiment.tracking.log_model,
        log_checkpoints=experiment.tracking.log_checkpoints,
        register=experiment.tracking.register,
    )


def table_columns(experiment: Experiment) -> list[str]:
    """Return the metric columns of MLflow's table of runs; they are few, to leave room for the settings."""
    parts = {"val": experiment.splits.val, "test": experiment.splits.test}
    metric = next(iter(experiment.task.names()), "loss")
    held_out = [f"{part}/{metric}" for part in parts if parts[part] is not None]
    return [best_name(name) for name in dict.fromkeys([experiment.trainer.monitor, *held_out])]


def logged_params(config: Mapping[str, Any], choices: Mapping[str, str]) -> dict[str, str]:
    """Return the parameters of a run: the settings of its config, and the chosen member of each group."""
    own = {key: value for key, value in config.items() if key not in ("resume", "resume_mode", "runner")}
    return flatten(own) | dict(choices)


def starts_from_weights(config: Mapping[str, Any]) -> bool:
    """Whether a run of this config starts from trained weights instead of random ones."""
    model = config["model"]
    return (
        model.get("weights") is not None or bool(model.get("pretrained")) or config.get("resume_mode") == "warm_start"
    )


def make_input_spec(experiment: Experiment) -> InputSpec:
    """Describe the samples of an experiment."""
    splits = experiment.splits
    columns = splits.columns or splits.features
    normalize, single = splits.normalize, is_shape(splits.input_shape)
    inputs = torch.as_tensor(splits.train.sample(0)[0]) if single else None
    pixels = inputs is not None and inputs.dtype == torch.uint8 and normalize.scale != 1
    return InputSpec(
        data=splits.name,
        input_shape=list(splits.input_shape) if single else splits.input_shape,
        dtype="uint8" if pixels else "float64" if normalize.wide else "float32",
        mean=normalize.mean.tolist(),
        std=normalize.std.tolist(),
        num_outputs=experiment.num_outputs,
        classes=list(splits.classes) if splits.classes else None,
        columns=list(columns) if columns else None,
        target=splits.target,
        reading=splits.reading,
        table=splits.table.state() if splits.table is not None else None,
        value_range=None if pixels or not single or len(splits.input_shape) != 3 else _range(splits.train),
        scale=normalize.scale,
        white=splits.white,
        divided_by=splits.divided_by,
        **describe_inputs(experiment),
    )


def _range(part: Part) -> list[float] | None:
    """Return the smallest and the largest value of all inputs; of evenly spaced ones if they are read one by one."""
    if part.tensors is not None:
        bounds = [bound.item() for bound in part.tensors[0].aminmax()]
    else:
        bounds = [inf, -inf]
        for index in range(0, len(part), max(1, len(part) // LOOKED_AT)):
            with suppress(Exception):  # the user's code, whose errors training reports; other samples may be readable
                low, high = (bound.item() for bound in torch.as_tensor(part.sample(index)[0]).aminmax())
                bounds = [min(bounds[0], low), max(bounds[1], high)]
    return bounds if all(map(isfinite, bounds)) else None


def write_input_spec(experiment: Experiment, folder: Path) -> InputSpec:
    """Write `samples.json` into the run's folder, and return its content."""
    spec = make_input_spec(experiment)
    write_json(folder / layout.SAMPLES, asdict(spec))
    return spec
