"""The file that a command writes its result to: one that can be written, and none that is still needed."""

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from runner.errors import ConfigError
from runner.rundir import layout
from runner.rundir.folders import display_path, parse_path
from runner.saved.run import SavedRun

SUFFIXES = {"torch_export": ".pt2", "onnx": ".onnx"}
"""Of exported files, by their format."""

RECORD = (layout.CONFIG, layout.ENVIRONMENT, layout.JOURNAL, layout.RESULT, layout.LOG, layout.SAMPLES)
FOLDERS = (".tracking", layout.CHECKPOINTS, layout.MODEL, layout.PLOTS)
"""What a run has written into its folder; a command's results may lie beside it."""

SOURCES = ("data.path", "data.test_path", "data.val_path", "model.weights")
"""Keys of a run's config that name files of the user's."""


def resolve_output(value: str, example: str) -> Path:
    """The file that `output=` names.

    Args:
        value: as it was typed.
        example: the name of a file in a folder, if it names a folder.

    Raises:
        ConfigError: it is a folder, or in none.
    """
    path = parse_path(value, "output").absolute()
    if path.is_dir():
        raise ConfigError(f"output={value} is a folder: name a file in it, such as output={Path(value) / example}")
    folder = Path(os.path.realpath(path)).parent
    if not folder.is_dir():
        target = ", which it leads to" if path.is_symlink() else ""
        raise ConfigError(f"output={value}: there is no folder {folder}{target}; make it, or write another file")
    return path


def refuse_overwrite(output: Path, value: str, run: SavedRun, new: Path | None = None) -> None:
    """See that a file is none that the command reads, and none of the run's own, by whatever name or link.

    Args:
        output: the file to write.
        value: as it was typed.
        run: whose model is used.
        new: the file with new samples, if there is one.

    Raises:
        ConfigError: it is one of these; nothing was written.
    """
    with suppress(OSError):
        if not output.is_file():
            return
        for path, what in _needed(run, new):
            if path.is_file() and output.samefile(path):
                raise ConfigError(f"output={value} is {what}, which it would replace: write another file")


def _needed(run: SavedRun, new: Path | None) -> Iterator[tuple[Path, str]]:
    if new is not None:
        yield new, "the input"
    for key in SOURCES:
        group, _, leaf = key.partition(".")
        source = (run.config.get(group) or {}).get(leaf)
        if isinstance(source, str):
            yield Path(source).expanduser(), f"the run's {key}"
    if run.folder is not None:
        inside = (path for name in FOLDERS for path in (run.folder / name).rglob("*"))
        for path in (*(run.folder / name for name in RECORD), *inside):
            yield path, f"the run's {display_path(path)}"
