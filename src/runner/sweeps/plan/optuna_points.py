"""Points that a sampler of Optuna's draws before any result is known, such as `QMCSampler`'s, which fill the space."""

from collections.abc import Mapping, Sequence
from typing import Any

import optuna

from runner.config.compose import Composer
from runner.errors import ConfigError
from runner.sweeps.plan.optuna_space import Axis, axis_of, suggest
from runner.sweeps.plan.plan import Plan, log_axes, make_jobs, split


def plan(composer: Composer, arguments: Sequence[str], params: Mapping[str, str], n_trials: int, sampler: Any) -> Plan:
    """Draw points.

    Args:
        composer: parses the arguments.
        arguments: as typed.
        params: axes from the config itself.
        n_trials: number of points; those that are drawn again count once.
        sampler: of Optuna.

    Raises:
        ConfigError: an axis cannot be searched.
    """
    fixed, overrides = split(composer, arguments, params)
    axes: dict[str, Axis] = {}
    problems = []
    for key, override in overrides.items():
        try:
            axes[key] = axis_of(composer, override)
        except ConfigError as error:
            problems += error.problems
    if problems:
        raise ConfigError(*problems)
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(sampler=sampler)
    points: dict[tuple[str, ...], None] = {}  # distinct, in the order drawn
    for _ in range(n_trials):
        trial = study.ask()
        for key, axis in axes.items():
            suggest(trial, key.lstrip("+"), axis.distribution)
        points[tuple(axis.format(trial.params[key.lstrip("+")]) for key, axis in axes.items())] = None
    jobs = make_jobs(fixed, list(axes), points)
    fewer = f"{len(jobs)} of {n_trials} trials: the sampler has drawn some again" if len(jobs) < n_trials else ""
    texts = {key.lstrip("+"): override.get_value_string() for key, override in overrides.items()}
    return Plan(texts, jobs, fewer, log_axes(overrides))
