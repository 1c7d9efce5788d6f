"""A sweep before its first job starts: plans the jobs, checks that all of them can run, and allocates slots."""

import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import ExitStack, nullcontext
from dataclasses import replace
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from runner.comparison.objectives import SHOWN, objectives_of
from runner.config.compose import Composer
from runner.config.keys import PRESETS, TARGET_GROUPS
from runner.config.overrides import last_value
from runner.config.settings import SweepSettings
from runner.errors import ConfigError, Problem
from runner.rundir import folders, layout
from runner.rundir.folders import display_path
from runner.rundir.lock import lock
from runner.sweeps.check import preflight
from runner.sweeps.check.stack_hint import stack_hint
from runner.sweeps.controller import Sweep
from runner.sweeps.jobs import Job
from runner.sweeps.launchers import forkserver
from runner.sweeps.launchers.launcher import Launcher, ResourceRequest
from runner.sweeps.plan import folds, seeds
from runner.sweeps.plan import plan as plans
from runner.sweeps.plan.job_configs import JobConfigs
from runner.sweeps.plan.plan import Plan
from runner.sweeps.plan.space import chooses_jobs, is_of_the_sweep
from runner.sweeps.plan.stages import SeedStages
from runner.sweeps.prepared import PreparedSweep
from runner.sweeps.results import resume
from runner.sweeps.results.resume import ResumeAction
from runner.sweeps.schedules.make import make_schedule
from runner.tracking.location import check_new_store, refuse_database_of_server
from runner.tracking.process import DeliveryProcess
from runner.util import terminal
from runner.util.stopping import INTERRUPT
from runner.util.tables import align

log = logging.getLogger("runner")

AXES_LENGTH = 100
"""Characters of the axes in the first line that is printed."""

SAME_GRAPH = ("optimizer", "scheduler", "trainer.", "callbacks", "seed", "data.batch_size", "data.limit")
"""The first characters of keys that leave the graph of a model as it is: one job exports it, for all of them."""

Planner = Callable[[Composer, Sequence[str]], Plan]
"""Makes the plan of a sweep from the arguments of its command line."""


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
    problems = [*problems, *seeds.check(config), *folds.check(config)]
    try:
        repeated = seeds.seeds_of(config), folds.folds_of(config)
        most = settings.max_seeds if seeds.is_staged(config) else None
        plan = plan_jobs(composer, resumed, arguments, planner, settings.extend, *repeated, most)
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
        delivery = _start_delivery(closing, uri, config.tracking.experiment) if is_tracked else None
        running = _take_over(closing, resumed, plan, launcher) if resumed is not None else set[int]()
        actions = choose_actions(plan, resumed, running, settings.artifacts)
        with terminal.show_waiting(f"checking {len(plan.jobs) or 'the'} jobs ..."):
            prepared = check(composer, config, settings, plan, launcher, actions, arguments, problems)
        INTERRUPT.check()
        for line in [*describe(prepared), *(list_jobs(prepared) if settings.dry_run else [])]:
            log.info("%s", line)
        if settings.dry_run:
            return 0
        if plan.search is not None:
            plan.search.check(prepared.objectives, resumed=resumed is not None)
        closing.callback(launcher.close)
        with terminal.show_waiting("connecting to the cluster ...") if launcher.is_remote else nullcontext():
            launcher.open()
        closing.enter_context(INTERRUPT.deferred())  # what is in the folder then ends as a sweep that was stopped
        folder = resumed or folders.make_run_folder(requested, exact_folder, folders.SWEEP)
        if resumed is None:
            closing.enter_context(lock(folder))
        if plan.search is not None:
            plan.search.open(folder, prepared.objectives, len(plan.jobs))
        prepared.save_plan(folder)
        return Sweep(folder, prepared, make_schedule(folder, prepared), delivery).run()


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
    if plan.search is not None:  # the study has a failed trial, and does not repeat it
        actions |= {number: ResumeAction.SKIP for number, action in actions.items() if action is ResumeAction.RESTART}
    return actions


