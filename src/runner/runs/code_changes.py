"""Compare the stored code of a run with the present code, without importing anything."""

import logging
import sys
from importlib.machinery import PathFinder
from importlib.util import find_spec
from pathlib import Path

from runner.rundir.code import RUNNER, Code, content_hash
from runner.saved.code import StoredCode
from runner.saved.run import SavedRun
from runner.util.users_code import is_runners

log = logging.getLogger("runner")

SHOWN = 3
"""Changed files that are named."""


def warn_of_changes(run: SavedRun) -> None:
    """Warn if the user's code is another than a run was trained with: its weights are then in another model.

    Args:
        run: a run whose model was just built from the present code.

    Raises:
        ConfigError: the store does not answer.
    """
    record = StoredCode(run).record
    changed = changes(record, of_runner=False) if record is not None else []
    for line in changed[:SHOWN]:
        log.warning("note       %s", line)
    if changed:
        more = f"{len(changed) - SHOWN} more files, and " if len(changed) > SHOWN else ""
        log.warning("note       %sthe weights are those of the run, the code of the model is the present one", more)


def changes(code: Code, of_runner: bool = True) -> list[str]:
    """Describe which files of a run's code are others now, a line each.

    Args:
        code: of the run.
        of_runner: whether runner's own files count.
    """
    lines = []
    for name, folder, module in code.modules():
        if not of_runner and is_runners(name):
            continue
        file = find_file(name)
        if file is not None and name == RUNNER:
            file = file.parent
        if file is None:
            lines.append(f"the code has changed: {module.file} in {folder.root} is missing")
        elif content_hash(file) != module.sha256:
            now = "" if file == Path(folder.root, module.file) else f" is {file} now"
            lines.append(f"the code has changed: {module.file} in {folder.root}{now}")
    return sorted(lines)


def find_file(module: str) -> Path | None:
    """Return the file that a module is, or would be, imported from; None if it is not found."""
    loaded = getattr(sys.modules.get(module), "__file__", None)
    if isinstance(loaded, str):
        return Path(loaded).absolute()
    first, *rest = module.split(".")
    try:
        spec = find_spec(first)  # of the first name alone: it imports nothing
        for index, _ in enumerate(rest, start=2):
            if spec is None or spec.submodule_search_locations is None:
                return None
            spec = PathFinder.find_spec(".".join([first, *rest][:index]), list(spec.submodule_search_locations))
    except (ImportError, ValueError):
        return None
    return Path(spec.origin).absolute() if spec is not None and spec.has_location and spec.origin else None
