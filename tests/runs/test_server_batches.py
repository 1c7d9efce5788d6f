"""Requests that wait are computed as one batch, and do not fail or delay each other."""

import asyncio
import threading
import time
from collections.abc import Callable, Iterator, Sequence

import pytest
import torch

from runner.runs.server.batches import Batches, Work, kind_of
from runner.util.trees import Tree


@pytest.fixture
def batches() -> Iterator[Batches]:
    made = Batches(most_rows=8)
    yield made
    made.close()


def work(values: list[float], compute: Callable[[Tree], Sequence[str]], form: str = "json") -> Work:
    inputs = torch.tensor(values)[:, None]
    return Work(inputs, len(values), kind_of(inputs, form), compute)


class Model:
    """Doubles numbers; refuses negative ones.

    Attributes:
        batches: the number of rows of each, and the thread that computed it.
    """

    def __init__(self, seconds: float = 0) -> None:
        self.seconds, self.batches = seconds, list[tuple[int, bool]]()

    def __call__(self, inputs: torch.Tensor) -> list[str]:
        self.batches.append((len(inputs), threading.current_thread() is threading.main_thread()))
        time.sleep(self.seconds)
        if bool((inputs < 0).any()):
            raise ValueError("negative")
        return [f"{2 * value:g}" for value in inputs.flatten().tolist()]


async def gather(batches: Batches, works: Sequence[Work]) -> list[object]:
    return list(await asyncio.gather(*map(batches.compute, works), return_exceptions=True))


def test_what_waits_is_one_batch_and_each_gets_its_own(batches: Batches) -> None:
    model = Model(0.05)

    async def ask() -> list[object]:
        first = asyncio.create_task(batches.compute(work([9], model)))
        await asyncio.sleep(0.02)
        return [*await gather(batches, [work([number, number + 0.5], model) for number in range(6)]), await first]

    *answers, first = asyncio.run(ask())
    assert first == ["18"]
    assert answers == [[f"{2 * number:g}", f"{2 * number + 1:g}"] for number in range(6)]
    assert [rows for rows, _ in model.batches] == [1, 8, 4], "at most 8 rows, and nothing waits for company"
    assert not any(in_loop for _, in_loop in model.batches), "what takes long is the thread's"


def test_other_shapes_and_forms_are_batches_of_their_own(batches: Batches) -> None:
    model = Model()
    wide = torch.zeros(1, 3)
    works = [work([1], model), work([2], model, "csv"), work([3], model), Work(wide, 1, kind_of(wide, "json"), model)]
    answers = asyncio.run(gather(batches, works))
    assert answers[:3] == [["2"], ["4"], ["6"]]
    assert sorted(rows for rows, _ in model.batches) == [1, 1, 2]


def test_a_failure_is_that_of_one_request(batches: Batches) -> None:
    model = Model()
    good, bad, other = asyncio.run(gather(batches, [work([1], model), work([-1], model), work([2], model)]))
    assert (good, other) == (["2"], ["4"]) and isinstance(bad, ValueError)

    def leaves(_: Tree) -> list[str]:
        raise SystemExit(3)

    (gone,) = asyncio.run(gather(batches, [work([1], leaves)]))
    assert isinstance(gone, RuntimeError) and batches.alive


def test_quick_batches_are_computed_by_the_loop_and_slow_ones_let_it_go_on(batches: Batches) -> None:
    quick, slow = Model(), Model(0.1)

    async def ask() -> int:
        for _ in range(5):
            await batches.compute(work([1], quick))
        asked = asyncio.create_task(batches.compute(work([1, 2, 3], slow)))  # larger than what was quick
        turns = 0
        while not asked.done():
            await asyncio.sleep(0.005)
            turns += 1
        return turns

    turns = asyncio.run(ask())
    assert quick.batches[0] == (1, False), "nothing is known of the first"
    assert any(in_loop for _, in_loop in quick.batches)
    assert [in_loop for _, in_loop in slow.batches] == [False] and turns > 2
