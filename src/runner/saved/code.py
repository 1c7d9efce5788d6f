"""The stored code of a saved run, from its folder or from MLflow. What a job of a sweep stores is with the sweep."""

from pathlib import Path

from runner.rundir import code, layout
from runner.rundir.code import Code
from runner.saved.run import SavedRun

PARENT_TAG = "mlflow.parentRunId"


class StoredCode:
    """The code of a run, and access to its files as long as this object exists.

    Args:
        run: the run.

    Attributes:
        record: what the run has imported; None if it has no record, such as a run of version 0.1.0, or a damaged one.
        problem: what is wrong with a damaged record.

    Raises:
        ConfigError: the store does not answer.
    """

    def __init__(self, run: SavedRun) -> None:
        self.run, self._sweep = run, _sweep_of(run)
        self.record: Code | None = None
        self.problem: str | None = None
        path = _file(run, layout.CODE_RECORD)
        try:
            self.record = code.read(path) if path is not None else None
        except (OSError, ValueError) as error:
            self.problem = f"its {layout.CODE}/{layout.CODE_RECORD} cannot be used: {error}"

    def file(self, name: str) -> Path | None:
        """Return the path of a stored file, as the record names it; None if it is missing.

        Raises:
            ConfigError: the store does not answer.
        """
        return _file(self.run, name) or (_file(self._sweep, name) if self._sweep is not None else None)


def _sweep_of(run: SavedRun) -> SavedRun | None:
    """Return the sweep of a job as a run; None if a run is no job."""
    parent = run.tags.get(PARENT_TAG)
    if run.folder is not None:
        return SavedRun(run.argument, run.folder.parent, None, None)
    return SavedRun(run.argument, None, parent, run.uri) if parent is not None else None


def _file(run: SavedRun, name: str) -> Path | None:
    return code.real_path(run.folder, name) if run.folder is not None else run.file(f"{layout.CODE}/{name}")
