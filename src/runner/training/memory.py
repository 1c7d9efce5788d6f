"""The metric `system/peak_memory_megabytes`: the most memory that training needed, on one rank."""

from collections.abc import Iterator
from contextlib import contextmanager

from runner.training.state import Training
from runner.util.metric_names import PEAK_MEMORY

MEGABYTE = 1e6


@contextmanager
def measured_memory(state: Training) -> Iterator[None]:
    """Log the peak of the training within the block; nothing if no step was taken, or an error ended it."""
    step = state.progress.step
    state.device.reset_peak_memory()
    yield
    if state.progress.step > step:
        known = [peak for peak in state.strategy.gather(state.device.peak_memory()) if peak is not None]
        if known:
            state.log({PEAK_MEMORY: round(max(known) / MEGABYTE, 1)}, state.progress.finished_epochs)
