"""Measure in turn, compare within each round: a machine's own speed changes from minute to minute."""

import statistics
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, fields

from turns import Contestants, Figures, in_turns


@dataclass(frozen=True)
class Budget:
    """A line of the table.

    Attributes:
        name: to choose it by.
        what: is measured.
        against: what it is compared with.
        most: the ratio of the two may be.
        ours: `<contestant>.<figure>`.
        theirs: the same, of which the sum is taken.
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
    """Budgets that have contestants in common, and so are measured in the same rounds.

    Attributes:
        prepare: makes what is needed for measuring, and gives the contestants.
        budgets: between them.
        turns: they run at once, and train an epoch by turns; they are given an `environment` then.
        around: is entered for each round.
        unavailable: says why it cannot be measured on this machine; nothing if it can.
    """

    prepare: Callable[[], Contestants]
    budgets: Sequence[Budget]
    turns: bool = False
    around: Callable[[], AbstractContextManager[object]] = nullcontext
    unavailable: Callable[[], str] = str


@dataclass(frozen=True)
class Measured:
    """A line of the table that was measured.

    Attributes:
        ratio: the median of the ratios within each turn of all rounds; `low` and `high`: of the rounds' own medians,
            the smallest and the largest.
        ours: the median of what was measured, in the line's unit; `ours_low` and `ours_high`: the least and the most.
        theirs: the same of what it is compared with.
        rounds: that were measured.
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
    def kept(self) -> bool:
        """Whether the budget is kept."""
        return self.ratio <= self.most


COLUMNS = [field.name for field in fields(Measured)]


def measure(group: Group, budgets: Sequence[Budget], rounds: int, say: Callable[[str], None]) -> list[Measured]:
    """Measure some of a group's budgets; every other round goes backwards.

    Args:
        group: whose contestants.
        budgets: of the group.
        rounds: how many.
        say: is told what is going on.
    """
    needed = {figure.partition(".")[0] for budget in budgets for figure in (budget.ours, *budget.theirs)}
    contestants = {name: measure_once for name, measure_once in group.prepare().items() if name in needed}
    taken: list[Figures] = []
    for number in range(rounds):
        order = list(contestants)[:: -1 if number % 2 else 1]
        told = f"{', '.join(budget.name for budget in budgets)}: round {number + 1} of {rounds}, "
        measured: dict[str, Figures] = {}
        with group.around():
            if group.turns:
                say(f"{told}{', '.join(order)} in turns")
                measured = in_turns({name: contestants[name] for name in order})
            else:
                for name in order:
                    say(told + name)
                    measured[name] = contestants[name]()
        taken.append({f"{name}.{key}": value for name, found in measured.items() for key, value in found.items()})
    return [_compare(budget, taken) for budget in budgets]


def _compare(budget: Budget, rounds: Sequence[Figures]) -> Measured:
    ours = [figures[budget.ours] for figures in rounds]
    theirs = [list(map(sum, zip(*(figures[name] for name in budget.theirs), strict=True))) for figures in rounds]
    ratios = [[one / other for one, other in zip(*both, strict=True)] for both in zip(ours, theirs, strict=True)]
    return Measured(
        budget.name, budget.what, budget.against, budget.most, *_median_and_range(ratios),
        *_median_and_range(ours), *_median_and_range(theirs), budget.unit, len(rounds),
    )  # fmt: skip


def _median_and_range(rounds: Sequence[Sequence[float]]) -> tuple[float, float, float]:
    """The median of all, and the least and the most of the rounds' medians."""
    medians = [statistics.median(of_round) for of_round in rounds]
    return statistics.median(value for of_round in rounds for value in of_round), min(medians), max(medians)
