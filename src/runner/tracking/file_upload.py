"""Upload the files of a run; one that the store refuses, or that cannot be read, does not hold up the rest."""

import contextlib
import logging
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from runner.rundir import layout
from runner.rundir.folders import shell_path
from runner.rundir.uploaded_files import UploadedFiles, Version
from runner.tracking.local_files import copy_into, local_folder
from runner.tracking.pieces import Pieces
from runner.tracking.trouble import refused_path
from runner.util.files import open_to_read
from runner.util.terminal import TRACKING, about
from runner.util.uri import sqlite_file

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

log = logging.getLogger("runner")

NAMED = 3
"""Files that a warning names."""


class FileUpload:
    """One pass over the files of a run.

    Args:
        client: of the store.
        folder: the run's folder.
        run: the run in MLflow.
        uploaded: what MLflow has, and the versions that it refused before, which are left out.
    """

    def __init__(self, client: "MlflowClient", folder: Path, run: "Run", uploaded: UploadedFiles) -> None:
        self._client, self._folder, self._run_id, self._uploaded = client, folder, run.info.run_id, uploaded
        self._root = local_folder(run.info.artifact_uri)
        self._taken: tuple[Path, str] | None = None
        self._versions: dict[str, Version] = {}
        self._pieces = Pieces(self._works)

    def send(self, path: Path, name: str) -> None:
        """Upload a file as `name`, unless MLflow has this version.

        Raises:
            Exception: the store takes no file at the moment.
        """
        try:
            version = version_of(path)
            if self._uploaded.has(name, version):
                self._taken = self._taken or (path, name)
            if self._uploaded.has(name, version) or self._uploaded.refused.get(name) == version:
                return
            open_to_read(path).close()
        except FileNotFoundError:  # it was removed, or replaced by one that the next pass uploads
            return
        except OSError as error:
            self._pieces.refused[name] = f"it cannot be read ({error.strerror})"
            return
        self._versions[name] = version
        self._pieces.send(name, lambda: self._put(path, name, version))

    def send_model(self, put: Callable[[], None]) -> None:
        """Upload the model, all its files or none: `put` does it."""

        def named() -> None:
            try:
                put()
            except Exception as error:
                file = refused_path(error)
                path = self._folder / layout.MODEL / file if file else None
                self._model = f"{layout.MODEL}/{file}" if path is not None and path.is_file() else layout.MODEL
                raise

        self._model = layout.MODEL
        self._pieces.send(layout.MODEL, named)

    def finish(self) -> dict[str, str]:
        """Try again what has failed, and warn of what the store refuses.

        Returns:
            The reasons, by the name of the file.

        Raises:
            Exception: as `send`.
        """
        self._pieces.finish()
        refused = self._pieces.refused
        if layout.MODEL in refused:
            refused[self._model] = refused.pop(layout.MODEL)
        self._uploaded.refused |= {name: version for name, version in self._versions.items() if name in refused}
        for reason in dict.fromkeys(refused.values()):
            names = [name for name, why in refused.items() if why == reason and name not in self._uploaded.warned]
            if names:
                self._warn(names, reason)
        self._uploaded.warned.update(refused)
        return refused

    def _warn(self, names: list[str], reason: str) -> None:
        listed = ", ".join(f"{name}{_size(self._folder / name)}" for name in names[:NAMED])
        more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
        log.warning(
            "not uploaded: %s%s: %s. All else is; once that is changed: python -m runner.sync run=%s",
            listed,
            more,
            reason,
            shell_path(self._folder),
            extra=about(TRACKING),
        )

    def _put(self, path: Path, name: str, version: Version) -> None:
        self._upload(path, name)
        self._uploaded.note(name, version)
        self._taken = self._taken or (path, name)

    def _upload(self, path: Path, name: str) -> None:
        with _readable_by_server(self._client, path) as file:
            if self._root is not None:  # MLflow would copy it in the same way, and takes ten times as long
                copy_into(self._root, name, file)
                return
            self._client.log_artifact(self._run_id, str(file), name.rpartition("/")[0] or None)

    def _works(self) -> bool:
        """Whether the store takes a file that it has taken before."""
        if self._taken is None:
            return False
        with contextlib.suppress(Exception):
            self._upload(*self._taken)
            return True
        return False


def version_of(path: Path) -> Version:
    """Return what tells whether a file has changed.

    Raises:
        OSError: it is missing, or cannot be looked at.
    """
    stat = path.stat()
    return [stat.st_size, stat.st_mtime_ns]


def _size(path: Path) -> str:
    with contextlib.suppress(OSError):
        if path.is_file() and (size := path.stat().st_size) >= 1e6:
            return f" ({size / 1e6:.0f} MB)"
    return ""


@contextlib.contextmanager
def _readable_by_server(client: "MlflowClient", path: Path) -> Iterator[Path]:
    """Yield a file, or a copy with the usual permissions.

    On a local disk MLflow keeps the permissions, and the server of a team may run as another user.
    """
    if sqlite_file(client.tracking_uri) is not None or path.stat().st_mode & 0o077:
        yield path
        return
    with tempfile.TemporaryDirectory(prefix="runner-") as temporary:
        yield Path(shutil.copyfile(path, Path(temporary) / path.name, follow_symlinks=False))
