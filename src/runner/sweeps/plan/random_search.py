"""`hydra/sweeper=random`: random points, each axis drawn independently (Bergstra and Bengio 2012, JMLR 13:281-305)."""

import random
from collections.abc import Callable
from dataclasses import replace

from runner.errors import ConfigError, Problem
from runner.sweeps.plan.axes import check_whole_number, interval_of
from runner.sweeps.plan.plan import Plan, make_jobs
from runner.sweeps.plan.seeds import over_seeds, pull_seeds
from runner.sweeps.plan.space import Axis, Space

REPEATS = 50
"""Draws per point: a point that was drawn before does not count, and few axes may have too few combinations."""

REJECTED = 4
"""The same for points that `sweep.where` leaves out, as a factor."""


def plan(space: Space, n_trials: int, seed: int) -> Plan:
    """Draw distinct points; a higher `n_trials` draws the same ones first.

    Args:
        space: of the sweep; points that it leaves out are drawn again.
        n_trials: number of points.
        seed: of the draws.

    Raises:
        ConfigError: there is no axis, an interval is not valid, or no point is left.
    """
    problems = [*check_whole_number("n_trials", n_trials, 1), *check_whole_number("seed", seed, 0)]
    space, seeds = pull_seeds(space)
    if not space.axes:
        text = "hydra/sweeper=random has no axis to draw"
        problems.append(Problem("hydra/sweeper", text, "add optimizer.lr=interval(0.001,0.1)", topic="missing"))
    draws: list[Callable[[random.Random], str]] = []
    for axis in space.axes:
        try:
            draws.append(make_draw(axis))
        except ConfigError as error:
            problems += error.problems
    if problems:
        raise ConfigError(*problems)
    # Each axis has its own generator, and does not change with the other axes and their values.
    generators = [random.Random(f"{seed} {axis.name}") for axis in space.axes]
    points: dict[tuple[str, ...], bool] = {}  # distinct, in the order drawn, and whether each is a job
    kept = 0
    for _ in range(n_trials * REPEATS * (1 if space.where is None else REJECTED)):
        point = tuple(draw(generator) for draw, generator in zip(draws, generators, strict=True))
        if point not in points:
            points[point] = space.keeps(point)
            kept += points[point]
        if kept == n_trials:
            break
    if space.where is not None:
        space.where.close(len(points), kept)
    jobs = make_jobs(replace(space, where=None), [point for point, is_job in points.items() if is_job])
    few = "sweep.where leaves no more" if space.where is not None else "there are no more combinations"
    note = f"{len(jobs)} of {n_trials} trials: {few}" if len(jobs) < n_trials else ""
    return over_seeds(Plan(space.texts, jobs, note, space.log_axes), seeds)


def make_draw(axis: Axis) -> Callable[[random.Random], str]:
    """Return a function that draws a value of an axis.

    Raises:
        ConfigError: its interval is not valid.
    """
    if axis.interval is None:
        return lambda generator: generator.choice(axis.values)
    assert axis.override is not None
    return interval_of(axis.override).draw
