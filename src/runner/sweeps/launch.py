"""A sweep before its first job starts: plans the jobs, checks that all of them can run, and allocates slots."""

import logging
from collections.abc import Collection, Mapping, Sequence
from contextlib import ExitStack, nullcontext
from dataclasses import replace
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from runner import objects
from runner.comparison.objectives import objectives_of
from runner.config.compose import Composer
from runner.config.keys import TARGET_GROUPS
from runner.config.notify import names_of
from runner.config.overrides import last_value
from runner.config.settings import SweepSettings
from runner.errors import ConfigError, Problem
from runner.rundir import folders, layout
from runner.rundir.lock import lock
from runner.sweeps.check import preflight
from runner.sweeps.check.stack_hint import stack_hint
from runner.sweeps.controller import Sweep
from runner.sweeps.describe import describe, list_jobs
from runner.sweeps.jobs import Job
from runner.sweeps.launchers import forkserver
from runner.sweeps.launchers.launcher import Launcher, ResourceRequest
from runner.sweeps.plan import folds, seeds
from runner.sweeps.plan.added import add_job
from runner.sweeps.plan.job_configs import JobConfigs
from runner.sweeps.plan.plan import Plan
from runner.sweeps.plan.planning import Planner, plan_jobs
from runner.sweeps.plan.space import is_of_the_sweep
from runner.sweeps.prepared import PreparedSweep
from runner.sweeps.results import resume
from runner.sweeps.results.resume import ResumeAction
from runner.sweeps.schedules.make import make_schedule
from runner.tracking.location import check_new_store, refuse_database_of_server
from runner.tracking.notify import Notifier
from runner.tracking.process import DeliveryProcess
from runner.util import events, terminal
from runner.util.stopping import INTERRUPT

log = logging.getLogger("runner")

SAME_GRAPH = ("optimizer", "scheduler", "trainer.", "callbacks", "seed", "data.batch_size", "data.limit")
"""The first characters of keys that leave the graph of a model as it is: one job exports it, for all of them."""


def run_sweep(
    composer: Composer,
    config: DictConfig,
    arguments: Sequence[str],
    planner: Planner,
    launcher: Launcher,
    problems: Sequence[Problem],
) -> int:
    """Run a sweep, or resume one.

    Args:
        composer: composes the jobs.
        config: of the sweep, with Hydra's node; varied keys have their default values in it.
        arguments: of the command line; a resumed sweep's original ones come first.
        planner: plans the jobs.
        launcher: runs the jobs.
        problems: that all jobs share.

    Returns:
        The exit code: 0 if every job has finished, 1 if not, 128 plus the signal's number after a signal.

    Raises:
        ConfigError: with the problems of all jobs; nothing has been started then.
    """
    settings = OmegaConf.to_object(config.sweep)
    assert isinstance(settings, SweepSettings)
    terminal.configure_logging(bool(config.runner.quiet))
    uri = None if OmegaConf.is_missing(config.tracking, "uri") else config.tracking.uri
    resumed = resume.find(settings.resume, uri) if settings.resume is not None else None
    if resumed is not None:
        objects.share(resumed)
    problems = [*problems, *seeds.check(config), *folds.check(config)]
    try:
        plan = plan_jobs(composer, config, resumed, arguments, planner)
    except ConfigError as error:
        raise ConfigError(*dict.fromkeys([*problems, *error.problems])) from error
    exact_folder = last_value(arguments, "hydra.sweep.dir") is not None
    requested = str(config.hydra.sweep.dir)
    if resumed is None:
        folder_problems = folders.check_folder(requested, exact_folder, folders.SWEEP)
        problems = [*problems, *folder_problems, *check_new_store(config.tracking)]
    problems = [*problems, *check_register(config.tracking.register, settings)]
    if not problems:  # else nothing is built, and the fork server would hold standard error open while it imports
        targets = [str(config[group].get("_target_")) for group in TARGET_GROUPS]
        differ = any(not key.startswith(SAME_GRAPH) for key in plan.axes)
        exports = bool(config.tracking.log_model) and differ
        forkserver.start(targets, exports, launcher.stacks)
    with ExitStack() as closing:
        closing.push(_kill_server)
        is_tracked = config.tracking.name != "off" and not settings.dry_run and not problems
        notifier = _start_notifier(closing, config) if not problems else None
        delivery = _start_delivery(closing, uri, config.tracking.experiment) if is_tracked else None
        running = _take_over(closing, resumed, plan, launcher) if resumed is not None else set[int]()
        actions = choose_actions(plan, resumed, running, settings.artifacts)
        with terminal.show_waiting(f"checking {len(plan.jobs) or 'the'} jobs ..."):
            prepared = check(composer, config, settings, plan, launcher, actions, arguments, problems)
        if notifier is not None:
            notifier.check()
            prepared.notifier = notifier
        INTERRUPT.check()
        for line in [*describe(prepared), *(list_jobs(prepared) if settings.dry_run else [])]:
            log.info("%s", line)
        if settings.dry_run:
            return 0
        plan.method.check_storage(prepared.objectives, resumed=resumed is not None)
        closing.callback(launcher.close)
        with terminal.show_waiting("connecting to the cluster ...") if launcher.is_remote else nullcontext():
            launcher.open()
        closing.enter_context(INTERRUPT.deferred())  # what is in the folder then ends as a sweep that was stopped
        folder = resumed or folders.make_run_folder(requested, exact_folder, folders.SWEEP)
        if resumed is None:
            closing.enter_context(lock(folder))
        events.send("folder", path=str(folder))
        objects.keep(list(arguments), folder)
        schedule = make_schedule(folder, prepared)
        prepared.save_plan(folder)
        if notifier is not None:
            closing.enter_context(notifier.watching(folder))
        return Sweep(folder, prepared, schedule, delivery).run()


