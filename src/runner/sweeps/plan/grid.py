"""`hydra/sweeper=grid`: every combination of the values, in the order in which they are typed."""

import itertools

from runner.errors import ConfigError, Problem
from runner.sweeps.plan.plan import Plan, make_jobs
from runner.sweeps.plan.space import Axis, Space


def plan(space: Space) -> Plan:
    """Plan all points of a grid.

    Args:
        space: of the sweep.

    Raises:
        ConfigError: an axis is an interval, which has no list of values; or no point is left.
    """
    if intervals := [axis for axis in space.axes if axis.interval is not None]:
        raise ConfigError(*map(_needs_values, intervals))
    jobs = make_jobs(space, itertools.product(*(axis.values for axis in space.axes)))
    texts = {axis.name: axis.text if axis.rows else ",".join(axis.values) for axis in space.axes}
    return Plan(texts, jobs, log_axes=space.log_axes)


def _needs_values(axis: Axis) -> Problem:
    interval = axis.interval
    assert interval is not None
    instead = f"write {axis.key}={interval.start},{interval.end}, or add hydra/sweeper=random"
    return Problem(axis.name, f"{axis.key}={axis.text}: a grid needs a list of values", instead, topic="conflict")
