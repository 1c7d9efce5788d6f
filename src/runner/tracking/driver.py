"""Whether the driver of a database is installed, found without connecting to it."""

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
