"""Remember the exported graphs of models: the model of another run with the same graph differs in its weights alone.

Exporting a graph and checking it imports torch's compiler and MLflow (2 s of one core), and then takes 0.15 s. Writing
the folder of a known graph with other weights takes 5 ms and no import.
"""

import contextlib
import fcntl
import hashlib
import json
import platform
import time
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import IO, Any

from torch import Tensor, nn

from runner.rundir import layout
from runner.rundir.ownership import is_own_file, is_own_folder
from runner.tracking.environment import version_of
from runner.tracking.model_template import Unsuitable, collect, is_same, weights_of, write_folder
from runner.util.code_state import code_state
from runner.util.files import keep_newest, replacing
from runner.util.operations import operations
from runner.util.trees import at, leaves, tree_map

MOST = 50
"""Graphs that are remembered; those that were not used for the longest time are forgotten."""

LARGEST = 64 << 20
"""Bytes of weights. With more, writing a model twice to compare takes longer than what is saved."""

PACKAGES = ("mlflow", "numpy", "pandas", "scikit-learn")
"""Packages whose versions are in a model's folder, besides torch."""

LONGEST_WAIT = 60.0
"""Seconds to wait for another process that exports the same graph."""

_POLL_SECONDS = 0.02
_LOCK = ".lock"


class ModelMemory:
    """The graphs that are remembered in a folder of outputs.

    Args:
        outputs: the folder; None, or one that does not exist, remembers nothing.
    """

    def __init__(self, outputs: Path | None) -> None:
        self._folder = outputs / layout.GRAPHS if outputs is not None and outputs.is_dir() else None

    def key(self, model: nn.Module, example: Any, asked: Any) -> str | None:
        """Return what is the same for models with the same graph; None for one that is not remembered.

        It has the code and the versions of all that the model is made of, the names and types of its weights, and the
        operations that the model makes for one sample and for five.

        Args:
            model: on the CPU, in evaluation mode; its buffers may change.
            example: at least two samples.
            asked: what else the folder depends on; JSON can hold it.
        """
        if self._folder is None:
            return None
        try:
            weights = weights_of(model)
            if sum(weight.untyped_storage().nbytes() for weight in weights.values()) > LARGEST:
                return None
            made = []
            for index in ([0], [0, 1, 0, 1, 0]):
                inputs = at(example, index)
                called = (lambda: model(inputs)) if isinstance(inputs, Tensor) else (lambda: model(**inputs))  # noqa: B023
                made.append(operations(called, [*weights.values(), *leaves(inputs)]))
            kinds = [f"{type(module).__module__}.{type(module).__qualname__}" for module in model.modules()]
            parts = [
                _describe(weights),
                kinds,
                made,
                str(tree_map(_kind, example)),
                asked,
                code_state(model),
                _versions(),
            ]
            return hashlib.sha256(json.dumps(parts, default=str).encode()).hexdigest()
        except Exception:  # a user's model may raise anything; exporting it reports that
            return None

    @contextlib.contextmanager
    def one_at_a_time(self, key: str | None) -> Iterator[None]:
        """Wait while another process writes a model with this key: it may be exporting the graph."""
        with contextlib.ExitStack() as closing:
            with contextlib.suppress(OSError):
                if key is not None and self._folder is not None and self._make():
                    file = closing.enter_context((self._folder / _LOCK).open("a"))
                    deadline = time.monotonic() + LONGEST_WAIT
                    while not _lock(file, key) and time.monotonic() < deadline:
                        time.sleep(_POLL_SECONDS)
            yield

    def write(self, key: str | None, model: nn.Module, example: Any, folder: Path) -> bool:
        """Write the folder of a model whose graph is known.

        Args:
            key: of the model.
            model: on the CPU, in evaluation mode.
            example: at least two samples.
            folder: is made.

        Returns:
            Whether it is written; otherwise a part of it may be left.
        """
        file = self._file(key)
        if file is None or not is_own_file(file):
            return False
        try:
            with zipfile.ZipFile(file) as remembered:
                write_folder(remembered, model, example, folder)
            file.touch()  # the last one to be forgotten
        except Exception:  # a damaged file, or another example in a folder that depends on it
            return False
        return True

    def remember(self, key: str | None, model: nn.Module, example: Any, folder: Path) -> None:
        """Remember the graph of a model's folder, if a folder written from it would be the same to the last byte.

        Args:
            key: of the model.
            model: on the CPU, in evaluation mode.
            example: that the folder was made with.
            folder: the complete folder.
        """
        file = self._file(key)
        if file is None:
            return
        with contextlib.suppress(Exception):  # then it is exported again
            if not self._make():
                return
            with replacing(file, private=True) as temporary, TemporaryDirectory(dir=file.parent) as beside:
                collect(model, example, folder, temporary)
                with zipfile.ZipFile(temporary) as collected:
                    write_folder(collected, model, example, Path(beside) / folder.name)
                if not is_same(folder, Path(beside) / folder.name):
                    raise Unsuitable
            keep_newest(file.parent, "*.zip", MOST)

    def _make(self) -> bool:
        """Make the folder; return whether it is this user's own."""
        assert self._folder is not None
        self._folder.mkdir(mode=0o700, exist_ok=True)
        return is_own_folder(self._folder)

    def _file(self, key: str | None) -> Path | None:
        return None if key is None or self._folder is None else self._folder / f"{key}.zip"


def _lock(file: IO[str], key: str) -> bool:
    """Try to lock the byte of a key in a file; whether that succeeded."""
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, int(key[:8], 16))
    except BlockingIOError:
        return False
    return True


def _describe(weights: Mapping[str, Tensor]) -> list[Any]:
    """Describe all but the values: also which share their memory."""
    memory: dict[int, int] = {}
    return [
        (
            name,
            *_kind(weight),
            weight.requires_grad,
            type(weight).__name__,
            memory.setdefault(weight.untyped_storage().data_ptr(), len(memory)),
        )
        for name, weight in weights.items()
    ]


def _kind(tensor: Tensor) -> tuple[Any, ...]:
    return tuple(tensor.shape), tensor.stride(), tensor.storage_offset(), str(tensor.dtype)


def _versions() -> list[Any]:
    return [*((name, version_of(name)) for name in PACKAGES), platform.platform()]
