"""From the arguments of a command line to the jobs of a sweep: a new one, or one that is resumed."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from omegaconf import DictConfig

from runner.config.compose import Composer
from runner.errors import ConfigError, Problem
from runner.rundir.folders import display_path
from runner.sweeps.plan import folds, seeds
from runner.sweeps.plan import plan as plans
from runner.sweeps.plan.method import PLANNED
from runner.sweeps.plan.plan import Plan
from runner.sweeps.plan.space import chooses_jobs
from runner.sweeps.plan.stages import SeedStages

Planner = Callable[[Composer, Sequence[str]], Plan]
"""Makes the plan of a sweep from the arguments of its command line."""


def plan_jobs(
    composer: Composer, config: DictConfig, folder: Path | None, arguments: Sequence[str], planner: Planner
) -> Plan:
    """Return the jobs of a sweep; of a resumed one the saved jobs, and with `extend` those that its grid lacks.

    Args:
        composer: parses the arguments.
        config: of the sweep, with Hydra's node.
        folder: of a sweep that is resumed; None for a new one.
        arguments: of the command line.
        planner: plans the points.

    Raises:
        ConfigError: the arguments ask for other jobs than the saved ones, with the difference; or for what needs
            several seeds.
    """
    planned = _planned(composer, config, folder, arguments, planner)
    if problems := seeds.without_effect(planned, config, arguments):
        raise ConfigError(*problems)
    return planned


def _planned(
    composer: Composer, config: DictConfig, folder: Path | None, arguments: Sequence[str], planner: Planner
) -> Plan:
    points = planner(composer, arguments)
    planned = folds.over_folds(seeds.over_seeds(points, seeds.seeds_of(config), folder), folds.folds_of(config))
    if seeds.is_staged(config) and planned.method is PLANNED:  # another method is refused: see `seeds.check`
        planned = replace(planned, method=SeedStages(config.sweep.max_seeds))
    if folder is None:
        return planned
    return _resumed(composer, folder, arguments, planned, bool(config.sweep.extend), str(config.seed))


def _resumed(
    composer: Composer, folder: Path, arguments: Sequence[str], planned: Plan, extend: bool, seed: str
) -> Plan:
    """Return the saved jobs of a sweep that is resumed, and with `extend` those that they lack.

    Args:
        composer: parses the arguments.
        folder: of the sweep.
        arguments: of the command line.
        planned: the jobs that the arguments ask for.
        extend: whether to add to the saved ones.
        seed: of jobs that name none.

    Raises:
        ConfigError: the arguments ask for other jobs than the saved ones.
    """
    saved, original, _ = plans.load(folder)
    if extend and seeds.SEED in planned.axes:
        saved = seeds.with_seed(saved, seed)
    if planned.method.trials is not None:
        return _resume_search(saved, planned, folder, planned.method.trials, extend)
    asks = any(text not in original and chooses_jobs(text) for text in arguments)
    compares = asks or planned.method.compares_always
    new, missing = plans.difference(composer, saved, planned) if compares else ([], [])
    planned.method.resume(folder, all_go_on=extend, has_new=bool(new))
    if not new and not missing:
        return replace(saved, method=planned.method)
    if extend and not new and not planned.method.extends_training:
        text = f"sweep.extend=true: the sweep has these {len(planned.jobs)} jobs already"
        suggestion = f"write only sweep.resume={display_path(folder)} to resume all {len(saved.jobs)}"
        raise ConfigError(Problem("sweep.extend", text, suggestion, topic="conflict"))
    if extend:
        both = dict.fromkeys((*saved.log_axes, *planned.log_axes))
        more = plans.extended(composer, saved, planned, new)
        return replace(more, log_axes=tuple(both), old_rules=saved.old_rules, method=planned.method)
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


def _resume_search(saved: Plan, planned: Plan, folder: Path, trials: int, extend: bool) -> Plan:
    if extend:
        more = trials if trials * planned.method.repetitions > len(saved.jobs) else 2 * trials
        suggestion = f"leave it out, and write hydra.sweeper.n_trials={more}"
        text = "sweep.extend=true: a search is extended by its number of trials alone"
        raise ConfigError(Problem("sweep.extend", text, suggestion, topic="conflict"))
    if planned.axes == saved.axes:
        return replace(saved, method=planned.method)
    head, problems = f"sweep.resume={display_path(folder)}", []
    for key in dict.fromkeys((*saved.axes, *planned.axes)):
        was, now = (plan.axes.get(key, "one value") for plan in (saved, planned))
        if was != now:
            text = f"{head}: it searches {key}={was}, and not {key}={now}"
            problems.append(Problem(key, text, "leave it out", topic="conflict"))
    raise ConfigError(*problems)
