"""The parts of training that the loop names, in their order, and that an unprofiled training pays nothing for them."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from helpers.training import divided, training
from runner.training.loop import fit
from runner.training.spans import each, no_span


class Recorder:
    """A span that records when parts begin and end."""

    def __init__(self) -> None:
        self.parts: list[str] = []
        self.open: list[str] = []

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        self.parts.append("/".join([*self.open, name]))
        self.open.append(name)
        yield
        self.open.pop()


STEP = ["epoch/data", "epoch/forward", "epoch/backward", "epoch/step"]


def test_the_loop_names_its_parts_in_order(tmp_path: Path) -> None:
    state = training(tmp_path, epochs=2, batch_size=50, validate_every_steps=1)  # 81 samples: two steps an epoch
    state.span = span = Recorder()
    fit(state)
    within = [*STEP, "epoch/validation", "epoch/logging", "epoch/checkpoint"]  # each loss is lower than the one before
    end = ["epoch/validation", "epoch/logging", "epoch/checkpoint"]
    assert span.parts == 2 * ["epoch", *within, *within, *end]
    assert not span.open


def test_accumulated_batches_share_a_step_and_metrics_by_step_are_logged(tmp_path: Path) -> None:
    state = training(
        tmp_path, splits=divided(val_fraction=0), batch_size=51, epochs=1, grad_accumulation=2, log_every_steps=1
    )
    state.span = span = Recorder()
    fit(state)
    assert span.parts == ["epoch", *STEP[:-1], *STEP, "epoch/logging", "epoch/logging", "epoch/checkpoint"]


def test_without_a_profiler_a_span_is_one_shared_context_and_batches_pass_through(tmp_path: Path) -> None:
    assert training(tmp_path).span is no_span
    assert no_span("forward") is no_span("step")
    items = iter([1, 2])
    assert each(no_span, "data", items) is items


def test_fetching_an_item_is_a_part_and_using_it_is_none() -> None:
    span = Recorder()
    for item in each(span, "data", ["a", None, "b"]):
        assert not span.open, item
    assert span.parts == 4 * ["data"]  # the last one finds no item


def test_an_error_while_fetching_passes() -> None:
    def failing() -> Iterator[int]:
        yield 1
        raise ValueError("no sample")

    items = each(Recorder(), "data", failing())
    assert next(iter(items)) == 1
    with pytest.raises(ValueError, match="no sample"):
        list(items)
