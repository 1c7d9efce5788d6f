"""How a job ended, as its folder and its process's exit show; saved there for jobs that cannot report it themselves."""

import os
import re
from pathlib import Path

from runner.rundir import layout
from runner.rundir.manifest import PAUSE
from runner.saved.run import read_result
from runner.sweeps.jobs import JobOutcome
from runner.util.files import load_json_or_empty, open_to_read
from runner.util.options import EXIT_SIGNAL

LAST_LINES = 4
LOG_BYTES = 1 << 16


def outcome_of(folder: Path) -> JobOutcome | None:
    """Read how a job ended; None if it has not, or its end was not observed."""
    content = load_json_or_empty(folder / layout.JOB)
    if not {"status", "why", "seconds"} <= content.keys():
        return None
    return JobOutcome(content["status"], content["why"], content["seconds"])


def judge(
    folder: Path, exit_code: int | None, description: str, seconds: float, pause_after: int | None = None
) -> JobOutcome:
    """Derive a job's outcome from its folder and its exit, for a job that was not asked to stop.

    Args:
        folder: of the job.
        exit_code: of its process; None if it was lost together with its supervisor.
        description: the same for a reader.
        seconds: that it took.
        pause_after: the epoch after which it was to pause; None: it was not.
    """
    result = read_result(folder)
    status = result.get("status")
    if status == "FINISHED":  # written last of all, and removed when a run starts
        return JobOutcome("FINISHED", "", seconds)
    epochs = int(result.get("epochs") or 0)
    if status == PAUSE and pause_after is not None and epochs >= pause_after:  # else it paused in an earlier start
        return JobOutcome(PAUSE, f"after epoch {epochs}", seconds)
    if exit_code is None and status != "FAILED":
        return JobOutcome("KILLED", description, seconds)
    if exit_code is not None and exit_code < 0:
        memory = ", possibly by the kernel's out-of-memory killer" if description == "SIGKILL" else ""
        return JobOutcome("KILLED", description + memory, seconds)
    if exit_code is not None and exit_code > EXIT_SIGNAL:
        return JobOutcome("KILLED", "stopped by a signal", seconds)
    error = result.get("error") if status == "FAILED" else _last_error(folder)
    return JobOutcome("FAILED", error or f"ended without a result ({description})", seconds)


def _last_error(folder: Path) -> str | None:
    """Return the last error in the log of a job that wrote no result."""
    errors = [line for line in log_lines(folder) if "error: " in line]
    return errors[-1].partition("error: ")[2] if errors else None


def last_lines(folder: Path) -> list[str]:
    """Return the end of a job's log, without times and the marks below the lines of a traceback."""
    lines = [re.sub(r"^\d{4}-\d\d-\d\d [\d:,]+ \w+ +", "", line) for line in log_lines(folder)]
    return [line for line in lines if line.strip(" ^~")][-LAST_LINES:]


def log_lines(folder: Path) -> list[str]:
    """Return the last lines of a job's log; empty if it has none."""
    try:
        with open_to_read(folder / layout.LOG) as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - LOG_BYTES))
            return file.read().decode(errors="replace").splitlines()
    except OSError:
        return []
