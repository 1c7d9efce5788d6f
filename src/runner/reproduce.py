"""Run a logged run again from what MLflow holds of it, and compare: `python -m runner.reproduce run=<id>`."""

import logging
import sys
from collections.abc import Mapping, Sequence

from runner.rundir import layout
from runner.util import program
from runner.util.options import EXIT_FAILED, EXIT_SIGNAL, is_true, required_option, run_with_options
from runner.util.tags import DATA_TAG

log = logging.getLogger("runner")

USAGE = (
    "python -m runner.reproduce run=<id> [key=value ...]: run a logged run again from what MLflow holds of it, and say"
    "\nwhether every metric but times and rates is bit-identical."
)
DATA = {
    "data.root": "another place of the same data",
    "data.path": "another place of the same data file",
    "data.val_path": "another place of the same validation file",
    "data.test_path": "another place of the same test file",
}
OPTIONS = {
    "run": "the run's MLflow id, or its folder, of which nothing but the id is read",
    "tracking.uri": "the MLflow store, if it is not the one of the outputs folder",
    **DATA,
    "runner.quiet": "true: print warnings, what has changed since, and the verdict only",
}
SHOWN_AT_MOST = 5


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command.

    Returns:
        0 if everything is bit-identical, 1 if something differs, 2 if the run cannot be run again, or 128 and
        the number of the signal that ended it.
    """
    return run_with_options(argv, USAGE, OPTIONS, work, lambda _: "the run is run again as it was; leave it out")


def work(options: Mapping[str, str]) -> int:
    """Look at the record, run it again, compare.

    Raises:
        ConfigError: the run is not in MLflow, or something that it needs is not here.
    """
    from runner.runs import reproduction, rerun
    from runner.saved import run  # late: torch, MLflow
    from runner.util import terminal

    value = required_option(options, "run", "MLflow run id or folder")
    was = run.find(value, uri=options.get("tracking.uri"), from_store=True)
    logged = run.get_logged_run(str(was.run_id), was.argument, str(was.uri))
    status = logged.info.status
    terminal.configure_logging(is_true(options, "runner.quiet"))
    log.info("reproduce  %s, %s: %s", was.name, status, was.place)
    if contradictions := reproduction.find_contradictions(was.config, logged):
        say("differs: config.yaml and the logged parameters contradict each other, so one of them was changed:")
        more = [f"and {len(contradictions) - SHOWN_AT_MOST} more"] * (len(contradictions) > SHOWN_AT_MOST)
        say(*(f"         {sentence}" for sentence in [*contradictions[:SHOWN_AT_MOST], *more]))
        return EXIT_FAILED
    given = [f"{key}={options[key]}" for key in DATA if key in options]
    quiet = f"runner.quiet={str(is_true(options, 'runner.quiet')).lower()}"
    cfg, experiment = rerun.build_rerun(was, [*given, quiet])
    fingerprint = was.tags.get(DATA_TAG, "not recorded")
    if experiment.splits.fingerprint != fingerprint:
        data = experiment.splits.fingerprint
        say(f"differs: the data have changed: fingerprint {data}, was {fingerprint}")
        return EXIT_FAILED
    notes = reproduction.environment_changes(
        was.file(layout.ENVIRONMENT), experiment.device, experiment.trainer.deterministic
    )
    notes += reproduction.code_changes(was.tags)
    if status != "FINISHED":
        notes.append(f"it is {status}, so what it had logged until then is compared")
    if changed := rerun.weights_change(experiment, was):
        say(changed)
        return EXIT_FAILED
    for note in notes:  # they qualify the verdict
        log.warning("note       %s", note)

    then = reproduction.logged_values(was.client(), logged)
    former = "scale_targets" not in was.config["data"]  # made by version 0.1.0
    rerun.limit_training(experiment, was, then, status == "FINISHED")
    outcome, folder = rerun.start_rerun(experiment, cfg, was)
    if outcome.exit_code > EXIT_SIGNAL:
        return outcome.exit_code
    # What is measured when follows from settings that a resume may change on the way.
    whole = status == "FINISHED" and not any(tag.startswith("resumed.trainer.") for tag in was.tags)
    now = reproduction.measured_values(folder / layout.JOURNAL)
    verdict = reproduction.compare(*(reproduction.comparable_with_0_1_0(then, now) if former else (then, now)), whole)
    log.info("")
    say(*verdict.lines())
    return 0 if verdict.identical else EXIT_FAILED


def say(*lines: str) -> None:
    """Print lines on standard error."""
    for line in lines:
        print(line, file=sys.stderr)


if __name__ == "__main__":
    program.run(main)
