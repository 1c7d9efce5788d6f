"""Where the time of an epoch goes, training aside: for `trainer.profile_steps`, once the steps are traced."""

from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import perf_counter
from typing import Any

from torch.autograd.profiler import record_function

from runner.data.loading import Batch
from runner.training.state import Training

ROWS = ("training", "validation", "checkpoint", "logging", "rest")


class EpochTimes:
    """Seconds of epochs, and of what is done in them besides training, by a plain clock.

    Attributes:
        wanted: False while steps are traced, which takes time itself.
    """

    def __init__(self, state: Training) -> None:
        self._state, self.wanted = state, False
        self._began: float | None = None  # of the epoch in progress, if it counts
        self._done = 0  # epochs when it began
        self._parts, self._seconds = defaultdict[str, float](float), defaultdict[str, float](float)
        self._count = 0

    def beginning(self, start_epoch: Callable[..., None]) -> Callable[..., None]:
        """The display's function, with which an epoch begins, and the one before it ends."""

        def started(epoch: int, batches: int, done: int) -> None:
            self._end_epoch()
            start_epoch(epoch, batches, done)
            self._began = perf_counter() if self.wanted and not done else None
            self._done = len(self._state.progress.epoch_seconds)

        return started

    def part(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function, timed, and as a range of the trace."""

        def timed(*arguments: Any) -> Any:
            with self._timed(name):
                return function(*arguments)

        return timed

    def whole(self, name: str, epoch: Callable[..., Iterator[Batch]]) -> Callable[..., Iterator[Batch]]:
        """All that is done with the batches of an epoch, as one part."""

        def timed(*arguments: Any) -> Iterator[Batch]:
            with self._timed(name):
                yield from epoch(*arguments)

        return timed

    @contextmanager
    def _timed(self, name: str) -> Iterator[None]:
        began = perf_counter()
        with record_function(name):
            yield
        self._parts[name] += perf_counter() - began

    def _end_epoch(self) -> None:
        *_, training = self._state.progress.epoch_seconds or [0.0]
        if self._began is not None and len(self._state.progress.epoch_seconds) > self._done:  # it has come to its end
            for name, seconds in (
                *self._parts.items(),
                ("training", training),
                ("epoch", perf_counter() - self._began),
            ):
                self._seconds[name] += seconds
            self._count += 1
        self._began = None
        self._parts.clear()

    def ended(self) -> list[str]:
        """The table of an epoch; nothing if there was none."""
        self._end_epoch()
        if not self._count:
            return []
        whole = self._seconds.pop("epoch")
        self._seconds["rest"] = max(0.0, whole - sum(self._seconds.values()))
        times = {name: 1000 * self._seconds[name] for name in ROWS if name in self._seconds}
        which = "an epoch" if self._count == 1 else f"the mean of {self._count} epochs"
        return [
            f"epoch      {1000 * whole / self._count:.3f} ms, {which} of which nothing was traced",
            *(f"{name:>10} {time / self._count:9.3f} ms {time / whole / 1000:6.1%}" for name, time in times.items()),
        ]
