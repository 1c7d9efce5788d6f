"""Make the data of an experiment: load and divide them, augment them, scale their targets."""

import inspect
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import torch

from runner.assembly import checks
from runner.assembly.target import call, locate, takes
from runner.data import fetch
from runner.data.augment import Augment, make_augment
from runner.data.collate import divide_pair
from runner.data.division import Division
from runner.data.sampling import Sampling
from runner.data.source import Source, names_of
from runner.data.splits import Splits
from runner.data.splitting import split
from runner.data.target_scale import TargetScale, choose_target_scale
from runner.errors import ConfigError, Problem
from runner.loss import name_of
from runner.model import probe
from runner.task import Task
from runner.task.supervised import Supervised
from runner.util.rng import seed_all


def make_data(
    node: Mapping[str, Any],
    seed: int,
    task: Task | None,
    forbidden: bool,
    model: Mapping[str, Any] | None = None,
    fitted: Mapping[str, Any] | None = None,
    samples_per_epoch: int | None = None,
) -> tuple[Splits, Augment | None]:
    """Load and divide the data set, and make the augmentation of its training part.

    Args:
        node: the group `data`.
        seed: of the division.
        task: divides items into inputs and targets; its loss decides whether targets are classes or numbers.
        forbidden: download nothing.
        model: the group `model`, which decides on the inputs that a table becomes.
        fitted: the transformers of a table that the weights were trained with; None fits them.
        samples_per_epoch: of a stream, by `trainer.steps_per_epoch`.
    """
    with fetch.forbidden() if forbidden else nullcontext():
        seed_all(seed)
        splits = make_splits(node, seed, task, embeds(model or {}), fitted, samples_per_epoch)
        return splits, make_augment(splits, **(node["augment"] or {}))


def read_targets(task: Task, splits: Splits) -> tuple[Any]:
    """Return the targets of all samples, if the task looks at them; None if not, or if items have none."""
    return (task.targets_of(splits),)


def count_outputs(task: Task, splits: Splits, targets: tuple[Any]) -> tuple[int | None]:
    """Count the outputs that the model needs; None if task and data do not tell."""
    if isinstance(task, Supervised):
        checks.classes(task.loss, splits)
    return (task.num_outputs(*targets, splits.classes),)


def embeds(node: Mapping[str, Any]) -> bool:
    """Whether a model takes the numbers and the categories of a table apart: it can then embed the categories."""
    try:
        target = locate("model", node)
    except ConfigError:  # reported as a problem of the model
        return False
    return inspect.isclass(target) and {"numbers", "categories"} <= takes(getattr(target, "forward", target))[0]


def make_splits(
    node: Mapping[str, Any],
    seed: int,
    task: Task | None,
    model_embeds: bool = False,
    fitted: Mapping[str, Any] | None = None,
    samples_per_epoch: int | None = None,
) -> Splits:
    """Load and divide the data set; that of a run of version 0.1.0 by the rules of that version."""
    old_rules = "scale" not in node  # every later config has it
    scale = node.get("scale", "auto")
    loss = task.loss if task is not None else None
    takes_targets = loss.takes if loss is not None else "either"
    supplied = {"loss_takes": takes_targets, "model_embeds": model_embeds, "fitted": fitted}
    supplied |= {"split_by": node.get("split_by"), "sample_weight": node.get("sample_weight")}
    source = call("data", node, Source, scale=scale, old_rules=old_rules, **supplied)
    if "scale" in takes(locate("data", node))[0]:  # its function has scaled the samples
        scale = "auto"
    return split(
        source,
        val_fraction=node["val_fraction"],
        limit=node["limit"],
        seed=seed,
        scale=scale,
        old_rules=old_rules,
        divide=task.divide if task is not None else divide_pair,
        integers_are_numbers=task is None or task.integers_are_numbers,
        samples_per_epoch=samples_per_epoch,
        division=Division(
            node.get("split", "random"), node.get("split_by"), folds=node.get("folds"), fold=node.get("fold")
        ),
        sampling=Sampling(node.get("sampler", "shuffle"), node.get("sample_weight")),
    )


def make_target_scale(
    data: Mapping[str, Any], splits: Splits, task: Task, cost: probe.Cost, checkpoint: Mapping[str, Any] | None
) -> tuple[TargetScale | None, Splits]:
    """Choose how the targets of a regression are scaled, and note it in the data.

    Raises:
        ConfigError: `data.scale_targets` does not fit the data or the loss.
    """
    setting = data.get("scale_targets")  # a config of version 0.1.0 lacks the key
    loss = task.loss
    if not isinstance(task, Supervised) or loss is None or not loss.regression:
        if setting is True:
            supervised = isinstance(task, Supervised) and loss is not None
            named = f"loss={name_of(loss)}" if supervised and loss is not None else f"task={name_of(task)}"
            key, text = "data.scale_targets", f"data.scale_targets=true: {named} has no targets to scale"
            instead = f"write {key}=auto{', or loss=mse' if supervised else ''}"
            raise ConfigError(Problem(key, text, instead, topic="conflict"))
        return None, splits
    targets = loss.prepare(splits.targets()[: len(splits.train)], torch.float64)
    wanted = splits.columns is not None and cost.activation is None
    scale = choose_target_scale(targets, setting, auto=wanted, weights=checkpoint, names=names_of(splits.target))
    if scale is not None and scale.standardizes:
        how = "as for the weights it starts from, " if checkpoint is not None else ""
        note = f"targets standardised ({how}{scale}): */loss is in these units, all else in the data's"
    elif wanted and checkpoint is not None and setting == "auto":
        note = "targets not standardised: the weights it starts from give the units of the data"
    else:
        return scale, splits
    return scale, replace(splits, notes=[*splits.notes, note])
