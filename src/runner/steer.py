"""Change a sweep while it runs: `python -m runner.steer sweep=<folder> stop=3`, `go_on=3`, `clone=5 optimizer.lr=0.01`.

The sweep may run in another terminal, or on another machine with the same disk: it obeys within a second. A job that is
stopped writes a checkpoint after the step in progress, and goes on from there, exactly.
"""

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from runner.errors import ConfigError, Problem
from runner.rundir import requests
from runner.rundir.folders import display_path, shell_path
from runner.rundir.lock import is_locked
from runner.sweeps.results.resume import find
from runner.util import program
from runner.util.options import EXIT_FAILED, print_errors, run_with_options

USAGE = (
    "python -m runner.steer sweep=<folder> [stop=3,4] [go_on=3] [clone=5 <key>=<value> ...] [add='<key>=<value> ...']:"
    " stop jobs of a running sweep, go on with them, or add jobs."
)
OPTIONS = {
    "sweep": "the folder of the sweep, or the id of its run in MLflow",
    "stop": "numbers of jobs that write a checkpoint and stop, or do not start",
    "go_on": "numbers of stopped jobs that go on from their checkpoints",
    "clone": "the number of a job that is trained again with the changes that follow",
    "add": "a new job, by the values in which it differs from the sweep's command: 'optimizer.lr=0.01 seed=3'",
    "tracking.uri": "the address of the store that has the id",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; each thing done is a line on standard error.

    Returns:
        0 if all is done, 1 if the sweep does not answer, 2 for a wrong argument, or what the sweep cannot do.
    """
    argv = sys.argv[1:] if argv is None else argv
    changes = [word for word in argv if "=" in word and word.partition("=")[0] not in {*OPTIONS, "runner.verbose"}]
    is_clone = any(word.startswith("clone=") for word in argv)
    own = [word for word in argv if word not in changes] if is_clone else list(argv)
    return run_with_options(own, USAGE, OPTIONS, lambda options: _steer(options, changes))


def _steer(options: dict[str, str], changes: Sequence[str]) -> int:
    asked = _requests(options, changes)
    if "sweep" not in options:
        raise ConfigError(Problem("sweep", "no sweep is named", "write sweep=<its folder>", topic="missing"))
    folder = find(options["sweep"], options.get("tracking.uri"), "sweep")
    if not is_locked(folder):
        text = f"sweep={options['sweep']}: the sweep does not run"
        instead = f"go on with what is left: python -m runner --multirun sweep.resume={shell_path(folder)}"
        raise ConfigError(Problem("sweep", text, instead, topic="run"))
    return max(_ask(folder, request) for request in asked)


def _requests(options: dict[str, str], changes: Sequence[str]) -> list[dict[str, Any]]:
    asked: list[dict[str, Any]] = []
    for key in ("stop", "go_on"):
        if key in options:
            asked += [{key: number} for number in _numbers(key, options[key])]
    if "clone" in options:
        if not changes:
            text = f"clone={options['clone']}: the job would be trained again as it is"
            raise ConfigError(Problem("clone", text, "add what changes, such as optimizer.lr=0.01", topic="missing"))
        asked += [{"clone": number, "overrides": list(changes)} for number in _numbers("clone", options["clone"])]
    if "add" in options:
        asked.append({"add": _words(options["add"])})
    if not asked:
        text = "nothing is asked for"
        raise ConfigError(Problem("", text, "add stop=3, go_on=3, clone=3 or add=..., for example", topic="missing"))
    return asked


def _numbers(key: str, value: str) -> list[int]:
    parts = value.strip("[] ").split(",")
    if not all(part.strip().isdecimal() for part in parts):
        text = f"{key}={value} is not a list of numbers of jobs"
        raise ConfigError(Problem(key, text, f"write {key}=3, or {key}=3,4", topic="type"))
    return [int(part) for part in parts]


def _words(value: str) -> list[str]:
    try:
        words = shlex.split(value)
    except ValueError as error:  # a quote without its end
        raise ConfigError(Problem("add", f"add={value}: {error}", topic="syntax")) from error
    if not words or any("=" not in word for word in words):
        instead = "write add='optimizer.lr=0.01 seed=3', for example"
        raise ConfigError(Problem("add", f"add={value} is not <key>=<value> ...", instead, topic="syntax"))
    return words


def _ask(folder: Path, request: dict[str, Any]) -> int:
    answer = requests.ask(folder, request)
    if answer is None:
        state = "does not answer" if is_locked(folder) else "has ended"
        print(f"error: {display_path(folder)} {state}: nothing is changed", file=sys.stderr)
        return EXIT_FAILED
    if "problems" in answer:
        return print_errors(*(Problem(**problem) for problem in answer["problems"]))
    print(answer["done"], file=sys.stderr)
    return 0


if __name__ == "__main__":
    program.run(main)
