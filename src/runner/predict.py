"""Predict new samples: `python -m runner.predict run=<run> input=<file or [values]> [output=<file>]`."""

import csv
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from runner.errors import ConfigError, Problem, escape_undecodable
from runner.rundir.folders import display_path, parse_path
from runner.runs.result_file import NO_CSV, refuse_overwrite, resolve_output
from runner.saved.folds import find_folds
from runner.saved.run import find
from runner.util import program
from runner.util.files import replacing
from runner.util.options import is_true, required_option, run_with_options
from runner.util.streams import Result

if TYPE_CHECKING:
    from runner.runs.folds_predictor import FoldsPredictor
    from runner.runs.predictor import Predictor
    from runner.util.trees import Tree

log = logging.getLogger("runner")

USAGE = (
    "python -m runner.predict run=<run dir or MLflow run id> input=<file or [values]> [key=value ...]:\n"
    "predict new samples with a run's best weights, as a CSV table."
)
OPTIONS = {
    "run": "the run, or a sweep over folds: its folder, or its MLflow run id",
    "input": "the samples: a .csv, .npy, .npz or .pt file, an image, a folder of images, or [4,5], or [[1,2],[3,4]];"
    " of several inputs an .npz, .pt or .json file with each by name, or 'input={a:[[1,2]],b:[[3]]}'",
    "output": "the file to write, a table, or arrays if it ends in .npz, .npy or .pt; by default standard output",
    "max_new_tokens": "how many characters a language model writes after the text in input=; 200 by default",
    "temperature": "divides their scores before they are drawn: 1 by default, 0 takes the most probable one",
    "seed": "of these draws; 0 by default",
    "device": "where to compute: auto (the default), cpu, cuda, mps, xpu, ...",
    "tracking.uri": "the MLflow store that knows the run; by default that of the outputs folder",
    "runner.quiet": "true: print warnings only",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; only the table goes to standard output.

    Returns:
        0, or 2 for a wrong argument.
    """
    return run_with_options(argv, USAGE, OPTIONS, _main)


def _main(options: dict[str, str]) -> int:
    from runner.util import terminal

    device = options.get("device", "auto")
    value = required_option(options, "input", "file or [values]")
    name = options.get("output")
    output = resolve_output(name, "predictions.csv", NO_CSV) if name is not None else None  # None is standard output
    terminal.configure_logging(is_true(options, "runner.quiet"))
    named, uri = required_option(options, "run", "folder or MLflow run id"), options.get("tracking.uri")
    folds = find_folds(named, "run", uri)
    runs = folds.members if folds is not None else [find(named, "run", uri)]
    if output is not None and name is not None:
        refuse_overwrite(output, name, runs, _file_of(value))
    from runner.data.loading import evaluation_batch_size
    from runner.runs.array_file import ARRAYS, write_arrays
    from runner.runs.continuation import continue_text, continues, refuse_options
    from runner.runs.folds_predictor import FoldsPredictor
    from runner.runs.predictor import Predictor

    predictor = FoldsPredictor(folds, device) if folds is not None else Predictor(runs[0], device)
    if isinstance(predictor, Predictor) and continues(predictor, value):
        text = continue_text(predictor, value, options)
        with _opened(output) as file:
            file.write(f"{text}\n")
        return 0
    refuse_options(options)
    new = predictor.read(value)
    log.info("weights    %s", predictor.source)
    size = evaluation_batch_size(1, predictor.samples.values, predictor.device)
    if output is not None and output.suffix.lower() in ARRAYS:
        write_arrays(output, [predictor.arrays(predictor(raw)) for _, raw in new.batches(size)])
    else:
        _write_table(predictor, new.batches(size), output)
    if output is not None:
        count = len(new.names)
        log.info("written    %s: %s prediction%s", display_path(output), f"{count:,}", "" if count == 1 else "s")
    return 0


def _file_of(value: str) -> Path | None:
    """Return the file that the input names; None if it is the samples themselves."""
    if value.lstrip().startswith(("[", "{")):
        return None
    try:
        path = parse_path(value, "input")
        path.exists()
    except OSError:  # a text may exceed the length of a file name
        return None
    return path


def _write_table(
    predictor: "Predictor | FoldsPredictor", batches: "Iterator[tuple[Sequence[str | int], Tree]]", output: Path | None
) -> None:
    """Write the predictions as CSV, to a file or to standard output."""
    with _opened(output) as file:
        table = csv.writer(file, lineterminator="\n")
        for first, (names, raw) in enumerate(batches):
            header, rows = predictor.table(predictor(raw))
            if first == 0:
                table.writerow(["sample", *map(escape_undecodable, header)])
            table.writerows([escape_undecodable(str(name)), *row] for name, row in zip(names, rows, strict=True))


@contextmanager
def _opened(output: Path | None) -> Iterator[TextIO | Result]:
    """Open the output file, which appears once it is complete; or standard output."""
    if output is None:
        result = Result()
        yield result
        result.finish()
        return
    try:
        with replacing(output) as fresh, fresh.open("w", encoding="utf-8", newline="") as file:
            yield file
    except OSError as error:
        text = f"output={output} cannot be written: {error.strerror or error}"
        raise ConfigError(Problem("output", text, "write another file", topic="file")) from error


if __name__ == "__main__":
    program.run(main)
