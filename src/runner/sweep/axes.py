"""What is wrong with an axis of a sweep by itself: values that there are none of, or that are none."""

import itertools
from typing import Any

from hydra.core.override_parser.types import ChoiceSweep, IntervalSweep, Override, RangeSweep, Sweep
from hydra.errors import HydraException

from runner.errors import brief
from runner.refusal import FUNCTIONS
from runner.schema import beyond_64_bits

MOST_VALUES = 100_000
"""Of one axis: that many are put into a list at once."""


def check_axis(text: str, override: Override) -> list[str]:
    """Find what is wrong with the values of an axis.

    Args:
        text: as it was typed.
        override: as Hydra reads it; one that is swept.
    """
    value, key, text = override.value(), override.key_or_group, brief(text)
    if beyond := beyond_64_bits(key, _numbers(value)):
        return beyond
    if isinstance(value, IntervalSweep):  # the sweepers say what they need of one
        return []
    if isinstance(value, ChoiceSweep) and any(isinstance(item, Sweep) for item in value.list):
        return [f"{text}: a sweep within a sweep; write all values in one choice(...)"]
    if isinstance(value, RangeSweep) and value.step == 0:
        return [f"{text}: the step is 0; write a range as {key}=range(0,5) or {key}=range(0,1,0.25)"]
    try:
        # Not by the override, which makes a list of a shuffled range.
        values = value.range() if isinstance(value, RangeSweep) else override.sweep_iterator()
        count = sum(1 for _ in itertools.islice(values, MOST_VALUES + 1))
    except (ArithmeticError, ValueError, HydraException):  # a limit that is nan
        return [f"{text}: there is no such range; write {key}={FUNCTIONS['range']}"]
    if count > MOST_VALUES:
        return [f"{text}: these are more than {MOST_VALUES:,} values; write fewer"]
    if count:
        return []
    if isinstance(value, RangeSweep):
        way = "below" if value.step > 0 else "above"
        return [f"{text}: there are no values, as {value.start} is not {way} {value.stop}; write {key}=range(0,5)"]
    return [f"{text}: there are no values; write some, such as {key}=a,b"]


def _numbers(value: Any) -> Any:
    """The numbers that are written in an axis."""
    if isinstance(value, ChoiceSweep):
        return value.list
    if isinstance(value, RangeSweep):
        return [value.start, value.stop, value.step]
    return []
