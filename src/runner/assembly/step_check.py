"""Check a task's step on two samples before anything starts, for tasks and batches that `model.probe` cannot check."""

import copy
import inspect
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from runner.errors import ConfigError, Problem, first_line, user_frame_suffix
from runner.model.probe import Cost, largest_outputs, wrong_kind
from runner.task import Step, StepError, Task
from runner.task.supervised import OutputError, Supervised
from runner.util import trees


def check_step(task: Task, model: nn.Module, batch: tuple[Any, Any], num_outputs: int | None) -> tuple[Cost, Step]:
    """Run the step of a task on two samples, with copies of task and model: neither they nor the generators change.

    Args:
        task: on the CPU, like the model.
        model: its parameters are shared by its copy.
        batch: inputs and targets of two samples, as the loop passes them.
        num_outputs: of the model, where the task knows it.

    Returns:
        The cost of one sample, and what the step returned.

    Raises:
        ConfigError: the step fails, or returns something that training cannot use.
    """
    if isinstance(task, Supervised):
        check_names(model, batch[0])
    with torch.random.fork_rng(devices=[]), copies(task, model) as (own_task, own_model):
        counter = FlopCounterMode(display=False)
        try:
            with largest_outputs(own_model) as largest, _inputs_of(own_model) as got, counter:
                step = own_task.measure(own_model, batch)
                check_result(own_task, own_model, step)
        except OutputError as error:
            text = f"the model must return one tensor (N, {num_outputs}), or one called logits, it returns {error}"
            raise ConfigError(Problem("model", text, topic="code")) from error
        except StepError as error:
            raise ConfigError(Problem("task", f"task: {error}", error.instead, topic="code")) from error
        except ConfigError:
            raise
        except Exception as error:  # the user's code may raise anything
            reason = f"{first_line(error)}{user_frame_suffix(error)}"
            if got and (problem := wrong_kind(own_model, *got[-1], reason)):
                raise ConfigError(problem) from error
            text = f"the step fails for two samples {describe_batch(batch)}: {reason}"
            key = "model" if isinstance(task, Supervised) else "task"
            raise ConfigError(Problem(key, text, topic="shape")) from error
    if type(task).step is Supervised.step and step.outputs.shape != (2, num_outputs):
        shape = "".join(f", {size}" for size in step.outputs.shape[1:])
        text = f"the model returns outputs of shape (N{shape}), data and loss require (N, {num_outputs})"
        raise ConfigError(Problem("model", text, "let its constructor take num_outputs", topic="shape"))
    of_step = type(task).step is not Supervised.step
    return Cost(counter.get_total_flops() // 2 or None, max(largest) // 2, of_step=of_step), step


def check_result(task: Task, model: nn.Module, step: Step) -> None:
    """Check that the loss of a step can be minimised, and weighted.

    Raises:
        StepError: it cannot.
    """
    own = type(task).step is not Supervised.step and not inspect.isgeneratorfunction(type(task).step)
    trained = own and any(weight.requires_grad for part in (task, model) for weight in part.parameters())
    if trained and step.loss is not None and not step.loss.requires_grad:
        text = "step returns a loss without a gradient: nothing that is trained is in it, or it is detached"
        raise StepError(text, "compute it from outputs of the model, without detach() or item()")
    weight, instead = torch.as_tensor(step.weight), "return what the loss is a mean over, such as a number of tokens"
    if weight.ndim:
        raise StepError(f"step returns weight of shape {tuple(weight.shape)}, not a number", instead)
    if not weight >= 0 or weight.isinf():
        raise StepError(f"step returns weight {weight.item():g}, not a number above 0", instead)


@contextmanager
def _inputs_of(model: nn.Module) -> Iterator[list[tuple[Any, Any]]]:
    """Collect what the model gets at each call: arguments by place, and by name."""
    got: list[tuple[Any, Any]] = []
    handle = model.register_forward_pre_hook(lambda _, args, kwargs: got.append((args, kwargs)), with_kwargs=True)
    try:
        yield got
    finally:
        handle.remove()


def check_names(model: nn.Module, inputs: Any) -> None:
    """Check that the model's `forward` takes the keys of a batch that is a dict.

    Raises:
        ConfigError: it does not.
    """
    if not isinstance(inputs, Mapping):
        return
    try:
        parameters = inspect.signature(model.forward).parameters
    except (TypeError, ValueError):
        return
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()):
        return
    if unknown := [name for name in inputs if name not in parameters]:
        text = f"the model's forward does not take {', '.join(unknown)}, it takes {', '.join(parameters) or 'nothing'}"
        suggestion = "leave it out of the items of the data set, add a parameter, or name it in task.targets"
        raise ConfigError(Problem("model", text, suggestion, topic="code"))


@contextmanager
def copies(task: Task, model: nn.Module) -> Iterator[tuple[Task, nn.Module]]:
    """Copy a task and a model; the copies share the parameters, and have their own buffers and attributes.

    Where something in them cannot be copied, they are used themselves, and get their buffers back.
    """
    modules = (task, model)
    shared: dict[int, Any] = {id(weight): weight for module in modules for weight in module.parameters()}
    try:
        own_task, own_model = copy.deepcopy(modules, shared)
    except Exception:  # code of the user's may refuse it
        buffers = [(buffer, buffer.clone()) for module in modules for buffer in module.buffers()]
        yield task, model
        with torch.no_grad():
            for buffer, content in buffers:
                buffer.copy_(content)
        return
    yield own_task, own_model


def describe_batch(batch: tuple[Any, Any]) -> str:
    """Describe the shapes of a batch: `of inputs (2, 64), targets (2,)`."""
    parts = {"inputs": batch[0], **({"targets": batch[1]} if batch[1] is not None else {})}
    return "of " + ", ".join(f"{name} {_shapes(part)}" for name, part in parts.items())


def _shapes(tree: Any) -> str:
    if isinstance(tree, Tensor):
        return str(tuple(tree.shape))
    return "; ".join(f"{name} {tuple(leaf.shape)}" for name, leaf in trees.named_leaves(tree))
