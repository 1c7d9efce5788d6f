"""Connections to databases: whether a driver is installed, and how long it waits for a host."""

import os
import socket
import threading
from contextlib import suppress
from typing import Any

from sqlalchemy.engine import make_url
from sqlalchemy.exc import SQLAlchemyError

from runner.errors import Problem, Topic
from runner.util.redaction import redact

_PACKAGES = {
    "psycopg": "'psycopg[binary]'",
    "psycopg2": "psycopg2-binary",
    "MySQLdb": "mysqlclient",
    "pymysql": "pymysql",
    "pyodbc": "pyodbc",
    "pymssql": "pymssql",
}
"""The package that provides a module which a dialect of SQLAlchemy imports."""

ANSWER_SECONDS = 10
"""The time limit of a statement. The statements of a study take milliseconds."""

_OF_MYSQL = {"connect_timeout": 5, "read_timeout": ANSWER_SECONDS, "write_timeout": ANSWER_SECONDS}
_LIBPQ = {"connect_timeout": 5, "tcp_user_timeout": 10_000}
TIMEOUTS = {
    "psycopg": _LIBPQ,
    "psycopg2": _LIBPQ,
    "pymysql": _OF_MYSQL,
    "mysqldb": _OF_MYSQL,
}
"""Timeouts by driver, in s and ms. Without them, a host that is down blocks for two minutes or more."""


def engine_options(uri: str) -> dict[str, Any]:
    """Return options for `sqlalchemy.create_engine` with which an unresponsive database is detected within seconds."""
    url = make_url(uri)
    limits = TIMEOUTS.get(url.get_driver_name(), {})
    options = {name: value for name, value in limits.items() if name not in url.query}
    return {"connect_args": options, "pool_events": [(lambda connection, _: limit_waiting(connection), "connect")]}


def limit_waiting(connection: Any, seconds: float | None = None) -> None:
    """Make a connection of psycopg shut down if its server does not answer in time.

    A frozen server, or one in which another session has locked the table, keeps the connection alive. libpq would wait
    forever, and Ctrl-C would not interrupt it.

    Args:
        connection: a new connection; those of other drivers are not changed.
        seconds: the time limit of an answer; None for `ANSWER_SECONDS`.
    """
    wait = getattr(connection, "wait", None)  # psycopg waits for all answers with this method
    if wait is None:
        return

    def limited(*arguments: Any, **options: Any) -> Any:
        with socket.socket(fileno=os.dup(connection.fileno())) as line:
            timer = threading.Timer(seconds or ANSWER_SECONDS, _cut, [line])
            timer.daemon = True
            timer.start()
            try:
                return wait(*arguments, **options)
            finally:
                timer.cancel()

    connection.wait = limited


def _cut(line: socket.socket) -> None:
    with suppress(OSError):  # the answer has just arrived
        line.shutdown(socket.SHUT_RDWR)


def check_driver(key: str, uri: str) -> Problem | None:
    """Check that the driver of a database is installed.

    Args:
        key: the config key that holds the address.
        uri: the database's address for SQLAlchemy. The driver of `postgresql://` depends on SQLAlchemy's version:
            psycopg 3 since 2.1.

    Returns:
        The problem; None if there is none.
    """

    def problem(what: str, suggestion: str, topic: Topic = "unavailable") -> Problem:
        return Problem(key, f"{key}={redact(uri)}: {what}", suggestion, topic=topic)

    try:
        dialect = make_url(uri).get_dialect()
        dialect.import_dbapi()
    except ModuleNotFoundError as error:
        module = (error.name or "").partition(".")[0]
        package = _PACKAGES.get(module, module)
        return problem(f"the driver {module} is not installed", f"write pip install {package}")
    except ImportError as error:  # the driver is installed, but a system library that it needs is not
        return problem(f"its driver cannot be imported: {str(error).splitlines()[0]}", "")
    except (SQLAlchemyError, ValueError):
        return problem("not the address of a database", f"write {key}=sqlite:////<absolute path>.db", "syntax")
    return None
