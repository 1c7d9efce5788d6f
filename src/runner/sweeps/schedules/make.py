"""Chooses the schedule of a sweep by its method."""

from pathlib import Path

from runner.sweeps.plan.halving import Halving
from runner.sweeps.plan.search import Search
from runner.sweeps.plan.stages import SeedStages
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

    Raises:
        ConfigError: the storage of a search cannot be used.
    """
    match prepared.plan.method:
        case Search() as search:
            return Searched(folder, prepared, search)
        case Halving() as halving:
            return Halved(folder, prepared, halving)
        case SeedStages() as stages:
            return Staged(folder, prepared, stages)
        case _:
            return InOrder(folder, prepared)
