"""A verdict in words, and as a table: as many digits as the intervals are wide."""

import math
from collections.abc import Mapping, Sequence

from runner.comparison import paired
from runner.comparison.repetitions import varied_keys
from runner.comparison.table import CELL_LENGTH
from runner.comparison.verdict import Gap, Outcome, Standing, Verdict
from runner.util.tables import align, setting_column, shorten

STEPS = 8
"""The width of an interval is at least so many steps of its last digit."""

MOST_DECIMALS = 7
LARGE = 1e9
"""From here on, as of a configuration that has diverged, places by threes are hard to read."""
MOST_LINES = 20
"""Configurations that are named one by one; the files have all."""

FEW = 6
"""Pairs; the spread of fewer is little known, and with it the number of seeds that would tell a difference."""

CONFIDENCE = f"{100 * (1 - paired.ERROR):g} %"

HEAD = "verdict"
INDENT = 11

NONE_ON_FOLDS = (
    f"{HEAD:<{INDENT}}none: an interval over folds is of one mean alone, not of a difference, and folds share their "
    "training samples; for a verdict write sweep.seeds=5, without data.folds"
)


def to_text(verdict: Verdict) -> list[str]:
    """Return the lines of the verdict as a command prints them."""
    return [f"{HEAD if place == 0 else '':<{INDENT}}{line}" for place, line in enumerate(summarize(verdict))]


def summarize(verdict: Verdict) -> list[str]:
    """Return the verdict in sentences: the best, and what is known of each other configuration."""
    lines = [_headline(verdict)]
    if verdict.reason and verdict.best and len(verdict.standings) > 1 + verdict.paused:
        lines.append(f"it is not known whether it is better: {verdict.reason}")
    told = [sentence for standing in verdict.standings if (sentence := describe(standing, verdict))]
    lines += told[:MOST_LINES]
    if len(told) > MOST_LINES:
        lines.append(f"... and {len(told) - MOST_LINES} more: see verdict.csv")
    if verdict.paused:
        lines.append(_name_paused(verdict))
    if any(standing.gap.interval for standing in verdict.standings):
        lines.append(f"in brackets: {CONFIDENCE} intervals {describe_intervals(verdict)}")
    return lines + [f"{look.model} version {look.version}: {look.warn() or look.count()}" for look in verdict.looks]


def _headline(verdict: Verdict) -> str:
    best, metric = verdict.best, verdict.objective.metric
    if best is None:
        return f"none: {verdict.reason}"
    spread = f"sd {format_spread(best.sd)}, " if best.sd is not None else ""
    figures = f"{format_mean(best)} ({spread}{best.n} seed{'s' * (best.n > 1)})"
    total, unranked, paused = len(verdict.standings), len(verdict.unranked), verdict.paused
    if verdict.is_alone:
        return f"the mean {metric} of the configuration is {figures}{describe_mean_interval(best)}"
    if unranked + paused == total - 1:
        what = "has a value for each seed" if unranked else "was trained to the end"
        return f"{best.name} alone of {total} configurations {what}: mean {metric} {figures}"
    which = " with a value for each seed" if unranked else " that were trained to the end" if paused else ""
    return f"{best.name} has the best mean {metric} of {total - unranked - paused} configurations{which}: {figures}"


def describe_mean_interval(standing: Standing) -> str:
    """Return `; 95 % interval of the mean [0.893, 0.907]`; empty for a single value."""
    text = _format_mean_interval(standing)
    return f"; {CONFIDENCE} interval of the mean {text}" if text else ""


def _name_paused(verdict: Verdict) -> str:
    count = verdict.paused
    which = f"{count} configurations were" if count > 1 else "1 configuration was"
    return f"{which} paused by halving, chosen by seed {verdict.seeds[0]} alone; how sure that choice is, is not known"


def describe(standing: Standing, verdict: Verdict) -> str:
    """Return what is known of a configuration, with the best as the subject; empty for the best."""
    name, gap = standing.name, standing.gap
    match standing.outcome:
        case Outcome.WORSE:
            difference, interval = format_gap(gap)
            return f"better than {name} by {difference} {interval}"
        case Outcome.UNDECIDED:
            return f"cannot be told from {name} ({' '.join(format_gap(gap))}); {_what_would_tell(gap, standing.n)}"
        case Outcome.IDENTICAL:
            return f"identical to {name}: the same value with each seed"
        case Outcome.NO_VERDICT if not verdict.reason and gap.difference is not None:
            return f"no verdict on {name}: the difference is {gap.difference:.3g} with each seed, without a spread"
        case Outcome.STOPPED:
            behind = format_bound(gap.at_least)
            return f"{name} is surely not the best: after {standing.asked} seeds it was behind by more than {behind}"
        case Outcome.UNRANKED:
            return f"not ranked: {name} has values for {standing.n} of {standing.asked} seeds"
    return ""


