"""Store the code of a run with it, when it starts; and what it imports later, when it ends."""

from pathlib import Path

from runner.rundir import code, code_snapshot
from runner.util.git import Repositories
from runner.util.tags import CODE_TAG, RESUMED_CODE_TAG, TAG_LENGTH
from runner.util.users_code import imported_files, is_runners

NAMED = 3
"""Changed files that a line names."""


class RunCode:
    """The code of a run in this process.

    Args:
        folder: of the run.
        like: the code of another run of this process, which has imported nothing since; None: look for it.

    Attributes:
        repositories: where the code is.
        changed: the files of a resumed run that are not those that it was started with.
    """

    def __init__(self, folder: Path, like: "RunCode | None" = None) -> None:
        self._folder = folder
        self.repositories: Repositories = Repositories() if like is None else like.repositories
        self._snapshot: code_snapshot.Snapshot = (
            code_snapshot.take(imported_files(), self.repositories) if like is None else like._snapshot
        )
        self._of_start = code.read_in(folder)
        self.changed = self._of_start.changed(self._snapshot.code) if self._of_start is not None else []

    @property
    def changes(self) -> list[str]:
        """The changes of a resumed run's code, as text."""
        more = " and more" * (len(self.changed) > NAMED)
        return [f"{', '.join(self.changed[:NAMED])}{more} changed"] if self.changed else []

    @property
    def notes(self) -> list[str]:
        """What is not stored, and why."""
        return self._snapshot.code.left_out

    def write(self) -> dict[str, str]:
        """Write it into the run's folder; of a resumed run only if it has changed.

        Returns:
            The tags of the run.

        Raises:
            OSError: it cannot be written.
        """
        if self._of_start is None:
            code_snapshot.write(self._folder, self._snapshot)
            return {CODE_TAG: self._snapshot.code.digest}
        if self.changed:
            code_snapshot.write(self._folder, self._snapshot, f"resumed-{self._snapshot.code.digest}.json")
            return {RESUMED_CODE_TAG: ", ".join(self.changed)[:TAG_LENGTH]}
        return {}

    def complete(self) -> None:
        """Add the user's modules that were imported since, which git does not have.

        Raises:
            OSError: they cannot be written.
        """
        record = code.read_in(self._folder)
        if record is None or self.changed:
            return
        known = record.hashes()
        new = {name: file for name, file in imported_files().items() if name not in known and not is_runners(name)}
        later = code_snapshot.take(new, self.repositories)
        if later.code.folders:
            record.add(later.code)
            code_snapshot.write(self._folder, code_snapshot.Snapshot(record, later.contents))
