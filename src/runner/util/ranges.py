"""Ranges of numbers that a value may be in."""

import math
import typing
from dataclasses import dataclass


@dataclass(frozen=True)
class Range:
    """Finite numbers from `low` to `high`; `open_low`/`open_high`: the end itself does not belong to them."""

    low: float
    high: float = math.inf
    open_low: bool = False
    open_high: bool = False
    whole: bool = False

    def __contains__(self, value: object) -> bool:
        if not self.is_number(value) or not fits_64_bits(value) or not math.isfinite(typing.cast(float, value)):
            return False
        number = typing.cast(float, value)
        above = number > self.low if self.open_low else number >= self.low
        below = number < self.high if self.open_high else number <= self.high
        return above and below

    def is_number(self, value: object) -> bool:
        """Whether it is of the right kind, in the range or not."""
        if isinstance(value, bool):
            return False
        return isinstance(value, int if self.whole else int | float)

    def __str__(self) -> str:
        kind = "a whole number" if self.whole else "a number"
        low = f"{'above' if self.open_low else 'at least'} {self.low}"
        high = "" if self.high == math.inf else f" and {'below' if self.open_high else 'at most'} {self.high}"
        return f"{kind} {low}{high}"


COUNT = Range(1, whole=True)

THREADS = Range(1, 1024, whole=True)  # more than that ends a process, or the machine

SECONDS = Range(0, open_low=True)

PROBABILITY = Range(0, 1, open_high=True)


def fits_64_bits(value: object) -> bool:
    """Whether torch, NumPy and a database can hold it, if it is a whole number."""
    return not isinstance(value, int) or -(2**63) <= value < 2**63
