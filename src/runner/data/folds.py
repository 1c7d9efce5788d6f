"""`data.folds` and `data.fold`: the training part in folds, one of which is the validation part.

The folds are those of scikit-learn's splitters, with the run's seed as their `random_state`. They depend on the data,
their number and the seed alone, so that all runs of a cross-validation have the same ones.
"""

import warnings
from collections.abc import Hashable, Sequence

import numpy as np
import torch
from torch import Tensor

from runner.data.division import SPLIT, SPLIT_BY, Division, classes_of
from runner.errors import ConfigError, Problem

FOLDS, FOLD = "data.folds", "data.fold"
SEEDS = 2**32
"""Of NumPy's generator, which the splitters use."""


def hold_out_fold(
    samples: Tensor, how: Division, targets: Tensor | None, groups: Sequence[Hashable] | None, seed: int
) -> Tensor:
    """Choose the samples of the fold that is held out.

    Args:
        samples: the indices of the samples that are divided, in the order of the data.
        how: the rule; with `folds` and `fold`.
        targets: of all samples, for a stratified split.
        groups: of all samples; None if there are none.
        seed: the run's.

    Returns:
        Their indices, in the order of the data.

    Raises:
        ConfigError: there are too few samples, groups, or samples of a class.
    """
    assert how.folds is not None and how.fold is not None
    labels = classes_of(targets)[samples].numpy() if how.split == "stratified" else None
    of_sample = None if groups is None else _numbered([groups[index] for index in samples.tolist()])
    _check_counts(len(samples), how, labels, of_sample)
    members = _divide(len(samples), how, labels, of_sample, seed)[how.fold]
    if not 0 < len(members) < len(samples):  # of groups by class
        text = f"{FOLDS}={how.folds}: groups of {SPLIT_BY}={how.split_by} make no {how.folds} folds with samples"
        raise ConfigError(Problem(FOLDS, text, f"write fewer folds, or {SPLIT}=random", topic="data"))
    return samples[torch.from_numpy(members)]


def _numbered(groups: Sequence[Hashable]) -> np.ndarray:
    """Number groups in the order in which they appear, (N,)."""
    numbers = {group: number for number, group in enumerate(dict.fromkeys(groups))}
    return np.array([numbers[group] for group in groups])


def _check_counts(samples: int, how: Division, labels: np.ndarray | None, groups: np.ndarray | None) -> None:
    """Check that there is something of each for each fold.

    Raises:
        ConfigError: there is not.
    """
    assert how.folds is not None
    counts = {f"{samples} training samples": samples}
    if groups is not None:
        number = int(groups.max()) + 1
        counts[f"{number} group{'s' * (number > 1)} of {SPLIT_BY}={how.split_by}"] = number
    if labels is not None:
        classes, members = np.unique(labels, return_counts=True)
        least = int(members.min())
        counts[f"{least} sample{'s' * (least > 1)} of class {classes[members.argmin()]}"] = least
    what, least = min(counts.items(), key=lambda pair: pair[1])
    if least < how.folds:
        instead = f"write {FOLDS}={least}, or fewer" if least > 1 else f"write {FOLDS}=null"
        by_class = labels is not None and "of class" in what
        instead += f", or {SPLIT}=random" if by_class else ""
        text = f"{FOLDS}={how.folds}: there {'is' if least == 1 else 'are'} only {what}"
        raise ConfigError(Problem(FOLDS, text, instead, topic="data"))


def _divide(
    samples: int, how: Division, labels: np.ndarray | None, groups: np.ndarray | None, seed: int
) -> list[np.ndarray]:
    """Return the places of the members of each fold."""
    from sklearn.model_selection import KFold, StratifiedGroupKFold, StratifiedKFold  # late: it takes a second

    shuffled = how.split != "sequential"
    options = {"n_splits": how.folds, "shuffle": shuffled, "random_state": seed % SEEDS if shuffled else None}
    every = np.arange(samples)
    if labels is not None and groups is not None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # of a class with few groups
            return [members for _, members in StratifiedGroupKFold(**options).split(every, labels, groups)]
    if labels is not None:
        return [members for _, members in StratifiedKFold(**options).split(every, labels)]
    if groups is not None:
        of_groups = KFold(**options).split(np.arange(groups.max() + 1))
        return [np.flatnonzero(np.isin(groups, members)) for _, members in of_groups]
    return [members for _, members in KFold(**options).split(every)]
