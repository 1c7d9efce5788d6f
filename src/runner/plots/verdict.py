"""The forest plot of a verdict: by how much the best configuration is better than each other one."""

import math
from pathlib import Path

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from runner.comparison.verdict import Gap, Outcome, Standing, Verdict
from runner.comparison.verdict_text import CONFIDENCE, describe_intervals, format_bound, format_gap
from runner.plots.axes import format_number, set_ticks
from runner.plots.drawing import BLUE, GREY, STYLE, VERMILION, brief, new_figure, write
from runner.plots.metric import BEST_LOOK, add_note

ROWS_AT_MOST = 40
NAME_LENGTH = 36
FAR = 40
"""If the farthest interval reaches more than so many times as far as the nearest, the axis is logarithmic beyond it."""

DECADES_LABELLED = 5


def draw_verdict(verdict: Verdict, file: Path) -> Path | None:
    """Write the forest plot.

    Returns:
        The file; None if there are no differences to draw.
    """
    if verdict.best is None or all(standing.gap == Gap() for standing in verdict.standings):
        return None
    with mpl.rc_context(STYLE):
        write(verdict_figure(verdict), file)
    return file


def verdict_figure(verdict: Verdict) -> Figure:
    """Draw a row for each configuration: its difference to the best, with the simultaneous and the plain interval."""
    rows = verdict.standings[:ROWS_AT_MOST]
    names = [brief(standing.name, NAME_LENGTH) for standing in rows]
    texts = [_text(standing) for standing in rows]
    figure = new_figure(4.6 + 0.085 * (max(map(len, names)) + max(map(len, texts))), 1.5 + 0.36 * max(3, len(rows)))
    axes = figure.subplots()
    for row, (standing, text) in enumerate(zip(rows, texts, strict=True)):
        _draw_row(axes, row, standing)
        look = BEST_LOOK if standing.outcome is Outcome.BEST else {"color": GREY}
        axes.text(1.02, row, text, va="center_baseline", transform=axes.get_yaxis_transform(), **look)
    axes.axvline(0, color="black", linewidth=0.8, zorder=0.8)
    axes.set_yticks(range(len(rows)), names)
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.tick_params(axis="y", length=0)
    axes.grid(False, axis="y")
    scale = _fit_axis(axes, verdict)
    best = f"{brief(verdict.best.name, NAME_LENGTH)} is better" if verdict.best else "the best is better"
    axes.set_xlabel(f"by how much {best}: {verdict.objective.metric}{scale}")
    _add_notes(figure, verdict, len(rows))
    return figure


def _draw_row(axes: Axes, row: int, standing: Standing) -> None:
    gap = standing.gap
    if standing.outcome is Outcome.BEST:
        axes.plot([0], [row], "D", color=VERMILION, markersize=7)
    elif gap.difference is not None and gap.interval is not None and gap.plain_interval is not None:
        color = BLUE if standing.outcome is Outcome.WORSE else GREY
        axes.plot(gap.interval, [row, row], color=color, linewidth=1.5, solid_capstyle="butt")
        axes.plot(gap.plain_interval, [row, row], color=color, linewidth=4.5, solid_capstyle="butt")
        axes.plot([gap.difference], [row], "o", color="white", markeredgecolor=color, markersize=6)
    elif gap.at_least is not None:
        axes.plot([gap.at_least], [row], ">", color=BLUE, markersize=7)
    elif gap.difference is not None:
        axes.plot([gap.difference], [row], "o", color="none", markeredgecolor=GREY, markersize=6)


def _text(standing: Standing) -> str:
    gap = standing.gap
    if standing.outcome is Outcome.STOPPED:
        return f"more than {format_bound(gap.at_least)}, {standing.asked} seeds"
    if standing.outcome is Outcome.PAUSED:
        return "paused by halving"
    if standing.outcome is Outcome.UNRANKED:
        return f"{standing.n} of {standing.asked} seeds"
    return " ".join(format_gap(gap)) if gap.interval is not None else str(standing.outcome)


def _fit_axis(axes: Axes, verdict: Verdict) -> str:
    """Make the axis logarithmic if intervals are so far apart that those near 0 could not be seen otherwise.

    Returns:
        What the label of the axis says of it; empty for a linear one.
    """
    gaps = [standing.gap for standing in verdict.standings[:ROWS_AT_MOST]]
    intervals = [gap.interval for gap in gaps if gap.interval is not None]
    bounds = [gap.at_least for gap in gaps if gap.at_least is not None]
    reaches = [max(-low, high) for low, high in intervals]
    if not reaches and not bounds:
        return ""
    nearest, farthest = min(reaches or bounds), max(reaches + bounds)
    if nearest <= 0 or farthest <= FAR * nearest:
        return ""
    linear = float(f"{nearest:.0e}")
    below, above = -min([0.0, *(low for low, _ in intervals)]), max([high for _, high in intervals] + bounds)
    sides = [(-1, _decades(linear, below)), (1, _decades(linear, above))]
    step = math.ceil(sum(len(decades) for _, decades in sides) / DECADES_LABELLED)
    ticks = [sign * 10.0**decade for sign, decades in sides for decade in decades if decade % step == 0]
    axes.set_xscale("symlog", linthresh=linear, linscale=0.5)
    axes.set_xlim(-2 * max(linear / 3, below), 2 * max(linear / 3, above))
    set_ticks(axes.xaxis, sorted([0.0, *ticks]), [format_number(tick) for tick in sorted([0.0, *ticks])])
    return f"\n(log scale beyond {'±' if below else ''}{format_number(linear)})"


def _decades(low: float, high: float) -> range:
    """Return the exponents of the powers of ten between two numbers."""
    return range(math.ceil(math.log10(low)), math.floor(math.log10(high)) + 1) if high > 0 else range(0)


def _add_notes(figure: Figure, verdict: Verdict, rows: int) -> None:
    outcomes = {standing.outcome for standing in verdict.standings}
    intervals = any(standing.gap.interval for standing in verdict.standings)
    add_note(
        figure,
        verdict.reason,
        f"thin: {CONFIDENCE} intervals {describe_intervals(verdict)}; thick: each alone" if intervals else "",
        "blue: surely worse" if {Outcome.WORSE, Outcome.STOPPED} & outcomes else "",
        "grey: cannot be told" if Outcome.UNDECIDED in outcomes else "",
        "triangles: stopped early, behind by more than that" if Outcome.STOPPED in outcomes else "",
        f"the first {rows} of {len(verdict.standings)}" if rows < len(verdict.standings) else "",
    )
