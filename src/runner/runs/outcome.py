"""How a run ended."""

import signal
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

WantsArtifacts = Callable[[Mapping[str, float]], bool]
"""Decides by a run's final metrics whether it draws plots and saves the model for MLflow."""


@dataclass
class Outcome:
    """The outcome of a run.

    Attributes:
        status: FINISHED, FAILED or KILLED, as in MLflow; or PAUSED, which is KILLED there, with a tag.
        exit_code: 0, 1, or 128 plus the number of the signal.
        result: the content of `result.json`.
        error: the error message of a failed run.
        artifacts: whether it has plots and the model for MLflow.
    """

    status: str
    exit_code: int
    result: dict[str, Any]
    error: str | None = None
    artifacts: bool = True

    def describe(self) -> list[str]:
        """Return the line that says why it is not finished; none if it is."""
        if self.error is not None:
            return [f"error: {self.error}"]
        return [f"stopped by {signal.Signals(self.exit_code - 128).name}"] if self.status == "KILLED" else []
