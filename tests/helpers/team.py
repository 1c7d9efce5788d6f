"""A team's MLflow server: it asks for a name and a password, and stores everything in a PostgreSQL."""

import importlib.util
import os
from pathlib import Path
from typing import TYPE_CHECKING

from helpers import postgres
from helpers.servers import Server

if TYPE_CHECKING:
    from mlflow.server.auth.client import AuthServiceClient

PASSWORD = "difference-engine-1822"
"""Of every user of the server; each may read the experiments of the others, and not write to them."""


def missing() -> str | None:
    """Describe what the tests need and is not installed, with the command to install it; None if nothing is missing."""
    if importlib.util.find_spec("flask_wtf") is None:
        return "needs MLflow's basic-auth: pip install 'mlflow[auth]'"
    return postgres.missing()


class TeamServer(Server):
    """A tracking server with MLflow's basic-auth.

    Args:
        folder: of its artifacts and its log.
        database: running; it stores the runs and the users.
    """

    def __init__(self, folder: Path, database: postgres.Postgres) -> None:
        super().__init__(folder)
        store = database.with_password.replace("postgresql:", "postgresql+psycopg:")
        self.options = ["--backend-store-uri", store, "--app-name", "basic-auth"]
        config = folder / "basic_auth.ini"
        config.write_text(
            f"[mlflow]\ndefault_permission = READ\ndatabase_uri = {database.add_database('users')}\n"
            "auth_cache_ttl_seconds = 60\n"  # without it, each request takes a tenth of a second of a core
        )
        self.environment |= {
            "MLFLOW_AUTH_CONFIG_PATH": str(config),
            "MLFLOW_AUTH_ADMIN_USERNAME": "admin",
            "MLFLOW_AUTH_ADMIN_PASSWORD": PASSWORD,
            "MLFLOW_FLASK_SERVER_SECRET_KEY": "for cross-site requests, which the tests do not make",
        }

    def address_of(self, user: str) -> str:
        """Return the server's address with a user's name and password."""
        return self.uri.replace("://", f"://{user}:{PASSWORD}@")

    def environment_of(self, user: str, password: str = PASSWORD) -> dict[str, str]:
        """Return the environment in which a user's commands run."""
        account = {"MLFLOW_TRACKING_USERNAME": user, "MLFLOW_TRACKING_PASSWORD": password}
        clean = {key: value for key, value in os.environ.items() if not key.startswith(("RUNNER_", "OMP_", "MLFLOW_"))}
        return clean | account

    @property
    def admin(self) -> "AuthServiceClient":
        """The administrator's client, for users and permissions."""
        from mlflow.server.auth.client import AuthServiceClient  # late: it needs mlflow[auth]

        return AuthServiceClient(self.address_of("admin"))