def _what_would_tell(gap: Gap, n: int) -> str:
    assert gap.smallest is not None
    smallest, known = f"{gap.smallest:.2g}", f", by the spread of only {n} seeds" if n < FEW else ""
    if gap.seeds_needed is None:
        return f"a difference of {smallest} takes more than {paired.MANY:,} seeds{known}"
    about = "about " if gap.seeds_needed > n else ""
    return f"{about}{gap.seeds_needed:,} seeds would tell a difference of {smallest}{known}"


def describe_intervals(verdict: Verdict) -> str:
    """Return what the intervals hold for, and how they are made: `for all 3 pairs together, by a paired t test`."""
    together = f"for all {verdict.pairs:,} pairs together" if verdict.pairs > 1 else "of the difference"
    test = "the sign-flip test" if verdict.sign_flip else "the paired t test"
    return f"{together}, by {test} over {len(verdict.best.values) if verdict.best else 0} common seeds"


def to_table(verdict: Verdict) -> list[str]:
    """Return the lines of an aligned table of the configurations."""
    shown = verdict.standings[: 2 * MOST_LINES]
    gaps = [format_gap(standing.gap) for standing in shown]
    compared = [
        [">behind the best", *(difference for difference, _ in gaps)],
        ["interval", *(interval for _, interval in gaps)],
        ["verdict", *(str(standing.outcome) for standing in shown)],
    ]
    alone = [[f"{CONFIDENCE} interval", *map(_format_mean_interval, shown)]]
    columns = [
        *_axes([standing.point for standing in shown]),
        [f">mean {verdict.objective.metric}", *(format_mean(standing) for standing in shown)],
        [">sd", *(format_spread(standing.sd) for standing in shown)],
        [">n", *(str(standing.n) for standing in shown)],
        *(alone if verdict.is_alone else compared),
    ]
    left = len(verdict.standings) - len(shown)
    return align(columns) + ([f"... and {left} more: see verdict.csv"] if left else [])


def _axes(points: Sequence[Mapping[str, str]]) -> list[list[str]]:
    keys = varied_keys(points)
    return [setting_column(key, [shorten(point.get(key, ""), CELL_LENGTH) for point in points]) for key in keys]


def format_gap(gap: Gap) -> tuple[str, str]:
    """Format a difference and its interval: `0.012`, `[0.008, 0.016]`; an end that is not 0 does not look like it."""
    if gap.difference is None or gap.interval is None:
        return "", ""
    digits = _digits_of(gap.interval)
    return format_number(gap.difference, digits), _format_interval(gap.interval)


def _format_mean_interval(standing: Standing) -> str:
    return _format_interval(standing.interval) if standing.interval is not None else ""


def _format_interval(interval: tuple[float, float]) -> str:
    low, high = (format_number(end, _digits_of(interval)) for end in interval)
    return f"[{low}, {high}]"


def _digits_of(interval: tuple[float, float]) -> int:
    """Return the decimals of the ends of an interval: one that is not 0 does not look like it."""
    digits = decimals(interval[1] - interval[0])
    while digits < MOST_DECIMALS and any(end and not round(end, digits) for end in interval):
        digits += 1
    return digits


def decimals(width: float) -> int:
    """Return the decimals of numbers in an interval of a width."""
    return max(0, math.ceil(-math.log10(width / STEPS) - 1e-9)) if width > 0 else MOST_DECIMALS


def format_mean(standing: Standing) -> str:
    """Format the mean of a configuration, with the digits of its spread."""
    if standing.mean is None:
        return ""
    return format_number(standing.mean, decimals(STEPS * _last_digit(standing.sd)) if standing.sd else None)


def _last_digit(spread: float) -> float:
    """Return what the second digit of a spread counts: 0.0001 for 0.0085."""
    return 10.0 ** (math.floor(math.log10(spread)) - 1)


def format_number(value: float, digits: int | None) -> str:
    """Format a number with some decimals; with more than seven, None, or of more than nine places, with four digits."""
    if digits is None or digits > MOST_DECIMALS or abs(value) >= LARGE:
        return f"{value:.4g}"
    return f"{value:,.{digits}f}"


def format_spread(value: float | None) -> str:
    """Format a spread with two digits: 0.0085, 0.0050, 120."""
    if value is None:
        return ""
    if abs(value) >= LARGE:
        return f"{value:.2g}"
    return f"{value:,.0f}" if abs(value) >= 10 else f"{value:#.2g}"


def format_bound(value: float | None) -> str:
    """Format a lower bound with two digits, rounded down."""
    if not value:
        return "0"
    digit = _last_digit(value)
    return f"{math.floor(value / digit + 1e-9) * digit:.2g}" if value < 100 else f"{math.floor(value):,}"
