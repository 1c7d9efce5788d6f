"""Connect to MLflow: a quiet client with short timeouts, and a store that one process creates once."""

import contextlib
import logging
import os
import shlex
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runner.config import store_variable
from runner.errors import StoreError
from runner.rundir.folders import outputs
from runner.tracking.location import THROUGH_A_SERVER, database_of_server
from runner.util.uri import absolute_uri, sqlite_address, sqlite_file, strip_credentials

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from sqlalchemy.engine import Engine

# Opens the experiment in the UI's view for model training instead of the one for language-model traces.
EXPERIMENT_TAGS = {"mlflow.experimentKind": "custom_model_development"}

# Variables that a parent process may have set for its own runs. With them MLflow would log asynchronously, reject long
# values, parse a context that may not be JSON, resolve the packages of a model, or raise for an unknown level.
_OF_PARENTS = (
    "MLFLOW_ENABLE_ASYNC_LOGGING",
    "MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING",
    "MLFLOW_TRUNCATE_LONG_VALUES",
    "MLFLOW_RUN_CONTEXT",
    "MLFLOW_ACTIVE_MODEL_ID",
    "MLFLOW_CONFIGURE_LOGGING",
    "MLFLOW_LOCK_MODEL_DEPENDENCIES",
    "MLFLOW_LOG_UV_FILES",
    "MLFLOW_LOG_MODEL_COMPRESSION",
    "MLFLOW_RECORD_ENV_VARS_IN_MODEL_LOGGING",
)

# An unreachable server must not block an upload for minutes: the upload has its own retries.
_ENVIRONMENT = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_HTTP_RESPECT_RETRY_AFTER_HEADER": "false",  # which may be an hour
    "MLFLOW_LOGGING_LEVEL": "CRITICAL",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",  # standard output is for results, and the URL may be secret
}
_LOCK_SECONDS = 120

# Errors of SQLAlchemy, alembic and SQLite for an incomplete or foreign schema.
_BROKEN = (
    "already exists",
    "no such table",
    "no such column",
    "Can't locate revision",
    "not a database",
    "malformed",
)


def local_uri(outputs: Path) -> str:
    """Return the address of an outputs folder's SQLite store: `sqlite:///<absolute path>/mlflow.db`."""
    return sqlite_address(outputs.resolve() / "mlflow.db")


def resolve_store(uri: str | None, outputs: Path) -> tuple[str, str | None]:
    """Return the address of the store, and the artifact folder of a database (absolute; None for a server).

    MLflow's default would be the current directory.

    Args:
        uri: the user's address; None is the store of the outputs folder.
        outputs: the outputs folder.
    """
    uri = absolute_uri(uri) if uri else local_uri(outputs)
    return uri, None if ui_of(uri) else str(outputs / "mlartifacts")


def ui_of(uri: str) -> str | None:
    """Return the address of a tracking server's UI, without a slash at its end; None for other stores."""
    return strip_credentials(uri).rstrip("/") if uri.startswith(("http://", "https://")) else None


def ui_command(uri: str) -> str:
    """Return the command that opens the UI on a store that is not a server.

    Args:
        uri: the store's address, without credentials.
    """
    default = store_variable.store_address() or local_uri(outputs())
    other = [] if uri == strip_credentials(default) else [shlex.quote(f"tracking.uri={uri}")]
    return " ".join(["python -m runner.ui", *other])


def quiet_mlflow() -> None:
    """Prepare the process for MLflow: no telemetry, short retries, no output.

    Errors arrive as exceptions; MLflow would print them too, with tracebacks.
    """
    for name in _OF_PARENTS:
        os.environ.pop(name, None)
    for name, value in _ENVIRONMENT.items():
        if not (value.isdecimal() and os.environ.get(name, "").isdecimal()):
            os.environ[name] = value
    for name in ("mlflow", "alembic", "sqlalchemy.engine") if "mlflow" in sys.modules else ():
        logging.getLogger(name).setLevel(logging.CRITICAL)
    logging.getLogger("urllib3.connectionpool").setLevel(logging.ERROR)


def connect(uri: str) -> "MlflowClient":
    """Connect to a store; a missing SQLite file is created, by one process at a time.

    Raises:
        StoreError: the store exists but is unusable.
        Exception: a database is away, or refuses.
    """
    quiet_mlflow()
    from mlflow import MlflowClient

    file = sqlite_file(uri)
    if file is None:
        if ui_of(uri) is None:
            _open_database(uri)
        return MlflowClient(tracking_uri=uri, registry_uri=uri)
    if file.is_dir():
        raise StoreError(f"{file} is a folder, not an MLflow store; move it away, or write another tracking.uri")
    # The client opens the store and migrates its schema at once; concurrent migrations corrupt it.
    with _locked(file), _explained(file):
        if not file.exists():
            _make(uri, file)
        return MlflowClient(tracking_uri=uri, registry_uri=uri)


