"""Who needs the checkpoints and the model of a run: each reason is a word for the user."""

from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import yaml

from runner.cleaning.runs import FINISHED, Run, Sweep
from runner.rundir import layout
from runner.rundir.delivery_state import DeliveryState
from runner.rundir.lock import is_in_use
from runner.rundir.manifest import PAUSE
from runner.saved.run import read_result
from runner.tracking.deliver import outstanding
from runner.util.files import read_text

SINGLE = "of no sweep"


def why_kept(run: Run, sweep: Sweep | None, before: float, referred: set[Path]) -> str | None:
    """Return why a run keeps its files; None if nothing on this machine needs them.

    Args:
        run: the run; whoever removes its files has its lock, and that of its sweep.
        sweep: its sweep, as it is under that lock; None for a single run.
        before: seconds since the epoch; runs that ended later are kept.
        referred: the folders of runs that others were started from.
    """
    status = run.status
    if status == PAUSE:
        return "paused"
    if status != FINISHED and not run.is_superseded:
        return "unfinished"
    if outstanding(run.folder):
        return "not yet uploaded"
    if run.folder in referred:
        return "start of another run"
    if sweep is not None and not run.is_superseded and (reason := _of_sweep(run, sweep)):
        return reason
    if sweep is None and not run.is_named and not run.is_superseded:
        return SINGLE
    return "too new" if run.ended_at > before else None


def _of_sweep(run: Run, sweep: Sweep) -> str | None:
    if not sweep.is_complete:
        return "of an unfinished sweep"
    if outstanding(sweep.folder):
        return "not yet uploaded"
    if sweep.best is None:
        return "of a sweep without a best job"
    return "best of its sweep" if run.folder.name in sweep.best else None


def is_running(run: Run) -> bool:
    """Whether a process works in the folder of a run or of its sweep."""
    return is_in_use(run.folder) or (run.sweep is not None and is_in_use(run.sweep))


def find_referred(runs: Iterable[Run]) -> set[Path]:
    """Return the folders of the runs from whose weights others were started, which may be started again.

    Args:
        runs: all there are.
    """
    folders, values = dict[str, Path](), set[str]()
    for run in runs:
        for run_id in (DeliveryState.load(run.folder).run_id, read_result(run.folder).get("run_id")):
            if run_id is not None:
                folders[str(run_id)] = run.folder
        config = _read_config(run.folder / layout.CONFIG)
        model = config.get("model")
        weights = model.get("weights") if isinstance(model, Mapping) else None
        values |= {value for value in (config.get("resume"), weights) if isinstance(value, str)}
    referred = {folders[value] for value in values if value in folders}
    for value in values - folders.keys():
        with suppress(OSError, ValueError, RuntimeError):
            path = Path(value).expanduser().resolve()
            referred |= {path, *list(path.parents)[:2]}  # a run, or a file in it
    return referred


def _read_config(path: Path) -> dict[str, Any]:
    with suppress(OSError, ValueError, RecursionError, yaml.YAMLError):
        text = read_text(path)
        null = "\n  weights: null\n"
        if "\nresume: null\n" in text and text.count(null) == text.count("\n  weights: "):  # a hundred times as fast
            return {}
        config = yaml.safe_load(text)
        return config if isinstance(config, dict) else {}
    return {}
