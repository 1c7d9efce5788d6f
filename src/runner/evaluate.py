"""Evaluate a run's best weights: `python -m runner.evaluate run=<run dir or id> [split=test]`."""

import logging
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from runner.config.keys import GROUPS
from runner.config.settings import PRECISIONS
from runner.rundir import layout
from runner.rundir.folders import display_path
from runner.runs.result_file import NO_CSV, refuse_overwrite, resolve_output
from runner.saved.folds import find_folds
from runner.saved.run import SavedRun, find
from runner.util import program
from runner.util.files import load_json
from runner.util.metric_names import PARTS
from runner.util.options import choice_option, is_true, required_option, run_with_options

if TYPE_CHECKING:
    from runner.assembly.experiment import Experiment
    from runner.runs.evaluation import Evaluation
    from runner.runs.folds_evaluation import FoldsEvaluation

log = logging.getLogger("runner")

USAGE = "python -m runner.evaluate run=<run dir or MLflow run id> [key=value ...]: measure a run's best weights."
OPTIONS = {
    "run": "the run, or a sweep over folds: its folder, or its MLflow run id",
    "split": "the samples to measure on: test (the default), val or train",
    "output": "a CSV file to write, with target, prediction and loss of each sample",
    "device": "another device than the run's: auto, cpu, cuda, mps, xpu, ...",
    "device.index": "which CUDA device",
    "device.threads": "another number of CPU threads than the run's",
    "precision": "another number format than the run's",
    "data.root": "where the data are now",
    "data.path": "where the table, file or folder is now",
    "data.val_path": "where the validation samples are now",
    "data.test_path": "where the test samples are now",
    "data.batch_size": "another batch size than the run's",
    "data.in_memory": "true: hold the samples as tensors on the device; false: load them by batch",
    "data.num_workers": "processes that load samples, where they are not in memory",
    "tracking.uri": "the MLflow store that knows the run; by default that of the outputs folder",
    "runner.quiet": "true: print warnings only",
}
OVERRIDES = {
    "device": "device.name",
    "precision": "precision.name",
    **{key: key for key in OPTIONS if key.startswith(("data.", "device."))},
}
"""The options that are keys of the config, by their name there."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; the metrics go to standard error.

    Returns:
        0, or 2 for a wrong argument.
    """
    return run_with_options(argv, USAGE, OPTIONS, _main, _refuse)


def _refuse(key: str) -> str | None:
    if key.partition(".")[0] not in (*GROUPS, "seed", "resume", "resume_mode"):
        return None
    return "a run is evaluated with its own model and data; leave it out"


def _main(options: dict[str, str]) -> int:
    from runner.runs.array_file import ARRAYS
    from runner.runs.evaluation import evaluate
    from runner.runs.folds_evaluation import evaluate_folds
    from runner.util import terminal

    split = choice_option(options, "split", PARTS, "test")
    choice_option(options, "precision", PRECISIONS, "fp32")
    terminal.configure_logging(is_true(options, "runner.quiet"))
    value, uri = required_option(options, "run", "folder or MLflow run id"), options.get("tracking.uri")
    folds = find_folds(value, "run", uri)
    runs = folds.members if folds is not None else [find(value, "run", uri)]
    overrides = [f"{name}={options[key]}" for key, name in OVERRIDES.items() if key in options]
    if "device.threads" in options:
        overrides.append(f"device.evaluation_threads={options['device.threads']}")
    name = options.get("output")
    output = resolve_output(name, f"{split}.csv", NO_CSV | {*ARRAYS}) if name is not None else None
    if output is not None and name is not None:
        refuse_overwrite(output, name, runs)
    done: Evaluation | FoldsEvaluation
    if folds is not None:
        done = evaluate_folds(folds, split, overrides, output)
        _report_folds(done, split)
    else:
        done = evaluate(runs[0], split, overrides, output)
        _report(done, runs[0])
    if output is not None:
        log.info("written    %s: %s samples", display_path(output), f"{done.samples:,}")
        for line in done.lacking:
            log.info("           %s", line)
    return 0


def _report(result: "Evaluation", run: SavedRun) -> None:
    experiment, split = result.experiment, result.split
    epoch = f" (epoch {result.weights.epoch})" if result.weights.epoch else ""
    _report_head(f"{result.weights.source}{epoch}", experiment, split, result.samples)
    if result.same_data is False:
        log.warning("           not the samples of the run: its data have changed, or this is another data set")
    log.info("%-10s %s", split, _format(result.metrics))
    if split == "train":
        log.info("           the run's own values are means over an epoch in which the weights changed")
        return
    try:
        logged = _logged(run, result.metrics)
    except (OSError, ValueError) as error:
        log.warning("logged     %s/result.json cannot be read: %s", run.place, error)
        return
    if not logged:
        log.info("logged     no %s metrics: the run is not finished", split)
    else:
        _compare(result.metrics, logged)


def _report_folds(result: "FoldsEvaluation", split: str) -> None:
    _report_head(result.source, result.experiment, split, result.samples)
    if result.same_data is False:
        log.warning("           not the samples of the sweep: its data have changed, or this is another data set")
    log.info("%-10s %s", split, _format(result.metrics))
    if result.logged:
        _compare(result.metrics, result.logged)


def _report_head(source: str, experiment: "Experiment", split: str, samples: int) -> None:
    data, part = experiment.splits.name, {"val": "validation"}.get(split, split)
    log.info("weights    %s", source)
    log.info("data       %s: %s %s samples", data, f"{samples:,}", part)
    log.info("device     device %s · precision %s", experiment.device, experiment.precision)


def _compare(metrics: Mapping[str, float], logged: Mapping[str, float]) -> None:
    """Report how logged values differ from those that were measured now."""
    from runner.util.metric_names import format_metric

    if all(value == metrics[name] for name, value in logged.items()):  # 0.1.0 measured fewer
        log.info("logged     the same, bit for bit")
        return
    log.info("logged     %s", _format(logged))
    for name, value in logged.items():
        now = metrics[name]
        if format_metric(name, value) == format_metric(name, now) and value != now:
            log.info("           %s differs by %.1e", name, abs(value - now))


def _format(metrics: Mapping[str, float]) -> str:
    from runner.util.metric_names import format_metric

    return "   ".join(f"{name.partition('/')[2]} {format_metric(name, value)}" for name, value in metrics.items())


def _logged(run: SavedRun, metrics: Mapping[str, float]) -> dict[str, float]:
    """Return the values of these metrics in the run's result.

    Raises:
        OSError: the result cannot be read.
        ValueError: the result is damaged.
    """
    path = run.file(layout.RESULT)
    result = load_json(path) if path is not None else {}
    return {name: result[name] for name in metrics if isinstance(result.get(name), float | int)}


if __name__ == "__main__":
    program.run(main)
