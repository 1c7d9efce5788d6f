"""`data.sampler` and `data.sample_weight`: how often a sample is in an epoch."""

from typing import Any

import pytest
import torch
from torch.utils.data import IterableDataset

from helpers.problems import about, problem_of
from helpers.training import loaders, same
from runner.data.sampling import Sampling, epoch_order
from runner.data.source import Source
from runner.data.splits import Splits
from runner.data.splitting import split

LABELS = torch.tensor([0] * 900 + [1] * 100)
INPUTS = torch.arange(1000.0).unsqueeze(1)
WEIGHTS = [0.0] * 500 + [1.0] * 400 + [3.0] * 100


def divided(samples: Any = None, sampler: str = "shuffle", sample_weight: str | None = None, **more: Any) -> Splits:
    source = Source("s", (INPUTS, LABELS) if samples is None else samples, arrays={"w": WEIGHTS, "text": ["a"] * 1000,
                    "negative": [-1.0] * 1000, "zero": [0] * 1000})  # fmt: skip
    values: dict[str, Any] = {"val_fraction": 0.2, "limit": None, "seed": 0}
    return split(source, sampling=Sampling(sampler, sample_weight), **(values | more))


def epoch(splits: Splits, number: int = 1, **arguments: Any) -> tuple[torch.Tensor, torch.Tensor]:
    made = loaders(splits, prepare=lambda targets, dtype: targets, batch_size=64, **arguments)
    inputs, targets = zip(*made.train.epoch(number), strict=True)
    return torch.cat(inputs), torch.cat(targets)


def test_classes_are_equally_frequent() -> None:
    splits = divided(sampler="balanced")
    inputs, targets = epoch(splits)
    assert len(inputs) == 800 and 340 < int(targets.sum()) < 460
    assert not same(inputs, epoch(splits, 2)[0]) and same(inputs, epoch(splits)[0])
    assert splits.val is not None and int(splits.val.targets.sum()) < 40, "only training samples are drawn"


def test_samples_are_as_frequent_as_their_weights() -> None:
    splits = divided(sampler="weighted", sample_weight="w")
    inputs, targets = epoch(splits)
    assert inputs.min() >= 500, "those of weight 0 never"
    assert 270 < int(targets.sum()) < 420  # 3 * 80 of 3 * 80 + 320
    assert int(divided(sampler="weighted", sample_weight="w", limit=100).weights.numel()) == 80  # type: ignore[union-attr]


@pytest.mark.parametrize("num_workers", [0, 1])
def test_the_draws_do_not_depend_on_how_samples_are_read(num_workers: int) -> None:
    splits = divided(list(zip(INPUTS, LABELS.tolist(), strict=True)), "balanced")
    assert same(list(epoch(splits)), list(epoch(splits, in_memory=False, num_workers=num_workers)))
    made = loaders(splits, prepare=lambda targets, dtype: targets, in_memory=False)
    assert same(list(made.train.epoch(2, 90)), list(made.without_workers().train.epoch(2))[90:])


def test_weights_of_one_sample_alone() -> None:
    weights = torch.zeros(10, dtype=torch.float64)
    weights[[0, 9]] = 1
    assert set(epoch_order(10, 0, 1, weights).tolist()) == {0, 9}
    assert same(epoch_order(10, 0, 1), epoch_order(10, 0, 1, None))


class Stream(IterableDataset[Any]):
    def __iter__(self) -> Any:
        yield INPUTS[0], 1


@pytest.mark.parametrize(
    ("arguments", "key", "topic"),
    [
        ({"sampler": "weighted"}, "data.sample_weight", "missing"),
        ({"sample_weight": "w"}, "data.sample_weight", "conflict"),
        ({"sampler": "balanced", "sample_weight": "w"}, "data.sample_weight", "conflict"),
        ({"sampler": "balanced", "samples": (INPUTS, INPUTS)}, "data.sampler", "conflict"),
        ({"sampler": "weighted", "sample_weight": "text"}, "data.sample_weight", "data"),
        ({"sampler": "weighted", "sample_weight": "negative"}, "data.sample_weight", "data"),
        ({"sampler": "weighted", "sample_weight": "zero"}, "data.sample_weight", "data"),
        ({"sampler": "weighted", "sample_weight": "weight"}, "data.sample_weight", "unknown"),
        ({"sampler": "balanced", "samples": Stream(), "samples_per_epoch": 8, "val_fraction": None}, "data.sampler",
         "conflict"),
    ],
)  # fmt: skip
def test_what_cannot_be_drawn_so_is_refused(arguments: dict[str, Any], key: str, topic: str) -> None:
    assert about([problem_of(lambda: divided(**arguments))]) == [(key, topic)]
