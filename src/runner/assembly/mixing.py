"""The targets of mixed samples: what they become for a loss, and whether it takes them."""

from dataclasses import replace

import torch

from runner.data.augment import KEY, Augment
from runner.data.splits import Splits
from runner.errors import ConfigError, Problem, describe_error
from runner.loss import name_of
from runner.task import Task
from runner.task.supervised import Supervised
from runner.util.trees import is_shape


def fit_targets(
    augment: Augment, task: Task, splits: Splits, counted: tuple[int | None], dtype: torch.dtype
) -> Augment:
    """Return an augmentation whose mixed targets are those that a loss takes.

    Class indices become probabilities of the classes; values are mixed as they are.

    Args:
        augment: of the training samples.
        task: `supervised`, whose loss prepares the targets, and gets the mixed ones.
        splits: has the targets.
        counted: the number of outputs of the model: of classes.
        dtype: of the weights.

    Raises:
        ConfigError: the task or the loss does not take mixed targets.
    """
    if augment.mixing is None:
        return augment
    name = "mixup" if augment.mixing.mixup else "cutmix"
    loss, (num_outputs,) = task.loss, counted
    if not isinstance(task, Supervised) or loss is None or num_outputs is None or not is_shape(splits.input_shape):
        text = f"{KEY}.{name}.alpha: only task=supervised with one tensor of inputs takes mixed samples"
        raise ConfigError(Problem(f"{KEY}.{name}.alpha", text, f"write {KEY}.{name}.alpha=0", topic="conflict"))
    sample = torch.as_tensor(splits.train.sample(0)[1]).unsqueeze(0)
    targets = loss.prepare(sample, dtype).repeat_interleave(2, 0)
    classes = None if targets.is_floating_point() else num_outputs
    mixing = replace(augment.mixing, classes=classes, dtype=dtype)
    key = f"{KEY}.{name}.alpha"
    off = f"write {key}=0"
    if classes is not None and loss.ignore_index is not None:
        text = f"{key}: samples whose target is ignored (loss.ignore_index={loss.ignore_index}) cannot be mixed"
        raise ConfigError(Problem(key, text, off, topic="conflict"))
    if classes is not None and targets.ndim != 1:
        text = f"{key}: loss={name_of(loss)} has targets of shape {tuple(targets.shape[1:])}, not one class a sample"
        raise ConfigError(Problem(key, text, off, topic="conflict"))
    try:
        _, mixed = mixing(torch.zeros(2, *splits.input_shape, dtype=dtype), targets, seed=0)
        value = loss(torch.zeros(2, num_outputs, dtype=dtype), mixed)
    except Exception as error:  # of a user's loss
        text = f"{key}: loss={name_of(loss)} does not take the probabilities of mixed classes ({describe_error(error)})"
        raise ConfigError(Problem(key, text, off, topic="conflict")) from error
    if not torch.isfinite(value).all():
        text = f"{key}: loss={name_of(loss)} of mixed targets is {value.item():g}"
        raise ConfigError(Problem(key, text, off, topic="conflict"))
    return replace(augment, mixing=mixing)
