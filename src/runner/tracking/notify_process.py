"""The process that sends notifications: it waits for the end of a run, or for that of the process that runs it.

It reads JSON lines from standard input: the folder, and how the run has ended. If the input ends between the two, the
run was killed. It answers with the variables whose addresses are unknown, and then with those that did not take it.
"""

import contextlib
import json
import logging
import os
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runner.rundir import layout
from runner.tracking.notify import NOT_SENT
from runner.tracking.notify_text import compose
from runner.util import program, terminal
from runner.util.redaction import hide_variable

if TYPE_CHECKING:
    from apprise import Apprise

log = logging.getLogger("runner")


def main() -> int:
    """Send what the lines of the standard input ask for; the arguments are the names of the variables."""
    for number in (signal.SIGINT, signal.SIGTERM):  # the run gets it too, and ends
        signal.signal(number, signal.SIG_IGN)
    answers, names = os.dup(1), sys.argv[1:]
    os.dup2(2, 1)
    for name in names:
        hide_variable(name)
    services = {name: open_service(os.environ.get(name, "")) for name in names}
    unknown = [name for name, service in services.items() if service is None]
    known = {name: service for name, service in services.items() if service is not None}
    _answer(answers, unknown=unknown)
    folder: Path | None = None
    started = time.monotonic()
    for line in sys.stdin:
        message = json.loads(line)
        if "folder" in message:
            folder, started = Path(message["folder"]), time.monotonic()
        elif folder is not None:
            failed = notify(known, folder, message["status"], message["lines"], time.monotonic() - started)
            _report(answers, folder, failed)
            folder = None
    if folder is not None:  # the process that runs it was killed
        _report(answers, folder, notify(known, folder, "KILLED", (), time.monotonic() - started))
    return 0


def open_service(address: str) -> "Apprise | None":
    """Return the service of an address, or of several in one text; None if apprise knows none. It prints nothing."""
    logging.getLogger("apprise").setLevel(logging.CRITICAL + 1)  # it logs addresses
    import apprise

    service = apprise.Apprise()
    try:
        return service if bool(service.add(address)) and len(service) else None
    except Exception:  # of a plugin, about an address that it cannot parse
        return None


def notify(
    services: Mapping[str, "Apprise"], folder: Path, status: str, lines: Sequence[str], seconds: float
) -> list[str]:
    """Send a message to all services at once.

    Args:
        services: by the names of their variables.
        folder: of the run or sweep.
        status: how it has ended.
        lines: more that is said about it.
        seconds: since its start.

    Returns:
        The names of those that did not take it.
    """
    import apprise

    title, body = compose(folder, status, lines, seconds)
    kinds = {"FINISHED": apprise.NotifyType.SUCCESS, "FAILED": apprise.NotifyType.FAILURE}
    kind = kinds.get(status, apprise.NotifyType.WARNING)

    def send(service: "Apprise") -> bool:
        try:
            return bool(service.notify(body, title, kind, body_format=apprise.NotifyFormat.TEXT))
        except Exception:  # of a plugin or its libraries
            return False

    with ThreadPoolExecutor(max(1, len(services))) as threads:
        sent = list(threads.map(send, services.values()))
    return [name for name, is_sent in zip(services, sent, strict=True) if not is_sent]


def _answer(answers: int, **message: Any) -> None:
    os.write(answers, (json.dumps(message) + "\n").encode())


def _report(answers: int, folder: Path, failed: Sequence[str]) -> None:
    """Tell the process that runs it what has failed; or its log, if that process has ended."""
    try:
        _answer(answers, failed=list(failed))
    except BrokenPipeError:
        with contextlib.suppress(OSError):
            if failed:
                with terminal.log_to_file(folder / layout.LOG):
                    for name in failed:
                        log.warning(NOT_SENT, name)


if __name__ == "__main__":
    program.run(main)
