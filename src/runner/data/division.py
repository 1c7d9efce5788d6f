"""`data.split` and `data.split_by`: which training samples are held out for validation."""

import warnings
from collections import Counter
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from fractions import Fraction

import torch
from torch import Tensor

from runner.errors import ConfigError, Problem

SPLITS = ("random", "stratified", "sequential")
SPLIT, SPLIT_BY = "data.split", "data.split_by"
FOLDS = 10  # at most, of groups by class: their time grows with groups times folds, 1 s for about 2,000 groups of ten


@dataclass(frozen=True)
class Division:
    """How validation samples are held out of a training part.

    Attributes:
        split: `random`, `stratified` (each class with its share) or `sequential` (the last samples).
        split_by: the column or array whose values are groups; no group is in both parts. None: there are no groups.
        folds: the number of folds; None: a share is held out.
        fold: the one that is held out, from 0.
    """

    split: str = "random"
    split_by: str | None = None
    folds: int | None = None
    fold: int | None = None

    def problems(self, why: str) -> list[Problem]:
        """Return a problem for each setting that is not the default.

        Args:
            why: nothing is held out.
        """
        typed: list[tuple[str, object, object]] = [
            (SPLIT, self.split, "random"), (SPLIT_BY, self.split_by, None), ("data.folds", self.folds, None)
        ]  # fmt: skip
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
        count: how many to hold out; of groups, at least as many, or about as many if they are divided by class.
        how: the rule.
        targets: of all samples, for a stratified split.
        groups: of all samples; None if there are none.

    Returns:
        Their indices.

    Raises:
        ConfigError: the samples have no classes to divide by, or a single group.
    """
    if how.split == "stratified":
        labels = classes_of(targets)[order]
        if groups is not None:
            return _hold_out_groups_by_class(order, count, how, labels, groups)
        return _hold_out_by_class(order, count, labels)
    if groups is not None:
        return _hold_out_groups(order, count, how, groups)
    return order[-count:] if how.split == "sequential" and count else order[:count]


def classes_of(targets: Tensor | None) -> Tensor:
    """Return targets that are classes.

    Raises:
        ConfigError: they are not.
    """
    if targets is None or targets.is_floating_point() or targets.ndim != 1:
        text = f"{SPLIT}=stratified needs classes: targets of one whole number for each sample"
        raise ConfigError(Problem(SPLIT, text, f"write {SPLIT}=random", topic="conflict"))
    return targets


def _hold_out_by_class(order: Tensor, count: int, labels: Tensor) -> Tensor:
    """Hold out of each class its share; what rounding leaves goes to the classes that lost most by it."""
    classes, members = labels.unique(return_inverse=True)
    shares = torch.bincount(members, minlength=len(classes)).double() * count / len(order)
    counts = shares.floor().long()
    largest = (shares - counts).sort(descending=True, stable=True).indices
    counts[largest[: count - int(counts.sum())]] += 1
    held_out = [(members == number).nonzero().flatten()[:some] for number, some in enumerate(counts.tolist())]
    return order[torch.cat(held_out)]


def _hold_out_groups(order: Tensor, count: int, how: Division, groups: Sequence[Hashable]) -> Tensor:
    """Hold out whole groups, in the order in which they first appear, until there are enough samples."""
    of_sample = _groups_of(order, how, groups)
    if how.split == "sequential":
        of_sample.reverse()
        order = order.flip(0)
    chosen = first_groups(of_sample, count)
    return order[torch.tensor([group in chosen for group in of_sample])]


def _hold_out_groups_by_class(
    order: Tensor, count: int, how: Division, labels: Tensor, groups: Sequence[Hashable]
) -> Tensor:
    """Hold out some of scikit-learn's folds of whole groups: number and classes are about right, as groups allow."""
    of_sample = _groups_of(order, how, groups)
    numbers = {group: number for number, group in enumerate(dict.fromkeys(of_sample))}  # so that the seed breaks ties
    most = min(FOLDS, len(numbers), int(labels.unique(return_counts=True)[1].max()))
    if most < 2:
        text = f"{SPLIT}=stratified: no class has two samples"
        raise ConfigError(Problem(SPLIT, text, f"write {SPLIT}=random", topic="data"))
    share = Fraction(count, len(order)).limit_denominator(most)
    folds = share.denominator if 0 < share < 1 else most
    from sklearn.model_selection import StratifiedGroupKFold  # late: it takes a second

    fold_of = torch.zeros(len(order), dtype=torch.long)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of a class with fewer samples than folds
        divided = StratifiedGroupKFold(folds).split(labels, labels, [numbers[group] for group in of_sample])
        for number, (_, members) in enumerate(divided):
            fold_of[members] = number
    # Any of the folds: the largest groups are always in the same one. The first sample of the order is the seed's.
    by_seed = torch.randperm(folds, generator=torch.Generator().manual_seed(int(order[0])))
    return order[torch.isin(fold_of, by_seed[: min(max(share.numerator, 1), folds - 1)])]


def _groups_of(order: Tensor, how: Division, groups: Sequence[Hashable]) -> list[Hashable]:
    of_sample = [groups[index] for index in order.tolist()]
    if len(set(of_sample)) < 2:
        text = f"{SPLIT_BY}={how.split_by}: all {len(of_sample)} samples are of one group"
        raise ConfigError(Problem(SPLIT_BY, text, f"write {SPLIT_BY}=null", topic="data"))
    return of_sample


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
