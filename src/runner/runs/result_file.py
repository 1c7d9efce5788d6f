"""Check the file that a command writes: it must be writable, and must not replace an input or a file of the run."""

import os
from collections.abc import Collection, Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from runner.errors import ConfigError, Problem
from runner.rundir import layout
from runner.rundir.folders import display_path, for_shell, parse_path
from runner.saved.run import SavedRun
from runner.saved.sweep_folder import is_sweep

SUFFIXES = {"torch_export": ".pt2", "onnx": ".onnx", "safetensors": ".safetensors", "state_dict": ".pt"}
"""Suffixes of exported files, by format."""

SPREADSHEETS, COLUMNAR = (".xlsx", ".xls", ".ods"), (".parquet", ".feather", ".arrow", ".h5", ".hdf5")
OTHERS = (".tsv", ".json", ".jsonl", ".pkl", ".pickle", ".html", ".gz", ".bz2", ".xz", ".zip")
NO_CSV = frozenset(SPREADSHEETS + COLUMNAR + OTHERS)
"""Suffixes of files that are not comma-separated text."""

RECORD = (
    layout.CONFIG, layout.ENVIRONMENT, layout.JOURNAL, layout.EPOCH_SECONDS, layout.RESULT, layout.LOG, layout.SAMPLES,
)  # fmt: skip
OF_A_SWEEP = (
    layout.SWEEP_PLAN, layout.JOBS, layout.JOBS_TABLE, layout.FOLDS, layout.OUT_OF_FOLD, layout.VERDICT,
    layout.VERDICT_TABLE, layout.VERDICT_TEXT,
)  # fmt: skip
FOLDERS = (layout.TRACKING, layout.CHECKPOINTS, layout.MODEL, layout.PLOTS, layout.ARTIFACTS)
"""Folders that a run writes; other files in its folder may be replaced."""

SOURCES = ("data.path", "data.test_path", "data.val_path", "model.weights")
"""Keys of a run's config that name files of the user."""


def resolve_output(value: str, example: str, refused: Collection[str] = ()) -> Path:
    """Return the path that `output=` names.

    Args:
        value: as typed.
        example: the name to suggest for a file if the value is a folder.
        refused: suffixes of other formats than that of the example.

    Raises:
        ConfigError: it is a folder, its folder does not exist, or its suffix promises another format.
    """
    path = parse_path(value, "output").absolute()
    if path.is_dir():
        suggestion = f"write output={for_shell(str(Path(value) / example))}"
        raise ConfigError(Problem("output", f"output={value} is a folder", suggestion, topic="file"))
    if path.suffix.lower() in refused and (path.is_file() or not path.exists()):  # a FIFO may have any name
        suffix, bare = Path(example).suffix, Path(value).with_suffix("")
        suggestion = f"write output={for_shell(str(bare if bare.suffix == suffix else bare.with_suffix(suffix)))}"
        text = f"output={value}: the file has the format of {suffix}, not {path.suffix}"
        raise ConfigError(Problem("output", text, suggestion, topic="choice"))
    folder = Path(os.path.realpath(path)).parent
    if not folder.is_dir():
        target = ", the target of the link," if path.is_symlink() else ""
        text = f"output={value}: the folder {folder}{target} does not exist"
        raise ConfigError(Problem("output", text, f"create it with: mkdir -p {for_shell(str(folder))}", topic="file"))
    return path


def refuse_overwrite(output: Path, value: str, runs: Sequence[SavedRun], new: Path | None = None) -> None:
    """Check that the output is not a file that the command reads or the run has written, also through links.

    Args:
        output: the file to write.
        value: as typed.
        runs: whose models are used.
        new: the file with new samples, or None.

    Raises:
        ConfigError: it is one of these.
    """
    with suppress(OSError):
        if not output.is_file():
            return
        for path, what in _protected(runs, new):
            if path.is_file() and output.samefile(path):
                text = f"output={value} would replace {what}"
                raise ConfigError(Problem("output", text, "write another file", topic="conflict"))


def _protected(runs: Sequence[SavedRun], new: Path | None) -> Iterator[tuple[Path, str]]:
    if new is not None:
        yield new, "the input"
    for run in runs:
        yield from _protected_of(run)


def _protected_of(run: SavedRun) -> Iterator[tuple[Path, str]]:
    for key in SOURCES:
        group, _, leaf = key.partition(".")
        source = (run.config.get(group) or {}).get(leaf)
        if isinstance(source, str):
            yield Path(source).expanduser(), f"the run's {key}"
    if run.folder is not None:
        inside = (path for name in FOLDERS for path in sorted((run.folder / name).rglob("*")))
        for path in (*(run.folder / name for name in RECORD), *inside):
            yield path, f"the run's {display_path(path)}"
        if is_sweep(sweep := run.folder.parent):
            for path in (*(sweep / name for name in OF_A_SWEEP), *(sweep / layout.MODEL).rglob("*")):
                yield path, f"the sweep's {display_path(path)}"