def check_register(name: str | None, settings: SweepSettings) -> list[Problem]:
    """Check that a sweep will have a best job, whose model is registered: `tracking.register`."""
    metrics = settings.metric
    if name is None or not isinstance(metrics, list) or len(metrics) < 2:
        return []
    text = f"tracking.register={name}: of two objectives there is no best job to register"
    return [Problem("tracking.register", text, f"write sweep.metric={metrics[0]}, or leave it out", topic="conflict")]


def _kill_server(kind: type[BaseException] | None, *_: object) -> None:
    """End the process that imports torch if nothing will be started: it would keep standard error open meanwhile."""
    if kind is not None:
        forkserver.kill()


def _start_delivery(closing: ExitStack, uri: str | None, experiment: str) -> DeliveryProcess:
    """Start the process that delivers to MLflow, until the stack is closed."""
    refuse_database_of_server(uri, experiment)
    delivery = DeliveryProcess(uri)
    closing.callback(delivery.close, 0.0)
    return delivery


def _start_notifier(closing: ExitStack, config: DictConfig) -> Notifier | None:
    """Start the process that notifies of the sweep's end, until the stack is closed; None without `tracking.notify`."""
    names = names_of(config)
    if not names:
        return None
    notifier = Notifier(names)
    closing.callback(notifier.close)
    return notifier


def _take_over(closing: ExitStack, folder: Path, plan: Plan, launcher: Launcher) -> set[int]:
    """Lock the folder of a resumed sweep, and wait for its orphans; return the jobs that a cluster still runs."""
    closing.enter_context(lock(folder))
    running = launcher.find_running(folder)
    resume.wait_for_orphans([folder / str(job.number) for job in plan.jobs if job.number not in running])
    if (folder / layout.STACKS).is_dir():
        launcher.resume_stacks(forkserver.call("runner.rundir.stack:restore", folder))
    return running


def choose_actions(
    plan: Plan, resumed: Path | None, running: Collection[int], artifacts: str
) -> dict[int, ResumeAction]:
    """Choose what to do with each job.

    Args:
        plan: the jobs.
        resumed: the folder of a sweep that is resumed.
        running: jobs that a cluster still runs.
        artifacts: which jobs have plots and a saved model.
    """
    if resumed is None:
        return dict.fromkeys((job.number for job in plan.jobs), ResumeAction.START)
    actions = {job.number: resume.choose_action(resumed / str(job.number), artifacts) for job in plan.jobs}
    actions |= dict.fromkeys(running, ResumeAction.FOLLOW)
    if not plan.method.retries_failed:
        actions |= {number: ResumeAction.SKIP for number, action in actions.items() if action is ResumeAction.RESTART}
    return actions


def check(
    composer: Composer,
    config: DictConfig,
    settings: SweepSettings,
    plan: Plan,
    launcher: Launcher,
    actions: Mapping[int, ResumeAction],
    arguments: Sequence[str],
    problems: Sequence[Problem],
) -> PreparedSweep:
    """Compose and build all jobs, and allocate slots for them.

    Raises:
        ConfigError: with the problems of all jobs.
    """
    of_the_sweep = [text for text in arguments if is_of_the_sweep(text)]
    remaining = [job for job in plan.jobs if actions[job.number] is not ResumeAction.SKIP]
    probes = plan.method.probes(len(plan.jobs))
    checked = [*remaining, *probes] or plan.jobs[:1]  # a finished sweep needs one for its objectives
    if problems:  # it will not start: fewer jobs show the other problems, and composing each takes time
        checked = preflight.one_by_one(checked)
    job_configs = JobConfigs(composer, of_the_sweep)
    configs, by_job = preflight.compose(job_configs, checked, plan.old_rules, problems)
    infos = preflight.check(checked, configs, by_job, launcher.is_remote, launcher.stacks)
    objectives = objectives_of(settings, list(infos.values()))
    plan.method.check_jobs(objectives, configs, [name for info in infos.values() for name in info.metrics])
    trials = plan.method.trials
    if trials is not None and launcher.is_remote and settings.jobs == "auto":
        text = "sweep.jobs=auto: a search on a cluster needs the number of trials at a time"
        raise ConfigError(Problem("sweep.jobs", text, "write sweep.jobs=4", topic="missing"))
    max_jobs = max(len(remaining), (trials or 0) * plan.method.repetitions)
    slots = launcher.allocate(
        ResourceRequest(settings, config.device.threads, max_jobs, infos, configs, is_search=trials is not None)
    )

    def check_later(job: Job) -> DictConfig:
        configs, by_job = preflight.compose(job_configs, [job], plan.old_rules)
        preflight.check([job], configs, by_job, launcher.is_remote)
        return configs[job.number]

    def add(typed: Sequence[str], like: Job | None) -> Job:
        before = replace(plan, axes=dict(plan.axes), jobs=list(plan.jobs))
        job = add_job(composer, plan, typed, like)
        try:
            configs[job.number] = check_later(job)
        except ConfigError:
            plan.become(before)
            raise
        return job

    def save_plan(folder: Path) -> None:
        plan.save(folder, arguments, composer.options)

    would_stack = plan.method.suits_stacks and not (launcher.stacks or launcher.is_remote)
    for number in configs.keys() - {job.number for job in remaining}:
        del configs[number]
    return PreparedSweep(
        plan,
        config,
        settings,
        objectives,
        slots,
        dict(actions),
        configs,
        composer.options,
        launcher,
        check_later,
        add,
        save_plan,
        typed=composer.typed or (),
        hint=stack_hint(list(infos.values()), slots) if would_stack else "",
    )
