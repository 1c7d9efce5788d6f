"""`loss=auto`: the loss that the targets ask for. A run records it by its own name, as if it had been typed."""

import inspect
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from torch import Tensor

from runner.assembly.target import locate
from runner.config.keys import CHOSEN_LATER, format_value
from runner.errors import ConfigError, Problem
from runner.loss import Loss
from runner.util.ranges import Range

PATHS = {
    "cross_entropy": "runner.loss.CrossEntropy",
    "mse": "runner.loss.MSE",
    "bce_with_logits": "runner.loss.BCEWithLogits",
}
"""The losses that are chosen, by their names in `conf/loss/`."""


def auto(
    label_smoothing: Annotated[float | None, Range(0, 1)] = None,
    class_weight: Annotated[Literal["balanced"] | Sequence[float] | None, Range(0)] = None,
    ignore_index: int | None = None,
) -> Loss:
    """Stand for the loss that `resolve` chooses; it is never called.

    Args:
        label_smoothing: passed on to the chosen loss; None leaves it its own value.
        class_weight: likewise.
        ignore_index: likewise.
    """
    raise NotImplementedError("resolve() replaces loss=auto before anything is built")


def is_auto(node: Mapping[str, Any]) -> bool:
    """Whether a config leaves the loss to the targets."""
    return isinstance(node, Mapping) and node.get("_target_") == f"{auto.__module__}.{auto.__name__}"


def resolve(
    node: Mapping[str, Any], targets: Any, classes: Sequence[str] | None = None, default: str | None = None
) -> dict[str, Any]:
    """Replace `loss=auto` by the loss that the task or the targets ask for.

    Args:
        node: the group `loss`, of a resolved config; any other loss stays.
        targets: of all samples, as the data set returns them.
        classes: the names of the classes; None if they have none.
        default: the name of the task's own choice, if it has one.

    Returns:
        The group as if the loss had been typed, with the keys that were set for `auto`.

    Raises:
        ConfigError: the chosen loss does not take one of these keys; or nothing tells which loss to choose.
    """
    if not is_auto(node):
        return dict(node)
    if default is not None:
        name, reason = default, "the task asks for it"
    elif isinstance(targets, Tensor):
        name, reason = choose(targets, classes)
    else:
        text = "loss=auto cannot choose a loss: the targets are not a single tensor"
        raise ConfigError(Problem("loss", text, "write the loss, such as loss=cross_entropy", topic="conflict"))
    keys = _keys(name)
    typed = {key: value for key, value in node.items() if key != "_target_" and value is not None}
    problems = []
    for key in sorted(typed.keys() - keys.keys()):
        text = f"loss.{key}={format_value(typed[key])}: loss=auto chose {name}, as {reason}"
        instead = f"leave it out, or choose {takers}" if (takers := _takers(key)) else "leave it out"
        problems.append(Problem(f"loss.{key}", text, instead, topic="conflict"))
    if problems:
        raise ConfigError(*problems)
    return {"_target_": PATHS[name], **keys, **typed}


def check(node: Mapping[str, Any]) -> list[Problem]:
    """Find the keys of other losses that were set for one of runner's: Hydra accepts them for `loss=auto`."""
    name = name_of(node)
    if name is None:
        return []
    return [
        Problem(
            key,
            f"{key}={format_value(node[leaf])}: unknown key {key}",
            f"choose {_takers(leaf)} to set it",
            topic="unknown",
        )
        for key in CHOSEN_LATER
        if (leaf := key.partition(".")[2]) in node and leaf not in _keys(name)
    ]


def _keys(name: str) -> dict[str, Any]:
    """Return the keys that a loss takes, with their own values."""
    parameters = inspect.signature(locate("loss", {"_target_": PATHS[name]})).parameters.values()
    return {one.name: one.default for one in parameters if one.kind in (one.POSITIONAL_OR_KEYWORD, one.KEYWORD_ONLY)}


def _takers(key: str) -> str:
    """Name the losses that take a key."""
    return " or ".join(f"loss={name}" for name in PATHS if key in _keys(name))


def choose(targets: Tensor, classes: Sequence[str] | None = None) -> tuple[str, str]:
    """Choose a loss.

    Integers are classes: one a sample, or one for each pixel. Several integers or floats a sample that are all 0 or 1
    are labels, each of them yes or no. All else are numbers.

    Returns:
        Its name, and the reason.
    """
    yes_or_no = targets.numel() > 0 and bool(((targets == 0) | (targets == 1)).all())
    if targets.is_floating_point():
        if yes_or_no:
            return "bce_with_logits", "the targets are floats of 0 or 1"
        return "mse", "the targets are numbers"
    if targets.ndim == 2 and classes is None:
        if yes_or_no:
            return "bce_with_logits", "the targets are several labels of 0 or 1"
        return "mse", "the targets are several numbers a sample"
    return "cross_entropy", "the targets are classes"


def name_of(node: Mapping[str, Any]) -> str | None:
    """Return the name of a resolved loss in `conf/loss/`; None if it is another one."""
    return next((name for name, path in PATHS.items() if path == node.get("_target_")), None)