@cache
def _open_database(uri: str) -> None:
    """Check that a database can be used, and create its tables; once per process, as that takes a tenth of a second."""
    from runner.tracking import database  # late: SQLAlchemy takes 0.2 s, and a server does not need it

    with database.opened(uri):
        _make_tables(uri, Path.cwd() / "mlruns")  # MLflow's default


def _make(uri: str, file: Path) -> None:
    """Create a SQLite store atomically: an incomplete one could not be repaired."""
    part = file.with_name(f".{file.name}.part")
    part.unlink(missing_ok=True)  # left by a process that was killed here
    with _unflushed():  # 90 transactions, each of which would wait four times for the disk
        _make_tables(sqlite_address(part, uri), file.parent / "mlartifacts").dispose()
    with part.open("rb") as complete:
        os.fsync(complete.fileno())
    part.replace(file)


@contextlib.contextmanager
def _unflushed() -> Iterator[None]:
    """Let new connections to SQLite files not wait for the disk."""
    from sqlalchemy import event
    from sqlalchemy.pool import Pool

    def unflushed(connection: Any, _: object) -> None:
        connection.execute("PRAGMA synchronous = OFF")

    event.listen(Pool, "connect", unflushed)
    try:
        yield
    finally:
        event.remove(Pool, "connect", unflushed)


def _make_tables(uri: str, artifact_root: Path) -> "Engine":
    """Create the missing tables of a store, and its default experiment; return MLflow's connections to it.

    MLflow 3.17 writes the folder of that experiment into SQL as a Python string. Its default is the current folder,
    whose name may have quotes. In a URI they are percent-encoded.
    """
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    return SqlAlchemyStore(uri, artifact_root.as_uri()).engine


def get_or_create_experiment(client: "MlflowClient", uri: str, name: str, artifact_root: str | None) -> str:
    """Return the id of an experiment, and create it if it does not exist; safe for concurrent processes.

    Raises:
        StoreError: the experiment was deleted, or its files can only be stored through a server.
    """
    from mlflow.exceptions import MlflowException

    file = sqlite_file(uri)
    with exclusive(uri):
        experiment = client.get_experiment_by_name(name)
        if experiment is None:
            if artifact_root is None and file is not None:
                artifact_root = str(file.parent / "mlartifacts")  # MLflow's default is the current directory
            location = Path(artifact_root).as_uri() if artifact_root is not None else None
            try:
                return str(client.create_experiment(name, location, EXPERIMENT_TAGS))
            except MlflowException as error:
                if error.error_code != "RESOURCE_ALREADY_EXISTS":
                    raise
                experiment = client.get_experiment_by_name(name)  # another machine was faster
    if experiment.lifecycle_stage != "active":
        raise deleted_experiment(uri, name, experiment.experiment_id)
    if experiment.artifact_location.startswith(THROUGH_A_SERVER) and ui_of(uri) is None:
        raise StoreError(str(database_of_server(name)))
    return str(experiment.experiment_id)


def deleted_experiment(uri: str, name: str, experiment_id: str) -> StoreError:
    """Describe that an experiment was deleted in the store, with the command that restores it."""
    restore = mlflow_command(uri, "experiments", "restore", "--experiment-id", experiment_id)
    return StoreError(f"the experiment {name} was deleted in the tracking store; restore it with: {restore}")


def mlflow_command(uri: str, *words: str) -> str:
    """Return an `mlflow` command for a store, as it is typed; a password must be added."""
    return f"MLFLOW_TRACKING_URI={shlex.quote(strip_credentials(uri))} {shlex.join(['mlflow', *words])}"


@contextlib.contextmanager
def exclusive(uri: str) -> Iterator[None]:
    """Let one process at a time into the block, for a SQLite store; others have transactions of their own.

    Raises:
        StoreError: another process holds the store for too long.
    """
    file = sqlite_file(uri)
    with _locked(file) if file is not None else contextlib.nullcontext():
        yield


@contextlib.contextmanager
def _locked(file: Path) -> Iterator[None]:
    from filelock import FileLock, Timeout

    file.parent.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(f"{file}.lock", timeout=_LOCK_SECONDS):
            yield
    except Timeout:
        raise StoreError(f"another process has held {file}.lock for over {_LOCK_SECONDS} s") from None


@contextlib.contextmanager
def _explained(file: Path) -> Iterator[None]:
    """Turn the many errors of an incomplete or foreign database into one message with a suggestion."""
    try:
        yield
    except Exception as error:
        text = str(error)
        if "out-of-date database schema" in text:
            raise StoreError(
                f"{file} was created by another version of MLflow; copy it, then run"
                f" `mlflow db upgrade {shlex.quote(sqlite_address(file))}`"
            ) from error
        if any(sign in text for sign in _BROKEN):
            raise StoreError(
                f"{file} is not a usable MLflow store (for example after an interrupted migration); move it away: the"
                " next run creates a new one, and `python -m runner.sync run=<run folder>` fills it again"
            ) from error
        raise
