"""One sweep before its first job starts: what its jobs are, whether all of them can run, and where."""

import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import ExitStack, nullcontext
from dataclasses import replace
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from runner.comparison.objectives import objectives_of
from runner.config.compose import Composer
from runner.config.keys import TARGET_GROUPS
from runner.config.overrides import last_value
from runner.config.settings import SweepSettings
from runner.errors import ConfigError, Problem
from runner.rundir import folders
from runner.rundir.folders import display_path
from runner.rundir.lock import lock
from runner.sweeps.check import preflight
from runner.sweeps.controller import PreparedSweep, Sweep
from runner.sweeps.jobs import Job
from runner.sweeps.launchers import forkserver
from runner.sweeps.launchers.launcher import Launcher, ResourceRequest
from runner.sweeps.plan import plan as plans
from runner.sweeps.plan.plan import Plan
from runner.sweeps.results import resume
from runner.sweeps.results.resume import ResumeAction
from runner.tracking.location import refuse_database_of_server
from runner.tracking.process import DeliveryProcess
from runner.util import terminal
from runner.util.tables import align

log = logging.getLogger("runner")

MOST_WORDS = 100

Planned = Callable[[Composer, Sequence[str]], Plan]


def run_sweep(
    made: Composer,
    config: DictConfig,
    arguments: Sequence[str],
    planned: Planned,
    engine: Launcher,
    problems: Sequence[Problem],
) -> int:
    """Run a sweep, or go on with one.

    Args:
        made: to compose the jobs with.
        config: of the sweep, with Hydra's node; what is varied is in it as it is without.
        arguments: of the command line; of a resumed sweep, those it was begun with come first.
        planned: makes the jobs of them.
        engine: runs them.
        problems: what is wrong in what all jobs have in common.

    Returns:
        The exit code: 0 if every job has finished, 1 if not, 128 plus the signal's number after one.

    Raises:
        ConfigError: with the problems of all jobs; nothing has been started then.
    """
    settings = OmegaConf.to_object(config.sweep)
    assert isinstance(settings, SweepSettings)
    terminal.configure_logging(bool(config.runner.quiet))
    uri = None if OmegaConf.is_missing(config.tracking, "uri") else config.tracking.uri
    before = resume.find(settings.resume, uri) if settings.resume is not None else None
    try:
        plan = resumed(made, before, arguments, planned, settings.extend) if before else planned(made, arguments)
    except ConfigError as error:
        raise ConfigError(*dict.fromkeys([*problems, *error.problems])) from error
    exact_folder = last_value(arguments, "hydra.sweep.dir") is not None
    wanted = str(config.hydra.sweep.dir)
    problems = [*problems, *(folders.check_folder(wanted, exact_folder, folders.SWEEP) if before is None else [])]
    tracked = config.tracking.name != "off"
    if not problems:  # with problems nothing is built, and the server would hold standard error open while it imports
        targets = [str(config[group].get("_target_")) for group in TARGET_GROUPS]
        forkserver.start(targets, saves_models=bool(config.tracking.log_model))
    with ExitStack() as closing:
        delivery, under_way = None, set[int]()
        if tracked and not settings.dry_run and not problems:
            refuse_database_of_server(uri, config.tracking.experiment)
            delivery = DeliveryProcess(uri)
            closing.callback(delivery.close, 0.0)
        if before is not None:
            closing.enter_context(lock(before))
            under_way = engine.under_way(before)
            resume.wait_for_orphans([before / str(job.number) for job in plan.jobs if job.number not in under_way])
        courses = courses_of(plan, before, under_way)
        with terminal.show_waiting(f"checking {len(plan.jobs) or 'the'} jobs ..."):
            ready = check(made, config, settings, plan, engine, courses, arguments, problems)
        for line in [*describe(ready), *(listed(ready) if settings.dry_run else [])]:
            log.info("%s", line)
        if settings.dry_run:
            return 0
        if plan.search is not None:
            plan.search.check(ready.objectives, resumed=before is not None)
        closing.callback(engine.close)
        with terminal.show_waiting("opening the engine ...") if engine.elsewhere else nullcontext():
            engine.open()
        folder = before or folders.make_run_folder(wanted, exact_folder, folders.SWEEP)
        if before is None:
            closing.enter_context(lock(folder))
        if plan.search is not None:
            plan.search.open(folder, ready.objectives, len(plan.jobs))
        plan.save(folder, arguments, made.options)
        return Sweep(folder, ready, delivery).run()


def courses_of(plan: Plan, before: Path | None, under_way: Collection[int]) -> dict[int, ResumeAction]:
    """What is to be done with each job.

    Args:
        plan: the jobs.
        before: the folder of a sweep that is resumed.
        under_way: jobs that run already, elsewhere.
    """
    if before is None:
        return dict.fromkeys((job.number for job in plan.jobs), ResumeAction.NEW)
    courses = {job.number: resume.course_of(before / str(job.number)) for job in plan.jobs}
    courses |= dict.fromkeys(under_way, ResumeAction.UNDER_WAY)
    if plan.search is not None:  # a trial that failed is one that the study has
        courses |= {number: ResumeAction.SKIP for number, course in courses.items() if course is ResumeAction.AGAIN}
    return courses


