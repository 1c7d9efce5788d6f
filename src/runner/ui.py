"""The MLflow UI on this project's store: `python -m runner.ui [tracking.uri=...] [port=5000]`."""

import os
import socket
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import NoReturn

from runner import program
from runner.errors import ConfigError
from runner.folders import outputs as outputs_folder
from runner.folders import short
from runner.options import command
from runner.sweep.links import links, newest
from runner.tracking.manifest import Manifest
from runner.tracking.orphans import bury
from runner.tracking.store import connect, local_uri, ui_of
from runner.tracking.uri import sqlite_file, strip_credentials

USAGE = "python -m runner.ui [key=value ...]: the MLflow UI on this project's store, on 127.0.0.1."
OPTIONS = {
    "tracking.uri": "another store; by default the SQLite file below the outputs folder",
    "port": "the port to listen on, 5000 by default",
}
HOST = "127.0.0.1"
NEWEST = 3


def main(argv: Sequence[str] | None = None) -> int:
    """Replace this process by `mlflow server`; returns only when that is not to be, with 2."""
    return command(argv, USAGE, OPTIONS, _ui)


def _ui(options: dict[str, str]) -> int:
    uri = options.get("tracking.uri") or local_uri(outputs_folder())
    port = _free_port(options.get("port", "5000"))
    _check(uri)
    with suppress(Exception):  # what keeps the truth about a killed run from the store does not keep the UI from it
        for folder in bury(connect(uri), uri):
            print(f"{short(folder)}: its process is gone, it is marked {Manifest.load(folder).status}", file=sys.stderr)
    _serve(uri, port)


def _check(uri: str) -> None:
    page = ui_of(uri)
    if page is not None:
        raise ConfigError(f"tracking.uri is a server already: open {page}/")
    file = sqlite_file(uri)
    if file is not None:
        if not file.exists():
            raise ConfigError(f"there is no store yet: {file} is made by the first run (`python -m runner`)")
        connect(uri)  # waits for a run that is just making it, and says so when it is broken


def _serve(uri: str, port: int) -> NoReturn:
    base = f"http://{HOST}:{port}"
    print(
        f"MLflow UI on {base} for {strip_credentials(uri)} (Ctrl+C ends it)",
        *_sweeps(base, uri),
        sep="\n",
        file=sys.stderr,
    )
    file = sqlite_file(uri)
    artifacts = (file.parent if file is not None else Path.cwd()) / "mlartifacts"
    # One worker answers in 7 ms, four of them in 52: they share the one SQLite file.
    command = [
        sys.executable,
        "-m",
        "mlflow",
        "server",
        "--host",
        HOST,
        "--port",
        str(port),
        "--workers",
        "1",
    ]
    environment = {
        "MLFLOW_BACKEND_STORE_URI": uri,  # as an argument every user of the machine could read its password
        "MLFLOW_DEFAULT_ARTIFACT_ROOT": artifacts.as_uri(),
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_LOGGING_LEVEL": "WARNING",
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",  # 0.5 GB of memory instead of 3
    }
    os.execve(sys.executable, command, os.environ | environment)


def _sweeps(base: str, uri: str) -> list[str]:
    """Where the newest sweeps in a store are looked at."""
    return [
        f"{name:<10} {page}   sweep {folder.name}"
        for folder in newest(outputs_folder(), strip_credentials(uri), NEWEST)
        for name, page in links(folder, base).items()
    ]


def _free_port(value: str) -> int:
    if not value.isdecimal() or not 0 < int(value) < 65536:
        raise ConfigError(f"port={value}: not a port, write a number from 1 to 65535")
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, int(value)))
        except OSError:
            raise ConfigError(f"port={value} is taken or not allowed here: choose another, port=5001 say") from None
    return int(value)


if __name__ == "__main__":
    program.run(main)
