"""MLFLOW_TRACKING_URI: the store of new runs and sweeps for which the config names none.

The record of a run refers to the variable and never contains its value, which may include a password. For a run or
sweep with a recorded store, the variable only supplies the credentials for that store.
"""

import os

from runner.errors import ConfigError, Problem
from runner.util.redaction import redact
from runner.util.uri import DATABASES, absolute_uri, strip_credentials

NAME = "MLFLOW_TRACKING_URI"
REFERENCE = f"${{oc.env:{NAME}}}"


def read_value() -> str | None:
    """Read the variable; None if it is not set or empty."""
    return os.environ.get(NAME, "").strip() or None


def tracking_choice() -> str | None:
    """Return the member of the group `tracking` for the variable's store; None if there is none."""
    scheme = (read_value() or "").partition("://")[0].partition("+")[0].lower() if "://" in (read_value() or "") else ""
    return "server" if scheme in ("http", "https") else "local" if scheme in DATABASES else None


def store_address() -> str | None:
    """Return the variable's value if it is the address of a server or a database; None otherwise."""
    address = read_value()
    return absolute_uri(address) if address is not None and tracking_choice() is not None else None


def overrides(name: str, chosen: str) -> list[str]:
    """Return the arguments with which a run uses the variable's store.

    Args:
        name: `tracking.name` of a config that names no store.
        chosen: the chosen member of the group `tracking`.

    Raises:
        ConfigError: the variable cannot be used; the suggestion says how to ignore it.
    """
    kind = tracking_choice()
    if kind is None:
        raise ConfigError(
            Problem(
                "tracking.uri",
                f"{NAME}={redact(read_value() or '')} is neither the address of a server nor of a database",
                "write tracking.uri=null to ignore it, or set it to http://<host>:<port>",
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
    changed = "tracking=server" if chosen == "local" else "tracking.name=server"  # a user's file keeps its other keys
    return [*([changed] if name != kind else []), f"tracking.uri={REFERENCE}"]


def describe_source(uri: object, name: str) -> str:
    """Describe the source of a store's address, to be printed after it; empty if it is not the variable.

    Args:
        uri: the recorded `tracking.uri`.
        name: `tracking.name`.
    """
    return f" ({NAME}, as tracking={name})" if uri == REFERENCE else ""


def add_credentials(uri: str) -> str:
    """Add the variable's credentials to a recorded address, which has none, if both name the same store."""
    address = store_address()
    return address if address is not None and strip_credentials(address) == uri else uri
