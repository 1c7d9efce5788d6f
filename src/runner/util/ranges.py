"""Bounds of values, for annotations: `lr: Annotated[float, Range(0, open_low=True)]`.

Any class or function that a config names can use them. A value out of bounds is an error before anything starts.
"""

import math
import typing
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Range:
    """A range of finite numbers; for a list, it applies to each item.

    Attributes:
        low: the smallest.
        high: the largest.
        open_low: `low` itself is excluded.
        open_high: `high` itself is excluded.
        whole: integers only.
        words: allowed instead of a number, such as `auto`.
    """

    low: float
    high: float = math.inf
    open_low: bool = False
    open_high: bool = False
    whole: bool = False
    words: tuple[str, ...] = ()

    def __contains__(self, value: object) -> bool:
        if isinstance(value, str):
            return value in self.words
        if not self.is_number(value) or not fits_64_bits(value) or not math.isfinite(typing.cast(float, value)):
            return False
        number = typing.cast(float, value)
        above = number > self.low if self.open_low else number >= self.low
        below = number < self.high if self.open_high else number <= self.high
        return above and below

    def is_number(self, value: object) -> bool:
        """Return whether the value has the right type; it may be out of range."""
        if isinstance(value, bool):
            return False
        return isinstance(value, int if self.whole else int | float)

    @property
    def kind(self) -> str:
        """The type of the numbers, for messages."""
        return "a whole number" if self.whole else "a number"

    def __str__(self) -> str:
        low = f"{'above' if self.open_low else 'at least'} {self.low}"
        high = "" if self.high == math.inf else f" and {'below' if self.open_high else 'at most'} {self.high}"
        numbers = f"{self.kind} {low}{high}"
        return f"{', '.join(self.words)} or {numbers}" if self.words else numbers


@dataclass(frozen=True)
class Choice:
    """One of a few values.

    Attributes:
        values: the allowed values.
        several: a list of allowed values is valid too.
    """

    values: tuple[Any, ...]
    several: bool = False

    def __contains__(self, value: object) -> bool:
        return any(value == choice and type(value) is type(choice) for choice in self.values)

    def __str__(self) -> str:
        return f"one of {', '.join(map(_format, self.values))}"


Bound = Range | Choice

COUNT = Range(1, whole=True)

THREADS = Range(1, 1024, whole=True, words=("auto",))  # more could crash the process or the machine

SECONDS = Range(0, open_low=True)

POSITIVE = Range(0, open_low=True)

PROBABILITY = Range(0, 1, open_high=True)


def find_bound(hint: Any) -> Bound | None:
    """Find the bound in an annotation such as `Annotated[int, COUNT] | None`; None if it has none."""
    for metadata in getattr(hint, "__metadata__", ()):
        if isinstance(metadata, Bound):
            return metadata
    members = typing.get_args(hint)
    return next((bound for member in members if (bound := find_bound(member)) is not None), None)


def _format(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def fits_64_bits(value: object) -> bool:
    """Return whether torch, NumPy and a database can hold a value; only an integer can be too large."""
    return not isinstance(value, int) or -(2**63) <= value < 2**63
