"""The door to MLflow: one client, quiet and impatient, and a store that is made once by one process."""

import contextlib
import logging
import os
import re
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from runner.config import store_variable
from runner.errors import StoreError
from runner.rundir.folders import outputs
from runner.tracking.location import THROUGH_A_SERVER, through_a_server
from runner.util.redaction import redact
from runner.util.uri import absolute_uri, sqlite_address, sqlite_file, strip_credentials

if TYPE_CHECKING:
    from mlflow import MlflowClient

# The experiment opens in the UI's model-training view instead of the one for language-model traces.
EXPERIMENT_TAGS = {"mlflow.experimentKind": "custom_model_development"}

# What a parent sets for its own runs: MLflow would log later than it says, refuse long values, read a context from a
# text that may be no JSON, resolve the packages of a model, or raise for a level that it does not know.
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

# A server that is gone must not hold the deliverer for minutes: it has its own, longer patience.
_ENVIRONMENT = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_LOGGING_LEVEL": "CRITICAL",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",  # standard output is for results, the URL may be secret
}
_LOCK_SECONDS = 120

# What SQLAlchemy, alembic and SQLite say of a schema that was never finished, or is none.
_BROKEN = (
    "already exists",
    "no such table",
    "no such column",
    "Can't locate revision",
    "not a database",
    "malformed",
)

# What PostgreSQL, MySQL and SQL Server say.
_PASSWORD = (
    "password authentication failed",
    "no password supplied",
    "Access denied for user",
    "Login failed for user",
)


def local_uri(outputs: Path) -> str:
    """Name the SQLite store of an outputs folder: `sqlite:///<absolute path>/mlflow.db`."""
    return sqlite_address(outputs.resolve() / "mlflow.db")


def resolve_store(uri: str | None, outputs: Path) -> tuple[str, str | None]:
    """Where runs are recorded, and where a database's artifacts are kept (absolute; a server has its own way).

    MLflow itself would keep them in the current directory.

    Args:
        uri: as the user gave it; None is the store of the outputs folder.
        outputs: that folder.
    """
    uri = absolute_uri(uri) if uri else local_uri(outputs)
    return uri, None if ui_of(uri) else str(outputs / "mlartifacts")


def ui_of(uri: str) -> str | None:
    """The address of a tracking server's UI, without a slash at its end; None for a store that is no server."""
    return strip_credentials(uri).rstrip("/") if uri.startswith(("http://", "https://")) else None


def ui_command(uri: str) -> str:
    """The command that shows a store which is no server.

    Args:
        uri: of the store, without credentials.
    """
    default = store_variable.store_address() or local_uri(outputs())
    other = [] if uri == strip_credentials(default) else [shlex.quote(f"tracking.uri={uri}")]
    return " ".join(["python -m runner.ui", *other])


def quiet_mlflow() -> None:
    """Prepare the process for MLflow: no telemetry, short retries, nothing on the terminal.

    Whatever goes wrong reaches us as an exception; MLflow would print it as well, traceback and all.
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
    """Open a store; a SQLite file that doesn't exist is created, by one process at a time.

    Raises:
        StoreError: the store is there but unusable.
    """
    quiet_mlflow()
    from mlflow import MlflowClient

    file = sqlite_file(uri)
    if file is None:
        if ui_of(uri) is None:
            _make_tables(uri, Path.cwd() / "mlruns")  # where MLflow would have them
        return MlflowClient(tracking_uri=uri, registry_uri=uri)
    if file.is_dir():
        raise StoreError(f"{file} is a folder, and not an MLflow store: move it away, or write another tracking.uri")
    # The client opens the store and migrates its schema at once; processes that race there corrupt it.
    with _locked(file), _explained(file):
        if not file.exists():
            _make(uri, file)
        return MlflowClient(tracking_uri=uri, registry_uri=uri)


def _make(uri: str, file: Path) -> None:
    """Make a SQLite store, whole or not at all: what a kill leaves half of is no store, and cannot be made one."""
    part = file.with_name(f".{file.name}.part")
    part.unlink(missing_ok=True)  # of a process that was killed here
    _make_tables(sqlite_address(part, uri), file.parent / "mlartifacts")
    part.replace(file)


def _make_tables(uri: str, artifact_root: Path) -> None:
    """Make what a database lacks to be a store, the default experiment among it.

    MLflow 3.17 puts the folder of that experiment into SQL as a text of Python's. By default it is in the current
    folder, whose name may have quotes. An address has none: they are percent-encoded.
    """
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    SqlAlchemyStore(uri, artifact_root.as_uri())


def get_or_create_experiment(client: "MlflowClient", uri: str, name: str, artifact_root: str | None) -> str:
    """Return the id of an experiment, making it if there is none; safe from several processes at once.

    Raises:
        StoreError: the experiment is in MLflow's trash, or its files can be stored through a server alone.
    """
    from mlflow.exceptions import MlflowException

    file = sqlite_file(uri)
    with _locked(file) if file is not None else contextlib.nullcontext():
        experiment = client.get_experiment_by_name(name)
        if experiment is None:
            if artifact_root is None and file is not None:
                artifact_root = str(file.parent / "mlartifacts")  # MLflow's own choice: the current directory
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
        raise StoreError(f"tracking.experiment={name}: {through_a_server()}")
    return str(experiment.experiment_id)


def deleted_experiment(uri: str, name: str, experiment_id: str) -> StoreError:
    """What is wrong with a store whose experiment is in MLflow's trash."""
    restore = mlflow_command(uri, "experiments", "restore", "--experiment-id", experiment_id)
    return StoreError(f"the experiment {name} was deleted in the tracking store; this restores it: {restore}")


