"""One run, one folder: a copy of a run's folder becomes a run of its own, a moved folder goes on as the same run.

The manifest notes the place of its folder: host, path, and the inodes of two folders, which a copy does not share.
Where these cannot tell (two copies whose original is gone), the tracking store decides: see `tracking.run_owner`.
"""

import logging
import uuid
from dataclasses import replace
from enum import Enum
from pathlib import Path

from runner.rundir import delivery_state, layout
from runner.rundir.delivery_state import DeliveryState
from runner.rundir.folders import display_path
from runner.rundir.manifest import ENDINGS, FOLDER, NAME, Manifest, manifest_of, place_of
from runner.rundir.ownership import is_real_file
from runner.util.files import load_json_or_empty, write_json
from runner.util.tags import COPY_TAG, FOLDER_TAG

log = logging.getLogger("runner")


class Relation(Enum):
    """How a folder relates to the place that its manifest notes."""

    SAME = "the same folder"
    MOVED = "moved, or restored from a backup: the former folder is gone"
    COPY = "a copy: the former folder is still there, or on a machine that cannot be seen from here"


def claim(folder: Path) -> Relation:
    """Make a folder the only one of its run, before anything of it is uploaded; the caller holds its lock.

    Args:
        folder: of a run or a sweep; nothing happens if it is not tracked, or its manifest is damaged.

    Raises:
        OSError: the folder cannot be written.
    """
    manifest = manifest_of(folder)
    if manifest is None:
        return Relation.SAME
    relation, here = relation_of(folder, manifest), place_of(folder)
    if relation is Relation.COPY:
        become_another_run(folder)
    elif manifest.place != here:
        if relation is Relation.MOVED:
            owners = [*manifest.former_owners, manifest.owner]
            manifest = replace(manifest, owner=uuid.uuid4().hex, former_owners=owners)
        replace(manifest, place=here, tags=manifest.tags | {FOLDER_TAG: here["path"]}).save(folder)
    return relation


def relation_of(folder: Path, manifest: Manifest) -> Relation:
    """Find out whether a folder is the one that its manifest was written in."""
    was, here = manifest.place or {}, place_of(folder)
    path = was.get("path") or manifest.tags.get(FOLDER_TAG)
    if path is None or was.get("inodes") == here["inodes"]:  # renamed, or seen from another machine
        return Relation.SAME
    elsewhere = was.get("host") not in (None, here["host"])
    if path == here["path"]:
        if "inodes" not in was:  # of 0.1.0
            return Relation.SAME
        return Relation.COPY if elsewhere else Relation.MOVED
    if _is_same(Path(path), folder):  # the same disk, mounted twice
        return Relation.SAME
    return Relation.COPY if elsewhere or _may_hold(Path(path), manifest.key) else Relation.MOVED


def become_another_run(folder: Path) -> None:
    """Make a folder a run of its own, which MLflow does not have yet; a tag names the run that it was copied from."""
    manifest, state = Manifest.load(folder), DeliveryState.load(folder)
    was = (manifest.place or {}).get("path") or manifest.tags.get(FOLDER_TAG, "")
    # First of all: a new key beside the old state would write to the old run.
    (folder / FOLDER / delivery_state.NAME).unlink(missing_ok=True)
    if (result := load_json_or_empty(folder / layout.RESULT)).get("run_id") is not None:
        write_json(folder / layout.RESULT, result | {"run_id": None, "parent_run_id": None})
    of_run = {key: text for key, text in manifest.tags.items() if key not in ENDINGS or manifest.status != "RUNNING"}
    replace(
        manifest,
        key=uuid.uuid4().hex,
        owner="",
        former_owners=[],
        place=place_of(folder),
        parent_run_id=None,
        parent_key=_key_of_sweep(folder, manifest),
        experiment_id=None,
        tags=of_run | {COPY_TAG: state.run_id or state.lost_run_id or was, FOLDER_TAG: str(folder.resolve())},
    ).save(folder)
    if manifest.parent_run_id is None and manifest.parent_key is None:  # jobs are too many
        log.info("note       a copy of %s: it is another run in MLflow", display_path(Path(was)))


def _key_of_sweep(folder: Path, manifest: Manifest) -> str | None:
    """Return the key of the sweep that a copied job is in; None if it was copied without its sweep."""
    if manifest.parent_run_id is None and manifest.parent_key is None:
        return None
    sweep = folder.parent
    of_sweep = manifest_of(sweep) if is_real_file(sweep / layout.SWEEP_PLAN) else None
    if of_sweep is None or relation_of(sweep, of_sweep) is not Relation.SAME:
        return None
    return of_sweep.key


def _is_same(path: Path, folder: Path) -> bool:
    try:
        return path.samefile(folder)
    except (OSError, ValueError):
        return False


def _may_hold(folder: Path, key: str) -> bool:
    """Whether a folder has the run with this key, or may have it: this user may not look into it."""
    notes = folder / FOLDER / NAME
    try:
        notes.lstat()
    except PermissionError:
        return True
    except (OSError, ValueError):
        return False
    if not is_real_file(notes):
        return False
    manifest = manifest_of(folder)
    return manifest is None or manifest.key == key
