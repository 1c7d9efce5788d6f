"""`data.split` and `data.split_by`: which training samples are held out for validation."""

from collections import Counter
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from runner.errors import ConfigError, Problem

SPLITS = ("random", "stratified", "sequential")
SPLIT, SPLIT_BY = "data.split", "data.split_by"


@dataclass(frozen=True)
class Division:
    """How validation samples are held out of a training part.

    Attributes:
        split: `random`, `stratified` (each class with its share) or `sequential` (the last samples).
        split_by: the column or array whose values are groups; no group is in both parts. None: there are no groups.
    """

    split: str = "random"
    split_by: str | None = None

    def problems(self, why: str) -> list[Problem]:
        """Return a problem for each setting that is not the default.

        Args:
            why: nothing is held out.
        """
        typed = [(SPLIT, self.split, "random"), (SPLIT_BY, self.split_by, None)]
        return [
            Problem(key, f"{key}={value}: {why}", f"write {key}={default or 'null'}", topic="conflict")
            for key, value, default in typed
            if value != default
        ]


RANDOM = Division()


def hold_out(
    order: Tensor, count: int, how: Division, targets: Tensor | None, groups: Sequence[Hashable] | None
) -> Tensor:
    """Choose the samples that are held out.

    Args:
        order: the indices of the samples, shuffled unless the split is sequential.
        count: how many to hold out; of groups, at least as many.
        how: the rule.
        targets: of all samples, for a stratified split.
        groups: of all samples; None if there are none.

    Returns:
        Their indices.

    Raises:
        ConfigError: the samples have no classes, or a single group.
    """
    if groups is not None:
        return _hold_out_groups(order, count, how, groups)
    if how.split == "stratified":
        return _hold_out_by_class(order, count, targets)
    return order[-count:] if how.split == "sequential" and count else order[:count]


def _hold_out_by_class(order: Tensor, count: int, targets: Tensor | None) -> Tensor:
    """Hold out of each class its share; what rounding leaves goes to the classes that lost most by it."""
    if targets is None or targets.is_floating_point() or targets.ndim != 1:
        text = f"{SPLIT}=stratified needs classes: targets of one whole number for each sample"
        raise ConfigError(Problem(SPLIT, text, f"write {SPLIT}=random", topic="conflict"))
    classes, members = targets[order].unique(return_inverse=True)
    shares = torch.bincount(members, minlength=len(classes)).double() * count / len(order)
    counts = shares.floor().long()
    largest = (shares - counts).sort(descending=True, stable=True).indices
    counts[largest[: count - int(counts.sum())]] += 1
    held_out = [(members == number).nonzero().flatten()[:some] for number, some in enumerate(counts.tolist())]
    return order[torch.cat(held_out)]


def _hold_out_groups(order: Tensor, count: int, how: Division, groups: Sequence[Hashable]) -> Tensor:
    """Hold out whole groups, in the order in which they first appear, until there are enough samples."""
    if how.split == "stratified":
        text = f"{SPLIT}=stratified: {SPLIT_BY}={how.split_by} keeps groups together, which may be uneven by class"
        raise ConfigError(Problem(SPLIT, text, f"write {SPLIT}=random", topic="conflict"))
    of_sample = [groups[index] for index in order.tolist()]
    if how.split == "sequential":
        of_sample.reverse()
        order = order.flip(0)
    if len(set(of_sample)) < 2:
        text = f"{SPLIT_BY}={how.split_by}: all {len(of_sample)} samples are of one group"
        raise ConfigError(Problem(SPLIT_BY, text, f"write {SPLIT_BY}=null", topic="data"))
    chosen = first_groups(of_sample, count)
    return order[torch.tensor([group in chosen for group in of_sample])]


def first_groups(of_sample: Sequence[Hashable], count: int) -> set[Hashable]:
    """Return the groups that appear first and have at least `count` samples together; one at least is left out."""
    sizes = Counter(of_sample)
    chosen: set[Hashable] = set()
    samples = 0
    for group in list(sizes)[:-1]:
        if samples >= count:
            break
        chosen.add(group)
        samples += sizes[group]
    return chosen
