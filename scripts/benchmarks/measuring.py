"""Measure alternately and compare within each round: the speed of a machine changes from minute to minute."""

import random
import statistics
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, fields

from turns import Contestants, Figures, in_turns


@dataclass(frozen=True)
class Budget:
    """A line of the table.

    Attributes:
        name: by which the user chooses the line.
        what: the measured thing, in words.
        against: the thing it is compared with, in words.
        most: the budget: the largest allowed ratio.
        ours: `<contestant>.<figure>`, the numerator.
        theirs: a list of the same form; their sum is the denominator.
        unit: of both.
    """

    name: str
    what: str
    against: str
    most: float
    ours: str
    theirs: Sequence[str]
    unit: str = "s"


@dataclass(frozen=True)
class Group:
    """Budgets that share contestants and are therefore measured in the same rounds.

    Attributes:
        prepare: creates the files that the measurement needs and returns the contestants.
        budgets: ratios between the contestants.
        turns: whether the contestants run at the same time and take turns by epoch; each then gets an `environment`.
        around: a context that is entered for each round.
        unavailable: returns why this machine cannot measure the group; an empty text if it can.
    """

    prepare: Callable[[], Contestants]
    budgets: Sequence[Budget]
    turns: bool = False
    around: Callable[[], AbstractContextManager[object]] = nullcontext
    unavailable: Callable[[], str] = str


@dataclass(frozen=True)
class Measured:
    """A measured line of the table.

    Attributes:
        ratio: the median of the ratios within each turn of all rounds; `low` and `high`: the 95 % interval of the
            median, by a bootstrap over the rounds. Of one round, it is this round.
        ours: the median measurement, in the line's unit; `ours_low` and `ours_high`: the smallest and the largest.
        theirs: the same for the other side.
        rounds: the number of rounds.
    """

    name: str
    what: str
    against: str
    most: float
    ratio: float
    low: float
    high: float
    ours: float
    ours_low: float
    ours_high: float
    theirs: float
    theirs_low: float
    theirs_high: float
    unit: str
    rounds: int

    @property
    def met(self) -> bool:
        """Whether the interval reaches down to the budget, and the median is at most a little above."""
        return self.low <= self.most and self.ratio <= self.most + SLACK


SLACK = 0.02
RESAMPLES = 10_000

COLUMNS = [field.name for field in fields(Measured)]


def measure(group: Group, budgets: Sequence[Budget], rounds: int, report: Callable[[str], None]) -> list[Measured]:
    """Measure some budgets of a group; every other round runs in reverse order.

    Args:
        group: whose contestants are measured.
        budgets: of the group.
        rounds: the number of rounds.
        report: gets a progress text.
    """
    needed = {figure.partition(".")[0] for budget in budgets for figure in (budget.ours, *budget.theirs)}
    contestants = {name: measure_once for name, measure_once in group.prepare().items() if name in needed}
    taken: list[Figures] = []
    for number in range(rounds):
        order = list(contestants)[:: -1 if number % 2 else 1]
        progress = f"{', '.join(budget.name for budget in budgets)}: round {number + 1} of {rounds}, "
        measured: dict[str, Figures] = {}
        with group.around():
            if group.turns:
                report(f"{progress}{', '.join(order)} in turns")
                measured = in_turns({name: contestants[name] for name in order})
            else:
                for name in order:
                    report(progress + name)
                    measured[name] = contestants[name]()
        taken.append({f"{name}.{key}": value for name, figures in measured.items() for key, value in figures.items()})
    return [_compare(budget, taken) for budget in budgets]


def _compare(budget: Budget, rounds: Sequence[Figures]) -> Measured:
    ours = [figures[budget.ours] for figures in rounds]
    theirs = [list(map(sum, zip(*(figures[name] for name in budget.theirs), strict=True))) for figures in rounds]
    ratios = [[one / other for one, other in zip(*both, strict=True)] for both in zip(ours, theirs, strict=True)]
    return Measured(
        budget.name, budget.what, budget.against, budget.most, *_median_and_interval(ratios),
        *_median_and_range(ours), *_median_and_range(theirs), budget.unit, len(rounds),
    )  # fmt: skip


def _median_and_interval(rounds: Sequence[Sequence[float]]) -> tuple[float, float, float]:
    """Return the median of all values, and its 95 % interval by a bootstrap over the rounds' medians."""
    medians, draw = [statistics.median(of_round) for of_round in rounds], random.Random(0)
    drawn = sorted(statistics.median(draw.choices(medians, k=len(medians))) for _ in range(RESAMPLES))
    median = statistics.median(value for of_round in rounds for value in of_round)
    return median, drawn[RESAMPLES // 40], drawn[-RESAMPLES // 40 - 1]


def _median_and_range(rounds: Sequence[Sequence[float]]) -> tuple[float, float, float]:
    """Return the median of all values, and the smallest and the largest of the rounds' medians."""
    medians = [statistics.median(of_round) for of_round in rounds]
    return statistics.median(value for of_round in rounds for value in of_round), min(medians), max(medians)
