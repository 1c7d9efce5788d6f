"""Remove what nothing needs any more: `python -m runner.clean [older=30d] [folder=...] [yes=true]`.

These are checkpoints and models of jobs that are not the best of their sweeps, and caches. Without `yes=true` it only
says what it would remove.
"""

import re
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from runner.errors import ConfigError, Problem
from runner.rundir.folders import display_path, outputs, parse_path, shell_path
from runner.rundir.ownership import is_own_folder
from runner.util import program
from runner.util.options import EXIT_FAILED, choice_option, run_with_options
from runner.util.tables import align

USAGE = (
    "python -m runner.clean [key=value ...]: remove checkpoints and models of jobs that are not the best of their\n"
    "sweep, and caches. Without yes=true it only says what it would remove. Results, configs, metrics and plots stay."
)
OPTIONS = {
    "older": "how long ago a run must have ended: 30d (the default), 12h, 2w; 0d for all",
    "folder": "of a run, a sweep or several; by default all of the outputs folder. A single run must be named",
    "yes": "true: remove it",
}
UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}
DEFAULT_AGE = "30d"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; what it finds is on standard error.

    Returns:
        0, 1 if something could not be removed, 2 for a wrong argument.
    """
    return run_with_options(argv, USAGE, OPTIONS, _clean)


def _clean(options: dict[str, str]) -> int:
    from runner.cleaning.clean import Cleaner
    from runner.cleaning.files import large_items, measure

    age = options.get("older", DEFAULT_AGE)
    before = time.time() - parse_age(age)
    yes = choice_option(options, "yes", ("true", "false"), "false") == "true"
    folder = _folder(options["folder"]) if "folder" in options else outputs()
    if not folder.is_dir():
        _say(f"nothing to remove: {display_path(folder)} does not exist")
        return 0
    cleaner = Cleaner(folder, before)
    found = cleaner.find()
    sizes = {kind: (size.files, size.bytes) for kind, size in measure(found.items).items()}
    if sizes:
        total = [sum(column) for column in zip(*sizes.values(), strict=True)]
        _say(*_table("kind", "files", {**sizes, "total": (total[0], total[1])}), "")
    kept = {}
    for reason, runs in found.kept.items():
        items = [item for run in runs for item in large_items(run.folder)]
        kept[reason] = len(runs), sum(size.bytes for size in measure(items).values())
    if kept:
        _say(*_table("stays", "runs", kept), "")
    if not found.items and not found.losers:
        _say(f"nothing to remove that is older than {age}")
        return 0
    if not yes:
        named = f" folder={shell_path(folder)}" if "folder" in options else ""
        _say(f"nothing is removed yet; to remove it: python -m runner.clean older={age}{named} yes=true")
        return 0
    problems = cleaner.remove(found)
    _say(*(f"stays      {problem}" for problem in problems))
    done = "what could be" if problems else "all of it"
    _say(f"removed    {done}; results, configs, metrics and plots stay")
    return EXIT_FAILED if problems else 0


def parse_age(text: str) -> float:
    """Return the seconds of an age such as `30d`.

    Raises:
        ConfigError: it is none.
    """
    match = re.fullmatch(rf"(\d+(?:\.\d+)?)([{''.join(UNITS)}])", text.strip())
    if match is None:
        raise ConfigError(Problem("older", f"older={text} is not an age", "write older=30d, 12h or 2w", topic="type"))
    return float(match[1]) * UNITS[match[2]]


def _folder(value: str) -> Path:
    folder = parse_path(value, "folder")
    if not folder.is_dir():
        text = f"folder={value}: the folder does not exist"
        raise ConfigError(Problem("folder", text, "write the folder of runs, a run or a sweep", topic="file"))
    folder = folder.resolve()
    if not is_own_folder(folder):
        text = f"folder={value} belongs to another user"
        raise ConfigError(Problem("folder", text, "write one of yours", topic="file"))
    return folder


def _table(first: str, second: str, rows: Mapping[str, tuple[int, int]]) -> list[str]:
    numbers, sizes = zip(*rows.values(), strict=True)
    return align(
        [
            [first, *rows],
            [f">{second}", *(f"{number:,}" for number in numbers)],
            [">size", *map(format_bytes, sizes)],
        ]
    )


def format_bytes(size: int) -> str:
    """Format a number of bytes: `1.2 GB`."""
    for unit, name in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if size >= unit:
            return f"{size / unit:.1f} {name}"
    return f"{size} B"


def _say(*lines: str) -> None:
    if lines:
        print(*lines, sep="\n", file=sys.stderr)


if __name__ == "__main__":
    program.run(main)
