"""A sweep that was begun before: found by its folder or its MLflow id, and what is left to do for each of its jobs."""

import re
import time
from dataclasses import replace
from enum import Enum
from pathlib import Path

from runner.errors import ConfigError
from runner.rundir import layout
from runner.rundir.folders import display_path, outputs, parse_path
from runner.rundir.lock import is_locked
from runner.rundir.manifest import manifest_of, own_folder
from runner.saved import run as saved_runs
from runner.saved.run import read_result
from runner.sweeps.results.outcome import fate_of
from runner.util.tags import FOLDER_TAG

FAILED_ATTEMPTS = "failed_attempts"
ORPHANS_SECONDS = 15.0
_SECONDS_BETWEEN_LOOKS = 0.1


class ResumeAction(Enum):
    """What a resumed sweep does with a job."""

    SKIP = "finished"
    GO_ON = "from its checkpoint"
    AGAIN = "from the start, as it failed"
    NEW = "from the start"
    UNDER_WAY = "is under way"


def find(value: str, uri: str | None) -> Path:
    """The folder of a sweep.

    Args:
        value: the folder, or the id of its parent run in MLflow.
        uri: of the store that knows the id; for None see `saved.run.store_of`.

    Raises:
        ConfigError: there is no such sweep.
    """
    given, folder = f"sweep.resume={value}", parse_path(value, "sweep.resume")
    if (folder / layout.SWEEP_PLAN).is_file():
        return folder.resolve()
    if folder.is_dir():
        raise ConfigError(f"{given} is no sweep's folder: there is no {layout.SWEEP_PLAN} in it; {_newest()}")
    if not re.fullmatch("[0-9a-f]{32}", value):
        raise ConfigError(f"{given}: there is no such folder; {_newest()}")
    tags = saved_runs.get_logged_run(value, given, uri or saved_runs.store_of(value)).data.tags
    own = own_folder(tags)
    if own is None or not (own / layout.SWEEP_PLAN).is_file():
        was = tags.get(FOLDER_TAG)
        where = (
            f"its folder is not here (it was {was}); write its present place" if was else "it is no sweep of runner's"
        )
        raise ConfigError(f"{given}: {where}")
    return own


def _newest() -> str:
    sweeps = outputs() / "sweeps"
    found = sorted(path.parent.name for path in sweeps.glob(f"*/{layout.SWEEP_PLAN}"))
    return (
        f"the newest is {display_path(sweeps / found[-1])}" if found else "write a sweep's folder or MLflow parent id"
    )


def course_of(folder: Path) -> ResumeAction:
    """What is to be done with a job, as its folder tells; nobody must be at work in it."""
    status = read_result(folder).get("status")
    fate = fate_of(folder)
    if status == "FINISHED" or (fate is not None and fate.pruned):
        return ResumeAction.SKIP
    if status == "FAILED" or (status is None and fate is not None and fate.status == "FAILED"):
        return ResumeAction.AGAIN
    if (folder / layout.CONFIG).is_file() and any((folder / layout.CHECKPOINTS).glob("*.pt")):
        return ResumeAction.GO_ON
    return ResumeAction.NEW


def wait_for_orphans(folders: list[Path]) -> None:
    """Let the jobs of a killed sweep come to their end, which takes them seconds.

    Raises:
        ConfigError: one of them does not.
    """
    deadline = time.monotonic() + ORPHANS_SECONDS
    for folder in folders:
        while is_locked(folder):
            if time.monotonic() > deadline:
                raise ConfigError(f"{display_path(folder)} is still in use: wait for its process to end, or stop it")
            time.sleep(_SECONDS_BETWEEN_LOOKS)


def archive_attempt(folder: Path) -> Path:
    """Move the folder of a failed job out of the way of its next attempt; its run is no longer the sweep's.

    Returns:
        The new folder, `failed_attempts/<job number>_<attempt>`.
    """
    aside = folder.parent / FAILED_ATTEMPTS
    aside.mkdir(exist_ok=True)
    attempt = 1
    while (aside / f"{folder.name}_{attempt}").exists():
        attempt += 1
    moved = folder.rename(aside / f"{folder.name}_{attempt}")
    manifest = manifest_of(moved)
    if manifest is not None:
        tags = manifest.tags | {FOLDER_TAG: str(moved), "runner.superseded_by": str(folder)}
        manifest = replace(manifest, parent_run_id=None, parent_key=None, tags=tags)
        (manifest if manifest.status != "RUNNING" else manifest.ended("FAILED")).save(moved)
    return moved
