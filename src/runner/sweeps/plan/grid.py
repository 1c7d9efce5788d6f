"""`hydra/sweeper=grid`: every combination of the values, in the order in which they are typed."""

import itertools
from collections.abc import Mapping, Sequence

from hydra.core.override_parser.types import IntervalSweep, Override

from runner.config.compose import Composer
from runner.errors import ConfigError, Problem
from runner.sweeps.plan.plan import Plan, log_axes, make_jobs, split


def plan(composer: Composer, arguments: Sequence[str], params: Mapping[str, str]) -> Plan:
    """Plan all points of a grid.

    Args:
        composer: parses the arguments.
        arguments: as typed.
        params: axes from the config itself.

    Raises:
        ConfigError: an axis is an interval, which has no list of values.
    """
    fixed, axes = split(composer, arguments, params)
    intervals = [override for override in axes.values() if not override.is_discrete_sweep()]
    if intervals:
        raise ConfigError(*map(_needs_values, intervals))
    values = {key: composer.reader.values(override) for key, override in axes.items()}
    jobs = make_jobs(fixed, list(values), itertools.product(*values.values()))
    texts = {key.lstrip("+"): ",".join(of_axis) for key, of_axis in values.items()}
    return Plan(texts, jobs, log_axes=log_axes(axes))


def _needs_values(override: Override) -> Problem:
    interval = override.value()
    assert isinstance(interval, IntervalSweep)
    instead = f"write {override.get_key_element()}={interval.start},{interval.end}, or add hydra/sweeper=random"
    text = f"{override.input_line}: a grid needs a list of values"
    return Problem(override.key_or_group, text, instead, topic="conflict")
