"""`data.sampler` and `data.sample_weight`: how often an epoch has a training sample."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from runner.errors import ConfigError, Problem
from runner.util.rng import make_generator

SAMPLERS = ("shuffle", "balanced", "weighted")
SAMPLER, SAMPLE_WEIGHT = "data.sampler", "data.sample_weight"


@dataclass(frozen=True)
class Sampling:
    """How an epoch is drawn.

    Attributes:
        sampler: `shuffle`: each sample once; `balanced`: with replacement, all classes equally often; `weighted`: with
            replacement, by `sample_weight`.
        sample_weight: the column or array of the weights.
    """

    sampler: str = "shuffle"
    sample_weight: str | None = None

    def problems(self, why: str = "") -> list[Problem]:
        """Return what is wrong in the two settings.

        Args:
            why: no sample can be chosen; empty if it can.
        """
        if why and (self.sampler != "shuffle" or self.sample_weight is not None):
            key, value = (SAMPLER, self.sampler) if self.sampler != "shuffle" else (SAMPLE_WEIGHT, self.sample_weight)
            default = "shuffle" if key == SAMPLER else "null"
            return [Problem(key, f"{key}={value}: {why}", f"write {key}={default}", topic="conflict")]
        if self.sampler == "weighted" and self.sample_weight is None:
            text = f"{SAMPLER}=weighted needs the weights of the samples"
            return [Problem(SAMPLE_WEIGHT, text, f"write {SAMPLE_WEIGHT}=<a column or an array>", topic="missing")]
        if self.sampler != "weighted" and self.sample_weight is not None:
            text = f"{SAMPLE_WEIGHT}={self.sample_weight}: {SAMPLER}={self.sampler} uses no weights"
            return [Problem(SAMPLE_WEIGHT, text, f"write {SAMPLER}=weighted", topic="conflict")]
        return []


SHUFFLE = Sampling()


def weights_of_classes(targets: Any) -> Tensor:
    """Return weights (N,), float64, with which each class is drawn equally often.

    Raises:
        ConfigError: there are no classes.
    """
    if not isinstance(targets, Tensor) or targets.is_floating_point() or targets.ndim != 1:
        text = f"{SAMPLER}=balanced needs classes: targets of one whole number for each sample"
        raise ConfigError(Problem(SAMPLER, text, f"write {SAMPLER}=shuffle", topic="conflict"))
    _, members, counts = targets.unique(return_inverse=True, return_counts=True)
    return 1 / counts[members].double()


def weights_of_column(name: str, values: Sequence[Any]) -> Tensor:
    """Return a column as weights (N,), float64.

    Raises:
        ConfigError: they are no weights: not numbers, negative, not finite, or all 0.
    """
    text = ""
    try:
        weights = torch.tensor([float(value) for value in values], dtype=torch.float64)
    except (TypeError, ValueError):
        text = "is not a number for each sample"
    else:
        if not bool(weights.isfinite().all()) or bool((weights < 0).any()):
            text = "has values below 0, or that are not finite"
        elif not weights.sum():
            text = "has no value above 0"
    if text:
        instead = "name weights of at least 0"
        raise ConfigError(Problem(SAMPLE_WEIGHT, f"{SAMPLE_WEIGHT}={name} {text}", instead, topic="data"))
    return weights


@dataclass(frozen=True)
class Nearby:
    """Samples that are read together, as they lie in one file: an epoch has them near one another.

    Attributes:
        files: the number of the file of each sample (N,); those of a file follow one another.
        window: how many places a sample may move within the order of the files.
    """

    files: Tensor
    window: int

    def take(self, index: Any) -> "Nearby":
        """Return the same for some of the samples."""
        return Nearby(self.files[index], self.window)

    def order(self, generator: torch.Generator) -> Tensor:
        """Shuffle the files, and then the samples: each goes to a random place at most `window` later.

        That is what a buffer does which samples pass through; without its state, as all draws are made at once.
        """
        samples = len(self.files)
        if self.window >= samples:
            return torch.randperm(samples, generator=generator)
        _, number = self.files.unique_consecutive(return_inverse=True)
        place_of_file = torch.randperm(int(number[-1]) + 1, generator=generator)
        by_file = place_of_file[number].argsort(stable=True)
        moved = torch.rand(samples, dtype=torch.float64, generator=generator) * self.window
        return by_file[(moved + torch.arange(samples)).argsort(stable=True)]


def epoch_order(
    samples: int, seed: int, epoch: int, weights: Tensor | None = None, nearby: Nearby | None = None
) -> Tensor:
    """Return the order of the samples in an epoch, on the CPU.

    Args:
        samples: their number, also that of the epoch.
        seed: the run's.
        epoch: from 1.
        weights: (samples,), float64: by which they are drawn with replacement; None returns a permutation.
        nearby: which samples are read together; not used if they are drawn by weights.
    """
    generator = make_generator("order", seed, epoch)
    if weights is None and nearby is not None:
        return nearby.order(generator)
    if weights is None:
        return torch.randperm(samples, generator=generator)
    bounds = weights.cumsum(0)  # not `multinomial`, which takes at most 2^24 weights
    draws = torch.rand(samples, dtype=torch.float64, generator=generator) * bounds[-1]
    return torch.searchsorted(bounds, draws, right=True).clamp_(max=samples - 1)
