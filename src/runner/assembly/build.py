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
from runner.assembly.problems import ProblemCollector
from runner.assembly.target import IN_WORDS, call, check_target, locate, takes
from runner.config import schema
from runner.config.hydra_job import plain
from runner.config.keys import TARGET_GROUPS
from runner.config.settings import ConsoleSettings, TrackingSettings, TrainerSettings
from runner.data import fetch
from runner.data.augment import Augment, make_augment
from runner.data.loading import Loaders, evaluation_batch_size, make_loaders
from runner.data.memory import decide_in_memory, memory_for_data
from runner.data.source import Source, saves_itself
from runner.data.splits import Splits, size, split
from runner.data.target_scale import TargetScale, choose
from runner.device import Device
from runner.errors import ConfigError, Problem
from runner.loss import Loss, name_of
from runner.model import probe
from runner.optimizer import trainable, use_fused
from runner.precision import Precision
from runner.saved.weights import load_into
from runner.scheduler import Schedule, has_goal
from runner.util.cores import threads_for
from runner.util.rng import seed_all
from runner.util.uri import hide

T = TypeVar("T")

NOT_OF_SAMPLES = ("data.batch_size", "data.in_memory", "data.num_workers")
"""Keys of the data that a data set is made without."""


def build(
    cfg: DictConfig,
    choices: Mapping[str, str] | None = None,
    problems: Sequence[Problem] = (),
    checkpoint: Mapping[str, Any] | None = None,
) -> Experiment:
    """Check a composed config and make everything that a run needs.

    The arguments are those of `prepare`.

    Raises:
        ConfigError: with every problem that could be found; or the samples cannot be brought into memory.
    """
    setup, load = prepare(cfg, choices, problems, checkpoint)
    with memory_for_data():
        loaders = load()
    data_sets = loaders.data_sets().items()
    checks.state({"data": {name: data_set.state_dict() for name, data_set in data_sets if saves_itself(data_set)}})
    device_room.give_back_memory()  # what the whole data set took, before it was divided
    return Experiment(**vars(setup), loaders=loaders)