def describe(prepared: PreparedSweep) -> list[str]:
    """Describe a sweep, with remarks for the user, in lines."""
    plan = prepared.plan
    notes = ["its jobs read their data by the rules of version 0.1.0, which started it"] if plan.old_rules else []
    if plan.halving:
        first = seeds.first_of_each(plan.jobs)
        notes.append(plan.halving.describe(len(first), 1 + max(map(len, first.values()))))
        notes.append(_describe_horizon(prepared.config, plan.halving.rungs[-1]))
    notes += [plan.stages.describe() if plan.stages else ""]
    notes += [plan.note, plan.search.note(prepared.objectives) if plan.search else ""]
    return [f"sweep      {describe_plan(plan)}", *(f"           {note}" for note in notes if note)]


def _describe_horizon(config: DictConfig, epochs: int) -> str:
    """Describe that a preset, which may ask for another number of epochs, does not decide it; empty without one."""
    asked, choices = config.trainer.epochs, config.hydra.runtime.choices
    if asked == epochs or not any(choices.get(group) for group in PRESETS):
        return ""
    return f"trainer.epochs={asked} gives way to hydra.sweeper.max_epochs={epochs}"


def plan_jobs(
    composer: Composer,
    folder: Path | None,
    arguments: Sequence[str],
    planner: Planner,
    extend: bool,
    of_seeds: Sequence[str] = (),
    of_folds: int | None = None,
    max_seeds: int | None = None,
) -> Plan:
    """Return the jobs of a sweep; of a resumed one the saved jobs, and with `extend` those that its grid lacks.

    Raises:
        ConfigError: the arguments ask for other jobs than the saved ones; with the difference.
    """
    planned = folds.over_folds(seeds.over_seeds(planner(composer, arguments), of_seeds), of_folds)
    if max_seeds is None:
        return _resumed(composer, folder, arguments, planned, extend)
    plan = _resumed(composer, folder, arguments, replace(planned, stages=SeedStages(planned.jobs, max_seeds)), extend)
    return replace(plan, stages=SeedStages(plan.jobs, max_seeds))


def _resumed(composer: Composer, folder: Path | None, arguments: Sequence[str], planned: Plan, extend: bool) -> Plan:
    """Return the saved jobs of a sweep that is resumed, and with `extend` those that they lack.

    Args:
        composer: parses the arguments.
        folder: of the sweep; None if it starts now.
        arguments: of the command line.
        planned: the jobs that the arguments ask for.
        extend: whether to add to the saved ones.

    Raises:
        ConfigError: the arguments ask for other jobs than the saved ones.
    """
    if folder is None:
        return planned
    saved, original, _ = plans.load(folder)
    if planned.search is not None:
        return _resume_search(saved, planned, folder, extend)
    asks = any(text not in original and chooses_jobs(text) for text in arguments)
    new, missing = plans.difference(composer, saved, planned) if asks or planned.stages is not None else ([], [])
    if planned.halving is not None:
        planned.halving.resume(folder, all_go_on=extend, has_new=bool(new))
        saved = replace(saved, halving=planned.halving)
    if not new and not missing:
        return saved
    if extend and not new and planned.halving is None:
        text = f"sweep.extend=true: the sweep has these {len(planned.jobs)} jobs already"
        suggestion = f"write only sweep.resume={display_path(folder)} to resume all {len(saved.jobs)}"
        raise ConfigError(Problem("sweep.extend", text, suggestion, topic="conflict"))
    if extend:
        both = dict.fromkeys((*saved.log_axes, *planned.log_axes))
        more = plans.extended(composer, saved, planned, new)
        return replace(more, log_axes=tuple(both), old_rules=saved.old_rules, halving=saved.halving)
    head, extending = f"sweep.resume={display_path(folder)}", f"add sweep.extend=true for {len(new)} more"
    resuming = f"leave it out to resume the {len(saved.jobs)} jobs"
    changed = plans.changed_values(composer, saved, planned)
    if not changed:
        text = f"{head}: its points are other combinations of the same values"
        raise ConfigError(Problem("sweep.resume", text, extending, topic="conflict"))
    suggestion = f"{resuming}, or {extending}" if new else resuming
    raise ConfigError(
        *(Problem(key, f"{head}: {change}", suggestion, topic="conflict") for key, change in changed.items())
    )


