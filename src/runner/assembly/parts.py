"""Makers of the parts of an experiment: each takes the keys of its group, and the parts that it needs."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LRScheduler

from runner import device as devices
from runner.assembly import auto_loss, checks, signature
from runner.assembly.step_check import check_step
from runner.assembly.target import IN_WORDS, SUPPLIED, call, default_of, locate, takes
from runner.callbacks import Callback
from runner.config import callbacks
from runner.config.keys import format_value
from runner.config.settings import TrainerSettings
from runner.data import fetch
from runner.data.augment import Augment, make_augment
from runner.data.division import Division
from runner.data.loading import evaluation_batch_size
from runner.data.parts import Batch, divide_pair
from runner.data.preprocess import Preprocess
from runner.data.sampling import Sampling
from runner.data.source import Source
from runner.data.splits import Splits, split
from runner.data.target_scale import TargetScale, choose_target_scale
from runner.device import Device
from runner.errors import ConfigError, Problem
from runner.loss import Loss, name_of
from runner.metrics import make_metrics, meaning_of, read_entries
from runner.model import probe
from runner.model.freeze import Freeze, freeze
from runner.model.lora import add_adapters
from runner.model.pretrained import weights_unwanted
from runner.optimizer import trainable, use_fused
from runner.optimizer.groups import Grouping, parameter_groups
from runner.optimizer.several import Several, divide
from runner.precision import Precision
from runner.scheduler import Schedule, has_goal
from runner.task import Task, higher_is_better
from runner.task.supervised import Supervised, output_of
from runner.util.cores import threads_for
from runner.util.patterns import patterns_of
from runner.util.rng import seed_all
from runner.util.trees import is_shape

_EMPTY = inspect.Parameter.empty


def find_device(node: Mapping[str, Any]) -> Device:
    """Find the device that a config asks for."""
    return devices.resolve(node["name"], node["index"])


def make_precision(node: Mapping[str, Any], device: Device) -> Precision:
    """Make the number format for a device."""
    return Precision(node["name"], device.torch)


def prepare_device(trainer: TrainerSettings, device: Device) -> None:
    """Set determinism, and check that the device can compile if that is wanted."""
    devices.set_deterministic(trainer.deterministic)
    if trainer.compile:
        device.check_compiler()


def use_loss(task: Task, node: Mapping[str, Any]) -> Mapping[str, Any]:
    """Make the loss for a task.

    Args:
        task: gets the loss.
        node: the group `loss`, that of the chosen loss for `loss=auto`.

    Returns:
        The node.

    Raises:
        ConfigError: the task uses no loss, or the loss cannot be made.
    """
    if task.uses_loss:
        task.loss = call("loss", node, Loss)
    elif not auto_loss.is_auto(node):
        text = f"task={name_of(task)} computes its own loss, loss={format_value(node['_target_'])} would not be used"
        raise ConfigError(Problem("loss", text, "write loss=auto", topic="conflict"))
    return node


def choose_loss(node: Mapping[str, Any], task: Task, splits: Splits, targets: tuple[Any]) -> Mapping[str, Any]:
    """Choose the loss for `loss=auto`, and make it; returns the node of the chosen loss."""
    if not task.uses_loss:
        return node
    return use_loss(task, auto_loss.resolve(node, *targets, splits.classes, task.default_loss))


def saved_task(config: Mapping[str, Any]) -> Task:
    """Make the task of a saved config, with its loss.

    Args:
        config: the config, as recorded.
    """
    task = call("task", config["task"], Task)
    use_loss(task, config["loss"])
    return task


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


def measure(value: Any, task: Task, splits: Splits, counted: tuple[int | None]) -> None:
    """Let a task measure what the key `metrics` asks for."""
    entries = read_entries(value)
    meaning = meaning_of(task.loss, *counted, splits.classes)
    task.extra = make_metrics(entries, meaning, task.names()) if entries else None


def balance(task: Task, splits: Splits, counted: tuple[int | None]) -> None:
    """Let the loss read the targets of the training part, if it depends on them.

    Raises:
        ConfigError: they cannot be read, or are no single tensor.
    """
    loss, (num_outputs,) = task.loss, counted
    if loss is None or not loss.reads_targets or num_outputs is None:
        return
    targets = splits.train.read_targets()
    if not isinstance(targets, Tensor):
        text = f"loss={name_of(loss)}: the targets of the training part cannot be counted to balance its weights"
        raise ConfigError(Problem("loss", text, "write a list of weights, such as [1,3]", topic="conflict"))
    loss.read_targets(targets, num_outputs)


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
        division=Division(node.get("split", "random"), node.get("split_by")),
        sampling=Sampling(node.get("sampler", "shuffle"), node.get("sample_weight")),
    )


def make_model(
    node: Mapping[str, Any],
    task: Task,
    splits: Splits,
    counted: tuple[int | None],
    seed: int,
    dtype: torch.dtype,
    pretrained: bool = True,
) -> tuple[nn.Module, probe.Cost, Sequence[str]]:
    """Make the model on the CPU, with weights drawn by the seed, and run the task's step for two samples.

    Args:
        node: the group `model`.
        task: takes the outputs of the model.
        splits: the data.
        counted: the number of outputs; None if task and data do not tell.
        seed: of the weights.
        dtype: of the weights.
        pretrained: load its pretrained weights if it has such; False if others replace them, or no run starts.

    Returns:
        The model, its cost, and the names of what a step measures besides the metrics.
    """
    (num_outputs,) = counted
    seed_all(seed)
    supplied = {"input_shape": splits.input_shape, **({} if num_outputs is None else {"num_outputs": num_outputs})}
    if splits.table is not None and splits.table.sizes:
        supplied["categories"] = splits.table.sizes
    with weights_unwanted(not pretrained):
        model = call("model", node, nn.Module, **supplied)
    model.to(dtype)
    task.to(dtype)
    task.dtype = dtype
    if num_outputs is not None and is_plain(task, splits):
        return model, probe.check_shapes(model, splits.input_shape, num_outputs, dtype, output_of), ("loss",)
    cost, step = check_step(task, model, example(task, splits, 2, dtype), num_outputs)
    checks.measured_outputs(task, step)
    return model, cost, [*(["loss"] if step.loss is not None else []), *step.scalars]


def is_plain(task: Task, splits: Splits) -> bool:
    """Whether a step is that of `supervised`, and inputs are a single tensor: the model can be checked by shapes."""
    return type(task).step is Supervised.step and is_shape(splits.input_shape)


def example(task: Task, splits: Splits, count: int, dtype: torch.dtype) -> Batch:
    """Return a batch of training samples as the loop passes them, on the CPU."""
    return Preprocess(splits.normalize, task.prepare, torch.device("cpu"), dtype)(*splits.example(count))


def check_last_batch(task: Task, model: nn.Module, splits: Splits, batch_size: int, dtype: torch.dtype) -> None:
    """Check that the model can be trained on a single sample if a batch has no more."""
    samples = len(splits.train)
    if 1 in (batch_size, samples % batch_size) and is_plain(task, splits):
        probe.check_single_sample(model, splits.input_shape, dtype, samples, batch_size)


def move(model: nn.Module, task: Task, device: Device) -> bool:
    """Move model and task to the device; returns whether the model's images are stored channels last."""
    task.to(device.torch)
    channels_last = probe.has_convolutions(model)
    model.to(device.torch)
    if channels_last:
        model.to(memory_format=torch.channels_last)
    return channels_last