def prepare(
    cfg: DictConfig,
    choices: Mapping[str, str] | None = None,
    problems: Sequence[Problem] = (),
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
    found = ProblemCollector(problems)
    found += check(config)
    made = make_all(config, to_settings(cfg.trainer, TrainerSettings), found, checkpoint)
    if found.problems:
        raise ConfigError(*found.problems) from found.cause
    augment, cost, channels_last = (made.pop(name) for name in ("augment", "cost", "channels_last"))
    device, splits, loss = made["device"], made["splits"], made["loss"]
    tracking, console = to_settings(cfg.tracking, TrackingSettings), to_settings(cfg.runner, ConsoleSettings)
    assert tracking and console
    with memory_for_data():
        in_memory = decide_in_memory(config["data"]["in_memory"], splits, made["precision"].dtype, device)
    setup = Setup(
        **made,
        config=computed_with(recorded(cfg), device, splits),
        choices=dict(choices or {}),
        in_memory=in_memory,
        flops=cost.flops,
        doubts=checks.probabilities(cost.activation, loss),
        tracking=tracking,
        console=console,
    )
    loss.to(device.torch)
    return setup, partial(load, setup, config["data"], channels_last, augment, cost.values)


def make_all(
    config: Mapping[str, Any],
    trainer: TrainerSettings | None,
    found: ProblemCollector,
    checkpoint: Mapping[str, Any] | None,
) -> dict[str, Any]:
    """Make what the groups of a config name, each as far as what it takes could be made.

    Args:
        config: resolved, as plain mappings.
        trainer: its settings; None while a value is missing.
        found: gets what is wrong.
        checkpoint: see `prepare`.

    Returns:
        The parts of a `Setup`, and `augment`, `cost` and `channels_last`; some are None if something is wrong.
    """
    data, seed = config["data"], config["seed"] if found.none_of("seed") else 0
    batch_size = data["batch_size"]
    device = found.stage("device", find_device, config["device"])
    precision = found.stage("precision", make_precision, config["precision"], device)
    loss = found.stage("loss", call, "loss", config["loss"], Loss)
    # Nothing is fetched for a run that cannot start.
    parts = partial(make_parts, data, seed, loss, forbidden=bool(found.problems))
    splits, augment = found.stage("data", parts, but=NOT_OF_SAMPLES) or (None, None)
    found.stage("trainer", prepare_device, trainer, device)
    if loss:
        found += checks.outputs(config["model"], loss)
    if trainer and loss:
        found += checks.monitor(trainer, loss, splits)
    num_outputs = found.stage("loss", count_outputs, loss, splits)
    dtype = precision.dtype if precision else torch.float32
    model, cost = found.stage("model", make_model, config["model"], splits, num_outputs, seed, dtype) or (None, None)
    found.stage("model", check_last_batch, model, splits, batch_size, dtype, needs=["data"])
    if checkpoint is None:
        weights = partial(load_into, uri=config["tracking"]["uri"])
        checkpoint = found.stage("model", weights, model, config["model"]["weights"])
    threads = partial(choose_threads, node=config["device"])
    threaded = found.stage("device", threads, device, model, cost, splits, batch_size, needs=["data"]) or device
    scaling = partial(make_target_scale, checkpoint=checkpoint)
    scale, splits = found.stage("data", scaling, data, splits, loss, cost) or (None, splits)
    channels_last = found.stage("optimizer", move, model, threaded)
    optimizer = found.stage("optimizer", make_optimizer, config["optimizer"], model, threaded)
    schedule = found.stage(
        "scheduler", plan_schedule, config["scheduler"], optimizer, trainer, splits, batch_size, loss,
        needs=["trainer", "data"],
    )  # fmt: skip
    found.stage("model", check_state, model, loss, optimizer, schedule)
    return {
        "seed": seed, "device": threaded, "precision": precision, "splits": splits, "model": model,
        "num_outputs": num_outputs, "loss": loss, "target_scale": scale, "optimizer": optimizer, "schedule": schedule,
        "trainer": trainer, "augment": augment, "cost": cost, "channels_last": channels_last,
    }  # fmt: skip


def load(setup: Setup, data: Mapping[str, Any], channels_last: bool, augment: Augment | None, values: int) -> Loaders:
    """Make the batches of a run.

    Args:
        setup: whose samples they are.
        data: the group, of a resolved config.
        channels_last: the storage of images.
        augment: of the training part.
        values: of one sample, in the largest tensor that a layer of the model gives.
    """
    loss, scale, device = setup.loss, setup.target_scale, setup.device.torch
    return make_loaders(
        setup.splits,
        prepare=loss.prepare if scale is None else scale.preparing(loss.prepare, device),
        batch_size=data["batch_size"],
        seed=setup.seed,
        device=device,
        dtype=setup.precision.dtype,
        in_memory=setup.in_memory,
        num_workers=data["num_workers"],
        channels_last=channels_last,
        augment=augment,
        values=values,
    )


def computed_with(config: dict[str, Any], device: Device, splits: Splits) -> dict[str, Any]:
    """A config for the record, with what was computed with: `auto` may be something else on the next machine."""
    del config["sweep"]  # which says nothing of a single run
    config["device"] |= {
        "name": device.torch.type, "threads": device.threads, "evaluation_threads": device.evaluation_threads
    }  # fmt: skip
    config["data"]["val_fraction"] = splits.val_fraction
    make_absolute(config)
    return config


def check(config: Mapping[str, Any]) -> list[Problem]:
    """Find what is wrong in a config without having its device or data at hand.

    Args:
        config: resolved, as plain mappings.
    """
    found = ProblemCollector(schema.check(config))
    for group in TARGET_GROUPS:
        found += check_target(group, config[group])
    return found.problems


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


def find_device(node: Mapping[str, Any]) -> Device:
    """The device that a config asks for."""
    return device_room.resolve(node["name"], node["index"])


def make_precision(node: Mapping[str, Any], device: Device) -> Precision:
    """The number format, on that device."""
    return Precision(node["name"], device.torch)


def prepare_device(trainer: TrainerSettings, device: Device) -> None:
    """Let a device compute as the trainer wants it."""
    device_room.set_deterministic(trainer.deterministic)
    if trainer.compile:
        device.check_compiler()


def make_parts(node: Mapping[str, Any], seed: int, loss: Loss | None, forbidden: bool) -> tuple[Splits, Augment | None]:
    """The data set, divided, and what is done to its training batches.

    Args:
        node: the group `data`.
        seed: of the division.
        loss: what it takes decides what targets are.
        forbidden: fetch nothing.
    """
    with fetch.forbidden() if forbidden else nullcontext():
        seed_all(seed)
        splits = make_splits(node, seed, loss.takes if loss else "either")
        return splits, make_augment(splits, **(node["augment"] or {}))


def count_outputs(loss: Loss, splits: Splits) -> int:
    """How many outputs the model needs."""
    checks.classes(loss, splits)
    targets = splits.targets() if splits.all_targets is None else splits.all_targets
    return loss.num_outputs(targets, splits.classes)


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
    node: Mapping[str, Any], splits: Splits, num_outputs: int, seed: int, dtype: torch.dtype
) -> tuple[nn.Module, probe.Cost]:
    """The model, with weights drawn by the seed, on the CPU; and what it takes."""
    seed_all(seed)
    shape = splits.input_shape
    model = call("model", node, nn.Module, input_shape=shape, num_outputs=num_outputs)
    model.to(dtype)
    return model, probe.check_shapes(model, shape, num_outputs, dtype)


