"""The charts of a search: their content and style."""

from pathlib import Path

import matplotlib as mpl
import pytest
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from PIL import Image

from runner.comparison.objectives import Objective
from runner.plots.drawing import BLUE, COLORS, GREY, STYLE, VERMILION
from runner.plots.search import draw_front, draw_history, draw_importances, front, history, importance_bars

ACCURACY, TIME = Objective("val/accuracy", "max"), Objective("time/epoch_seconds", "min")


def in_our_style(figure: Figure) -> Axes:
    """Return the axes of a figure; checks that texts lie inside and do not overlap."""
    (axes,) = figure.axes
    figure.draw_without_rendering()
    texts = [axes.xaxis.label, axes.yaxis.label]
    for axis in (axes.xaxis, axes.yaxis):
        low, high = sorted(axis.get_view_interval())
        texts += [tick.label1 for tick in axis.get_major_ticks() if low <= tick.get_loc() <= high]
    texts += axes.get_legend().get_texts() if axes.get_legend() else []
    boxes = [text.get_window_extent() for text in texts]
    assert all(figure.bbox.contains(box.x0, box.y0) and figure.bbox.contains(box.x1, box.y1) for box in boxes)
    assert not [
        1 for i, one in enumerate(boxes) for other in boxes[:i] if one.padded(-1.5).overlaps(other.padded(-1.5))
    ]
    colours = [to_hex(line.get_color()).upper() for line in axes.lines]
    colours += [to_hex(bar.get_facecolor()).upper() for bar in axes.patches]
    assert set(colours) <= {*COLORS, GREY}
    return axes


class TestHistory:
    TRIALS = (
        (0, 0.9, "complete"), (1, 0.5, "complete"), (2, 0.7, "pruned"), (3, 0.6, "complete"), (4, None, "fail"),
        (5, 0.2, "complete"),
    )  # fmt: skip

    def test_each_trial_and_the_best_so_far(self) -> None:
        axes = in_our_style(history(self.TRIALS, "val/loss", lower=True))
        best, done, pruned = axes.lines
        assert list(best.get_ydata()) == [0.9, 0.5, 0.5, 0.2]
        assert list(done.get_xdata()) == [0, 1, 3, 5] and list(pruned.get_xdata()) == [2]
        assert [line.get_color() for line in axes.lines] == [VERMILION, BLUE, GREY]
        assert (axes.get_xlabel(), axes.get_ylabel(), axes.get_yscale()) == ("trial", "best validation loss", "linear")
        highest, *_ = in_our_style(history(self.TRIALS, "val/loss", lower=False)).lines
        assert list(highest.get_ydata()) == [0.9] * 4

    def test_accuracies_are_in_per_cent(self) -> None:
        axes = in_our_style(history(self.TRIALS, "val/accuracy", lower=False))
        assert list(axes.lines[1].get_ydata()) == pytest.approx([90, 50, 60, 20])
        assert axes.get_ylabel() == "best validation accuracy / %"

    def test_losses_over_powers_of_ten_are_on_a_logarithmic_axis(self) -> None:
        trials = [(number, 10.0**-number, "complete") for number in range(4)]
        axes = in_our_style(history(trials, "val/loss", lower=True))
        assert axes.get_yscale() == "log"
        assert [text.get_text() for text in axes.get_yticklabels()] == ["0.001", "0.01", "0.1", "1"]

    def test_one_trial(self) -> None:
        axes = in_our_style(history([(3, 0.5, "complete")], "val/loss", lower=True))
        assert [tick for tick in axes.get_xticks() if axes.get_xlim()[0] <= tick <= axes.get_xlim()[1]] == [3]


class TestFront:
    def points(self, count: int) -> list[tuple[int, tuple[float, float], bool]]:
        return [(i, (0.5 + i / 100, 1 + i), True) for i in range(count)] + [(count, (0.5, 30.0), False)]

    def test_finished_jobs_and_those_on_it_by_number(self) -> None:
        axes = in_our_style(front(self.points(4), (ACCURACY, TIME)))
        rest, line = axes.lines
        assert rest.get_xydata().tolist() == [[50, 30]] and rest.get_color() == BLUE
        assert list(line.get_xdata()) == pytest.approx([50, 51, 52, 53]) and line.get_color() == VERMILION
        assert [text.get_text() for text in axes.texts] == ["job 0", "job 1", "job 2", "job 3"]
        assert (axes.get_xlabel(), axes.get_ylabel()) == ("best validation accuracy / %", "time of an epoch / s")

    def test_many_have_no_numbers(self) -> None:
        assert not in_our_style(front(self.points(20), (ACCURACY, TIME))).texts

    def test_a_loss_over_powers_of_ten_is_on_a_logarithmic_axis(self) -> None:
        points = [(i, (10.0**-i, 1.0 + i), True) for i in range(4)]
        axes = in_our_style(front(points, (Objective("val/loss", "min"), TIME)))
        assert (axes.get_xscale(), axes.get_yscale()) == ("log", "linear")


def test_importances_have_the_most_important_key_above_and_long_names_shortened() -> None:
    shares = {"optimizer.lr": 0.72, f"model.{'very_' * 12}long": 0.28, "seed": 0.0}
    axes = in_our_style(importance_bars(shares, "val/accuracy"))
    assert [bar.get_width() for bar in axes.patches] == [0.72, 0.28, 0.0] and axes.yaxis_inverted()
    assert [text.get_text() for text in axes.texts] == ["72%", "28%", "0%"]
    assert [len(text.get_text()) for text in axes.get_yticklabels()] == [12, 40, 4]
    assert axes.get_xlabel() == "share in the variance of validation accuracy"


def test_files_are_in_our_style_and_matplotlib_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    monkeypatch.setattr(
        "runner.plots.search.write",
        lambda figure, file: (seen.append({key: mpl.rcParams[key] for key in STYLE}), figure.savefig(file)),
    )
    before = dict(mpl.rcParams)
    draw_history(TestHistory.TRIALS, "val/loss", True, tmp_path)
    draw_importances({"optimizer.lr": 1.0}, "val/loss", tmp_path)
    draw_front(TestFront().points(3), (ACCURACY, TIME), tmp_path / "plots" / "front.png")
    assert seen == [STYLE] * 3 and dict(mpl.rcParams) == before
    for name in ("history", "importances", "front"):
        with Image.open(tmp_path / "plots" / f"{name}.png") as image:
            assert min(image.size) > 150 and len(image.convert("RGB").getcolors(1 << 20)) > 20
