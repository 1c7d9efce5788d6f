"""Metrics by class: which bars are drawn, in which order, and that they are legible."""

from pathlib import Path

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from numpy.typing import NDArray

from helpers.drawn import Plot
from runner.plots import by_class
from runner.plots.by_class import MOST_BARS, draw_by_class

# ResourceWarning: a process of another test may be collected here
pytestmark = [pytest.mark.filterwarnings("error", "default::ResourceWarning"), pytest.mark.usefixtures("plots")]

Bars = dict[str, float]


@pytest.fixture
def bars(monkeypatch: pytest.MonkeyPatch) -> Bars:
    """The bars of the last plot by name, from top to bottom."""
    found: Bars = {}
    heights: list[float] = []
    barh, name_ticks = Axes.barh, by_class.name_ticks

    def bar(axes: Axes, rows: range, widths: list[float], **look: object) -> object:
        heights[:] = widths
        return barh(axes, rows, widths, **look)  # type: ignore[arg-type]

    def label(axis: Axis, rows: range, names: list[str]) -> None:
        found.clear()
        found.update(zip(names, heights, strict=True))
        name_ticks(axis, rows, names)

    monkeypatch.setattr(Axes, "barh", bar)
    monkeypatch.setattr(by_class, "name_ticks", label)
    return found


def values(count: int) -> dict[str, float | None]:
    """Values between 0 and 1, those of later classes not higher."""
    shares: NDArray[np.float64] = np.random.default_rng(0).random(count)
    return {f"class {number}": float(share) for number, share in enumerate(shares)}


def test_a_bar_for_each_class(tmp_path: Path, plots: dict[str, Plot], bars: Bars) -> None:
    files = draw_by_class({"test/f1": {"cat": 0.5, "$5 spam$": 1.0, "ship": None}}, tmp_path / "plots")
    assert files == [tmp_path / "plots" / "f1_by_class.png"]
    assert bars == {"cat": 0.5, "$5 spam$": 1.0, "ship": 0.0}
    plot = plots["f1_by_class"]
    assert plot.labels == ("test f1", "")
    assert {"0.5000", "1.0000", "\N{EN DASH}"} < set(plot.texts), "a class without a value has no 0"
    assert "f1 by class\ndashed: the mean of all classes, 0.7500; undefined for 1 of 3" in plot.texts
    assert plot.lines["mean"][0][0] == 0.75


def test_a_class_may_be_a_line_break_or_in_a_script_without_a_font(tmp_path: Path, bars: Bars) -> None:
    draw_by_class({"test/f1": {"\n": 0.5, "\t": 0.25, "\u732b": 1.0}}, tmp_path / "plots")
    assert bars == {r"\n": 0.5, r"\t": 0.25, "\u732b": 1.0}


@pytest.mark.parametrize(("lower", "which"), [((), "lowest"), (("val/f1",), "highest")])
def test_of_many_classes_the_worst(
    lower: tuple[str, ...], which: str, tmp_path: Path, plots: dict[str, Plot], bars: Bars
) -> None:
    many = values(1_000)
    draw_by_class({"val/f1": many | {"absent": None}}, tmp_path, lower_is_better=lower)
    ordered = sorted((value for value in many.values() if value is not None), reverse=bool(lower))
    assert list(bars.values()) == ordered[:MOST_BARS]
    assert all(many[name] == value for name, value in bars.items())
    title = plots["f1_by_class"].texts[-1]
    assert title.startswith(f"f1 by class: the {which} 40 of 1,001 classes\n")
    assert title.endswith("; undefined for 1 of 1,001")


def test_up_to_forty_are_in_the_order_of_the_classes(tmp_path: Path, plots: dict[str, Plot], bars: Bars) -> None:
    draw_by_class({"test/f1": values(MOST_BARS)}, tmp_path)
    assert bars == values(MOST_BARS) and list(bars) == list(values(MOST_BARS))
    assert plots["f1_by_class"].texts[-1].startswith("f1 by class\n")


def test_an_accuracy_is_in_per_cent(tmp_path: Path, plots: dict[str, Plot], bars: Bars) -> None:
    draw_by_class({"test/top_accuracy": {"a": 0.25, "b": 0.5}}, tmp_path, "label")
    assert bars == {"a": 25, "b": 50}
    assert plots["top_accuracy_by_label"].labels[0] == "test top_accuracy / %"
    assert "25.00 %" in plots["top_accuracy_by_label"].texts


@pytest.mark.parametrize(
    "strange",
    [[-3.2e5, 0.4], [0.0, 0.0], [-1.0, -2.0], [1e-9, 1e-12], [1e30, -1e30], [2.0]],
)
def test_values_of_all_sizes(strange: list[float], tmp_path: Path, plots: dict[str, Plot]) -> None:
    draw_by_class({"test/r2": {str(index): value for index, value in enumerate(strange)}}, tmp_path, "output")
    assert "r2_by_output" in plots


@pytest.mark.parametrize("name", ["W" * 80, "i", "\u00fc\u00f1\u00ef"])
def test_names_of_all_lengths(name: str, tmp_path: Path, plots: dict[str, Plot]) -> None:
    draw_by_class({"test/f1": {name: 0.5, "b": 0.25}}, tmp_path)
    assert "f1_by_class" in plots


def test_nothing_known_is_not_drawn(tmp_path: Path) -> None:
    assert draw_by_class({}, tmp_path) == []
    assert draw_by_class({"test/f1": {"a": None, "b": None}}, tmp_path) == []
