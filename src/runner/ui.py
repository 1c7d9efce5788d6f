"""The MLflow UI on this project's store: `python -m runner.ui [tracking.uri=...] [port=5000]`."""

import os
import socket
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from runner.config import store_variable
from runner.errors import ConfigError
from runner.rundir.folders import display_path
from runner.rundir.folders import outputs as outputs_folder
from runner.rundir.manifest import Manifest
from runner.sweeps.results.links import links, newest
from runner.tracking.dead_runs import close_dead_runs
from runner.tracking.pages import experiments_page, newest_table, table_page, table_view
from runner.tracking.store import EXPERIMENT_TAGS, connect, local_uri, ui_of
from runner.util import program
from runner.util.options import run_with_options
from runner.util.tags import KEY_TAG
from runner.util.uri import sqlite_file, strip_credentials

if TYPE_CHECKING:
    from mlflow import MlflowClient

USAGE = "python -m runner.ui [key=value ...]: the MLflow UI on this project's store, on 127.0.0.1."
OPTIONS = {
    "tracking.uri": "another store; by default that of MLFLOW_TRACKING_URI, or the SQLite file of the outputs folder",
    "port": "the port to listen on, 5000 by default",
}
HOST = "127.0.0.1"
NEWEST = 3
"""Experiments of which the table of runs is printed; of sweeps, the pages of the newest alone."""
WITH_KEY = f"tags.`{KEY_TAG}` LIKE '%'"
OLD_COLUMNS = ("val/loss", "val/accuracy", "test/accuracy")


def main(argv: Sequence[str] | None = None) -> int:
    """Replace this process by `mlflow server`; returns only when that is not to be, with 2."""
    return run_with_options(argv, USAGE, OPTIONS, _ui)


def _ui(options: dict[str, str]) -> int:
    uri = options.get("tracking.uri") or store_variable.store_address() or local_uri(outputs_folder())
    port = _free_port(options.get("port", "5000"))
    _check(uri, options.get("tracking.uri") is None)
    tables: list[tuple[str, str]] = []
    with suppress(Exception):  # what keeps the truth about a killed run from the store does not keep the UI from it
        client = connect(uri)
        for folder in close_dead_runs(client, uri):
            print(
                f"{display_path(folder)}: its process is gone, it is marked {Manifest.load(folder).status}",
                file=sys.stderr,
            )
        tables = _tables(client, f"http://{HOST}:{port}")
    _serve(uri, port, tables)


def _tables(client: "MlflowClient", base: str) -> list[tuple[str, str]]:
    """The page of each of the newest experiments of ours, with its name: a table of its runs, the newest first.

    An experiment without a stored view is one of 0.1.0; it gets one, of the metrics that its runs have.
    """
    ours = [found for found in client.search_experiments() if found.tags.items() >= EXPERIMENT_TAGS.items()]
    pages = []
    for found in ours:
        runs = client.search_runs([found.experiment_id], WITH_KEY, max_results=1, order_by=["start_time DESC"])
        if not runs:
            continue
        key, began = newest_table(found.tags), runs[0].info.start_time
        if key is None:
            tag = table_view(OLD_COLUMNS, ascending=True, created=began)
            client.set_experiment_tag(found.experiment_id, *tag)
            key = newest_table(dict([tag]))
        pages.append((began, table_page(base, found.experiment_id, str(key)), found.name))
    return [(page, name) for _, page, name in sorted(pages, reverse=True)[:NEWEST]]


def _check(uri: str, from_variable: bool) -> None:
    page = ui_of(uri)
    if page is not None and from_variable:
        here = f"tracking.uri={local_uri(outputs_folder())}"
        raise ConfigError(
            f"{store_variable.NAME} is a server already: open {experiments_page(page)}; of the outputs: {here}"
        )
    if page is not None:
        raise ConfigError(f"tracking.uri is a server already: open {page}/")
    file = sqlite_file(uri)
    if file is not None:
        if not file.exists():
            raise ConfigError(f"there is no store yet: {file} is made by the first run (`python -m runner`)")
        connect(uri)  # waits for a run that is just making it, and says so when it is broken


def _serve(uri: str, port: int, tables: Sequence[tuple[str, str]]) -> NoReturn:
    base = f"http://{HOST}:{port}"
    first = tables[0][0] if tables else experiments_page(base)
    print(
        f"MLflow UI on {first} for {strip_credentials(uri)} (Ctrl+C ends it)",
        *_sweeps(base, uri),
        *(f"{'runs':<10} {page}   experiment {name}" for page, name in tables),
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
    inherited = {name: value for name, value in os.environ.items() if name != store_variable.NAME}
    os.execve(sys.executable, command, inherited | environment)


def _sweeps(base: str, uri: str) -> list[str]:
    """Where the newest sweep in a store is looked at."""
    return [
        f"{name:<10} {page}   sweep {folder.name}"
        for folder in newest(outputs_folder(), strip_credentials(uri), 1)
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
