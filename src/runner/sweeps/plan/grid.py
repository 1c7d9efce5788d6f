"""`hydra/sweeper=grid`: every combination of the values, in the order in which they were typed."""

import itertools
from collections.abc import Mapping, Sequence

from runner.config.compose import Composer
from runner.errors import ConfigError
from runner.sweeps.plan.plan import Plan, log_axes, make_jobs, split


def plan(made: Composer, arguments: Sequence[str], params: Mapping[str, str]) -> Plan:
    """The points of a grid.

    Args:
        made: to read the arguments with.
        arguments: as they were typed.
        params: axes that the config itself names.

    Raises:
        ConfigError: an axis is an interval, which has no values to go through.
    """
    fixed, axes = split(made, arguments, params)
    endless = [o.input_line for o in axes.values() if not o.is_discrete_sweep()]
    if endless:
        raise ConfigError(
            *(f"{text}: a grid needs values, such as a,b,c; or draw them: hydra/sweeper=random" for text in endless)
        )
    values = {key: made.values(override) for key, override in axes.items()}
    jobs = make_jobs(fixed, list(values), itertools.product(*values.values()))
    return Plan({key.lstrip("+"): ",".join(found) for key, found in values.items()}, jobs, log_axes=log_axes(axes))
