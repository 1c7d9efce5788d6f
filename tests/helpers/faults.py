"""Kill a run at a named point: each fault writes a note that it was reached, and ends the process with SIGKILL."""

import io
import os
import signal
import time
from collections.abc import Callable
from functools import partial, wraps
from pathlib import Path
from typing import Any

import torch

from helpers import forked, power
from runner.rundir import checkpoint
from runner.rundir.checkpoint import Checkpoints
from runner.rundir.journal import Journal
from runner.runs import phases, report
from runner.training import evaluation, loop, weighting

HIT = "hit.txt"


def die(point: str) -> None:
    """Kill this process."""
    Path(HIT).write_text(point)
    os.kill(os.getpid(), signal.SIGKILL)


def power_loss(point: str) -> None:
    """Kill this process and all processes that it has started."""
    for pid in forked.Forked.started:
        os.kill(pid, signal.SIGKILL)
    die(point)


def at_call(number: int, then: Callable[..., object], of: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap a function so that `then` is called before one of its calls, counted from 1."""
    calls = 0

    @wraps(of)
    def counted(*arguments: Any, **named: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == number:
            then(*arguments, **named)
        return of(*arguments, **named)

    return counted


def mid_accumulation(point: str) -> None:
    # Called for each batch of a step, before its backward pass, and once more at its end. The 17th call is in the sixth
    # step of two batches, where the gradient of the first exists.
    weighting.samples_of_step = at_call(17, lambda *_: die(point), weighting.samples_of_step)


def half_of_a_checkpoint(point: str) -> None:
    def half(state: object, file: Any) -> None:
        save(state, file)
        file.flush()
        file.truncate(file.tell() // 2)
        die(point)

    def saved(state: object, file: Any) -> None:
        (save if isinstance(file, io.BytesIO) else to_disk)(state, file)  # what can be saved is tried in memory

    save = torch.save
    to_disk = at_call(3, half, save)
    torch.save = saved


def beside_the_training(fault: Callable[[str], None]) -> Callable[[str], None]:
    def with_a_large_model(point: str) -> None:
        checkpoint.LARGE = 1
        fault(point)

    return with_a_large_model


def before_the_rename(point: str) -> None:
    Checkpoints._put_in_place = at_call(5, lambda *_: die(point), Checkpoints._put_in_place)  # type: ignore[method-assign]


def best_and_not_last(point: str) -> None:
    bests = 0

    def linked(source: Path, target: Path) -> None:
        nonlocal bests
        hard_link(source, target)
        bests += target.name == "best.pt"
        if bests == 2:
            die(point)

    hard_link, checkpoint.hard_link = checkpoint.hard_link, linked


def journal_and_no_delivery(point: str) -> None:
    def written(self: Journal, metrics: dict[str, float], step: int) -> None:
        if "val/loss" in metrics and step == 2:
            write(self, metrics, step)
            power_loss(point)
        else:
            write(self, metrics, step)

    write = Journal.write
    Journal.write = written  # type: ignore[assignment, method-assign]


def in_an_evaluation(number: int, module: Any) -> Callable[[str], None]:
    def dies_within(point: str) -> None:
        def evaluating(state: loop.Training, *_: Any) -> None:
            state.eval_forward = lambda _: die(point)  # type: ignore[assignment, return-value]

        module.evaluate = at_call(number, evaluating, module.evaluate)

    return dies_within


def before_the_result(point: str) -> None:
    report.write_result = at_call(1, lambda *_: die(point), report.write_result)


def result_and_no_end(point: str) -> None:
    def written(*arguments: Any) -> Any:
        values = result(*arguments)
        power_loss(point)
        return values

    result = report.write_result
    report.write_result = written


def waits(point: str) -> None:
    def until_the_note_is_gone(*_: object) -> None:
        Path(HIT).write_text(point)
        while Path(HIT).exists():
            time.sleep(0.02)

    Checkpoints._put_in_place = at_call(2, until_the_note_is_gone, Checkpoints._put_in_place)  # type: ignore[method-assign]


def die_at_step(number: int) -> None:
    """Prepare a process to die before its optimizer step of this number, counted from 1."""
    _inject(None)
    loop.take_step = at_call(number, lambda *_: die(f"step {number}"), loop.take_step)


def lose_power_at(number: int, records: Path) -> None:
    """Prepare a process to record what it flushes, and to lose its power before its step of this number.

    Its steps are slow enough for several uploads.
    """

    def slow(*arguments: Any) -> Any:
        time.sleep(0.05)
        return step(*arguments)

    _inject(None)
    power.record(records)
    step = loop.take_step
    loop.take_step = at_call(number, lambda *_: power_loss(f"step {number}"), slow)


FAULTS: dict[str, Callable[[str], None]] = {
    "mid-accumulation": mid_accumulation,
    "half of a checkpoint is written": half_of_a_checkpoint,
    "half of a checkpoint is written beside the training": beside_the_training(half_of_a_checkpoint),
    "between the temporary write and the rename": before_the_rename,
    "the best checkpoint is linked beside the training": beside_the_training(best_and_not_last),
    "the best checkpoint is linked, the last not replaced": best_and_not_last,
    "after the journal and before delivery": journal_and_no_delivery,
    "during validation": in_an_evaluation(3, evaluation),
    "inside the final test": in_an_evaluation(1, phases),
    "after the test, before the result": before_the_result,
    "after the result, before its end is recorded": result_and_no_end,
}


OTHERS = {"before the second checkpoint, it waits": waits}


DELIVERY = forked.forked_delivery()  # until the process ends


def inject(point: str | None) -> Callable[[], object]:
    """Return the function that prepares a process to die at a point (None: not at all), and to upload by a fork."""
    return partial(_inject, point)


def _inject(point: str | None) -> None:
    DELIVERY.__enter__()
    report.draw_plots = lambda *_: None
    if point is not None:
        (FAULTS | OTHERS)[point](point)