def check_last_batch(model: nn.Module, splits: Splits, batch_size: int, dtype: torch.dtype) -> None:
    """See that the model can be trained on a single sample, if a batch has no more."""
    samples = size(splits.train)
    if 1 in (batch_size, samples % batch_size):
        probe.check_single_sample(model, splits.input_shape, dtype, samples, batch_size)


def move(model: nn.Module, device: Device) -> bool:
    """Bring the model to the device; whether its images are stored channels last."""
    channels_last = probe.has_convolutions(model)
    model.to(device.torch)
    if channels_last:
        model.to(memory_format=torch.channels_last)
    return channels_last


def check_state(model: nn.Module, loss: Loss, optimizer: torch.optim.Optimizer, schedule: Schedule) -> None:
    """See that a checkpoint can hold the state that training begins with."""
    parts: dict[str, Any] = {
        "model": model, "loss": loss, "optimizer": optimizer, "scheduler": schedule.scheduler
    }  # fmt: skip
    checks.state({name: part.state_dict() for name, part in parts.items() if part is not None})


def choose_threads(
    device: Device, model: nn.Module, cost: probe.Cost, splits: Splits, batch_size: int, node: Mapping[str, Any]
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
    data: Mapping[str, Any], splits: Splits, loss: Loss, cost: probe.Cost, checkpoint: Mapping[str, Any] | None
) -> tuple[TargetScale | None, Splits]:
    """How the targets of a regression are scaled, and the data with a word on it.

    Raises:
        ConfigError: `data.scale_targets` cannot be done.
    """
    setting = data.get("scale_targets")  # a config of version 0.1.0 has no such key
    if not loss.regression:
        if setting is True:
            key, text = "data.scale_targets", f"data.scale_targets=true: loss={name_of(loss)} has no targets to scale"
            raise ConfigError(Problem(key, text, f"write {key}=auto, or loss=mse", topic="conflict"))
        return None, splits
    targets = loss.prepare(splits.targets()[: size(splits.train)], torch.float64)
    wanted = splits.columns is not None and cost.activation is None
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
        raise ConfigError(Problem("model", "the model has no trainable parameter", topic="code"))
    count = sum(parameter.numel() for parameter in parameters)
    extra = {"fused": True} if use_fused(locate("optimizer", node), device.torch, set(node), count) else {}
    optimizer = call("optimizer", {**node, **extra}, torch.optim.Optimizer, params=parameters, model=model)
    closure = inspect.signature(optimizer.step).parameters.get("closure")
    if closure is not None and closure.default is inspect.Parameter.empty:
        text = f"optimizer._target_={node['_target_']} needs a closure, which runner does not pass"
        raise ConfigError(Problem("optimizer._target_", text, "choose another", topic="code"))
    return optimizer


def plan_schedule(
    node: Mapping[str, Any],
    optimizer: torch.optim.Optimizer,
    trainer: TrainerSettings,
    splits: Splits,
    batch_size: int,
    loss: Loss,
) -> Schedule:
    """The schedule of training as it is planned."""
    batches = -(-size(splits.train) // batch_size)
    higher_is_better = loss.higher_is_better(trainer.monitor)
    schedule = make_schedule(node, optimizer, trainer, batches, higher_is_better)
    checks.plateau(schedule, trainer, splits)
    return schedule


def make_schedule(
    node: Mapping[str, Any],
    optimizer: torch.optim.Optimizer,
    trainer: TrainerSettings,
    batches: int,
    higher_is_better: bool,
) -> Schedule:
    """The schedule, given how long training is planned to be, and which way the monitored metric is better."""
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
        text = f"scheduler._target_={node['_target_']} returns an object of type {type(made).__name__}"
        raise ConfigError(Problem("scheduler._target_", text, f"name {IN_WORDS['scheduler']}", topic="type"))
    return made
