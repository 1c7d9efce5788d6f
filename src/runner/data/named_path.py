"""A file or a folder, and the setting that names it."""

from dataclasses import dataclass
from pathlib import Path

from runner.errors import Problem, Topic


@dataclass(frozen=True)
class NamedPath:
    """A file or a folder that exists, and the setting that names it.

    Attributes:
        key: the config key `data.path`, or the option `input`.
        value: the path as the user wrote it.
        path: the absolute path.
    """

    key: str
    value: str
    path: Path

    def __str__(self) -> str:
        return f"{self.key}={self.value}"

    def problem(self, text: str, suggestion: str = "", *, topic: Topic = "data") -> Problem:
        """Make a problem of the file or the folder: its text is `<key>=<value>: <text>`."""
        return Problem(self.key, f"{self}: {text}", suggestion, topic=topic)
