"""Where an experiment's files are stored, looked up before a run starts.

A tracking server's experiments store files through the server (`mlflow-artifacts:`). The address of its database is
not enough for that.
"""

import sqlite3
from contextlib import closing, suppress

from runner.errors import ConfigError
from runner.util.uri import sqlite_file

THROUGH_A_SERVER = "mlflow-artifacts:"
_QUERY = "SELECT artifact_location FROM experiments WHERE name = "


def refuse_database_of_server(uri: str | None, experiment: str) -> None:
    """See that an experiment's files can be stored by the address of its database.

    A database that does not answer is no reason: the run starts, and is delivered later.

    Args:
        uri: of the store; None, or a server's, is not looked at.
        experiment: its name.

    Raises:
        ConfigError: they can be stored through its server alone.
    """
    location = None
    with suppress(Exception):  # whatever a driver raises
        location = _location(uri, experiment) if uri is not None and not uri.startswith("http") else None
    if location is not None and location.startswith(THROUGH_A_SERVER):
        raise ConfigError(f"tracking.experiment={experiment}: {through_a_server()}")


def through_a_server() -> str:
    """What to write instead of the address of a server's database."""
    return (
        "it stores its files through a tracking server, and tracking.uri is the database behind it: write"
        " tracking=server tracking.uri=http://<the server>, or tracking.experiment=<another>"
    )


def _location(uri: str, experiment: str) -> str | None:
    file = sqlite_file(uri)
    if file is not None:
        if not file.exists():
            return None
        with closing(sqlite3.connect(f"{file.absolute().as_uri()}?mode=ro", uri=True, timeout=1)) as connection:
            row = connection.execute(_QUERY + "?", (experiment,)).fetchone()
    else:
        from sqlalchemy import create_engine, text  # takes 0.2 s, which a run on SQLite goes without

        from runner.util.driver import engine_options

        engine = create_engine(uri, **engine_options(uri))
        try:
            with engine.connect() as connection:
                row = connection.execute(text(_QUERY + ":name"), {"name": experiment}).fetchone()
        finally:
            engine.dispose()
    return None if row is None else str(row[0])
