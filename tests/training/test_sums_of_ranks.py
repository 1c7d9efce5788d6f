"""The sums of several ranks, of which some have not measured anything themselves."""

from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from typing import Any

import torch

from helpers.training import supervised
from runner.strategy import Single
from runner.task import Step
from runner.training.progress import Metrics
from runner.training.running_metrics import RunningMetrics

CPU = torch.device("cpu")


class Threads(Single):
    """A rank that is a thread."""

    def __init__(self, rank: int, values: list[Any], barrier: Barrier) -> None:
        self.rank, self.ranks = rank, len(values)
        self._values, self._barrier = values, barrier

    def gather(self, value: Any) -> list[Any]:
        self._barrier.wait(10)
        self._values[self.rank] = value
        self._barrier.wait(10)
        return list(self._values)

    def sum(self, value: Any) -> Any:
        parts = self.gather(value)
        assert len({part.shape for part in parts}) == 1
        return sum(parts)


def a_step(weight: Any, loss: float) -> Step:
    outputs, targets = torch.eye(3)[torch.tensor([0, 1, 2, 2])], torch.tensor([0, 1, 2, 1])
    return Step(torch.tensor(loss), weight, 4, outputs, targets, {"of_decoder": torch.tensor(2 * loss)})


def test_a_rank_that_got_only_padding_or_resumes_what_others_measured_adds_nothing() -> None:
    alone = RunningMetrics(supervised(), CPU)
    alone.add(a_step(torch.tensor(2.0), 0.5))
    saved = alone.state()
    alone.add(a_step(torch.tensor(4.0), 1.5))
    barrier, values = Barrier(3), [None] * 3

    def rank(number: int) -> Metrics:
        """Return what rank 0, which was resumed, rank 1, which goes on, and rank 2 without samples measure."""
        sums = RunningMetrics(supervised(), CPU, strategy=Threads(number, values, barrier))
        sums.reset(*(saved if number == 0 else ()))
        if number == 1:
            sums.add(a_step(torch.tensor(4.0), 1.5))
        return sums.means()

    with ThreadPoolExecutor(3) as pool:
        measured = list(pool.map(rank, range(3)))
    assert measured == [alone.means()] * 3
    assert measured[0].keys() == {"loss", "of_decoder", "accuracy"}
