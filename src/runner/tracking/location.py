"""Check, before a run starts, that its store can be created, and look up where an experiment's files are stored.

The experiments of a tracking server store their files through the server (`mlflow-artifacts:`). The address of its
database is not enough for that.
"""

import sqlite3
from contextlib import closing, suppress
from typing import TYPE_CHECKING

from runner.errors import ConfigError, Problem
from runner.util.store_address import check_sqlite
from runner.util.uri import sqlite_file

if TYPE_CHECKING:
    from omegaconf import DictConfig

THROUGH_A_SERVER = "mlflow-artifacts:"
_QUERY = "SELECT artifact_location FROM experiments WHERE name = "


def check_new_store(tracking: "DictConfig") -> list[Problem]:
    """Check that the SQLite store that a config names exists or can be created, without creating it.

    A run that is resumed is not checked: it trains on while its store is away.

    Args:
        tracking: the group of the config.
    """
    from omegaconf import OmegaConf  # late: the process that uploads does not load it

    uri = None if OmegaConf.is_missing(tracking, "uri") else tracking.uri
    problem = check_sqlite("tracking.uri", uri, creates=True) if uri and tracking.name == "local" else None
    return [problem] if problem else []


def refuse_database_of_server(uri: str | None, experiment: str) -> None:
    """Check that an experiment's files can be stored with the address of its database.

    A database that does not answer passes: the run starts, and is uploaded later.

    Args:
        uri: the address of the store; None and a server's address pass.
        experiment: its name.

    Raises:
        ConfigError: the files can only be stored through the server.
    """
    location = None
    with suppress(Exception):  # each driver raises its own exceptions
        location = _location(uri, experiment) if uri is not None and not uri.startswith("http") else None
    if location is not None and location.startswith(THROUGH_A_SERVER):
        raise ConfigError(database_of_server(experiment))


def database_of_server(experiment: str) -> Problem:
    """Describe that a store's address is the database of a server, which stores the experiment's files."""
    text = (
        f"tracking.experiment={experiment} stores its files through a tracking server, but tracking.uri is the"
        " database of the server"
    )
    suggestion = "write tracking=server tracking.uri=http://<the server>, or tracking.experiment=<another>"
    return Problem("tracking.experiment", text, suggestion, topic="conflict")


def _location(uri: str, experiment: str) -> str | None:
    file = sqlite_file(uri)
    if file is not None:
        if not file.exists():
            return None
        with closing(sqlite3.connect(f"{file.absolute().as_uri()}?mode=ro", uri=True, timeout=1)) as connection:
            row = connection.execute(_QUERY + "?", (experiment,)).fetchone()
    else:
        from sqlalchemy import create_engine, text  # takes 0.2 s, and a run on SQLite does not need it

        from runner.util.driver import engine_options

        engine = create_engine(uri, **engine_options(uri))
        try:
            with engine.connect() as connection:
                row = connection.execute(text(_QUERY + ":name"), {"name": experiment}).fetchone()
        finally:
            engine.dispose()
    return None if row is None else str(row[0])
