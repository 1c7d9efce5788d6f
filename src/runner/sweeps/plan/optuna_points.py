"""Points that a sampler of Optuna's draws before any result is known, such as `QMCSampler`'s, which fill the space."""

from typing import Any

import optuna

from runner.errors import ConfigError
from runner.sweeps.plan.optuna_space import searched_axes, suggest
from runner.sweeps.plan.plan import Plan, make_jobs
from runner.sweeps.plan.space import Space


def plan(space: Space, n_trials: int, sampler: Any) -> Plan:
    """Draw points.

    Args:
        space: of the sweep; points that it leaves out count too.
        n_trials: number of points; those that are drawn again count once.
        sampler: of Optuna.

    Raises:
        ConfigError: an axis cannot be searched, or no point is left.
    """
    axes, problems = searched_axes(space.axes)
    if problems:
        raise ConfigError(*problems)
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(sampler=sampler)
    points: dict[tuple[str, ...], None] = {}  # distinct, in the order drawn
    for _ in range(n_trials):
        trial = study.ask()
        for key, one in axes.items():
            suggest(trial, key.lstrip("+"), one.distribution)
        points[tuple(one.format(trial.params[key.lstrip("+")]) for key, one in axes.items())] = None
    jobs = make_jobs(space, points)
    why = "the sampler has drawn some again" if len(jobs) == len(points) else "sweep.where leaves no more"
    fewer = f"{len(jobs)} of {n_trials} trials: {why}" if len(jobs) < n_trials else ""
    return Plan(space.texts, jobs, fewer, space.log_axes)
