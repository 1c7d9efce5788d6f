"""An axis of a sweep by itself: its interval, and what is wrong with its values."""

import itertools
import math
import random
from dataclasses import dataclass
from typing import Any

from hydra.core.override_parser.types import ChoiceSweep, IntervalSweep, Override, RangeSweep, Sweep
from hydra.errors import HydraException

from runner.config.messages import FUNCTIONS
from runner.config.schema import find_large_integers
from runner.errors import ConfigError, Problem, Topic, abbreviate

DIGITS = 6
"""Significant ones of a drawn number: what is run is what the table shows."""

MOST_VALUES = 100_000
"""Of one axis: that many are put into a list at once."""


def check_axis(text: str, override: Override) -> list[Problem]:
    """Check the values of an axis.

    Args:
        text: as it was typed.
        override: as Hydra reads it; a sweep.
    """
    value, key, text = override.value(), override.key_or_group, abbreviate(text)

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
        # Not by the override, which makes a list of a shuffled range.
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
    """The numbers that are written in an axis."""
    if isinstance(value, ChoiceSweep):
        return value.list
    if isinstance(value, RangeSweep):
        return [value.start, value.stop, value.step]
    return []


@dataclass(frozen=True)
class Interval:
    """Numbers from `low` to `high`, both included; `log`: by their logarithm; `whole`: whole numbers."""

    low: float
    high: float
    log: bool
    whole: bool

    def draw(self, chance: random.Random) -> str:
        """One of them, each as likely as the others (with `log`, each factor)."""
        if self.whole and not self.log:
            return str(chance.randint(int(self.low), int(self.high)))
        if self.log:
            number = math.exp(chance.uniform(math.log(self.low), math.log(self.high)))
        else:
            number = chance.uniform(self.low, self.high)
        number = min(max(number, self.low), self.high)
        return str(round(number)) if self.whole else f"{number:.{DIGITS}g}"


def interval_of(override: Override) -> Interval:
    """The interval that an argument gives as its value.

    Raises:
        ConfigError: it has no logarithm, or no end.
    """
    value = override.value()
    assert isinstance(value, IntervalSweep)
    low, high, text = value.start, value.end, override.input_line
    if low is None or high is None or not (low < high and math.isfinite(low) and math.isfinite(high)):
        raise ConfigError(f"{text}: write an interval from the lower to the higher number, interval(0.001,0.1)")
    if "log" in value.tags and low <= 0:
        raise ConfigError(f"{text}: a logarithm needs numbers above 0; write a higher lower end, or leave out log")
    whole = isinstance(low, int) and isinstance(high, int)
    return Interval(low, high, "log" in value.tags, whole)


def not_whole(key: str, value: object, least: int) -> list[str]:
    """What to write instead, if a setting of the sweeper's is no whole number, or too small a one."""
    if isinstance(value, int) and not isinstance(value, bool) and value >= least:
        return []
    return [f"hydra.sweeper.{key}={value}: write a whole number at least {least}"]
