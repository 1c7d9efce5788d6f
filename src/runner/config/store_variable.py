"""MLFLOW_TRACKING_URI: the store of new runs and sweeps that are not told another one.

A run's record has a reference to the variable and never its value, which may hold a password. What was recorded before
has a store of its own: there the variable gives no more than the credentials of that same store.
"""

import os

from runner.errors import ConfigError, Problem
from runner.util.redaction import redact
from runner.util.uri import DATABASES, absolute_uri, strip_credentials

NAME = "MLFLOW_TRACKING_URI"
REFERENCE = f"${{oc.env:{NAME}}}"


def read_value() -> str | None:
    """What it holds; None if it is not set, or set to nothing."""
    return os.environ.get(NAME, "").strip() or None


def tracking_choice() -> str | None:
    """The member of the group `tracking` that the variable's store belongs to; None if to none of them."""
    scheme = (read_value() or "").partition("://")[0].partition("+")[0].lower() if "://" in (read_value() or "") else ""
    return "server" if scheme in ("http", "https") else "local" if scheme in DATABASES else None


def store_address() -> str | None:
    """The address that it holds, if that is one of a server or a database."""
    address = read_value()
    return absolute_uri(address) if address is not None and tracking_choice() is not None else None


def overrides(name: str, chosen: str) -> list[str]:
    """The arguments that have a run use the variable's store.

    Args:
        name: `tracking.name` of a config that names no store.
        chosen: the member of the group `tracking` that it comes from.

    Raises:
        ConfigError: the variable cannot be used for it; the suggestion says how to go without it.
    """
    kind = tracking_choice()
    if kind is None:
        raise ConfigError(
            Problem(
                "tracking.uri",
                f"{NAME}={redact(read_value() or '')} is neither the address of a server nor of a database",
                "write tracking.uri=null to go without it, or set it to http://<host>:<port>",
                topic="store",
            )
        )
    if (name, kind) == ("server", "local"):
        raise ConfigError(
            Problem(
                "tracking.uri",
                f"{NAME} is the address of a database, and tracking=server needs a server",
                "write tracking.uri=http://<host>:<port>, or tracking=local",
                topic="conflict",
            )
        )
    changed = "tracking=server" if chosen == "local" else "tracking.name=server"  # a file of the user's keeps the rest
    return [*([changed] if name != kind else []), f"tracking.uri={REFERENCE}"]


def describe_source(uri: object, name: str) -> str:
    """What to say behind a store's address where the variable gave it.

    Args:
        uri: `tracking.uri` as it is recorded.
        name: `tracking.name`.
    """
    return f" ({NAME}, as tracking={name})" if uri == REFERENCE else ""


def add_credentials(uri: str) -> str:
    """The address of a record, which has no credentials, with those that the variable has for the same store."""
    address = store_address()
    return address if address is not None and strip_credentials(address) == uri else uri
