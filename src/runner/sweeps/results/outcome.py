"""How a job ended, kept in its folder by whoever has watched it: of a process that was killed, nobody else can tell."""

import os
import re
from pathlib import Path

from runner.rundir import layout
from runner.saved.run import read_result
from runner.sweeps.jobs import JobOutcome
from runner.util.files import load_json_or_empty
from runner.util.options import EXIT_SIGNAL

LAST_LINES = 4
LOG_BYTES = 1 << 16


def fate_of(folder: Path) -> JobOutcome | None:
    """How a job ended; None if it has not, or nobody was there to see it."""
    content = load_json_or_empty(folder / layout.JOB)
    if not {"status", "why", "seconds"} <= content.keys():
        return None
    return JobOutcome(content["status"], content["why"], content["seconds"])


def judge(folder: Path, exit_code: int | None, ended_by: str, seconds: float) -> JobOutcome:
    """Tell from what a process leaves how its job ended, if nobody has told it to.

    Args:
        folder: the job's.
        exit_code: of the process; None if it was lost with whoever watched it.
        ended_by: the same in words.
        seconds: that it took.
    """
    result = read_result(folder)
    status = result.get("status")
    if status == "FINISHED":  # written last of all, and taken away when a run begins
        return JobOutcome("FINISHED", "", seconds)
    if exit_code is None and status != "FAILED":
        return JobOutcome("KILLED", ended_by, seconds)
    if exit_code is not None and exit_code < 0:
        memory = ", sent by someone, or by the system for want of memory" if ended_by == "SIGKILL" else ""
        return JobOutcome("KILLED", ended_by + memory, seconds)
    if exit_code is not None and exit_code > EXIT_SIGNAL:
        return JobOutcome("KILLED", "stopped by a signal", seconds)
    error = result.get("error") if status == "FAILED" else _last_error(folder)
    return JobOutcome("FAILED", error or f"ended without a result ({ended_by})", seconds)


def _last_error(folder: Path) -> str | None:
    """What the log says of a job that did not come to write a result."""
    errors = [line for line in log_lines(folder) if "error: " in line]
    return errors[-1].partition("error: ")[2] if errors else None


def last_lines(folder: Path) -> list[str]:
    """The end of a job's log, without times and the marks below a traceback's lines."""
    lines = [re.sub(r"^\d{4}-\d\d-\d\d [\d:,]+ \w+ +", "", line) for line in log_lines(folder)]
    return [line for line in lines if line.strip(" ^~")][-LAST_LINES:]


def log_lines(folder: Path) -> list[str]:
    """The end of a job's log; nothing if there is none."""
    try:
        with (folder / layout.LOG).open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - LOG_BYTES))
            return file.read().decode(errors="replace").splitlines()
    except OSError:
        return []