def _resume_search(saved: Plan, planned: Plan, folder: Path, extend: bool) -> Plan:
    assert planned.search is not None
    if extend:
        n_trials = planned.search.n_trials
        more = n_trials if n_trials * planned.search.repetitions > len(saved.jobs) else 2 * n_trials
        suggestion = f"leave it out, and write hydra.sweeper.n_trials={more}"
        text = "sweep.extend=true: a search is extended by its number of trials alone"
        raise ConfigError(Problem("sweep.extend", text, suggestion, topic="conflict"))
    if planned.axes == saved.axes:
        return replace(saved, search=planned.search)
    head, problems = f"sweep.resume={display_path(folder)}", []
    for key in dict.fromkeys((*saved.axes, *planned.axes)):
        was, now = (plan.axes.get(key, "one value") for plan in (saved, planned))
        if was != now:
            text = f"{head}: it searches {key}={was}, and not {key}={now}"
            problems.append(Problem(key, text, "leave it out", topic="conflict"))
    raise ConfigError(*problems)


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
    probes = plan.search.probes(len(plan.jobs)) if plan.search is not None else []
    checked = [*remaining, *probes] or plan.jobs[:1]  # a finished sweep needs one for its objectives
    if problems:  # it will not start: fewer jobs show the other problems, and composing each takes time
        checked = preflight.one_by_one(checked)
    job_configs = JobConfigs(composer, of_the_sweep)
    configs, by_job = preflight.compose(job_configs, checked, plan.old_rules, problems)
    infos = preflight.check(checked, configs, by_job, launcher.is_remote, launcher.stacks)
    objectives = objectives_of(settings, list(infos.values()))
    if plan.halving is not None:
        plan.halving.check(objectives, configs, [name for info in infos.values() for name in info.metrics])
    if plan.stages is not None and (len(objectives) > 1 or objectives[0].direction == SHOWN):
        text = "sweep.seeds=auto: seeds come in stages by one metric that ranks configurations"
        raise ConfigError(Problem("sweep.metric", text, f"write sweep.metric={objectives[0].metric}", topic="conflict"))
    if plan.search is not None and objectives[0].direction == SHOWN:
        names = " or ".join(objective.metric for objective in objectives)
        text = "sweep.metric: the task measures no loss to search by"
        raise ConfigError(Problem("sweep.metric", text, f"write sweep.metric={names}", topic="missing"))
    if plan.search is not None and launcher.is_remote and settings.jobs == "auto":
        text = "sweep.jobs=auto: a search on a cluster needs the number of trials at a time"
        raise ConfigError(Problem("sweep.jobs", text, "write sweep.jobs=4", topic="missing"))
    planned_now = plan.search is None and plan.halving is None
    most = 0 if plan.search is None else plan.search.n_trials * plan.search.repetitions
    max_jobs = max(len(remaining), most)
    slots = launcher.allocate(
        ResourceRequest(settings, config.device.threads, max_jobs, infos, configs, plan.search is not None)
    )

    def check_later(job: Job) -> DictConfig:
        configs, by_job = preflight.compose(job_configs, [job], plan.old_rules)
        preflight.check([job], configs, by_job, launcher.is_remote)
        return configs[job.number]

    def save_plan(folder: Path) -> None:
        plan.save(folder, arguments, composer.options)

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
        save_plan,
        typed=composer.typed or (),
        hint=stack_hint(list(infos.values()), slots)
        if planned_now and not (launcher.stacks or launcher.is_remote)
        else "",
    )


def describe_plan(plan: Plan) -> str:
    """Describe a plan in one line: `4 jobs: optimizer.lr=0.1,0.01  data.batch_size=32,64`."""
    jobs = len(plan.jobs) if plan.search is None else plan.search.n_trials
    count = f"{jobs} {'job' if plan.search is None else 'trial'}{'s' * (jobs != 1)}"
    axes = "  ".join(f"{key}={values}" for key, values in plan.axes.items())
    return f"{count}: {axes if len(axes) <= AXES_LENGTH else axes[: AXES_LENGTH - 3] + '...'}" if axes else count


def list_jobs(prepared: PreparedSweep) -> list[str]:
    """Return the jobs as a table, for a dry run."""
    jobs: list[Job] = prepared.plan.jobs
    resumed = prepared.settings.resume is not None
    columns = [
        [">#", *(str(job.number) for job in jobs)],
        *([key, *(job.point.get(key, "") for job in jobs)] for key in prepared.plan.axes),
        *([["to do", *(prepared.actions[job.number].value for job in jobs)]] if resumed else []),
    ]
    count = len(prepared.slots)
    if not jobs:
        return [f"each trial depends on the earlier ones, {count} at a time; sweep.dry_run=true starts none"]
    return [*align(columns), f"all can run, {count} at a time; sweep.dry_run=true starts none"]