def describe(ready: PreparedSweep) -> list[str]:
    """A sweep and what a person should know of it, line by line."""
    plan = ready.plan
    notes = ["its jobs read their data by the rules of version 0.1.0, which began it"] if plan.old_rules else []
    notes += [plan.note, plan.search.note(ready.objectives) if plan.search else ""]
    return [f"sweep      {words(plan)}", *(f"           {note}" for note in notes if note)]


def resumed(made: Composer, folder: Path, arguments: Sequence[str], planned: Planned, extend: bool) -> Plan:
    """The jobs of a sweep that is gone on with: the saved ones, and with `extend` those that its grid lacks.

    Raises:
        ConfigError: other jobs were asked for; the difference is named.
    """
    kept, begun_with, _ = plans.load(folder)
    wanted = planned(made, arguments)
    if wanted.search is not None:
        if extend:
            raise ConfigError("sweep.extend=true: a search gets more trials by a higher hydra.sweeper.n_trials")
        if wanted.axes == kept.axes:
            return replace(kept, search=wanted.search)
        was, now = (" ".join(f"{key}={values}" for key, values in plan.axes.items()) for plan in (kept, wanted))
        raise ConfigError(f"sweep.resume={display_path(folder)}: it searches {was}, and not {now}: leave that out")
    if all(text in begun_with or plans.is_of_the_sweep(text) for text in arguments):
        return kept
    new, missing = plans.difference(made, kept, wanted)
    if not new and not missing:
        return kept
    if extend:
        both = dict.fromkeys((*kept.log_axes, *wanted.log_axes))
        return replace(plans.extended(made, kept, new), log_axes=tuple(both), old_rules=kept.old_rules)
    raise ConfigError(
        f"sweep.resume={display_path(folder)}: {plans.describe_difference(made, kept, wanted)}: leave that out to go on"
        f" with its {len(kept.jobs)} jobs, or write sweep.extend=true to add {len(new)}"
    )


def check(
    made: Composer,
    config: DictConfig,
    settings: SweepSettings,
    plan: Plan,
    engine: Launcher,
    courses: Mapping[int, ResumeAction],
    arguments: Sequence[str],
    problems: Sequence[Problem],
) -> PreparedSweep:
    """Compose and build everything that the jobs need, and divide the machine among them.

    Raises:
        ConfigError: with the problems of all jobs.
    """
    of_the_sweep = [text for text in arguments if plans.is_of_the_sweep(text)]
    left = [job for job in plan.jobs if courses[job.number] is not ResumeAction.SKIP]
    probes = plan.search.probes(len(plan.jobs)) if plan.search is not None else []
    checked = [*left, *probes] or plan.jobs[:1]  # of a sweep that has finished, what tells by which metric
    if problems:  # it will not start: enough to see the other mistakes, each composed for seconds otherwise
        checked = preflight.one_by_one(checked)
    configs, found = preflight.compose(made, checked, of_the_sweep, plan.old_rules)
    found = {number: list(dict.fromkeys([*problems, *of_job])) for number, of_job in found.items()}
    built = preflight.check(checked, configs, found, engine.elsewhere)
    objectives = objectives_of(settings, list(built.values()))
    if plan.search is not None and engine.elsewhere and settings.jobs == "auto":
        raise ConfigError("a search on a cluster has to be told how many trials may run at a time: write sweep.jobs=4")
    at_most = len(left) if plan.search is None else max(len(left), plan.search.n_trials)
    slots = engine.slots(ResourceRequest(settings, config.device.threads, at_most, built, configs))

    def check_later(job: Job) -> DictConfig:
        configs, found = preflight.compose(made, [job], of_the_sweep, plan.old_rules)
        preflight.check([job], configs, found, engine.elsewhere)
        return configs[job.number]

    def keep(folder: Path) -> None:
        plan.save(folder, arguments, made.options)

    configs = {job.number: configs[job.number] for job in left}
    return PreparedSweep(
        plan,
        config,
        settings,
        objectives,
        slots,
        dict(courses),
        configs,
        made.options,
        engine,
        check_later,
        keep,
        typed=made.typed or (),
    )


def words(plan: Plan) -> str:
    """The sweep in one line: `4 jobs: optimizer.lr=0.1,0.01  data.batch_size=32,64`."""
    jobs = len(plan.jobs) if plan.search is None else plan.search.n_trials
    count = f"{jobs} {'job' if plan.search is None else 'trial'}{'s' * (jobs != 1)}"
    axes = "  ".join(f"{key}={values}" for key, values in plan.axes.items())
    return f"{count}: {axes if len(axes) <= MOST_WORDS else axes[: MOST_WORDS - 3] + '...'}" if axes else count


def listed(ready: PreparedSweep) -> list[str]:
    """The jobs as a table, for a dry run."""
    jobs: list[Job] = ready.plan.jobs
    resumed = ready.settings.resume is not None
    columns = [
        [">#", *(str(job.number) for job in jobs)],
        *([key, *(job.point.get(key, "") for job in jobs)] for key in ready.plan.axes),
        *([["to do", *(ready.courses[job.number].value for job in jobs)]] if resumed else []),
    ]
    count = len(ready.slots)
    if not jobs:
        return [f"each trial is chosen by those before it, {count} at a time; sweep.dry_run=true starts none"]
    return [*align(columns), f"all can run, {count} at a time; sweep.dry_run=true starts none"]
