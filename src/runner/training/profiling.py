"""`trainer.profile_steps`: where the time of a step and of an epoch goes, as tables and a trace file."""

import logging
import os
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from statistics import median
from time import perf_counter

# The tracer's own messages help nobody; it reads this when it is first used.
os.environ.setdefault("KINETO_LOG_LEVEL", "99")

from torch.autograd import DeviceType
from torch.autograd.profiler import record_function
from torch.autograd.profiler_util import FunctionEvent
from torch.profiler import ProfilerActivity, profile, schedule

from runner.rundir.folders import shell_path
from runner.training.spans import no_span
from runner.training.state import Training

log = logging.getLogger("runner")

WARM_UP_STEPS = 5  # the first ones allocate memory and choose kernels
ROWS = 10

EPOCH_PARTS = ("validation", "checkpoint", "logging")
PARTS = ("data", "forward", "backward", "step", *EPOCH_PARTS)
"""The spans of the loop; forward includes the loss. The rest of a step, metrics included, is the loop's own part."""

STEP = "ProfilerStep*"
"""The profiler's own range around each step."""


class Profiler:
    """Traces some steps of training, once, and times the epochs after them.

    Args:
        state: the training to profile; its `span` is this profiler's until `stop`.
        steps: how many steps to trace, after `WARM_UP_STEPS` others.
        folder: where `table.txt` and `trace.json` (the format of Chrome and Perfetto) are written.
    """

    def __init__(self, state: Training, steps: int, folder: Path) -> None:
        self._state, self._folder = state, folder
        self._to_trace, self._remaining, self._traced = steps, WARM_UP_STEPS + steps, 0
        self._epochs = EpochTimes(state)
        on_gpu = state.device.torch.type == "cuda"
        self._profile = profile(
            activities=[ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_gpu else [])],
            schedule=schedule(wait=0, warmup=WARM_UP_STEPS, active=steps, repeat=1),
            on_trace_ready=self._report,
        )
        state.span = self._span
        self._profile.start()

    def stop(self) -> None:
        """End the profile when training has ended, and log what was measured."""
        self._state.span = no_span
        if self._remaining:
            self._profile.stop()
            if not self._traced:
                log.warning("profile    no step was traced: training ended before step %d", WARM_UP_STEPS + 1)
        for line in self._epochs.table():
            log.info("%s", line)

    def _span(self, name: str) -> AbstractContextManager[None]:
        """Return a range of the trace; once all steps are traced, a timer for the parts of an epoch."""
        if name == "epoch":
            return self._epochs.epoch(counts=not self._remaining)
        if self._remaining:
            return self._range(name)
        return self._epochs.part(name) if name in EPOCH_PARTS else no_span(name)

    @contextmanager
    def _range(self, name: str) -> Iterator[None]:
        with record_function(name):
            yield
        if name == "step":
            self._count_step()

    def _count_step(self) -> None:
        self._remaining -= 1
        self._traced += self._remaining < self._to_trace
        if self._remaining:
            self._profile.step()
        else:
            self._state.clock.stop()  # writing the trace takes long, and is not training
            self._profile.step()
            self._profile.stop()
            self._state.clock.start()

    def _report(self, traced: profile) -> None:
        if not self._traced:
            return
        self._folder.mkdir(parents=True, exist_ok=True)
        traced.export_chrome_trace(str(self._folder / "trace.json"))
        (self._folder / "table.txt").write_text(traced.key_averages().table(row_limit=-1), encoding="utf-8")
        # The work of a GPU has events of its own; what begins after the last step belongs to none.
        events = [event for event in traced.events() or () if event.device_type == DeviceType.CPU]
        steps = [event for event in events if event.key == STEP][: self._traced]
        events = [event for event in events if event.time_range.start < steps[-1].time_range.end]
        total = sum(event.cpu_time_total for event in steps) / 1000
        on_gpu = self._state.device.torch.type == "cuda"
        for line in (*_parts(steps, events, total, on_gpu), *_longest(events, len(steps), total, on_gpu)):
            log.info("%s", line)
        log.info("%10s %s: drop it on https://ui.perfetto.dev", "trace", shell_path(self._folder / "trace.json"))


