"""Open a database as a store. A database that is away is noticed within seconds, and one process creates its tables.

Without this, MLflow tries for two minutes to connect to a database that is away or refuses the password, waits for ever
for one that is frozen, and processes that create the tables at once fail.
"""

from collections.abc import Iterator
from contextlib import closing, contextmanager
from functools import cache
from typing import Any

from sqlalchemy import create_engine, event, text
from sqlalchemy.engine import Engine
from sqlalchemy.pool import Pool

from runner.errors import StoreError
from runner.util.driver import TIMEOUTS, check_driver, limit_waiting

ANSWER_SECONDS = 60.0
"""The time limit of a statement. The longest, such as the metrics of a run of a million points, take seconds."""

_LOCK = 0x72756E6E6572
"""The number of the lock in PostgreSQL: the word runner."""


@contextmanager
def opened(uri: str) -> Iterator[None]:
    """Connect to a database, and prevent that two processes create its tables at once.

    Args:
        uri: the address, with credentials.

    Raises:
        StoreError: the driver is missing, or the address is not one.
        SQLAlchemyError: the database is away, or refuses.
    """
    if problem := check_driver("tracking.uri", uri):
        raise StoreError(str(problem))
    _limit_connections()
    engine = create_engine(uri)
    try:
        with closing(engine.connect()) as connection:
            if engine.dialect.name == "postgresql":  # held until the connection is closed
                connection.execute(text("SELECT pg_advisory_lock(:lock)"), {"lock": _LOCK})
            yield
    finally:
        engine.dispose()


@cache
def _limit_connections() -> None:
    """Limit the waiting of all connections of this process, as MLflow makes its own."""

    def add_timeouts(dialect: Any, record: Any, arguments: Any, options: dict[str, Any]) -> None:
        options |= TIMEOUTS.get(dialect.driver, {}) | options

    event.listen(Engine, "do_connect", add_timeouts)
    event.listen(Pool, "connect", lambda connection, _: limit_waiting(connection, ANSWER_SECONDS))
