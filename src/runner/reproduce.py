"""Repeat a logged run from its record in MLflow, and compare: `python -m runner.reproduce run=<id>`."""

import logging
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from runner.rundir import layout
from runner.util import program
from runner.util.files import load_json_or_empty
from runner.util.options import EXIT_FAILED, EXIT_SIGNAL, choice_option, is_true, required_option, run_with_options
from runner.util.ranks import Ranks
from runner.util.tags import DATA_TAG, PAUSED

if TYPE_CHECKING:
    from runner.saved.code import StoredCode

log = logging.getLogger("runner")

USAGE = (
    "python -m runner.reproduce run=<id> [key=value ...]: repeat a logged run from its record in MLflow, and say"
    "\nwhether all metrics except times and rates are bit-identical."
)
DATA = {
    "data.root": "where the same data are now",
    "data.path": "where the same data file is now",
    "data.val_path": "where the same validation file is now",
    "data.test_path": "where the same test file is now",
}
OPTIONS = {
    "run": "the run's MLflow id, or its folder, from which only the id is read",
    "tracking.uri": "the MLflow store, if it is not the one of the outputs folder",
    **DATA,
    "code": "stored: run the code that is stored with the run, a program, instead of the present code",
    "runner.quiet": "true: print only warnings, what has changed, and the verdict",
}
SHOWN_AT_MOST = 5


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command.

    Returns:
        0 if everything is bit-identical, 1 if something differs, 2 if the run cannot be repeated, or 128 plus the
        number of the signal that ended it.
    """
    group = Ranks.here()
    if group is None:
        return run_with_options(argv, USAGE, OPTIONS, work, lambda _: "a run is repeated as it was; leave it out")
    from runner.runs import ranked

    if group.rank > 0:
        return ranked.follow(group)
    with ranked.dismissing():
        return run_with_options(argv, USAGE, OPTIONS, work, lambda _: "a run is repeated as it was; leave it out")


def work(options: Mapping[str, str]) -> int:
    """Check the record, repeat the run, compare.

    Raises:
        ConfigError: the run is not in MLflow, or something that it needs is missing.
    """
    from runner.saved import run  # late: MLflow
    from runner.saved.code import StoredCode
    from runner.util import terminal

    value = required_option(options, "run", "MLflow run id or folder")
    if "code" in options:
        choice_option(options, "code", ("stored",), "")
    was = run.find(value, uri=options.get("tracking.uri"), from_store=True)
    stored = StoredCode(was)
    if "code" in options:
        return run_stored(stored, options)
    if was.config["strategy"]["name"] != "single" and Ranks.here() is None:
        from runner.runs import ranked

        ranks = load_json_or_empty(was.file(layout.RESULT) or Path()).get("ranks", 1)
        return ranked.launch([f"{key}={text}" for key, text in options.items()], ranks, "runner.reproduce")
    from runner.runs import code_changes, reproduction, rerun  # late: torch

    logged = run.get_logged_run(str(was.run_id), was.argument, str(was.uri))
    status = "PAUSED" if PAUSED in logged.data.tags else logged.info.status
    terminal.configure_logging(is_true(options, "runner.quiet"))
    log.info("reproduce  %s, %s: %s", was.name, status, was.place)
    if contradictions := reproduction.find_contradictions(was.config, logged):
        say("differs: config.yaml contradicts the logged parameters, so one of them was changed:")
        more = [f"and {len(contradictions) - SHOWN_AT_MOST} more"] * (len(contradictions) > SHOWN_AT_MOST)
        say(*(f"         {line}" for line in [*contradictions[:SHOWN_AT_MOST], *more]))
        return EXIT_FAILED
    changes = code_changes.changes(stored.record) if stored.record is not None else []
    for note in reproduction.code_notes(stored, changes, was.tags):
        log.warning("note       %s", note)
    data = [f"{key}={options[key]}" for key in DATA if key in options]
    quiet = f"runner.quiet={str(is_true(options, 'runner.quiet')).lower()}"
    cfg, experiment = rerun.build_rerun(was, [*data, quiet])
    fingerprint = was.tags.get(DATA_TAG, "not recorded")
    if experiment.splits.fingerprint != fingerprint:
        say(f"differs: the data have changed: fingerprint {experiment.splits.fingerprint}, was {fingerprint}")
        return EXIT_FAILED
    notes = reproduction.environment_changes(
        was.file(layout.ENVIRONMENT), experiment.device, experiment.trainer.deterministic
    )
    if status != "FINISHED":
        notes.append(f"the run is {status}, so only the metrics that it logged are compared")
    if changed := rerun.weights_change(experiment, was):
        say(changed)
        return EXIT_FAILED
    for note in notes:
        log.warning("note       %s", note)

    then = reproduction.logged_values(was.client(), logged)
    of_0_1_0 = "scale_targets" not in was.config["data"]
    rerun.limit_training(experiment, was, then, status == "FINISHED")
    outcome, folder = rerun.start_rerun(experiment, cfg, was)
    if outcome.exit_code > EXIT_SIGNAL:
        return outcome.exit_code
    # The steps of metrics depend on settings that a resume may have changed.
    whole = status == "FINISHED" and not any(tag.startswith("resumed.trainer.") for tag in was.tags)
    now = reproduction.measured_values(folder / layout.JOURNAL)
    verdict = reproduction.compare(*(reproduction.comparable_with_0_1_0(then, now) if of_0_1_0 else (then, now)), whole)
    log.info("")
    say(*verdict.lines())
    if not verdict.identical and reproduction.was_in_stack(was.file(layout.ENVIRONMENT)):
        say("         it was trained as one program with other models: alone, the last bits differ")
    if not verdict.identical and changes:
        say("         the code has changed since then: code=stored repeats the run with its own")
    return 0 if verdict.identical else EXIT_FAILED


def run_stored(stored: "StoredCode", options: Mapping[str, str]) -> int:
    """Repeat a run with its stored code, in a child process.

    Raises:
        ConfigError: the code cannot be had.
    """
    from runner.runs import stored_code
    from runner.util import terminal

    terminal.configure_logging(is_true(options, "runner.quiet"))
    with stored_code.unpacked(stored) as folder:
        assert stored.record is not None
        for line in stored_code.describe(stored.record):
            log.info("code       %s", line)
        arguments = [f"{key}={value}" for key, value in options.items() if key != "code"]
        return stored_code.run("runner.reproduce", arguments, stored.record, folder)


def say(*lines: str) -> None:
    """Print lines on standard error."""
    for line in lines:
        print(line, file=sys.stderr)


if __name__ == "__main__":
    program.run(main)
