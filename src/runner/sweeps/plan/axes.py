"""A single axis of a sweep: its interval, and problems with its values."""

import itertools
import math
import random
from dataclasses import dataclass
from typing import Any

from hydra.core.override_parser.types import ChoiceSweep, IntervalSweep, Override, RangeSweep, Sweep
from hydra.errors import HydraException

from runner.config.messages import FUNCTIONS
from runner.config.schema import find_large_integers
from runner.errors import ConfigError, Problem, Topic

DIGITS = 6
"""Significant digits of a drawn number: the table shows exactly the value that is run."""

MOST_VALUES = 100_000
"""Of one axis: they are expanded into a list."""


def check_axis(text: str, override: Override) -> list[Problem]:
    """Check the values of an axis.

    Args:
        text: the argument as typed.
        override: the argument as Hydra reads it; a sweep.
    """
    value, key = override.value(), override.key_or_group

    def problem(what: str, suggestion: str, topic: Topic = "range") -> list[Problem]:
        return [Problem(key, f"{text}: {what}", suggestion, topic=topic)]

    if beyond := find_large_integers(key, _numbers(value)):
        return beyond
    if isinstance(value, IntervalSweep):  # checked by the sweepers
        return []
    if isinstance(value, ChoiceSweep) and any(isinstance(item, Sweep) for item in value.list):
        return problem("a sweep within a sweep", "write all values in one choice(...)", "syntax")
    if isinstance(value, RangeSweep) and value.step == 0:
        return problem("the step is 0", f"write a range as {key}=range(0,5) or {key}=range(0,1,0.25)")
    try:
        # The override itself would expand a shuffled range into a list.
        values = value.range() if isinstance(value, RangeSweep) else override.sweep_iterator()
        count = sum(1 for _ in itertools.islice(values, MOST_VALUES + 1))
    except (ArithmeticError, ValueError, HydraException):  # a limit that is nan
        return problem("not a range", f"write {key}={FUNCTIONS['range']}")
    if count > MOST_VALUES:
        return problem(f"more than {MOST_VALUES:,} values", "write fewer")
    if count:
        return []
    if isinstance(value, RangeSweep):
        way = "below" if value.step > 0 else "above"
        return problem(f"no values, as {value.start} is not {way} {value.stop}", f"write {key}=range(0,5)")
    return problem("no values", f"write some, such as {key}=a,b", "missing")


def _numbers(value: Any) -> Any:
    """Return the numbers that an axis is written with."""
    if isinstance(value, ChoiceSweep):
        return value.list
    if isinstance(value, RangeSweep):
        return [value.start, value.stop, value.step]
    return []


@dataclass(frozen=True)
class Interval:
    """Numbers from `low` to `high`, both included.

    Attributes:
        low: the lower end.
        high: the upper end.
        log: whether numbers are drawn uniformly in their logarithm.
        whole: whether they are whole numbers.
    """

    low: float
    high: float
    log: bool
    whole: bool

    def draw(self, generator: random.Random) -> str:
        """Draw a number, uniformly (with `log`, uniformly in its logarithm)."""
        if self.whole and not self.log:
            return str(generator.randint(int(self.low), int(self.high)))
        if self.log:
            number = math.exp(generator.uniform(math.log(self.low), math.log(self.high)))
        else:
            number = generator.uniform(self.low, self.high)
        number = min(max(number, self.low), self.high)
        return str(round(number)) if self.whole else f"{number:.{DIGITS}g}"


def format_interval(low: float, high: float, log: bool, whole: bool) -> str:
    """Format an interval as it is typed: `tag(log,interval(0.001,0.1))`."""
    text = f"interval({low},{high})"
    text = f"tag(log,{text})" if log else text
    return f"int({text})" if whole else text


def interval_of(override: Override) -> Interval:
    """Return the interval that an argument has as its value.

    Raises:
        ConfigError: its ends are not finite, or in the wrong order, or not above 0 where a logarithm is taken.
    """
    value = override.value()
    assert isinstance(value, IntervalSweep)
    low, high, log = value.start, value.end, "log" in value.tags
    key, text, typed_key = override.key_or_group, override.input_line, override.get_key_element()
    whole = isinstance(low, int) and isinstance(high, int)

    def error(what: str, suggestion: str) -> ConfigError:
        return ConfigError(Problem(key, f"{text}: {what}", f"write {typed_key}={suggestion}", topic="range"))

    if low is None or high is None or not (math.isfinite(low) and math.isfinite(high)):
        raise error("an interval needs two finite ends", "interval(0.001,0.1)")
    if low >= high:
        is_reversed = high < low and (high > 0 or not log)
        ends = (high, low) if is_reversed else (1, 10) if whole else (0.001, 0.1)
        raise error(
            "an interval runs from the lower to the higher number", format_interval(ends[0], ends[1], log, whole)
        )
    if log and low <= 0:
        without = format_interval(low, high, log=False, whole=whole)
        raise error("a logarithm needs numbers above 0", f"{without}, or a lower end above 0")
    return Interval(low, high, log, whole)


def check_whole_number(key: str, value: object, least: int) -> list[Problem]:
    """Check that a setting of the sweeper is a whole number of at least `least`."""
    if isinstance(value, int) and not isinstance(value, bool) and value >= least:
        return []
    key = f"hydra.sweeper.{key}"
    topic: Topic = "range" if isinstance(value, int | float) and not isinstance(value, bool) else "type"
    text = f"{key}={value} is not a whole number of at least {least}"
    return [Problem(key, text, f"write a whole number of at least {least}", topic=topic)]
