"""`trainer.profile_steps`: where the time of a step goes, as a table and a trace file."""

import inspect
import logging
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median
from typing import Any

# The tracer's own messages are no use to anyone; it reads this when it is first used.
os.environ.setdefault("KINETO_LOG_LEVEL", "99")

from torch.autograd.profiler import record_function
from torch.autograd.profiler_util import EventList
from torch.profiler import ProfilerActivity, profile, schedule

from .data.loading import Batch
from .folders import typed
from .training import Training

log = logging.getLogger("runner")

WARM_UP_STEPS = 5  # the first ones allocate, and choose kernels
ROWS = 10

PARTS = ("data", "forward", "loss", "backward", "step", "validation", "checkpoint")
"""What training does; the loop's own part, metrics included, is what they leave of the time."""

STEP = "ProfilerStep*"
"""The profiler's own range around each step."""


class Profiler:
    """Traces some steps of training, once; the loop knows nothing of it.

    Args:
        t: what is going to be trained.
        steps: to trace, after `WARM_UP_STEPS` others.
        folder: where `table.txt` and `trace.json` (Chrome's and Perfetto's format) go.
    """

    def __init__(self, t: Training, steps: int, folder: Path) -> None:
        self._folder = folder
        self._left, self._wanted, self._steps = WARM_UP_STEPS + steps, steps, 0
        self._undo: list[tuple[Any, str, Any]] = []
        on_gpu = t.device.torch.type == "cuda"
        self._profile = profile(
            activities=[ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_gpu else [])],
            schedule=schedule(wait=0, warmup=WARM_UP_STEPS, active=steps, repeat=1),
            on_trace_ready=self._report,
        )
        self._replace(t, "forward", _named("forward", t.forward))
        self._replace(t.loss, "forward", _named("loss", t.loss.forward))
        self._replace(t.precision, "backward", _named("backward", t.precision.backward))
        self._replace(t.precision, "step", self._counted(_named("step", t.precision.step)))
        self._replace(t.checkpoints, "save", _named("checkpoint", t.checkpoints.save))
        self._replace(t.loaders.train, "epoch", _named_batches(t.loaders.train.epoch))
        if t.loaders.val is not None:
            self._replace(t.loaders.val, "epoch", _named_whole(t.loaders.val.epoch))
        self._profile.start()

    def stop(self) -> None:
        """Stop tracing, and report what there is; does nothing after the steps are done."""
        if not self._undo:
            return
        for owner, name, former in reversed(self._undo):
            if inspect.ismethod(former):
                delattr(owner, name)  # what the class has is seen again
            else:
                setattr(owner, name, former)
        self._undo.clear()
        self._profile.stop()
        if not self._steps:
            log.warning("profile    there is nothing to show before step %d", WARM_UP_STEPS + 1)

    def _replace(self, owner: Any, name: str, wrapped: Any) -> None:
        self._undo.append((owner, name, getattr(owner, name)))
        setattr(owner, name, wrapped)

    def _counted(self, step: Callable[..., bool]) -> Callable[..., bool]:
        def counted(*arguments: Any) -> bool:
            done = step(*arguments)
            self._left -= 1
            self._steps += self._left < self._wanted
            self._profile.step()
            if self._left == 0:
                self.stop()
            return done

        return counted

    def _report(self, traced: profile) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        traced.export_chrome_trace(str(self._folder / "trace.json"))
        operations = traced.key_averages()
        (self._folder / "table.txt").write_text(operations.table(row_limit=-1), encoding="utf-8")
        for line in (*_parts(traced.events(), self._steps), *_longest(operations, self._steps)):
            log.info("%s", line)
        log.info("%10s %s: drop it on https://ui.perfetto.dev", "trace", typed(self._folder / "trace.json"))


def _named(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """The function as a range of the trace."""

    def named(*arguments: Any) -> Any:
        with record_function(name):
            return function(*arguments)

    return named


def _named_whole(epoch: Callable[..., Iterator[Batch]]) -> Callable[..., Iterator[Batch]]:
    """All that is done with the batches of an epoch as one range of the trace."""

    def named(*arguments: Any) -> Iterator[Batch]:
        with record_function("validation"):
            yield from epoch(*arguments)

    return named


def _named_batches(epoch: Callable[..., Iterator[Batch]]) -> Callable[..., Iterator[Batch]]:
    """The batches, each one's making a range of the trace."""

    def named(*arguments: Any) -> Iterator[Batch]:
        batches = epoch(*arguments)
        while True:
            with record_function("data"):
                batch = next(batches, None)
            if batch is None:
                return
            yield batch

    return named


def _parts(events: EventList, steps: int) -> list[str]:
    """What each part of training takes: in milliseconds a step, as a share of it, and the longest time at once."""
    times = {name: [event.cpu_time_total / 1000 for event in events if event.key == name] for name in (STEP, *PARTS)}
    each = times.pop(STEP)
    whole, parts = sum(each), {name: sum(found) for name, found in times.items() if found}
    lines = [
        f"profile    {steps} steps, {whole / steps:.3f} ms each (median {median(each):.3f}, longest {max(each):.3f}),"
        " as traced, which takes time itself"
    ]
    for name, time in parts.items():
        lines.append(f"{name:>10} {time / steps:9.3f} ms {time / whole:6.1%}  longest {max(times[name]):.3f}")
    rest = max(0.0, whole - sum(parts.values()))
    return [*lines, f"{'loop':>10} {rest / steps:9.3f} ms {rest / whole:6.1%}  metrics, progress bar and all else"]


def _longest(operations: EventList, steps: int) -> list[str]:
    """The operations of all parts that take longest by themselves, in milliseconds a step, and their calls."""
    whole = next(event.cpu_time_total for event in operations if event.key == STEP)
    on_gpu = any(event.self_device_time_total for event in operations)
    seconds = "self_device_time_total" if on_gpu else "self_cpu_time_total"
    ranges = (*PARTS, STEP)
    longest = sorted((e for e in operations if e.key not in ranges), key=lambda e: -getattr(e, seconds))[:ROWS]
    lines = [
        f"of which the longest operations{' on the GPU' if on_gpu else ''}, each by itself, and their calls a step:"
    ]
    for event in longest:
        time = getattr(event, seconds)
        lines.append(
            f"{'':>10} {time / steps / 1000:9.3f} ms {time / whole:6.1%} {event.count / steps:6.1f}  {event.key}"
        )
    return lines