class EpochTimes:
    """Seconds of epochs and of their parts, by a plain clock: tracing takes time itself."""

    def __init__(self, state: Training) -> None:
        self._state = state
        self._parts, self._seconds = defaultdict[str, float](float), defaultdict[str, float](float)
        self._epochs = 0

    @contextmanager
    def epoch(self, counts: bool) -> Iterator[None]:
        """Time an epoch; it counts if `counts`, and if it is whole: neither resumed nor interrupted."""
        progress = self._state.progress
        finished, trained = progress.finished_epochs, progress.trained_seconds
        counts &= progress.batch == 0
        self._parts.clear()
        started_at = perf_counter()
        yield
        if counts and progress.finished_epochs > finished:
            whole = {"training": progress.trained_seconds - trained, "epoch": perf_counter() - started_at}
            for name, seconds in (self._parts | whole).items():
                self._seconds[name] += seconds
            self._epochs += 1

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Time a part of the epoch in progress."""
        started_at = perf_counter()
        yield
        self._parts[name] += perf_counter() - started_at

    def table(self) -> list[str]:
        """Return the lines of the table; none if no epoch counts."""
        if not self._epochs:
            return []
        total = self._seconds["epoch"]
        parts = {name: self._seconds[name] for name in ("training", *EPOCH_PARTS) if name in self._seconds}
        parts["rest"] = max(0.0, total - sum(parts.values()))
        which = "an epoch" if self._epochs == 1 else f"the mean of {self._epochs} epochs"
        return [
            f"epoch      {1000 * total / self._epochs:.3f} ms, {which} of which nothing was traced",
            *(
                f"{name:>10} {1000 * seconds / self._epochs:9.3f} ms {seconds / total:6.1%}"
                for name, seconds in parts.items()
            ),
        ]


def _parts(steps: Sequence[FunctionEvent], events: Sequence[FunctionEvent], total: float, on_gpu: bool) -> list[str]:
    """Return the time of each part: milliseconds per step, share of the step, and the longest single time."""
    count, milliseconds = len(steps), [event.cpu_time_total / 1000 for event in steps]
    times = {name: [event.cpu_time_total / 1000 for event in events if event.key == name] for name in PARTS}
    parts = {name: sum(measured) for name, measured in times.items() if measured}
    host = "; host time, which does not include waiting for the GPU" if on_gpu else ""
    lines = [
        f"profile    {count} steps, {total / count:.3f} ms each (median {median(milliseconds):.3f}, longest"
        f" {max(milliseconds):.3f}), tracing included{host}"
    ]
    for name, time in parts.items():
        lines.append(f"{name:>10} {time / count:9.3f} ms {time / total:6.1%}  longest {max(times[name]):.3f}")
    rest = max(0.0, total - sum(parts.values()))
    return [*lines, f"{'loop':>10} {rest / count:9.3f} ms {rest / total:6.1%}  metrics, progress bar and all else"]


def _longest(events: Sequence[FunctionEvent], steps: int, total: float, on_gpu: bool) -> list[str]:
    """Return the operations with the longest own time, in milliseconds per step, and their calls per step."""
    seconds = "self_device_time_total" if on_gpu else "self_cpu_time_total"
    times, calls = defaultdict[str, float](float), defaultdict[str, int](int)
    for event in events:
        if event.key not in (*PARTS, STEP):
            times[event.key] += getattr(event, seconds) / 1000
            calls[event.key] += 1
    return [
        f"longest operations{' on the GPU' if on_gpu else ''}; own time, calls per step:",
        *(
            f"{'':>10} {time / steps:9.3f} ms {time / total:6.1%} {calls[name] / steps:6.1f}  {name}"
            for name, time in sorted(times.items(), key=lambda of: -of[1])[:ROWS]
        ),
    ]
