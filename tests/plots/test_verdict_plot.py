"""The forest plot of a verdict."""

from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from helpers.repeated import ACCURACY, LOSS, paused, repeated, without
from runner.comparison.repetitions import Repetition
from runner.comparison.verdict import Verdict, judge
from runner.plots.verdict import ROWS_AT_MOST, draw_verdict, verdict_figure


def texts(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.axes[0].texts]


def names(figure: Figure) -> list[str]:
    return [label.get_text() for label in figure.axes[0].get_yticklabels()]


def spans(figure: Figure, row: int) -> list[list[float]]:
    """Return the ends of the lines of a row."""
    lines = [line for line in figure.axes[0].lines if len(line.get_xdata()) == 2]
    return [list(line.get_xdata()) for line in lines if list(line.get_ydata()) == [row, row]]


def example() -> Verdict:
    runs = repeated({"0.1": 0.9, "0.03": 0.899, "0.01": 0.85, "0.3": 0.8}, 5)
    runs += [Repetition({"optimizer.lr": "same"}, each.seed, each.value) for each in runs[:5]]
    return judge(without(runs, "0.3", 1), ACCURACY)


def test_a_row_has_the_simultaneous_and_the_plain_interval() -> None:
    verdict = example()
    figure = verdict_figure(verdict)
    assert names(figure) == [standing.name for standing in verdict.standings]
    for row, standing in enumerate(verdict.standings):
        expected = [list(each) for each in (standing.gap.interval, standing.gap.plain_interval) if each]
        assert spans(figure, row) == expected
    assert [text.split(" ")[0] for text in texts(figure)] == ["best", "identical", "0.000", "0.0504", "4"]
    assert figure.axes[0].get_xlabel() == "by how much lr=0.1 is better: val/accuracy"
    assert figure.axes[0].get_xscale() == "linear"


def test_what_was_stopped_is_an_arrow_at_its_least_distance() -> None:
    runs = repeated({"a": 0.9, "b": 0.899, "c": 0.85}, 6)
    verdict = judge(
        [each for each in runs if each.point["optimizer.lr"] != "c" or int(each.seed) < 4], ACCURACY, None, 6
    )
    (arrow,) = [line for line in verdict_figure(verdict).axes[0].lines if line.get_marker() == ">"]
    assert arrow.get_xdata()[0] == verdict.standings[-1].gap.at_least


def test_far_apart_differences_are_on_a_logarithmic_axis() -> None:
    figure = verdict_figure(judge(repeated({"a": 0.1, "b": 0.101, "c": 1, "d": 10, "e": 3000}, 5), LOSS))
    axes = figure.axes[0]
    assert axes.get_xscale() == "symlog"
    assert axes.get_xlabel().endswith(f"val/loss\n(log scale beyond ±{axes.xaxis.get_transform().linthresh:g})")
    ticks = [label.get_text() for label in axes.get_xticklabels()]
    assert ticks[0] == "0" and "1" in ticks and not any("math" in tick for tick in ticks)
    low, high = axes.get_xlim()
    assert all(low <= end <= high for row in range(5) for span in spans(figure, row) for end in span)


def test_an_interval_far_to_both_sides_does_not_flatten_the_others() -> None:
    noise = (-2e6, 3e6, 1e6, -1e6, 4e6)
    runs = repeated({"a": 0.1, "b": 0.105, "c": 0.2}, 5)
    runs += [Repetition({"optimizer.lr": "d"}, str(seed), 1e6 + value) for seed, value in enumerate(noise)]
    figure = verdict_figure(judge(runs, LOSS))
    axes = figure.axes[0]
    (low, high), _ = spans(figure, 3)
    assert low < -1e6 and high > 1e6
    shares = [
        np.ptp(axes.transAxes.inverted().transform(axes.transData.transform([(end, row) for end in ends]))[:, 0])
        for row, (ends, _) in ((row, spans(figure, row)) for row in (1, 3))
    ]
    assert shares[0] > 0.03 and shares[1] > 0.5
    ticks = axes.get_xticks()
    assert min(ticks) < 0 < max(ticks) and len(ticks) <= 8


def test_all_text_is_inside_and_apart(tmp_path: Path) -> None:
    figure = verdict_figure(example())
    figure.savefig(tmp_path / "a.png")
    renderer = figure.canvas.get_renderer()  # type: ignore[attr-defined]
    boxes = [text.get_window_extent(renderer) for text in (*figure.axes[0].texts, *figure.axes[0].get_yticklabels())]
    width, height = figure.canvas.get_width_height()
    assert all(box.x0 >= 0 and box.y0 >= 0 and box.x1 <= width and box.y1 <= height for box in boxes)
    assert not any(a.overlaps(b) for place, a in enumerate(boxes) for b in boxes[:place])


def test_many_rows_are_the_best_ones() -> None:
    figure = verdict_figure(judge(repeated({str(i): 0.9 - 0.01 * i for i in range(50)}, 3), ACCURACY))
    assert len(names(figure)) == ROWS_AT_MOST and "the first 40 of 50" in figure._supxlabel.get_text()  # type: ignore[attr-defined]


def test_without_a_best_or_others_nothing_is_drawn(tmp_path: Path) -> None:
    file = tmp_path / "verdict.png"
    assert draw_verdict(judge(repeated({"a": 0.9}, 3), ACCURACY), file) is None
    assert draw_verdict(judge(without(repeated({"a": 0.9}, 3), "a", 0), ACCURACY), file) is None
    assert draw_verdict(judge(paused(repeated({"a": 0.9, "b": 0.8}, 3), 1), ACCURACY), file) is None
    assert not file.exists()
    assert draw_verdict(example(), file) == file and np.asarray(file.stat().st_size) > 1000
