"""The only place that instantiates: a config becomes an `Experiment` of plain typed objects.

Whatever can be wrong is found in here, before a folder or an MLflow run exists, and reported together.
"""

import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from math import prod
from pathlib import Path
from typing import Any, TypeVar

import torch
from omegaconf import DictConfig, OmegaConf
from torch import nn
from torch.optim.lr_scheduler import LRScheduler

from runner import device as device_room
from runner.assembly import checks
from runner.assembly.experiment import Experiment, Setup
from runner.assembly.problems import Problems
from runner.assembly.target import IN_WORDS, call, check_target, locate, takes
from runner.config import schema
from runner.config.hydra_job import plain
from runner.config.keys import TARGET_GROUPS
from runner.config.settings import ConsoleSettings, TrackingSettings, TrainerSettings
from runner.data import fetch
from runner.data.augment import make_augment
from runner.data.loading import Loaders, evaluation_batch_size, make_loaders
from runner.data.memory import kept_in_memory, memory_for_data
from runner.data.source import Source, saves_itself
from runner.data.splits import Splits, size, split
from runner.data.target_scale import TargetScale, choose
from runner.device import Device
from runner.errors import ConfigError
from runner.loss import Loss, name_of
from runner.model import probe
from runner.optimizer import trainable, wants_fused
from runner.precision import Precision
from runner.saved.weights import load_into
from runner.scheduler import Schedule, has_goal
from runner.util.cores import threads_for
from runner.util.rng import seed_all
from runner.util.uri import hide

T = TypeVar("T")


def build(
    cfg: DictConfig,
    choices: Mapping[str, str] | None = None,
    problems: Sequence[str] = (),
    checkpoint: Mapping[str, Any] | None = None,
) -> Experiment:
    """Check a composed config and make everything that a run needs.

    The arguments are those of `set_up`.

    Raises:
        ConfigError: with every problem that could be found; or the samples cannot be brought into memory.
    """
    setup, load = set_up(cfg, choices, problems, checkpoint)
    with memory_for_data():
        loaders = load()
    data_sets = loaders.data_sets().items()
    checks.state({"data": {name: data_set.state_dict() for name, data_set in data_sets if saves_itself(data_set)}})
    device_room.give_back_memory()  # what the whole data set took, before it was divided
    return Experiment(**vars(setup), loaders=loaders)


