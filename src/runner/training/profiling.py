"""`trainer.profile_steps`: where the time of a step and of an epoch goes, as tables and a trace file."""

import inspect
import logging
import os
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from statistics import median
from typing import Any

# The tracer's own messages are no use to anyone; it reads this when it is first used.
os.environ.setdefault("KINETO_LOG_LEVEL", "99")

from torch.autograd import DeviceType
from torch.autograd.profiler import record_function
from torch.autograd.profiler_util import FunctionEvent
from torch.profiler import ProfilerActivity, profile, schedule

from runner.data.loading import Batch
from runner.rundir.folders import shell_path
from runner.training.epoch_times import EpochTimes
from runner.training.state import Training

log = logging.getLogger("runner")

WARM_UP_STEPS = 5  # the first ones allocate, and choose kernels
ROWS = 10

PARTS = ("data", "forward", "loss", "backward", "step", "validation", "checkpoint", "logging")
"""What training does; the loop's own part, metrics included, is what they leave of the time."""

STEP = "ProfilerStep*"
"""The profiler's own range around each step."""


class Profiler:
    """Traces some steps of training, once, and times the epochs after them; the loop knows nothing of it.

    Args:
        state: what is going to be trained.
        steps: to trace, after `WARM_UP_STEPS` others.
        folder: where `table.txt` and `trace.json` (Chrome's and Perfetto's format) go.
    """

    def __init__(self, state: Training, steps: int, folder: Path) -> None:
        self._state, self._folder = state, folder
        self._left, self._wanted, self._steps = WARM_UP_STEPS + steps, steps, 0
        self._of_steps, self._of_epochs = _Replacements(), _Replacements()
        self._epochs = EpochTimes(state)
        on_gpu = state.device.torch.type == "cuda"
        self._profile = profile(
            activities=[ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_gpu else [])],
            schedule=schedule(wait=0, warmup=WARM_UP_STEPS, active=steps, repeat=1),
            on_trace_ready=self._report,
        )
        self._of_epochs.replace(state.display, "start_epoch", self._epochs.beginning(state.display.start_epoch))
        self._of_epochs.replace(state.checkpoints, "save", self._epochs.part("checkpoint", state.checkpoints.save))
        self._of_epochs.replace(state, "log", self._epochs.part("logging", state.log))
        if state.loaders.val is not None:
            self._of_epochs.replace(
                state.loaders.val, "epoch", self._epochs.whole("validation", state.loaders.val.epoch)
            )
        self._of_steps.replace(state, "forward", _named("forward", state.forward))
        self._of_steps.replace(state.loss, "forward", self._named_in_training("loss", state.loss.forward))
        self._of_steps.replace(state.precision, "backward", _named("backward", state.precision.backward))
        self._of_steps.replace(state.precision, "step", self._counted(_named("step", state.precision.step)))
        self._of_steps.replace(state.loaders.train, "epoch", _named_batches(state.loaders.train.epoch))
        self._profile.start()

    def stop(self) -> None:
        """Training is over: stop tracing, if that is not done, and report what there is."""
        if self._of_steps:
            self._stop_tracing()
            if not self._steps:
                log.warning("profile    there is nothing to show before step %d", WARM_UP_STEPS + 1)
        self._of_epochs.undo()
        for line in self._epochs.ended():
            log.info("%s", line)

    def _stop_tracing(self) -> None:
        self._of_steps.undo()
        self._profile.stop()
        self._epochs.wanted = True

    def _named_in_training(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """As a range of the trace, but in a validation, which is one as a whole."""
        named = _named(name, function)

        def either(*arguments: Any) -> Any:
            return (named if self._state.loss.training else function)(*arguments)

        return either

    def _counted(self, step: Callable[..., bool]) -> Callable[..., bool]:
        def counted(*arguments: Any) -> bool:
            done = step(*arguments)
            self._left -= 1
            self._steps += self._left < self._wanted
            if self._left:
                self._profile.step()
            else:
                self._state.clock.stop()  # a trace takes long to write, and that is no training
                self._profile.step()
                self._stop_tracing()
                self._state.clock.start()
            return done

        return counted

    def _report(self, traced: profile) -> None:
        if not self._steps:
            return
        self._folder.mkdir(parents=True, exist_ok=True)
        traced.export_chrome_trace(str(self._folder / "trace.json"))
        (self._folder / "table.txt").write_text(traced.key_averages().table(row_limit=-1), encoding="utf-8")
        # What a GPU does has events of its own; what begins after the last step is no part of one.
        events = [event for event in traced.events() or () if event.device_type == DeviceType.CPU]
        each = [event for event in events if event.key == STEP][: self._steps]
        events = [event for event in events if event.time_range.start < each[-1].time_range.end]
        whole = sum(event.cpu_time_total for event in each) / 1000
        on_gpu = self._state.device.torch.type == "cuda"
        for line in (*_parts(each, events, whole, on_gpu), *_longest(events, len(each), whole, on_gpu)):
            log.info("%s", line)
        log.info("%10s %s: drop it on https://ui.perfetto.dev", "trace", shell_path(self._folder / "trace.json"))


class _Replacements:
    """Attributes that are others for a while."""

    def __init__(self) -> None:
        self._former: list[tuple[Any, str, Any]] = []

    def __bool__(self) -> bool:
        return bool(self._former)

    def replace(self, owner: Any, name: str, by: Any) -> None:
        self._former.append((owner, name, getattr(owner, name)))
        setattr(owner, name, by)

    def undo(self) -> None:
        for owner, name, former in reversed(self._former):
            if inspect.ismethod(former):
                delattr(owner, name)  # what the class has is seen again
            else:
                setattr(owner, name, former)
        self._former.clear()


def _named(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """The function as a range of the trace."""

    def named(*arguments: Any) -> Any:
        with record_function(name):
            return function(*arguments)

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


def _parts(each: Sequence[FunctionEvent], events: Sequence[FunctionEvent], whole: float, on_gpu: bool) -> list[str]:
    """What each part of training takes: in milliseconds a step, as a share of it, and the longest time at once."""
    steps, milliseconds = len(each), [event.cpu_time_total / 1000 for event in each]
    times = {name: [event.cpu_time_total / 1000 for event in events if event.key == name] for name in PARTS}
    parts = {name: sum(found) for name, found in times.items() if found}
    host = "; the host's time, which does not wait for the GPU" if on_gpu else ""
    lines = [
        f"profile    {steps} steps, {whole / steps:.3f} ms each (median {median(milliseconds):.3f}, longest"
        f" {max(milliseconds):.3f}), as traced, which takes time itself{host}"
    ]
    for name, time in parts.items():
        lines.append(f"{name:>10} {time / steps:9.3f} ms {time / whole:6.1%}  longest {max(times[name]):.3f}")
    rest = max(0.0, whole - sum(parts.values()))
    return [*lines, f"{'loop':>10} {rest / steps:9.3f} ms {rest / whole:6.1%}  metrics, progress bar and all else"]


def _longest(events: Sequence[FunctionEvent], steps: int, whole: float, on_gpu: bool) -> list[str]:
    """The operations of all parts that take longest by themselves, in milliseconds a step, and their calls."""
    seconds = "self_device_time_total" if on_gpu else "self_cpu_time_total"
    times, calls = defaultdict[str, float](float), defaultdict[str, int](int)
    for event in events:
        if event.key not in (*PARTS, STEP):
            times[event.key] += getattr(event, seconds) / 1000
            calls[event.key] += 1
    return [
        f"of which the longest operations{' on the GPU' if on_gpu else ''}, each by itself, and their calls a step:",
        *(
            f"{'':>10} {time / steps:9.3f} ms {time / whole:6.1%} {calls[name] / steps:6.1f}  {name}"
            for name, time in sorted(times.items(), key=lambda of: -of[1])[:ROWS]
        ),
    ]
