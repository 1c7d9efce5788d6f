"""The note that `runner.clean` leaves in a run's folder."""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from runner.rundir import layout
from runner.util.files import load_json_or_empty, write_json


def note(folder: Path, removed: Sequence[str], pending: Sequence[Sequence[str]] = ()) -> None:
    """Note what is removed, before it is.

    Args:
        folder: of the run.
        removed: names in the folder.
        pending: artifacts in MLflow's store that are removed too: location and name of each. None once that is done.
    """
    content: dict[str, Any] = {"time": round(time.time()), "removed": list(removed)}
    if pending:
        content["pending"] = [list(each) for each in pending]
    write_json(folder / layout.CLEANED, content)


def pending(folder: Path) -> list[tuple[str, str]]:
    """Return the artifacts that an interrupted clean may have left in MLflow's store."""
    return [(location, name) for location, name in load_json_or_empty(folder / layout.CLEANED).get("pending", [])]


def describe(folder: Path | None) -> str | None:
    """Say when the checkpoints of a run were removed; None if they were not, or have come back."""
    found = load_json_or_empty(folder / layout.CLEANED) if folder is not None else {}
    if folder is None or "time" not in found or any((folder / layout.CHECKPOINTS).glob("*.pt")):
        return None
    when = time.strftime("%Y-%m-%d %H:%M", time.localtime(found["time"]))
    return f"runner.clean removed its checkpoints on {when}"
