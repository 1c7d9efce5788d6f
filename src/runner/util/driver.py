"""How a database is connected to: whether its driver is installed, and how long a driver waits for a host."""

import os
import socket
import threading
from contextlib import suppress
from typing import Any

from sqlalchemy.engine import make_url
from sqlalchemy.exc import SQLAlchemyError

_PACKAGES = {
    "psycopg": "'psycopg[binary]'",
    "psycopg2": "psycopg2-binary",
    "MySQLdb": "mysqlclient",
    "pymysql": "pymysql",
    "pyodbc": "pyodbc",
    "pymssql": "pymssql",
}
"""What to install for the module that a dialect of SQLAlchemy imports."""

ANSWER_SECONDS = 10
"""So long a statement may take: those of a study take milliseconds."""

_OF_MYSQL = {"connect_timeout": 5, "read_timeout": ANSWER_SECONDS, "write_timeout": ANSWER_SECONDS}
_LIBPQ = {"connect_timeout": 5, "tcp_user_timeout": 10_000}
_LIMITS = {
    "psycopg": _LIBPQ,
    "psycopg2": _LIBPQ,
    "pymysql": _OF_MYSQL,
    "mysqldb": _OF_MYSQL,
}
"""By driver, in s and ms: a host that is down does not answer for two minutes and more."""


def engine_options(uri: str) -> dict[str, Any]:
    """Options of `sqlalchemy.create_engine`, so that a database that does not answer is noticed within seconds."""
    url = make_url(uri)
    limits = _LIMITS.get(url.get_driver_name(), {})
    options = {name: value for name, value in limits.items() if name not in url.query}
    return {"connect_args": options, "pool_events": [(limit_waiting, "connect")]}


def limit_waiting(connection: Any, *_: object) -> None:
    """Cut a connection of psycopg's once its server owes an answer for 10 s.

    A server that is frozen, or in which another session has locked the table, keeps the connection alive, and libpq
    waits for ever: a Ctrl-C as well would have to wait for it.

    Args:
        connection: as its driver has just opened it; those of other drivers stay as they are.
    """
    wait = getattr(connection, "wait", None)  # through this method go all answers that psycopg waits for
    if wait is None:
        return

    def limited(*arguments: Any, **options: Any) -> Any:
        with socket.socket(fileno=os.dup(connection.fileno())) as line:
            timer = threading.Timer(ANSWER_SECONDS, _cut, [line])
            timer.daemon = True
            timer.start()
            try:
                return wait(*arguments, **options)
            finally:
                timer.cancel()

    connection.wait = limited


def _cut(line: socket.socket) -> None:
    with suppress(OSError):  # the answer has come just now
        line.shutdown(socket.SHUT_RDWR)


def missing_driver(uri: str) -> tuple[str, str] | None:
    """Check that the driver of a database is installed.

    Args:
        uri: of a database, as SQLAlchemy takes it. The driver of `postgresql://` depends on SQLAlchemy: psycopg 3
            since version 2.1.

    Returns:
        What is wrong, and what to do; None if nothing is.
    """
    try:
        dialect = make_url(uri).get_dialect()
        dialect.import_dbapi()
    except ModuleNotFoundError as error:
        module = (error.name or "").partition(".")[0]
        package = _PACKAGES.get(module, module)
        return f"the driver {module} is not installed", f"write pip install {package}"
    except ImportError as error:  # installed, but a system library that it needs is not
        return f"its driver cannot be imported: {str(error).splitlines()[0]}", ""
    except (SQLAlchemyError, ValueError) as error:
        return f"it is not the address of a database: {str(error).splitlines()[0]}", ""
    return None
