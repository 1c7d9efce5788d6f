"""Deliver to MLflow what an outage or a kill kept from it: `python -m runner.sync [run=<run dir>]`."""

import sys
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

from runner.errors import ConfigError
from runner.rundir import layout
from runner.rundir.delivery_state import DeliveryState
from runner.rundir.folders import display_path, parse_path
from runner.rundir.folders import outputs as outputs_folder
from runner.rundir.lock import is_in_use, is_locked, lock
from runner.rundir.manifest import Manifest, has_manifest
from runner.tracking.dead_runs import finish_dead_run
from runner.tracking.deliver import Delivery, outstanding
from runner.tracking.store import explain
from runner.util import program
from runner.util.options import run_with_options

USAGE = "python -m runner.sync [key=value ...]: deliver to MLflow whatever an outage or a kill kept from it."
OPTIONS = {
    "run": "a run's folder, or a sweep's; without it, all below the outputs folder that have something undelivered",
    "tracking.uri": "the store's address, where it needs credentials or has moved",
}

OF_A_SWEEP = ("[0-9]*", "failed_attempts/*")
"""Folders in a sweep's."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; one line a run goes to standard error.

    Returns:
        0 if everything is delivered, 1 if something is not, 2 for a wrong argument.
    """
    return run_with_options(argv, USAGE, OPTIONS, _sync)


def _sync(options: dict[str, str]) -> int:
    if "run" in options:
        folder = _run_folder(options["run"])
        folders = [folder, *(job for pattern in OF_A_SWEEP for job in sorted(folder.glob(pattern)) if outstanding(job))]
    else:
        folders = list(_undelivered(outputs_folder()))
    if not folders:
        _say("nothing to deliver")
    uri = options.get("tracking.uri")
    failed: set[Path] = set()
    said: set[str] = set()
    for folder in folders:
        if not _missing(failed.intersection(folder.parents)) and not _deliver(folder, uri, said):
            failed.add(folder)
    sweeps = dict.fromkeys(place for folder in folders for place in (folder, *folder.parents[:2]) if _is_sweep(place))
    completed = [_complete(folder, uri) for folder in sweeps if folder not in failed]
    return 0 if not failed and all(completed) else 1


def _missing(sweeps: Collection[Path]) -> bool:
    """Whether a store lacks a sweep's own run, without which it takes none of its jobs'."""
    return any(DeliveryState.load(sweep).run_id is None for sweep in sweeps)


def _is_sweep(folder: Path) -> bool:
    return (folder / layout.SWEEP_PLAN).is_file() and has_manifest(folder)


def _complete(folder: Path, uri: str | None) -> bool:
    """Have a sweep's own run name its jobs' runs, which were only made now."""
    from runner.sweeps.results.parent_run import complete  # late: it imports Hydra

    if is_locked(folder):
        return True
    try:
        with lock(folder):
            complete(folder)
            return Delivery(folder, uri).step()
    except Exception as error:
        _say(f"{display_path(folder.absolute())}: not complete: {explain(error)}")
        return False


def _deliver(folder: Path, uri: str | None, said: set[str]) -> bool:
    if is_in_use(folder):
        _say(f"{display_path(folder.absolute())}: still running, it delivers itself")
        return True
    try:
        done = finish_dead_run(folder, uri)
    except Exception as error:  # one run that can't be delivered must not keep the others back
        why = explain(error)
        _say(f"{display_path(folder.absolute())}: not delivered: {'for the same reason' if why in said else why}")
        said.add(why)
        return False
    _say(
        f"{display_path(folder.absolute())}: delivered as run {DeliveryState.load(folder).run_id}"
        f" ({Manifest.load(folder).status})"
    )
    return done


def _run_folder(value: str) -> Path:
    folder = parse_path(value, "run")
    if not folder.is_dir():
        raise ConfigError(f"run={value}: there is no such folder")
    if not has_manifest(folder):
        raise ConfigError(f"run={value}: not the folder of a tracked run (was it tracking=off?)")
    return folder


def _undelivered(outputs: Path) -> Iterator[Path]:
    of_sweeps = (f"sweeps/*/{pattern}" for pattern in OF_A_SWEEP)
    for pattern in ("runs/*", "sweeps/*", *of_sweeps):  # a sweep before its jobs, which belong to it
        yield from (folder for folder in sorted(outputs.glob(pattern)) if outstanding(folder))


def _say(*lines: str) -> None:
    print(*lines, sep="\n", file=sys.stderr)


if __name__ == "__main__":
    program.run(main)
