"""The energy of a sweep: the sum over its jobs, with their failed attempts."""

from contextlib import closing
from pathlib import Path

from runner.rundir import layout
from runner.rundir.energy import METRIC, saved
from runner.rundir.journal import Journal
from runner.sweeps.results.resume import FAILED_ATTEMPTS
from runner.sweeps.results.table import Table


def energy_of(table: Table) -> float | None:
    """Return the energy in kilowatt-hours that all jobs so far have used for training.

    None if none has measured it, or if one that has finished has not: a part is not the sum.
    """
    known: list[float] = []
    for row in table.rows:
        attempts = row.folder.parent.glob(f"{FAILED_ATTEMPTS}/{row.folder.name}_*")
        kwh = saved(row.folder)
        if kwh is None and row.status == "FINISHED":
            return None
        known += [one for one in (kwh, *map(saved, attempts)) if one is not None]
    return sum(known) if known else None


def log_energy(folder: Path, table: Table) -> None:
    """Write the energy of a sweep into its journal; the step counts the starts of the sweep that have ended."""
    kwh = energy_of(table)
    if kwh is not None:
        with closing(Journal(folder / layout.JOURNAL)) as journal:
            journal.write({METRIC: kwh}, max(0, journal.last_step(METRIC)) + 1)
