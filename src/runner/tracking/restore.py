"""Restore the journal of a run before it is resumed."""

import logging
from pathlib import Path

from runner.rundir import journal_check, layout
from runner.rundir.delivery_state import DeliveryState
from runner.rundir.folders import shell_path
from runner.rundir.manifest import has_manifest
from runner.tracking.deliver import Delivery
from runner.tracking.trouble import explain
from runner.util.terminal import TRACKING, about

log = logging.getLogger("runner")


def restore_journal(folder: Path, uri: str | None = None) -> None:
    """Cut off what a power loss has left half, and fetch back what only MLflow has; each loss is one warning.

    Args:
        folder: the run's folder, locked by this process; a new run's has nothing to restore.
        uri: see `Delivery`.
    """
    path, state = folder / layout.JOURNAL, DeliveryState.load(folder)
    found, damaged = journal_check.repair(path)
    loss = journal_check.describe_loss(path, state.offset, state.tail)
    if loss is None and not path.exists() and any((folder / layout.CHECKPOINTS).glob("[!.]*.pt")):
        loss = f"{path.name} is missing"
    found = "; ".join(part for part in (found, loss) if part) or None
    if not (loss or damaged or state.lacks_points):
        end = ""
    elif not has_manifest(folder):
        end = "; the metrics that are lost were not uploaded (tracking=off)"
    else:
        try:
            end = f"; {Delivery(folder, uri).fetch_back()} points were fetched back from MLflow"
        except Exception as error:  # MLflow, SQLAlchemy and the network raise many types; training continues
            end = f"; MLflow may have them ({explain(error)}), fetch them with: python -m runner.sync run="
            end += shell_path(folder)
    if found or end:
        log.warning("%s%s", found or f"{path.name} has lost points", end, extra=about(TRACKING))
