"""`hydra/sweeper=random`: points drawn by chance, each axis by itself (Bergstra and Bengio 2012, JMLR 13:281-305)."""

import random
from collections.abc import Callable, Mapping, Sequence

from hydra.core.override_parser.types import IntervalSweep, Override

from runner.config.compose import Composer
from runner.errors import ConfigError
from runner.sweeps.plan.axes import interval_of, not_whole
from runner.sweeps.plan.plan import Plan, log_axes, make_jobs, split

REPEATS = 50
"""Draws for each point, as one that was drawn before is no new one; of few combinations there may be too few."""


def plan(made: Composer, arguments: Sequence[str], params: Mapping[str, str], n_trials: int, seed: int) -> Plan:
    """Draw the points, each once; with a higher `n_trials` the first of them are the same.

    Args:
        made: to read the arguments with.
        arguments: as they were typed.
        params: axes that the config itself names.
        n_trials: how many points.
        seed: of the draws.

    Raises:
        ConfigError: there is no axis, or an interval that has no logarithm.
    """
    problems = [*not_whole("n_trials", n_trials, 1), *not_whole("seed", seed, 0)]
    fixed, axes = split(made, arguments, params)
    if not axes:
        problems.append("hydra/sweeper=random has nothing to draw: write optimizer.lr=interval(0.001,0.1), or a,b,c")
    draws: dict[str, Callable[[random.Random], str]] = {}
    for key, override in axes.items():
        try:
            draws[key] = _draw(made, override)
        except ConfigError as error:
            problems += map(str, error.problems)
    if problems:
        raise ConfigError(*problems)
    # An axis draws from a generator of its own, so that another axis, or another value of one, leaves it alone.
    chance = {key: random.Random(f"{seed} {key.lstrip('+')}") for key in draws}
    points: dict[tuple[str, ...], None] = {}  # each once, in the order drawn
    for _ in range(n_trials * REPEATS):
        points[tuple(draw(chance[key]) for key, draw in draws.items())] = None
        if len(points) == n_trials:
            break
    jobs = make_jobs(fixed, list(draws), points)
    fewer = f"{len(jobs)} of {n_trials} trials: there are no more combinations" if len(jobs) < n_trials else ""
    texts = {key.lstrip("+"): override.get_value_string() for key, override in axes.items()}
    return Plan(texts, jobs, fewer, log_axes(axes))


def _draw(made: Composer, override: Override) -> Callable[[random.Random], str]:
    """How a value of an axis is drawn."""
    if not isinstance(override.value(), IntervalSweep):
        values = made.values(override)
        return lambda chance: chance.choice(values)
    return interval_of(override).draw
