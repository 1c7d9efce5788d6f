"""Upload to MLflow what an outage or a kill has left behind: `python -m runner.sync [run=<run dir>]`."""

import sys
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

from runner.errors import ConfigError, Problem
from runner.rundir import layout
from runner.rundir.claim import claim
from runner.rundir.delivery_state import DeliveryState
from runner.rundir.folders import display_path, parse_path
from runner.rundir.folders import outputs as outputs_folder
from runner.rundir.lock import is_in_use, is_locked, lock
from runner.rundir.manifest import FOLDER, Manifest, has_manifest, is_own_run
from runner.rundir.ownership import is_own_folder, is_part_of, is_real_folder
from runner.rundir.registration import due
from runner.saved.sweep_folder import lacks_run_ids
from runner.tracking.dead_runs import finish_dead_run
from runner.tracking.deliver import Delivery, outstanding
from runner.tracking.trouble import explain
from runner.util import program, terminal
from runner.util.options import run_with_options

USAGE = "python -m runner.sync [key=value ...]: upload to MLflow what an outage or a kill has left behind."
OPTIONS = {
    "run": "a run's folder, or a sweep's; without it, all incomplete ones in the outputs folder",
    "tracking.uri": "the store's address, if it needs credentials or has moved",
}

OF_A_SWEEP = ("[0-9]*", "failed_attempts/*")
"""Folders of runs in a sweep's folder."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; each run is a line on standard error.

    Returns:
        0 if everything is uploaded, 1 if something is not, 2 for a wrong argument.
    """
    return run_with_options(argv, USAGE, OPTIONS, _sync)


def _sync(options: dict[str, str]) -> int:
    if "run" in options:
        folder = _run_folder(options["run"])
        jobs = [job for pattern in OF_A_SWEEP for job in sorted(folder.glob(pattern)) if is_part_of(folder, job)]
        folders = [folder, *filter(outstanding, jobs)]
    else:
        folders = list(_incomplete(outputs_folder()))
    if not folders:
        _say("nothing to upload")
    uri = options.get("tracking.uri")
    failed: set[Path] = set()  # the others are uploaded, maybe without a file that the store refuses
    reasons: dict[str, str] = {}
    for folder in folders:
        if not _missing(failed.intersection(folder.parents)) and not _upload(folder, uri, reasons):
            failed.add(folder)
    candidates = (path for folder in folders for path in (folder, *folder.parents[:2]))
    own = [path for path in dict.fromkeys(candidates) if path in folders or is_own_folder(path)]
    sweeps = [folder for folder in own if _is_sweep(folder)]
    completed = [_complete(folder, uri) for folder in sweeps if folder not in failed]
    registered = [_register(folder, uri) for folder in folders if folder not in failed]
    left = any(DeliveryState.load(folder).refused for folder in folders)
    return 0 if not failed and not left and all(completed) and all(registered) else 1


def _missing(sweeps: Collection[Path]) -> bool:
    """Whether a store lacks the run of one of these sweeps; the runs of its jobs need it."""
    return any(DeliveryState.load(sweep).run_id is None for sweep in sweeps)


def _is_sweep(folder: Path) -> bool:
    return (folder / layout.SWEEP_PLAN).is_file() and has_manifest(folder)


def _complete(folder: Path, uri: str | None) -> bool:
    """Add the jobs' runs, which may be new in the store, to the record of the sweep's run."""
    from runner.sweeps.results.parent_run import complete  # late: it imports Hydra

    if is_locked(folder):
        return True
    try:
        with lock(folder):
            claim(folder)
            complete(folder)
            return Delivery(folder, uri).step()
    except Exception as error:
        _say(f"{display_path(folder.absolute())}: incomplete: {explain(error)}")
        return False


def _register(folder: Path, uri: str | None) -> bool:
    """Register the model of a run, or of the best job of a sweep, if that is left to do."""
    if due(folder) is None or is_in_use(folder):
        return True
    from runner.runs.champion import register_due  # late: it imports torch

    terminal.configure_logging()
    done = register_due(folder, uri)
    if done and _is_sweep(folder):
        from runner.sweeps.results.parent_run import add_looks  # late: it imports Hydra

        done = not add_looks(folder) or _complete(folder, uri)
    return done


def _upload(folder: Path, uri: str | None, reasons: dict[str, str]) -> bool:
    """Upload a run; `reasons` has the first folder with each reason of a failure, which is not printed again."""
    if is_in_use(folder):
        _say(f"{display_path(folder.absolute())}: still running, and uploads its metrics itself")
        return True
    try:
        done = finish_dead_run(folder, uri)
    except Exception as error:  # an error in one run must not prevent the others
        reason, name = explain(error), display_path(folder.absolute())
        said = f"the same as {reasons[reason]}" if reason in reasons else reason
        _say(f"{name}: not uploaded: {said}")
        reasons.setdefault(reason, name)
        return False
    state = DeliveryState.load(folder)
    without = f", without {', '.join(state.refused)}" if state.refused else ""
    status = Manifest.load(folder).status
    _say(f"{display_path(folder.absolute())}: uploaded as run {state.run_id} ({status}){without}")
    return done


def _run_folder(value: str) -> Path:
    folder = parse_path(value, "run")
    if not folder.is_dir():
        text = f"run={value}: the folder does not exist"
        raise ConfigError(Problem("run", text, "write the folder of a run, or leave it out", topic="file"))
    if not has_manifest(folder):
        text = f"run={value} is not the folder of a tracked run (was it started with tracking=off?)"
        raise ConfigError(Problem("run", text, topic="run"))
    return folder


def _incomplete(outputs: Path) -> Iterator[Path]:
    """Yield the incomplete runs of this user, a sweep before its jobs, which need its run."""
    foreign = 0
    for pattern in ("runs/*", "sweeps/*", *(f"sweeps/*/{pattern}" for pattern in OF_A_SWEEP)):
        for folder in sorted(outputs.glob(pattern)):
            if is_own_run(folder):
                yield from filter(_is_incomplete, [folder])
            else:
                foreign += is_real_folder(folder / FOLDER)
    if foreign:
        _say(f"{foreign} left out: links, or folders of other users; run=<folder> uploads one of them")


def _is_incomplete(folder: Path) -> bool:
    """Whether something of a run or a sweep is left to do, in the store, its registry or the sweep's table."""
    return outstanding(folder) or lacks_run_ids(folder) or due(folder) is not None


def _say(*lines: str) -> None:
    print(*lines, sep="\n", file=sys.stderr)


if __name__ == "__main__":
    program.run(main)
