"""Start the MLflow UI on this project's store: `python -m runner.ui [tracking.uri=...] [port=5000]`."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

from runner.config import store_variable
from runner.errors import ConfigError, Problem, StoreError, to_one_line
from runner.rundir.folders import display_path, for_shell
from runner.rundir.folders import outputs as outputs_folder
from runner.rundir.manifest import Manifest
from runner.sweeps.results.links import links, newest
from runner.tracking.dead_runs import close_dead_runs
from runner.tracking.pages import experiments_page, newest_table, table_page, table_view
from runner.tracking.store import EXPERIMENT_TAGS, connect, local_uri, ui_of
from runner.tracking.trouble import describe_trouble, password_refused
from runner.util import program
from runner.util.options import run_with_options
from runner.util.stopping import SIGNALS, end_with_parent
from runner.util.store_address import check_address
from runner.util.tags import KEY_TAG
from runner.util.uri import sqlite_file, strip_credentials

if TYPE_CHECKING:
    from mlflow import MlflowClient

USAGE = "python -m runner.ui [key=value ...]: start the MLflow UI on this project's store, on 127.0.0.1."
OPTIONS = {
    "tracking.uri": "another store; by default that of MLFLOW_TRACKING_URI, or the SQLite file of the outputs folder",
    "port": "the port to listen on, 5000 by default",
}
HOST = "127.0.0.1"
NEWEST = 3
"""The number of experiments whose tables are printed; of sweeps only the newest is."""
WITH_KEY = f"tags.`{KEY_TAG}` LIKE '%'"
OLD_COLUMNS = ("val/loss", "val/accuracy", "test/accuracy")


def main(argv: Sequence[str] | None = None) -> int:
    """Run `mlflow server` until a signal ends it; return its exit code, or 2 after an error."""
    return run_with_options(argv, USAGE, OPTIONS, _ui)


def _ui(options: dict[str, str]) -> int:
    uri = options.get("tracking.uri") or store_variable.store_address() or local_uri(outputs_folder())
    port = _free_port(options.get("port", "5000"))
    client = _connect(uri, options.get("tracking.uri") is None)
    tables: list[tuple[str, str]] = []
    with suppress(Exception):  # the UI may start even if this fails
        for folder in close_dead_runs(client, uri):
            print(
                f"{display_path(folder)}: its process has died, marked {Manifest.load(folder).status}", file=sys.stderr
            )
        tables = _tables(client, f"http://{HOST}:{port}")
    return _serve(uri, port, tables)


def _tables(client: "MlflowClient", base: str) -> list[tuple[str, str]]:
    """Return the pages with the tables of the newest experiments, and their names, the newest first.

    An experiment of 0.1.0 has no stored view; it gets one with the metrics of its runs.
    """
    pages = []
    for experiment in client.search_experiments():
        if not experiment.tags.items() >= EXPERIMENT_TAGS.items():  # not an experiment of runner
            continue
        runs = client.search_runs([experiment.experiment_id], WITH_KEY, max_results=1, order_by=["start_time DESC"])
        if not runs:
            continue
        key, started = newest_table(experiment.tags), runs[0].info.start_time
        if key is None:
            tag = table_view(OLD_COLUMNS, ascending=True, created=started)
            client.set_experiment_tag(experiment.experiment_id, *tag)
            key = newest_table(dict([tag]))
        pages.append((started, table_page(base, experiment.experiment_id, str(key)), experiment.name))
    return [(page, name) for _, page, name in sorted(pages, reverse=True)[:NEWEST]]


def _connect(uri: str, from_variable: bool) -> "MlflowClient":
    """Connect to the store; wait while a run creates it.

    Raises:
        ConfigError: it has a UI of its own, does not exist, is away, or refuses.
        StoreError: it is unusable.
    """
    if uri == store_variable.store_address() and (problem := check_address(store_variable.NAME, uri)):
        raise ConfigError(problem)
    page = ui_of(uri)
    if page is not None and from_variable:
        local = for_shell(f"tracking.uri={local_uri(outputs_folder())}")
        suggestion = f"open {experiments_page(page)}, or write {local} for the store of the outputs folder"
        raise ConfigError(
            Problem("tracking.uri", f"{store_variable.NAME} is a server with its own UI", suggestion, topic="conflict")
        )
    if page is not None:
        text = "tracking.uri is a server with its own UI"
        raise ConfigError(Problem("tracking.uri", text, f"open {page}/", topic="conflict"))
    file = sqlite_file(uri)
    if file is not None and not file.exists():
        text = f"the store {file} does not exist"
        suggestion = "create it by a first run: python -m runner"
        raise ConfigError(Problem("tracking.uri", text, suggestion, topic="store"))
    try:
        return connect(uri)
    except StoreError:
        raise
    except Exception as error:  # of the database's driver
        problem = password_refused(error, "tracking.uri")
        raise ConfigError(problem or Problem("tracking.uri", describe_trouble(error), topic="store")) from error


def _serve(uri: str, port: int, tables: Sequence[tuple[str, str]]) -> int:
    base = f"http://{HOST}:{port}"
    first = tables[0][0] if tables else experiments_page(base)
    lines = [
        *_sweeps(base, uri),
        *(f"{'runs':<10} {page}   experiment {to_one_line(name)}" for page, name in tables),
        f"MLflow UI on {first} for {strip_credentials(uri)} (Ctrl+C ends it)",
    ]
    file = sqlite_file(uri)
    artifacts = (file.parent if file is not None else Path.cwd()) / "mlartifacts"
    # One worker answers in 7 ms, four in 52 ms, as they share the SQLite file.
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
        "--uvicorn-opts",
        "--log-level warning",
    ]
    environment = {
        "MLFLOW_BACKEND_STORE_URI": uri,  # every user of the machine could read a password in the arguments
        "MLFLOW_REGISTRY_STORE_URI": uri,  # the default, which would be a line
        "MLFLOW_DEFAULT_ARTIFACT_ROOT": artifacts.as_uri(),
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_LOGGING_LEVEL": "WARNING",
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",  # 0.5 GB of memory instead of 3
        "PYTHONWARNINGS": "ignore",  # of MLflow's own imports
    }
    inherited = {name: value for name, value in os.environ.items() if name != store_variable.NAME}
    # In a group of its own: Ctrl-C in the terminal would make it print tracebacks, SIGTERM does not.
    server = subprocess.Popen(
        command,
        env=inherited | environment,
        start_new_session=True,
        preexec_fn=partial(end_with_parent, signal.SIGTERM),
    )
    stopped: list[int] = []

    def stop(number: int, _: FrameType | None) -> None:
        stopped.append(number)
        with suppress(ProcessLookupError):
            os.killpg(server.pid, signal.SIGTERM)

    for number in SIGNALS:
        signal.signal(number, stop)
    while server.poll() is None and not _answers(port):
        time.sleep(0.1)
    if server.poll() is None:  # below the lines of the server
        print(*lines, sep="\n", file=sys.stderr, flush=True)
    code = server.wait()
    return 0 if stopped else code


def _answers(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex((HOST, port)) == 0


def _sweeps(base: str, uri: str) -> list[str]:
    """Return the lines with the pages of the newest sweep in a store."""
    return [
        f"{name:<10} {page}   sweep {folder.name}"
        for folder in newest(outputs_folder(), strip_credentials(uri), 1)
        for name, page in links(folder, base).items()
    ]


def _free_port(value: str) -> int:
    if not value.isdecimal() or not 0 < int(value) < 65536:
        text = f"port={value} is not a port"
        raise ConfigError(Problem("port", text, "write a whole number from 1 to 65535", topic="range"))
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, int(value)))
        except OSError:
            text = f"port={value} is in use or not permitted"
            other = int(value) + 1 if 1024 <= int(value) < 65535 else 5001
            raise ConfigError(Problem("port", text, f"write port={other}, or another", topic="unavailable")) from None
    return int(value)


if __name__ == "__main__":
    program.run(main)
