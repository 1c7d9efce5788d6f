"""Make the optimizer, or several, and the learning-rate schedule of an experiment."""

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn
from torch.optim.lr_scheduler import LRScheduler

from runner.assembly import checks, signature
from runner.assembly.target import IN_WORDS, SUPPLIED, call, default_of, locate, takes
from runner.config.settings import TrainerSettings
from runner.data.splits import Splits
from runner.device import Device
from runner.errors import ConfigError, Problem
from runner.optimizer import trainable, use_fused
from runner.optimizer.groups import Grouping, parameter_groups
from runner.optimizer.several import Several, divide
from runner.scheduler import Schedule, has_goal
from runner.task import Task, higher_is_better

_EMPTY = inspect.Parameter.empty


def make_optimizer(node: Mapping[str, Any], model: nn.Module, task: Task, device: Device) -> torch.optim.Optimizer:
    """Make the optimizer of the trainable parameters of the model and of the task."""
    parameters = [*trainable(model), *task.own_parameters()]
    if not parameters:
        raise ConfigError(Problem("model", "the model has no trainable parameter", topic="code"))
    count = sum(parameter.numel() for parameter in parameters)
    target = locate("optimizer", node)
    extra = {"fused": True} if use_fused(target, device.torch, set(node), count) else {}
    grouping = Grouping(node.get("groups") or {}, node.get("no_decay") or False, node.get("layer_decay"))
    params: list[Any] = parameters
    if grouping:
        check_groups(target, grouping)
        of_task = {f"task.{name}": parameter for name, parameter in task.named_parameters()}
        params = parameter_groups(model, parameters, grouping, node.get("lr", default_of(target, "lr")), of_task)
    optimizer = call("optimizer", {**node, **extra}, torch.optim.Optimizer, params=params, model=model)
    closure = inspect.signature(optimizer.step).parameters.get("closure")
    if closure is not None and closure.default is inspect.Parameter.empty:
        text = f"optimizer._target_={node['_target_']} needs a closure, which runner does not pass"
        raise ConfigError(Problem("optimizer._target_", text, "choose another", topic="code"))
    return optimizer


def make_optimizers(nodes: Mapping[str, Any], model: nn.Module, task: Task, device: Device) -> Several:
    """Make several optimizers of parameters of the model and of the task."""
    trained = [*trainable(model), *task.own_parameters()]
    names = dict(model.named_parameters()) | {f"task.{name}": weight for name, weight in task.named_parameters()}
    divided = divide(names, trained, {name: node["params"] for name, node in nodes.items()})
    made = {}
    for name, node in nodes.items():
        group, weights = f"optimizers.{name}", divided[name]
        keys = {key: value for key, value in node.items() if key != "params"}
        count = sum(weight.numel() for weight in weights)
        extra = {"fused": True} if use_fused(locate(group, keys), device.torch, set(keys), count) else {}
        made[name] = call(group, {**keys, **extra}, torch.optim.Optimizer, params=weights, model=model)
        if len(made[name].param_groups) != 1:
            text = f"{group}: {type(made[name]).__name__} divides its parameters itself"
            raise ConfigError(Problem(f"{group}._target_", text, "choose another", topic="conflict"))
    return Several(made)


def check_groups(target: Callable[..., Any], grouping: Grouping) -> None:
    """Check that an optimizer takes groups, and the options in them.

    Raises:
        ConfigError: it divides the parameters itself, or takes no such option.
    """
    typed = {"groups": grouping.groups, "no_decay": grouping.no_decay, "layer_decay": grouping.layer_decay is not None}
    first = next(f"optimizer.{key}" for key, value in typed.items() if value)
    named = inspect.signature(target).parameters
    name = getattr(target, "__qualname__", str(target))
    if "model" in named:
        text = f"{first}: {name} divides the parameters itself"
        raise ConfigError(Problem(first, text, "leave it out", topic="conflict"))
    given_once = {*SUPPLIED["optimizer"], *(key for key, parameter in named.items() if parameter.default is _EMPTY)}
    for group, options in grouping.groups.items():
        own = {key: value for key, value in options.items() if key != "params"}
        if problems := signature.check(f"optimizer.groups.{group}", target, own, given_once):
            raise ConfigError(*problems)
    needed = {"weight_decay": grouping.no_decay, "lr": grouping.layer_decay is not None}
    for option, wanted in needed.items():
        if wanted and option not in named:
            text = f"{first}: {name} takes no {option}"
            raise ConfigError(Problem(first, text, "write optimizer=adamw", topic="conflict"))


def make_schedule(
    node: Mapping[str, Any],
    optimizer: torch.optim.Optimizer,
    trainer: TrainerSettings,
    task: Task,
    splits: Splits,
    batch_size: int,
) -> Schedule:
    """Make the learning-rate schedule for the planned length of training.

    Raises:
        ConfigError: `_target_` does not return a scheduler, or it waits for a metric that is not measured.
    """
    batches = -(-len(splits.train) // batch_size)
    steps_per_epoch = -(-batches // trainer.grad_accumulation)
    steps = trainer.epochs * steps_per_epoch
    target = locate("scheduler", node)
    named, _ = takes(target)
    better = "max" if higher_is_better(task, trainer.monitor) else "min"
    scheduler = call(
        "scheduler",
        node,
        object,
        optimizer=optimizer,
        total_steps=min(steps, trainer.max_steps or steps),
        steps_per_epoch=steps_per_epoch,
        epochs=trainer.epochs,
        **({"mode": better} if "mode" in named and has_goal(target) else {}),
    )
    if isinstance(scheduler, LRScheduler):
        # A scheduler that takes the planned length cannot change it later; one that takes it in steps is stepped by
        # step.
        planned = {key for key in ("total_steps", "steps_per_epoch", "epochs") if key in named and key not in node}
        by_step = bool(planned & {"total_steps", "steps_per_epoch"})
        horizon = bool(planned & {"total_steps", "epochs"})
        scheduler = Schedule(scheduler, every="step" if by_step else "epoch", horizon=horizon)
    if not isinstance(scheduler, Schedule):
        text = f"scheduler._target_={node['_target_']} returns an object of type {type(scheduler).__name__}"
        raise ConfigError(Problem("scheduler._target_", text, f"name {IN_WORDS['scheduler']}", topic="type"))
    checks.plateau(scheduler, trainer, splits)
    return scheduler
