"""Run a logged run again from what MLflow holds of it, and compare: `python -m runner.reproduce run=<id>`."""

import logging
import sys
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from math import ceil
from pathlib import Path
from typing import TYPE_CHECKING

from runner.errors import ConfigError
from runner.rundir import layout
from runner.rundir.folders import outputs
from runner.util import program
from runner.util.files import read_json
from runner.util.options import EXIT_FAILED, EXIT_SIGNAL, command, is_true, required
from runner.util.tags import DATA_TAG
from runner.util.terminal import RESUME, TRACKING, without

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from runner.assembly.experiment import Experiment
    from runner.runs.execute import Outcome
    from runner.runs.reproduction import Key
    from runner.saved.run import SavedRun

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
NAME_LENGTH = 80


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command.

    Returns:
        0 if everything is bit-identical, 1 if something differs, 2 if the run cannot be run again, or 128 and
        the number of the signal that ended it.
    """
    return command(argv, USAGE, OPTIONS, work, lambda _: "the run is run again as it was; leave it out")


def work(options: Mapping[str, str]) -> int:
    """Look at the record, run it again, compare.

    Raises:
        ConfigError: the run is not in MLflow, or something that it needs is not here.
    """
    from runner.runs import reproduction
    from runner.saved import run  # late: torch, MLflow
    from runner.util import terminal

    value = required(options, "run", "MLflow run id or folder")
    was = run.find(value, uri=options.get("tracking.uri"), from_store=True)
    logged = run.get(str(was.run_id), was.given, str(was.uri))
    status = logged.info.status
    terminal.set_up(is_true(options, "runner.quiet"))
    log.info("reproduce  %s, %s: %s", was.name, status, was.place)
    if contradictions := reproduction.changed_settings(was.config, logged):
        say("differs: config.yaml and the logged parameters contradict each other, so one of them was changed:")
        more = [f"and {len(contradictions) - SHOWN_AT_MOST} more"] * (len(contradictions) > SHOWN_AT_MOST)
        say(*(f"         {sentence}" for sentence in [*contradictions[:SHOWN_AT_MOST], *more]))
        return EXIT_FAILED
    cfg, x = build_again(was, options)
    fingerprint = was.tags.get(DATA_TAG, "not recorded")
    if x.splits.fingerprint != fingerprint:
        say(f"differs: the data are not the same: their fingerprint is {x.splits.fingerprint}, it was {fingerprint}")
        return EXIT_FAILED
    notes = reproduction.surroundings(was.file(layout.ENVIRONMENT), x.device, x.trainer.deterministic)
    notes += reproduction.changed_code(was.tags)
    if status != "FINISHED":
        notes.append(f"it is {status}, so what it had logged until then is compared")
    if changed := changed_weights(x, was):
        say(changed)
        return EXIT_FAILED
    for note in notes:  # they qualify the verdict
        log.warning("note       %s", note)

    then = reproduction.logged_values(was.client(), logged)
    former = "scale_targets" not in was.config["data"]  # made by version 0.1.0
    limit(x, was, then, status == "FINISHED")
    outcome, folder = run_again(x, cfg, was)
    if outcome.exit_code > EXIT_SIGNAL:
        return outcome.exit_code
    # What is measured when follows from settings that a resume may change on the way.
    whole = status == "FINISHED" and not any(tag.startswith("resumed.trainer.") for tag in was.tags)
    now = reproduction.measured_values(folder / layout.JOURNAL)
    verdict = reproduction.compare(*(reproduction.of_both_versions(then, now) if former else (then, now)), whole)
    log.info("")
    say(*verdict.lines())
    return 0 if verdict.identical else EXIT_FAILED


def build_again(was: "SavedRun", options: Mapping[str, str]) -> "tuple[DictConfig, Experiment]":
    """Everything that the run needs, from its saved config, with the weights it began with.

    Raises:
        ConfigError: something is not here: a device, the data, the weights of another run.
    """
    from runner.assembly import build
    from runner.config.hydra_job import without_hydra
    from runner.rundir import folders
    from runner.runs import resume
    from runner.saved import run

    given = [f"{key}={options[key]}" for key in DATA if key in options]
    quiet = f"runner.quiet={str(is_true(options, 'runner.quiet')).lower()}"
    cfg, problems = resume.compose_saved(was.config, [*given, quiet, "tracking.name=off", "tracking.log_model=false"])
    if cfg is None:
        raise ConfigError(*problems)
    problems += folders.check(str(outputs() / "reproductions" / "run"), exact=False)
    parent, preprocessing = None, None
    if was.config.get("resume_mode") == "warm_start":
        with parent_needed(was):
            parent = resume.Resumed(run.find(str(was.config.get("resume")), "resume", was.uri), warm_start=True)
            preprocessing = parent.preprocessing
    x = build.build(without_hydra(cfg), was.choices, problems, preprocessing)
    if parent is not None:
        with parent_needed(was):
            resume.prepare(parent, x)
    return cfg, x


@contextmanager
def parent_needed(was: "SavedRun") -> Iterator[None]:
    """Say of an error that it is about the run whose weights this one began with."""
    try:
        yield
    except ConfigError as error:
        raise ConfigError(
            f"{was.given} began with the weights of run {was.config.get('resume')} (resume_mode=warm_start), which are"
            f" not to be had here: {error.problems[0]}"
        ) from error


def changed_weights(x: "Experiment", was: "SavedRun") -> str | None:
    """What to say if the run began with other weights than those that are here under their name now."""
    from runner.runs import describe
    from runner.saved import weights

    then = was.tags.get("runner.initial_weights")
    if not describe.were_given(was.config):
        return None
    given = was.config["model"]["weights"]
    if was.config.get("resume_mode") == "warm_start":
        given = f"run {was.config.get('resume')}"
    if then is None:
        log.warning("note       it began with the weights of %s, taken as they are now: it has no hash of them", given)
        return None
    now = weights.fingerprint(x.model)
    if now == then:
        return None
    return (
        f"differs: the initial weights are not those of the run, so {given} has changed: their hash is {now}, it was"
        f" {then}"
    )


def limit(x: "Experiment", was: "SavedRun", then: "Collection[Key]", finished: bool) -> None:
    """See that it trains as far as it did then, where that was not as far as its settings say.

    Nothing else follows from these two settings any more: the schedule is made.
    """
    if finished:
        if x.trainer.max_time is None:
            return
        if steps := read_json(was.file(layout.RESULT) or Path()).get("steps"):
            # The clock stopped it after these, and would after others now.
            x.trainer.max_time, x.trainer.max_steps = None, steps
        return
    x.trainer.max_time = None
    epochs = max((step for name, step in then if not name.endswith("_step")), default=1)
    steps = max((step for name, step in then if name.endswith("_step")), default=1)
    steps_per_epoch = ceil(len(x.loaders.train) / x.trainer.grad_accumulation)
    x.trainer.epochs = min(x.trainer.epochs, max(epochs, ceil(steps / steps_per_epoch)))


def run_again(x: "Experiment", cfg: "DictConfig", was: "SavedRun") -> "tuple[Outcome, Path]":
    """Run it in a new folder, as `python -m runner` does."""
    from runner.config.compose import Composer
    from runner.config.hydra_job import run_job_in
    from runner.rundir import folders
    from runner.rundir.lock import claim
    from runner.runs import execute

    name = f"{datetime.now():%Y-%m-%d_%H-%M-%S}_{was.label[:NAME_LENGTH]}"
    folder = folders.make_run_folder(str(outputs() / "reproductions" / name), exact=False)
    outcomes: list[Outcome] = []

    def task() -> int:
        outcomes.append(execute.run(x, folder))
        return outcomes[0].exit_code

    with claim(folder), without(TRACKING, RESUME):
        run_job_in(folder, cfg, Composer(), task)
    return outcomes[0], folder


def say(*lines: str) -> None:
    """Print lines on standard error."""
    for line in lines:
        print(line, file=sys.stderr)


if __name__ == "__main__":
    program.run(main)
