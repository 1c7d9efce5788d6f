"""How a database is connected to: whether its driver is installed, and how long a driver waits for a host."""

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

_LIBPQ = {"connect_timeout": 5, "tcp_user_timeout": 10_000}
_LIMITS = {
    "psycopg": _LIBPQ,
    "psycopg2": _LIBPQ,
    "pymysql": {"connect_timeout": 5},
    "mysqldb": {"connect_timeout": 5},
}
"""By driver, in s and ms: a host that is down does not answer for two minutes and more."""


def limits(uri: str) -> dict[str, Any]:
    """What `connect` of an address's driver is given, so that a host that is down is noticed within seconds."""
    url = make_url(uri)
    return {name: value for name, value in _LIMITS.get(url.get_driver_name(), {}).items() if name not in url.query}


def missing_driver(uri: str) -> str | None:
    """What an address needs that is not installed, and the command that installs it; None if nothing is missing.

    Args:
        uri: of a database, as SQLAlchemy takes it. Which driver `postgresql://` means depends on SQLAlchemy: psycopg 3
            since version 2.1.
    """
    try:
        dialect = make_url(uri).get_dialect()
        dialect.import_dbapi()
    except ModuleNotFoundError as error:
        module = (error.name or "").partition(".")[0]
        package = _PACKAGES.get(module, module)
        return f"the driver {module} is not installed: write pip install {package}"
    except ImportError as error:  # it is there, and a library of the system's that it needs is not
        return f"its driver cannot be imported: {str(error).splitlines()[0]}"
    except (SQLAlchemyError, ValueError) as error:
        return f"it is no address of a database: {str(error).splitlines()[0]}"
    return None
