"""A batch, or the share of a rank, that has a single sample: BatchNorm has no variance of one value."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import nn

from conftest import Called
from helpers.composed import built
from helpers.problems import problem_of
from helpers.tasks import Normed
from runner.assembly.smallest_batch import check_smallest_batch
from runner.data.splits import Splits
from runner.data.tensor_part import TensorPart
from runner.device import Device
from runner.errors import ConfigError
from runner.strategy.ddp import DDP
from runner.strategy.single import Single
from runner.task.supervised import Supervised
from runner.util.ranks import Ranks

Runner = Callable[..., Called]


CPU, GPU = Device("cpu", torch.device("cpu"), 1), Device("cuda", torch.device("cuda"), 1)


@pytest.fixture(scope="module")
def digits() -> Splits:
    return built("data.limit=64").splits


def check(digits: Splits, samples: int, batch_size: int, ranks: int, device: Device = CPU, own: bool = False) -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 10), *([] if own else [nn.BatchNorm1d(10)]))
    splits = replace(digits, train=TensorPart(*digits.train.take(torch.arange(samples)).tensors))
    strategy = Single() if ranks == 1 else DDP(Ranks(0, ranks, 0, ranks))
    task = Normed() if own else Supervised()
    check_smallest_batch(task, model, splits, batch_size, torch.float32, strategy, device)


@pytest.mark.parametrize("own", (False, True))
@pytest.mark.parametrize(
    ("samples", "batch_size", "ranks", "suggested"),
    [(21, 20, 1, 19), (3, 2, 1, 3), (5, 1, 1, 3), (7, 2, 1, 4), (27, 24, 2, 23), (27, 3, 2, 7), (37, 8, 3, 10)],
)
def test_the_suggested_batch_size_leaves_no_sample_alone(
    digits: Splits, samples: int, batch_size: int, ranks: int, suggested: int, own: bool
) -> None:
    problem = problem_of(lambda: check(digits, samples, batch_size, ranks, own=own))
    assert (problem.key, problem.topic) == ("data.batch_size", "conflict")
    assert problem.suggestion is not None
    assert problem.suggestion.split(",")[0] == f"write data.batch_size={suggested}"
    check(digits, samples, suggested, ranks, own=own)


def test_ranks_that_normalise_together_are_one(digits: Splits) -> None:
    check(digits, 27, 24, 2, GPU)
    with pytest.raises(ConfigError):
        check(digits, 25, 24, 2, GPU)


def test_too_few_samples_for_any_size(digits: Splits) -> None:
    assert problem_of(lambda: check(digits, 5, 3, 3)).suggestion == "train on more samples, or start fewer ranks"


def test_a_last_batch_of_one_sample_that_batch_norm_cannot_take(runner: Callable[..., Called]) -> None:
    small = ("model=cnn", "model.batch_norm=true", "model.strides=[2,2,2]", "tracking=off", "trainer.epochs=1")
    called = runner(*small, "data.limit=26", "data.batch_size=20")  # 8x8 pixels become one; 21 training samples
    assert called.code == 2
    assert called.about == [("data.batch_size", "conflict")]
    assert called.problems[0].suggestion == "write data.batch_size=19"
    assert runner(*small, "data.limit=26", "data.batch_size=19").code == 0
