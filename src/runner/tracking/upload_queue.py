"""The runs to upload: those that are running take part in each step, those that have ended take turns.

A step reads the manifests of the running ones and of one that has ended, however many wait.
"""

import logging
from itertools import islice
from pathlib import Path

from runner.rundir.manifest import Manifest
from runner.tracking.deliver import Delivery

log = logging.getLogger("runner")


class UploadQueue:
    """The runs to upload, by folder.

    Args:
        uri: see `Delivery`.
        bytes_of_files: what the files of a run that has ended count in the backlog.

    Attributes:
        first: the first run that was added.
    """

    def __init__(self, uri: str | None, bytes_of_files: int) -> None:
        self._uri, self._bytes_of_files = uri, bytes_of_files
        self._running: dict[Path, Delivery] = {}  # or of unknown status
        self._ended: dict[Path, Delivery] = {}
        self._damaged: set[Path] = set()
        self.first: Delivery | None = None

    def __getitem__(self, folder: Path) -> Delivery:
        return self._running.get(folder) or self._ended[folder]

    def __len__(self) -> int:
        return len(self._running) + len(self._ended)

    def add(self, folder: Path, is_new: bool = False) -> None:
        """Add a run (`is_new`: see `Delivery`), or look again at one that has changed."""
        if folder in self._ended:
            self._running[folder] = self._ended.pop(folder)
        delivery = self._running.get(folder) or Delivery(folder, self._uri, is_new)
        self._running[folder] = delivery
        self.first = self.first or delivery

    def remove(self, folder: Path) -> None:
        """Remove a run of which nothing is left to upload."""
        self._running.pop(folder, None)
        self._ended.pop(folder, None)
        self._damaged.discard(folder)

    def postpone(self, folder: Path) -> None:
        """Move a run to the end: an error may concern only this one."""
        of_its_kind = self._running if folder in self._running else self._ended
        of_its_kind[folder] = of_its_kind.pop(folder)

    def next(self) -> list[Path]:
        """Return the runs of the next step: the running ones, those first that MLflow lacks, and one that has ended.

        Only one, as its files take time, and a new run waits for its id.
        """
        for folder in list(self._running):
            if self._status(folder) not in ("RUNNING", None):
                self._ended[folder] = self._running.pop(folder)
        while self._ended and self._status(ended := next(iter(self._ended))) in ("RUNNING", None):
            if ended in self._ended:  # it was resumed, or damaged
                self._running[ended] = self._ended.pop(ended)
        running = sorted(self.running, key=lambda folder: self._running[folder].run_id is not None)
        return [*running, *islice(self._ended, 1)]

    @property
    def running(self) -> list[Path]:
        """The runs that had not ended when their manifests were read."""
        return [folder for folder in self._running if folder not in self._damaged]

    @property
    def readable(self) -> list[Path]:
        """All runs but those with a damaged manifest."""
        return [*self.running, *self._ended]

    @property
    def backlog(self) -> int:
        """About how many bytes are left to upload."""
        metrics = [*self._running.values(), *islice(self._ended.values(), 1)]
        return sum(delivery.backlog for delivery in metrics) + len(self._ended) * self._bytes_of_files

    def _status(self, folder: Path) -> str | None:
        """Read the status of a run; None if its manifest is unreadable until its process rewrites it, or removed."""
        try:
            status = Manifest.load(folder).status
        except (FileNotFoundError, NotADirectoryError):  # nothing more of it is uploaded
            self.remove(folder)
            return None
        except (OSError, ValueError) as error:
            if folder not in self._damaged:
                log.warning("not uploaded: %s", error)
            self._damaged.add(folder)
            return None
        self._damaged.discard(folder)
        return status
