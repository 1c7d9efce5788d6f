"""Compare the stored code of a run with the present code, without importing anything."""

import sys
from importlib.machinery import PathFinder
from importlib.util import find_spec
from pathlib import Path

from runner.rundir.code import RUNNER, Code, content_hash


def changes(code: Code) -> list[str]:
    """Describe which files of a run's code are others now, a line each."""
    lines = []
    for name, folder, module in code.modules():
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
