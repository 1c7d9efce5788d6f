"""Tell after a sweep of one process a job that `hydra/launcher=stacked` would have saved much of its time."""

from collections.abc import Collection, Sequence

from runner.sweeps.jobs import JobInfo
from runner.sweeps.launchers.slots import Slot

MANY = 16
"""Jobs from which it is worth a line."""

FOR_EACH_SLOT = 4
"""Jobs for each slot: a stack of fewer models saves little."""

SMALL = 1 << 17
"""Bytes of the weights of a model, 32,768 numbers. The MLP for MNIST, with 109,386, saves nothing on an AMD EPYC: most
of its step is arithmetic, and a single model stays in the cache."""


def stack_hint(infos: Collection[JobInfo], slots: Sequence[Slot]) -> str:
    """Return the line; empty if not all jobs could be stacked, or that would have saved little.

    Args:
        infos: of the jobs that the sweep runs.
        slots: that they run in.
    """
    if len(infos) < max(MANY, FOR_EACH_SLOT * len(slots)) or len({info.kind for info in infos}) > 1:
        return ""
    if any(info.why_alone is not None or info.bytes > SMALL for info in infos) or (slots[0].threads or 1) > 1:
        return ""
    return "note       these jobs differ in numbers alone: hydra/launcher=stacked trains them together, in less time"
