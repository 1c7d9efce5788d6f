"""What does not go together, though each part is right for itself: seen before anything starts."""

from collections.abc import Mapping, Sequence
from typing import Any

from torch.optim.lr_scheduler import ReduceLROnPlateau

from runner.config.settings import TrainerSettings
from runner.data.splits import Splits
from runner.errors import ConfigError, did_you_mean
from runner.loss import Loss, name_of
from runner.rundir.checkpoint import not_held
from runner.scheduler import Schedule

VALUES_SHOWN = 6
MANY = 20  # classes: more of them, of which few samples have the same, are taken for numbers


def monitor(trainer: TrainerSettings, loss: Loss, splits: Splits | None) -> list[str]:
    """See that what the trainer watches will be measured.

    Args:
        trainer: what it watches.
        loss: what it measures.
        splits: the data; None if they could not be had.

    Returns:
        A sentence for each thing that will not.
    """
    problems = []
    part = trainer.monitor.partition("/")[0]
    measured = [f"{name}/{value}" for name in ("val", "train") for value in ("loss", *loss.metrics)]
    if trainer.monitor not in measured:
        hint = did_you_mean(trainer.monitor, measured)
        problems.append(f"trainer.monitor={trainer.monitor} is not measured with loss={name_of(loss)}: {hint}")
    if splits is None or splits.val is not None:
        return problems
    if part == "val" and trainer.early_stopping.patience is not None:
        problems.append(
            "trainer.early_stopping.patience needs validation samples:"
            " write data.val_fraction=0.2, or trainer.monitor=train/loss"
        )
    if trainer.validate_every_steps is not None:
        problems.append(
            "trainer.validate_every_steps needs validation samples: write data.val_fraction=0.2, or null for it"
        )
    return problems


def outputs(model: Any, loss: Loss) -> list[str]:
    """See that the loss gets the logits that it takes."""
    activation = model.get("output_activation") if isinstance(model, Mapping) else None
    if activation is None or type(loss).probabilities is Loss.probabilities:
        return []
    return [f"model.output_activation={activation}: loss={name_of(loss)} takes logits; write null, or loss=mse"]


def probabilities(activation: str | None, loss: Loss) -> list[str]:
    """What looks like a mistake, and may be meant: a model of probabilities, and a loss that makes them itself.

    Args:
        activation: the function that gives the model's outputs, if one does. A log_softmax is left out: cross entropy
            leaves it as it is.
        loss: that the outputs are given to.
    """
    if activation not in ("softmax", "sigmoid") or type(loss).probabilities is Loss.probabilities:
        return []
    return [
        f"the model ends in a {activation}, and loss={name_of(loss)} applies one itself: let the model return what"
        f" it has before its {activation}"
    ]


def classes(loss: Loss, splits: Splits) -> None:
    """See that whole targets are classes where the loss takes them as such: two or more; without names 0, 1, ...

    Raises:
        ConfigError: they may be something else.
    """
    targets = splits.all_targets
    if loss.takes != "classes" or targets is None or targets.is_floating_point() or targets.ndim != 1:
        return
    values = targets.unique().tolist()
    named = "data.classes={}" if splits.name == "tensors" else "Source(classes=[{} names])"
    if len(splits.classes or values) == 1:
        only = splits.classes[0] if splits.classes else values[0]
        rare = f", or, if others are rare, write {named.format(max(values[0] + 1, 2))}" if not splits.classes else ""
        raise ConfigError(
            f"data={splits.name}: all {len(targets)} samples are of one class, {only}; give samples of another{rare};"
            " for numbers write loss=mse"
        )
    if splits.classes is not None:
        return
    counted = values == list(range(len(values)))
    if counted and splits.untrained:
        raise ConfigError(
            f"data={splits.name}: validation or test samples have classes that the training part lacks:"
            f" {_first_of(splits.untrained)}; correct them, or, if these are rare, write {named.format(len(values))}"
        )
    if counted and not (len(values) > MANY and 2 * len(values) > len(targets)):
        return
    shown = _first_of(values)
    if counted:
        what, instead = f"{len(values)} classes for {len(targets)} samples", f"write {named.format(len(values))}"
    elif values[0] < 0:
        what, instead = f"classes count from 0, these are {shown}", "store them as 0, 1, ..."
    else:
        what = f"no sample has some of the classes 0 to {values[-1]}: there are {shown}"
        instead = f"store them as 0 to {len(values) - 1}, or, if some are rare, write {named.format(values[-1] + 1)}"
    raise ConfigError(f"data={splits.name}: {what}; for classes {instead}; for numbers write loss=mse")


def _first_of(values: Sequence[int]) -> str:
    return ", ".join(map(str, values[:VALUES_SHOWN])) + (", ..." if len(values) > VALUES_SHOWN else "")


def plateau(schedule: Schedule, trainer: TrainerSettings, splits: Splits) -> None:
    """See that a schedule that waits for a metric gets it.

    Raises:
        ConfigError: it will not be measured.
    """
    if isinstance(schedule.scheduler, ReduceLROnPlateau) and trainer.monitor.startswith("val/") and splits.val is None:
        raise ConfigError(
            "scheduler=plateau needs validation samples: write data.val_fraction=0.2, or trainer.monitor=train/loss"
        )


def state(held: Mapping[str, Any]) -> None:
    """See that a checkpoint can hold the state that a run begins with.

    Args:
        held: what `state_dict` of each object gives.

    Raises:
        ConfigError: it cannot: the run could be neither resumed nor tested. The sentence names the place.
    """
    if problem := not_held(held):
        raise ConfigError(problem)
