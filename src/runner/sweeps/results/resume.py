"""Resuming a sweep: finding its folder, and choosing what to do with each of its jobs."""

import re
import time
from dataclasses import replace
from enum import Enum
from pathlib import Path

from runner.errors import ConfigError, Problem
from runner.rundir import layout
from runner.rundir.claim import claim
from runner.rundir.folders import display_path, outputs, parse_path, shell_path
from runner.rundir.lock import is_locked
from runner.rundir.manifest import manifest_of, own_folder
from runner.rundir.ownership import own_folders
from runner.saved import run as saved_runs
from runner.saved.run import lacks_artifacts, read_result
from runner.sweeps.results.outcome import outcome_of
from runner.util.tags import FOLDER_TAG

KEY = "sweep.resume"
FAILED_ATTEMPTS = "failed_attempts"
ORPHANS_SECONDS = 15.0
_POLL_SECONDS = 0.1


class ResumeAction(Enum):
    """What a resumed sweep does with a job."""

    SKIP = "finished"
    RESUME = "from its checkpoint"
    RESTART = "from the start, as it failed"
    START = "from the start"
    FOLLOW = "is running"


def find(value: str, uri: str | None, key: str = KEY) -> Path:
    """Find the folder of a sweep.

    Args:
        value: the folder, or the id of its parent run in MLflow.
        uri: of the store that has the id; for None see `saved.run.store_of`.
        key: the option that has the value.

    Raises:
        ConfigError: it is not a sweep, or does not exist.
    """
    typed, folder = f"{key}={value}", parse_path(value, key)
    if (folder / layout.SWEEP_PLAN).is_file():
        return folder.resolve()
    if folder.is_dir():
        text = f"{typed} is not a sweep's folder: it has no {layout.SWEEP_PLAN}"
        raise ConfigError(Problem(key, text, _suggest_newest(key), topic="run"))
    if not re.fullmatch("[0-9a-f]{32}", value):
        raise ConfigError(Problem(key, f"{typed}: no such folder", _suggest_newest(key), topic="file"))
    tags = saved_runs.get_logged_run(value, typed, uri or saved_runs.store_of(value)).data.tags
    own = own_folder(tags)
    if own is not None and (own / layout.SWEEP_PLAN).is_file():
        return own
    if former := tags.get(FOLDER_TAG):
        text, suggestion = f"{typed}: its folder {former} is not here", f"write {key}=<its folder>"
        raise ConfigError(Problem(key, text, suggestion, topic="file"))
    raise ConfigError(Problem(key, f"{typed} is not a sweep of runner", _suggest_newest(key), topic="run"))


def _suggest_newest(key: str) -> str:
    sweeps = outputs() / "sweeps"
    own = own_folders(sweeps, layout.SWEEP_PLAN)
    return f"write {key}={shell_path(own[-1]) if own else '<folder or MLflow parent id>'}"


def choose_action(folder: Path, artifacts: str) -> ResumeAction:
    """Choose what to do with a job.

    Args:
        folder: of the job; no process may be using it.
        artifacts: with `all`, a finished job without plots and model resumes, to make them.
    """
    result = read_result(folder)
    status, outcome = result.get("status"), outcome_of(folder)
    if status == "FINISHED" and artifacts == "all" and lacks_artifacts(result):
        return ResumeAction.RESUME
    if status == "FINISHED" or (outcome is not None and outcome.pruned):
        return ResumeAction.SKIP
    if status == "FAILED" or (status is None and outcome is not None and outcome.status == "FAILED"):
        return ResumeAction.RESTART
    if (folder / layout.CONFIG).is_file() and any((folder / layout.CHECKPOINTS).glob("*.pt")):
        return ResumeAction.RESUME
    return ResumeAction.START


def wait_for_orphans(folders: list[Path]) -> None:
    """Wait until the jobs of a killed sweep have ended, which takes them seconds.

    Raises:
        ConfigError: one of them has not after 15 s.
    """
    deadline = time.monotonic() + ORPHANS_SECONDS
    for folder in folders:
        while is_locked(folder):
            if time.monotonic() > deadline:
                text = f"{display_path(folder)} is still in use"
                raise ConfigError(Problem(KEY, text, "wait for its process to end, or stop it", topic="run"))
            time.sleep(_POLL_SECONDS)


def archive_attempt(folder: Path) -> Path:
    """Move the folder of a failed job out of the way of its next attempt; its run leaves the sweep.

    Returns:
        The new folder, `failed_attempts/<job number>_<attempt>`.
    """
    claim(folder)
    archive = folder.parent / FAILED_ATTEMPTS
    archive.mkdir(exist_ok=True)
    attempt = 1
    while (archive / f"{folder.name}_{attempt}").exists():
        attempt += 1
    moved = folder.rename(archive / f"{folder.name}_{attempt}")
    manifest = manifest_of(moved)
    if manifest is not None:
        tags = manifest.tags | {FOLDER_TAG: str(moved), "runner.superseded_by": str(folder)}
        manifest = replace(manifest, parent_run_id=None, parent_key=None, tags=tags)
        (manifest if manifest.status != "RUNNING" else manifest.ended("FAILED")).save(moved)
    return moved
