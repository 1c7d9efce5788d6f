"""The energy that the training of a run has used, saved in its folder: a resumed run adds to it.

No checkpoint has it: what was trained before a kill and is trained again has used energy twice.
"""

import math
from pathlib import Path

from runner.rundir import journal, layout
from runner.util.files import load_json_or_empty, write_json

METRIC = "energy/kwh"
"""The metric, in kilowatt-hours since the first start of the run."""

_KEY = "kwh"


def save(folder: Path, kwh: float | None) -> None:
    """Save the energy of all starts so far; None if that of one is unknown, and with it the sum for good.

    Raises:
        OSError: the file cannot be written.
    """
    write_json(folder / layout.ENERGY, {_KEY: kwh})


def saved(folder: Path) -> float | None:
    """Return the energy that was saved, in kilowatt-hours; None if it was not measured, or not in all starts."""
    kwh = load_json_or_empty(folder / layout.ENERGY).get(_KEY)
    if isinstance(kwh, bool) or not isinstance(kwh, int | float) or not 0 <= kwh < math.inf:  # the file is damaged
        return None
    return float(kwh)


def spent(folder: Path) -> float | None:
    """Return what `saved` does; of a folder without the file, as one recovered from MLflow, what was logged last."""
    if (folder / layout.ENERGY).exists():
        return saved(folder)
    points, _ = journal.read(folder / layout.JOURNAL, names=(METRIC,))
    return points[-1].value if points else None
