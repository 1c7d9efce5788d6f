"""Chooses the schedule of a sweep by its plan."""

from pathlib import Path

from runner.sweeps.prepared import PreparedSweep
from runner.sweeps.schedules.halved import Halved
from runner.sweeps.schedules.in_order import InOrder
from runner.sweeps.schedules.schedule import Schedule
from runner.sweeps.schedules.searched import Searched
from runner.sweeps.schedules.staged import Staged


def make_schedule(folder: Path, prepared: PreparedSweep) -> Schedule:
    """Make the schedule of a sweep that starts.

    Args:
        folder: of the sweep, locked by this process.
        prepared: the sweep.
    """
    plan = prepared.plan
    if plan.search is not None:
        return Searched(folder, prepared, plan.search)
    if plan.halving is not None:
        return Halved(folder, prepared, plan.halving)
    if plan.stages is not None:
        return Staged(folder, prepared, plan.stages)
    return InOrder(folder, prepared)