def check_state(model: nn.Module, task: Task, optimizer: torch.optim.Optimizer, schedule: Schedule) -> None:
    """Check that a checkpoint can hold the state that training starts with."""
    parts: dict[str, Any] = {
        "model": model, "loss": task.loss, "task": task, "optimizer": optimizer, "scheduler": schedule.scheduler
    }  # fmt: skip
    checks.state({name: part.state_dict() for name, part in parts.items() if part is not None})


def tune(model: nn.Module, node: Mapping[str, Any], seed: int) -> Freeze:
    """Freeze what `model.freeze` names, and add the adapters of `model.lora`, drawn by the seed."""
    patterns, lora = node.get("freeze"), node.get("lora") or {}  # a config of version 0.1.0 lacks the keys
    frozen = freeze(model, patterns_of(patterns), node.get("unfreeze_at_epoch")) if patterns else Freeze()
    if not lora.get("params"):
        return frozen
    seed_all(seed)
    adapted = add_adapters(model, **lora)
    both = [*frozen.parameters, *adapted.parameters]
    return replace(adapted, parameters=both, resting=[*frozen.resting, *adapted.resting])


def make_callbacks(nodes: Mapping[str, Mapping[str, Any]]) -> dict[str, Callback]:
    """Make the callbacks, and check that a checkpoint can hold the state that they start with."""
    made = {name: call(f"{callbacks.KEY}.{name}", node, Callback) for name, node in nodes.items()}
    checks.state({"callbacks": {name: callback.state_dict() for name, callback in made.items()}})
    return made


def choose_threads(
    device: Device, model: nn.Module, cost: probe.Cost, splits: Splits, batch_size: int, node: Mapping[str, Any]
) -> Device:
    """Set the CPU threads of a device: as typed, or by the arithmetic of a batch in training and in evaluation."""
    asked, evaluated = node["threads"], node["evaluation_threads"]
    operations = probe.operations(model, cost.flops)
    step = operations * min(batch_size, len(splits.train))
    device = device.with_threads(threads_for(step) if asked == "auto" else int(asked))
    if evaluated == asked == "auto":
        at_once = evaluation_batch_size(batch_size, max(cost.values, splits.input_values), device.torch)
        largest = max(splits.sizes["val"], splits.sizes["test"])
        evaluated = max(device.threads, threads_for(operations * min(at_once, largest)))
    evaluated = device.threads if evaluated in (None, "auto") else int(evaluated)
    return replace(device, evaluation_threads=evaluated)


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
    names = [splits.target] if splits.target is not None else []
    scale = choose_target_scale(targets, setting, auto=wanted, weights=checkpoint, names=names)
    if scale is not None and scale.standardizes:
        how = "as for the weights it starts from, " if checkpoint is not None else ""
        note = f"targets standardised ({how}{scale}): */loss is in these units, all else in the data's"
    elif wanted and checkpoint is not None and setting == "auto":
        note = "targets not standardised: the weights it starts from give the units of the data"
    else:
        return scale, splits
    return scale, replace(splits, notes=[*splits.notes, note])


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
