"""`hydra/sweeper=random`: random points, each axis drawn independently (Bergstra and Bengio 2012, JMLR 13:281-305)."""

import random
from collections.abc import Callable, Mapping, Sequence

from hydra.core.override_parser.types import IntervalSweep, Override

from runner.config.compose import Composer
from runner.errors import ConfigError, Problem
from runner.sweeps.plan.axes import check_whole_number, interval_of
from runner.sweeps.plan.plan import Plan, log_axes, make_jobs, split

REPEATS = 50
"""Draws per point: a point that was drawn before does not count, and few axes may have too few combinations."""


def plan(composer: Composer, arguments: Sequence[str], params: Mapping[str, str], n_trials: int, seed: int) -> Plan:
    """Draw distinct points; a higher `n_trials` draws the same ones first.

    Args:
        composer: parses the arguments.
        arguments: as typed.
        params: axes from the config itself.
        n_trials: number of points.
        seed: of the draws.

    Raises:
        ConfigError: there is no axis, or an interval is not valid.
    """
    problems = [*check_whole_number("n_trials", n_trials, 1), *check_whole_number("seed", seed, 0)]
    fixed, axes = split(composer, arguments, params)
    if not axes:
        text = "hydra/sweeper=random has no axis to draw"
        problems.append(Problem("hydra/sweeper", text, "add optimizer.lr=interval(0.001,0.1)", topic="missing"))
    draws: dict[str, Callable[[random.Random], str]] = {}
    for key, override in axes.items():
        try:
            draws[key] = _make_draw(composer, override)
        except ConfigError as error:
            problems += error.problems
    if problems:
        raise ConfigError(*problems)
    # Each axis has its own generator, and does not change with the other axes and their values.
    generators = {key: random.Random(f"{seed} {key.lstrip('+')}") for key in draws}
    points: dict[tuple[str, ...], None] = {}  # distinct, in the order drawn
    for _ in range(n_trials * REPEATS):
        points[tuple(draw(generators[key]) for key, draw in draws.items())] = None
        if len(points) == n_trials:
            break
    jobs = make_jobs(fixed, list(draws), points)
    fewer = f"{len(jobs)} of {n_trials} trials: there are no more combinations" if len(jobs) < n_trials else ""
    texts = {key.lstrip("+"): override.get_value_string() for key, override in axes.items()}
    return Plan(texts, jobs, fewer, log_axes(axes))


def _make_draw(composer: Composer, override: Override) -> Callable[[random.Random], str]:
    """Return a function that draws a value of an axis."""
    if not isinstance(override.value(), IntervalSweep):
        values = composer.reader.values(override)
        return lambda generator: generator.choice(values)
    return interval_of(override).draw
