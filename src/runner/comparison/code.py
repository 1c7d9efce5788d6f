"""Whether runs were made by different code: by the files that several of them imported."""

import hashlib
from collections.abc import Sequence

from runner.comparison.runs import ComparedRun
from runner.rundir.code import Code, CodeFolder

COLUMN = "code"
"""Among the parameters in which runs differ."""


def differing_files(runs: Sequence[ComparedRun]) -> dict[str, str]:
    """Return the files that differ between runs, by the names of their modules.

    Which modules a run imports depends on its config: a module that only one has says nothing about the code.
    """
    hashes: dict[str, set[str]] = {}
    files: dict[str, str] = {}
    for code in (run.code for run in runs if run.code is not None):
        for name, _, module in code.modules():
            hashes.setdefault(name, set()).add(module.sha256)
            files[name] = module.file
    return {name: files[name] for name in sorted(files) if len(hashes[name]) > 1}


def code_column(runs: Sequence[ComparedRun]) -> list[str]:
    """Return a name for the code of each run, where it differs: `1a2b3c4`, `1a2b3c4+5d6e` with uncommitted changes.

    Returns:
        The names, empty for a run without a record; an empty list if no code differs.
    """
    modules = differing_files(runs)
    return [_name(run.code, modules) if run.code is not None else "" for run in runs] if modules else []


def _name(code: Code, modules: dict[str, str]) -> str:
    parts = [(folder, sorted(modules.keys() & folder.modules.keys())) for folder in code.folders]
    return " ".join(_name_of_folder(folder, names) for folder, names in parts if names)


def _name_of_folder(folder: CodeFolder, names: Sequence[str]) -> str:
    files = [folder.modules[name] for name in names]
    content = hashlib.sha256("".join(file.sha256 for file in files).encode()).hexdigest()
    if folder.commit is None:
        return content[:7]
    changed = folder.dirty or any(file.stored is not None for file in files)
    return folder.commit[:7] + (f"+{content[:4]}" if changed else "")
