"""Watch runs and sweeps in a terminal: `python -m runner.watch`, here or in a folder that machines share.

A table of all runs, the curves of one, the end of its log; keys to stop a job, go on with it, or clone it with changes.
"""

import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from runner.errors import ConfigError, Problem
from runner.rundir.folders import display_path
from runner.rundir.folders import outputs as outputs_folder
from runner.saved.live import LiveRuns
from runner.sweeps.results.resume import find
from runner.util import program
from runner.util.hub import library
from runner.util.options import run_with_options

USAGE = "python -m runner.watch [sweep=<folder>]: runs and sweeps in the terminal, as they go."
OPTIONS = {
    "sweep": "only the jobs of this sweep: its folder, or the id of its run in MLflow",
    "outputs": "another folder of runs, such as one that a cluster writes to",
    "tracking.uri": "the address of the store that has the id",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command until `q` is pressed; 2 for a wrong argument."""
    return run_with_options(argv, USAGE, OPTIONS, _watch)


def _watch(options: dict[str, str]) -> int:
    root = outputs_folder()
    if "outputs" in options:
        root = Path(options["outputs"]).expanduser()
        if not root.is_dir():
            text = f"outputs={options['outputs']}: no such folder"
            raise ConfigError(Problem("outputs", text, "name a folder that has runs/ or sweeps/", topic="file"))
    if "sweep" in options:
        root = find(options["sweep"], options.get("tracking.uri"), "sweep")
    for name in ("textual", "plotext"):
        library(name, "runner.watch", "watch")
    if not sys.stdout.isatty():
        raise ConfigError(Problem("", "runner.watch needs a terminal", "start it in one", topic="unavailable"))
    for number in (signal.SIGHUP, signal.SIGTERM):  # unlike a run, a display ends with its terminal
        signal.signal(number, signal.SIG_DFL)
    from runner.watch_app import Watch

    Watch(LiveRuns(root), display_path(root)).run()
    return 0


if __name__ == "__main__":
    program.run(main)
