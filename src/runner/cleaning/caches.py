"""Caches that any later run makes again."""

from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path

import yaml

from runner.cleaning.files import GRAPHS, IMAGES, LEFT, REHEARSALS, REMOVED, Item
from runner.cleaning.runs import Run
from runner.data import image_cache
from runner.rundir import layout
from runner.rundir.ownership import is_own_file, is_own_folder
from runner.util.files import read_text

KINDS = {layout.GRAPHS: GRAPHS, layout.REHEARSALS: REHEARSALS}


def find_caches(outputs: Path, runs: Iterable[Run], before: float) -> Iterator[Item]:
    """Yield the caches that nobody has used since a time: those of an outputs folder, and decoded images.

    Args:
        outputs: the folder of all outputs.
        runs: those in it, whose data may have decoded images beside them.
        before: seconds since the epoch.
    """
    for name, kind in KINDS.items():
        if is_own_folder(outputs / name):
            files = sorted((outputs / name).iterdir())
            yield from (Item(kind, path) for path in files if is_own_file(path) and path.stat().st_mtime < before)
    for place in _image_places(runs):
        for path in sorted(place.glob("images-*")):
            if is_own_folder(path) and path.stat().st_mtime < before:  # the time of its last use
                yield Item(IMAGES, path)
        yield from (Item(LEFT, path) for path in sorted(place.glob(f"{REMOVED}*")) if is_own_folder(path))


def _image_places(runs: Iterable[Run]) -> list[Path]:
    beside = {Path(text) / image_cache.HIDDEN for run in runs if (text := _folder_of_images(run)) is not None}
    users = image_cache.USERS.expanduser()
    return [place for place in [*sorted(beside), *sorted(users.glob("*"))] if is_own_folder(place)]


def _folder_of_images(run: Run) -> str | None:
    """Return the folder of images that a run was trained on; None if its data are others."""
    with suppress(OSError, ValueError, RecursionError, yaml.YAMLError):
        text = read_text(run.folder / layout.CONFIG)
        if "runner.data.image_folder." in text:
            data = yaml.safe_load(text)["data"]
            return data.get("path") if isinstance(data.get("path"), str) else None
    return None
