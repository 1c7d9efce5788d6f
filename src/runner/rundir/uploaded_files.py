"""Which files of a run MLflow has: a line per upload, so that the cost of one does not grow with their number."""

import json
import os
from contextlib import suppress
from pathlib import Path

from runner.rundir.delivery_state import DeliveryState
from runner.rundir.manifest import FOLDER
from runner.util.files import PRIVATE, open_to_append, read_text

NAME = "uploaded.jsonl"

Version = list[int]
"""Size in bytes and modification time in ns of a file."""


class UploadedFiles:
    """The versions of a run's files that its MLflow run has, by name.

    A line that is lost costs another upload of its file.

    Args:
        folder: the run's folder.
        state: with the id of the MLflow run; its `artifacts` were noted by earlier versions, or by a recovery.

    Attributes:
        refused: the versions that the store has refused, by name; only in memory.
        warned: the names of which a warning has told that.
    """

    def __init__(self, folder: Path, state: DeliveryState) -> None:
        self._path, self._run_id = folder / FOLDER / NAME, state.run_id
        self._versions = dict(state.artifacts)
        self.refused: dict[str, Version] = {}
        self.warned: set[str] = set()
        with suppress(FileNotFoundError):
            for line in read_text(self._path, errors="replace").splitlines():
                with suppress(ValueError, TypeError):  # a power loss or a full disk has left a part of it
                    run_id, name, version = json.loads(line)
                    if run_id == self._run_id:  # else of the run that the folder was copied from
                        self._versions[str(name)] = version

    def __contains__(self, name: str) -> bool:
        return name in self._versions

    def has(self, name: str, version: Version) -> bool:
        """Whether MLflow has this version of a file."""
        return self._versions.get(name) == version

    def note(self, name: str, version: Version) -> None:
        """Note that a file was uploaded."""
        self._versions[name] = version
        file = open_to_append(self._path, PRIVATE)
        try:
            os.write(file, f"\n{json.dumps([self._run_id, name, version])}".encode())  # apart from a line left half
        finally:
            os.close(file)
