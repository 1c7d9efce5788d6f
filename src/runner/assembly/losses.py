"""Make the loss of a task: the one that is chosen, or the one that the targets ask for."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from runner.assembly import auto_loss
from runner.assembly.target import call
from runner.config.keys import format_value
from runner.data.splits import Splits
from runner.errors import ConfigError, Problem
from runner.loss import Loss, name_of
from runner.task import Task


def make_task(node: Mapping[str, Any]) -> Task:
    """Make the task, without its loss.

    Raises:
        ConfigError: it cannot be made, or is only half made: its constructor does not call that of `Task`.
    """
    task = call("task", node, Task)
    if "loss" not in vars(task):
        text = f"task: the constructor of {type(task).__name__} does not call super().__init__()"
        raise ConfigError(Problem("task", text, "call it in its first line", topic="code"))
    return task


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
    """Choose the loss for `loss=auto`, and make it; returns the node of the chosen loss.

    Raises:
        ConfigError: the task uses no loss, and a key of one is typed; or no loss can be chosen or made.
    """
    if not task.uses_loss:
        typed = {f"loss.{key}": value for key, value in node.items() if key != "_target_" and value is not None}
        text = f"task={name_of(task)} computes its own loss, {{}}={{}} would not be used"
        problems = [
            Problem(key, text.format(key, format_value(value)), "leave it out", topic="conflict")
            for key, value in typed.items()
        ]
        if problems:
            raise ConfigError(*problems)
        return node
    return use_loss(task, auto_loss.resolve(node, *targets, splits.classes, task.default_loss))


def saved_task(config: Mapping[str, Any]) -> Task:
    """Make the task of a saved config, with its loss.

    Args:
        config: the config, as recorded.
    """
    task = make_task(config["task"])
    use_loss(task, config["loss"])
    return task


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
