"""Whether the model of a finished run, or of the best job of a sweep, still has to be registered."""

from pathlib import Path

from runner.rundir import layout
from runner.rundir.manifest import FOLDER, Manifest, manifest_of
from runner.util.files import load_json_or_empty, write_json

NAME = "registration.json"


def due(folder: Path) -> str | None:
    """Return the name of the registered model that is to get a version of a run or a sweep; None if nothing is to do.

    A sweep of which jobs have failed has a best job all the same.
    """
    manifest = manifest_of(folder)
    if manifest is None or manifest.register is None:
        return None
    ended = ("FINISHED", "FAILED") if (folder / layout.SWEEP_PLAN).is_file() else ("FINISHED",)
    if manifest.status not in ended or load_json_or_empty(folder / FOLDER / NAME) == _content(manifest):
        return None
    return manifest.register


def note(folder: Path) -> None:
    """Note that nothing is left to do, until a resume ends."""
    write_json(folder / FOLDER / NAME, _content(Manifest.load(folder)), private=True)


def _content(manifest: Manifest) -> dict[str, str | int | None]:
    return {"name": manifest.register, "end_time": manifest.end_time}