def set_up(
    cfg: DictConfig,
    choices: Mapping[str, str] | None = None,
    problems: Sequence[str] = (),
    checkpoint: Mapping[str, Any] | None = None,
) -> tuple[Setup, Callable[[], Loaders]]:
    """Check a composed config and make all that a run needs but its batches, which may take a while and much memory.

    Args:
        cfg: without Hydra's own node.
        choices: which member of each group was chosen.
        problems: what composing has already found; the config is checked all the same, to report all at once.
        checkpoint: `preprocessing` of the one that is to give the weights, instead of `model.weights`; None: this is a
            run's beginning.

    Returns:
        What is made, and what makes the batches.

    Raises:
        ConfigError: with every problem that could be found.
    """
    hide(OmegaConf.to_container(cfg, resolve=False))
    config = plain(cfg)
    found = Problems(problems)
    found += check(config)
    trainer = to_settings(cfg.trainer, TrainerSettings)
    device = precision = splits = augment = loss = num_outputs = model = cost = scale = optimizer = schedule = None
    data, seed = config["data"], config["seed"] if found.none_of("seed") else 0
    if found.none_of("device"):
        with found.collect("device"):
            wanted = config["device"]
            device = device_room.resolve(wanted["name"], wanted["index"])
    if device and found.none_of("precision"):
        with found.collect("precision"):
            precision = Precision(config["precision"]["name"], device.torch)
    if found.none_of("loss"):
        with found.collect("loss"):
            loss = call("loss", config["loss"], Loss)
    if found.none_of("data", but=("data.batch_size", "data.in_memory", "data.num_workers")):
        # Nothing is fetched for a run that cannot start.
        with found.collect("data"), nullcontext() if not found.sentences else fetch.forbidden():
            seed_all(seed)
            splits = make_splits(data, seed, loss.takes if loss else "either")
            augment = make_augment(splits, **(data["augment"] or {}))
    if loss:
        found += checks.outputs(config["model"], loss)
    if trainer and loss:
        found += checks.monitor(trainer, loss, splits)
    if trainer and device:
        with found.collect("trainer"):
            device_room.set_deterministic(trainer.deterministic)
            if trainer.compile:
                device.check_compiler()
    if splits and loss:
        with found.collect("loss"):
            checks.classes(loss, splits)
            targets = splits.targets() if splits.all_targets is None else splits.all_targets
            num_outputs = loss.num_outputs(targets, splits.classes)
    if splits and num_outputs and found.none_of("model"):
        with found.collect("model"):
            dtype = precision.dtype if precision else torch.float32
            model, cost = make_model(config["model"], splits.input_shape, num_outputs, seed, dtype)
            if found.none_of("data") and 1 in (data["batch_size"], size(splits.train) % data["batch_size"]):
                probe.check_single_sample(model, splits.input_shape, dtype)
            if checkpoint is None and config["model"]["weights"] is not None:
                checkpoint = load_into(model, config["model"]["weights"], config["tracking"]["uri"])
    if model and cost and splits and device and found.none_of("data"):
        device = choose_threads(device, config["device"], model, cost, splits, data["batch_size"])
    if cost and splits and loss and found.none_of("data"):
        with found.collect("data"):
            scale, splits = make_target_scale(data, splits, loss, cost.activation, checkpoint)
    if model and device and found.none_of("optimizer"):
        with found.collect("optimizer"):
            channels_last = probe.has_convolutions(model)
            model.to(device.torch)
            if channels_last:
                model.to(memory_format=torch.channels_last)
            optimizer = make_optimizer(config["optimizer"], model, device)
    if optimizer and splits and trainer and loss and found.none_of("scheduler", "trainer", "data"):
        batches = -(-size(splits.train) // data["batch_size"])
        with found.collect("scheduler"):
            higher_is_better = loss.higher_is_better(trainer.monitor)
            schedule = make_schedule(config["scheduler"], optimizer, trainer, batches, higher_is_better)
            checks.plateau(schedule, trainer, splits)
    if model and loss and optimizer and schedule:
        with found.collect("model"):
            parts: dict[str, Any] = {
                "model": model,
                "loss": loss,
                "optimizer": optimizer,
                "scheduler": schedule.scheduler,
            }
            checks.state({name: part.state_dict() for name, part in parts.items() if part is not None})
    if found.sentences:
        raise ConfigError(*found.sentences) from found.cause

    assert device and precision and splits and loss and num_outputs and trainer
    assert model and cost and optimizer and schedule
    # What is recorded is what was computed with: `auto` may be something else on the next machine.
    config = recorded(cfg)
    del config["sweep"]  # which says nothing of a single run
    config["device"] |= {
        "name": device.torch.type, "threads": device.threads, "evaluation_threads": device.evaluation_threads
    }  # fmt: skip
    config["data"]["val_fraction"] = splits.val_fraction
    make_absolute(config)
    tracking, console = to_settings(cfg.tracking, TrackingSettings), to_settings(cfg.runner, ConsoleSettings)
    assert tracking and console
    with memory_for_data():
        in_memory = kept_in_memory(data["in_memory"], splits, precision.dtype, device)
    load = partial(
        make_loaders,
        splits,
        prepare=loss.prepare if scale is None else scale.preparing(loss.prepare, device.torch),
        batch_size=data["batch_size"],
        seed=seed,
        device=device.torch,
        dtype=precision.dtype,
        in_memory=in_memory,
        num_workers=data["num_workers"],
        channels_last=channels_last,
        augment=augment,
        values=cost.values,
    )
    setup = Setup(
        config=config,
        choices=dict(choices or {}),
        seed=seed,
        device=device,
        precision=precision,
        splits=splits,
        in_memory=in_memory,
        model=model,
        num_outputs=num_outputs,
        flops=cost.flops,
        doubts=checks.probabilities(cost.activation, loss),
        loss=loss.to(device.torch),
        target_scale=scale,
        optimizer=optimizer,
        schedule=schedule,
        trainer=trainer,
        tracking=tracking,
        console=console,
    )
    return setup, load


def check(config: Mapping[str, Any]) -> list[str]:
    """Find what is wrong in a config without having its device or data at hand.

    Args:
        config: resolved, as plain mappings.
    """
    found = Problems(schema.check(config))
    for group in TARGET_GROUPS:
        found += check_target(group, config[group])
    return found.sentences


def recorded(cfg: DictConfig) -> dict[str, Any]:
    """The resolved config as a run keeps it: what comes out of the environment stays the interpolation that gives it.

    It may be a secret; and when the run goes on, it is taken from there again. Runner's own variables are none.
    """
    resolved, written = (OmegaConf.to_container(cfg, resolve=resolve) for resolve in (True, False))
    kept = _keep_environment(resolved, written)
    assert isinstance(kept, dict)
    return kept


def _keep_environment(resolved: Any, written: Any) -> Any:
    if isinstance(resolved, dict) and isinstance(written, dict):
        return {str(key): _keep_environment(value, written.get(key)) for key, value in resolved.items()}
    if isinstance(resolved, list) and isinstance(written, list) and len(resolved) == len(written):
        return [_keep_environment(*both) for both in zip(resolved, written, strict=True)]
    from_outside = isinstance(written, str) and re.search(r"\$\{oc\.env:(?!RUNNER_)", written)
    return written if from_outside else resolved


def make_absolute(config: dict[str, Any]) -> None:
    """Make the paths in a config such that they are found from any folder."""
    data = ("root", "path", "val_path", "test_path")
    for group, key in (*(("data", key) for key in data), ("model", "weights")):
        value = config[group].get(key)
        if isinstance(value, str) and (path := Path(value).expanduser()).exists():
            config[group][key] = str(path.absolute())


def make_splits(node: Mapping[str, Any], seed: int, loss_takes: str | None) -> Splits:
    """The data set, divided; one that a run of version 0.1.0 has saved by the rules that it was divided by."""
    old_rules = "scale" not in node  # which every config has since then
    scale = node.get("scale", "auto")
    source = call("data", node, Source, scale=scale, old_rules=old_rules, loss_takes=loss_takes)
    if "scale" in takes(locate("data", node))[0]:  # it has scaled its samples itself
        scale = "auto"
    return split(
        source,
        val_fraction=node["val_fraction"],
        limit=node["limit"],
        seed=seed,
        scale=scale,
        old_rules=old_rules,
    )


def to_settings(node: DictConfig, kind: type[T]) -> T | None:
    """A typed group as the dataclass it was checked against; None while a value is missing."""
    if OmegaConf.missing_keys(node):
        return None
    settings = OmegaConf.to_object(node)
    assert isinstance(settings, kind)
    return settings


def make_model(
    node: Mapping[str, Any], input_shape: Sequence[int], num_outputs: int, seed: int, dtype: torch.dtype
) -> tuple[nn.Module, probe.Cost]:
    """The model, with weights drawn by the seed, on the CPU; and what it takes."""
    seed_all(seed)
    model = call("model", node, nn.Module, input_shape=input_shape, num_outputs=num_outputs)
    model.to(dtype)
    return model, probe.check_shapes(model, input_shape, num_outputs, dtype)


def choose_threads(
    device: Device, node: Mapping[str, Any], model: nn.Module, cost: probe.Cost, splits: Splits, batch_size: int
) -> Device:
    """The device with its CPU threads: typed ones, or by the arithmetic of a batch in training and in evaluation."""
    asked, evaluated = node["threads"], node["evaluation_threads"]
    operations = probe.operations(model, cost.flops)
    step = operations * min(batch_size, size(splits.train))
    device = device.with_threads(threads_for(step) if asked == "auto" else int(asked))
    if evaluated == asked == "auto":
        at_once = evaluation_batch_size(batch_size, max(cost.values, prod(splits.input_shape)), device.torch)
        largest = max(size(splits.val), size(splits.test))
        evaluated = max(device.threads, threads_for(operations * min(at_once, largest)))
    evaluated = device.threads if evaluated in (None, "auto") else int(evaluated)
    return replace(device, evaluation_threads=evaluated)


def make_target_scale(
    data: Mapping[str, Any], splits: Splits, loss: Loss, activation: str | None, checkpoint: Mapping[str, Any] | None
) -> tuple[TargetScale | None, Splits]:
    """How the targets of a regression are scaled, and the data with a word on it.

    Raises:
        ConfigError: `data.scale_targets` cannot be done.
    """
    setting = data.get("scale_targets")  # a config of version 0.1.0 has no such key
    if not loss.regression:
        if setting is True:
            raise ConfigError(
                f"data.scale_targets=true: loss={name_of(loss)} has no targets to scale: write data.scale_targets=auto,"
                " or loss=mse"
            )
        return None, splits
    targets = loss.prepare(splits.targets()[: size(splits.train)], torch.float64)
    wanted = splits.columns is not None and activation is None
    names = [splits.target] if splits.target is not None else []
    scale = choose(targets, setting, wanted=wanted, weights=checkpoint, names=names)
    if scale is not None and scale.standardizes:
        how = "as for the weights it starts from, " if checkpoint is not None else ""
        note = f"targets standardised ({how}{scale}): */loss is in these units, all else in the data's"
    elif wanted and checkpoint is not None and setting == "auto":
        note = "targets not standardised: the weights it starts from give the units of the data"
    else:
        return scale, splits
    return scale, replace(splits, notes=[*splits.notes, note])


def make_optimizer(node: Mapping[str, Any], model: nn.Module, device: Device) -> torch.optim.Optimizer:
    """The optimizer over the model's trainable parameters."""
    parameters = trainable(model)
    if not parameters:
        raise ConfigError("model: it has no parameter to train")
    count = sum(p.numel() for p in parameters)
    extra = {"fused": True} if wants_fused(locate("optimizer", node), device.torch, set(node), count) else {}
    optimizer = call("optimizer", {**node, **extra}, torch.optim.Optimizer, params=parameters, model=model)
    closure = inspect.signature(optimizer.step).parameters.get("closure")
    if closure is not None and closure.default is inspect.Parameter.empty:
        raise ConfigError(f"optimizer._target_={node['_target_']} needs a closure, which is not given: write another")
    return optimizer


def make_schedule(
    node: Mapping[str, Any],
    optimizer: torch.optim.Optimizer,
    trainer: TrainerSettings,
    batches: int,
    higher_is_better: bool,
) -> Schedule:
    """The schedule, told how long training is planned to be, and which way the monitored metric is better."""
    steps_per_epoch = -(-batches // trainer.grad_accumulation)
    total_steps = min(trainer.epochs * steps_per_epoch, trainer.max_steps or trainer.epochs * steps_per_epoch)
    better = "max" if higher_is_better else "min"
    target = locate("scheduler", node)
    goal = {"mode": better} if "mode" in takes(target)[0] and has_goal(target) else {}
    made = call(
        "scheduler",
        node,
        object,
        optimizer=optimizer,
        total_steps=total_steps,
        steps_per_epoch=steps_per_epoch,
        epochs=trainer.epochs,
        **goal,
    )
    if isinstance(made, LRScheduler):
        # One that was told how long training is planned to be cannot be told otherwise later; one that was
        # told it in steps wants to be stepped by step.
        named, _ = takes(locate("scheduler", node))
        told = {key for key in ("total_steps", "steps_per_epoch", "epochs") if key in named and key not in node}
        by_step = bool(told & {"total_steps", "steps_per_epoch"})
        return Schedule(made, every="step" if by_step else "epoch", horizon=bool(told & {"total_steps", "epochs"}))
    if not isinstance(made, Schedule):
        raise ConfigError(
            f"scheduler._target_={node['_target_']} gives a {type(made).__name__}; name {IN_WORDS['scheduler']}"
        )
    return made