def mlflow_command(uri: str, *words: str) -> str:
    """A command of MLflow's for a store, as it is typed; a password has to be added."""
    return f"MLFLOW_TRACKING_URI={shlex.quote(strip_credentials(uri))} {shlex.join(['mlflow', *words])}"


def describe_trouble(error: BaseException, experiment: str = "") -> str:
    """What keeps a store from being told, as the beginning of a sentence."""
    if why := describe_refusal(error, experiment):
        return f"the tracking store {why}"
    return str(error) if isinstance(error, StoreError) else f"the tracking store can't be reached: {explain(error)}"


def describe_refusal(error: BaseException, experiment: str = "") -> str | None:
    """How a store refuses, and what to set; None if an error is no refusal.

    Args:
        error: of MLflow, or of the libraries below it.
        experiment: that a new run was to be written to.
    """
    text, code = str(error), str(getattr(error, "error_code", ""))
    if "error code 401" in text or code == "UNAUTHENTICATED":
        return (
            "refused (401): set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN, to an"
            " account of the server"
        )
    if "error code 403" in text or code == "PERMISSION_DENIED":
        if not experiment:  # what is there already is read, or delivered: another experiment does not help
            return "refused (403): this account may not use that experiment; ask for the right to"
        return (
            f"refused (403): this account may not use the experiment {experiment}; ask for the right to, or start again"
            " with tracking.experiment=<another>"
        )
    if refused := re.search(r"error code (4\d\d)", text):
        return f"refused ({refused[1]}): {redact(text)[:200]}"
    return password_refused(error, "tracking.uri")


def password_refused(error: BaseException, key: str) -> str | None:
    """What to write where a database refuses the password of an address; None for any other error.

    Args:
        error: of the database's driver.
        key: that holds the address.
    """
    if not any(sign in str(error) for sign in _PASSWORD):
        return None
    return (
        "refused: the address needs a password, which is not saved: write"
        f" {key}=<dialect>://<user>:<password>@<host>/<database>, or ${{oc.env:<variable>}} as the password"
    )


def explain(error: BaseException) -> str:
    """Put an error of MLflow into one line without credentials."""
    if isinstance(error, StoreError):
        return redact(str(error))
    if why := describe_refusal(error):
        return why
    text = " ".join(redact(str(error)).partition("[SQL:")[0].split()) or type(error).__name__
    for cause, meaning in (
        ("Connection refused", "the server does not answer (connection refused)"),
        ("Name or service not known", "the server's name is not known"),
        ("Failed to resolve", "the server's name is not known"),
        ("Read timed out", "the server does not answer in time"),
        ("timed out", "the server does not answer in time"),
        ("database is locked", "the database is busy"),
        ("disk I/O error", "its disk does not take what is written (disk I/O error)"),
        ("database or disk is full", "its disk is full"),
        ("readonly database", "it may not be written"),
    ):
        if cause in text:
            return meaning
    return text if len(text) <= 200 else text[:197] + "..."


@contextlib.contextmanager
def _locked(file: Path) -> Iterator[None]:
    from filelock import FileLock, Timeout

    file.parent.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(f"{file}.lock", timeout=_LOCK_SECONDS):
            yield
    except Timeout:
        raise StoreError(f"another process has kept {file}.lock for over {_LOCK_SECONDS} s") from None


@contextlib.contextmanager
def _explained(file: Path) -> Iterator[None]:
    """Turn the many ways a half-migrated or foreign database fails into one sentence that says what to do."""
    try:
        yield
    except Exception as error:
        text = str(error)
        if "out-of-date database schema" in text:
            raise StoreError(
                f"{file} was made by another version of MLflow: copy it, then run"
                f" `mlflow db upgrade {shlex.quote(sqlite_address(file))}`"
            ) from error
        if any(sign in text for sign in _BROKEN):
            raise StoreError(
                f"{file} is not a usable MLflow store (an interrupted migration leaves this): move it away, "
                "the next run makes a new one and `python -m runner.sync run=<run folder>` fills it again"
            ) from error
        raise
