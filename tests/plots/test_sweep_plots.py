"""The chart of a sweep: its kind, its content, the best configuration."""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path

import matplotlib as mpl
import pytest
from matplotlib.collections import LineCollection
from matplotlib.colors import LogNorm, to_hex
from matplotlib.figure import Figure
from PIL import Image

from runner.comparison.runs import ComparedRun
from runner.comparison.table import compare
from runner.plots import comparison
from runner.plots.charts import ROWS_AT_MOST
from runner.plots.drawing import VERMILION
from runner.plots.parallel import AXES_AT_MOST
from runner.plots.sweep import draw_sweep, sweep_figure

Setting = dict[str, object]


def made(setting: Setting, value: float, status: str = "FINISHED", metric: str = "val/loss") -> ComparedRun:
    """Create a run with these parameters; `model`, `loss` and other groups are choices."""
    choices = {key: str(choice) for key, choice in setting.items() if "." not in key and key != "seed"}
    config = {"seed": "0", "trainer.monitor": metric} | {
        key: str(v) for key, v in setting.items() if key not in choices
    }
    config |= {f"{group}._target_": choice for group, choice in choices.items()}
    return ComparedRun(1, "run", status, config=config, choices=choices, metrics={metric: value})


def grid(value: Callable[..., float], metric: str = "val/loss", **axes: Sequence[object]) -> list[ComparedRun]:
    """Create a run for each combination; `optimizer__lr` is `optimizer.lr`."""
    keys = [key.replace("__", ".") for key in axes]
    return [
        made(dict(zip(keys, place, strict=True)), value(*place), metric=metric) for place in product(*axes.values())
    ]


def picture(runs: Sequence[ComparedRun], metric: str | None = None) -> Figure:
    figure = sweep_figure(compare(runs), metric)
    assert figure is not None
    return figure


def note(figure: Figure) -> str:
    return figure.get_supxlabel().replace("\n", " ")


def lines(figure: Figure) -> LineCollection:
    (found,) = (c for c in figure.axes[0].collections if isinstance(c, LineCollection))
    return found


def vermilion_texts(figure: Figure) -> list[str]:
    texts = [*figure.axes[0].texts, *(text for axes in figure.axes[1:] for text in axes.get_yticklabels())]
    return [text.get_text() for text in texts if to_hex(text.get_color()).upper() == VERMILION]


def axis_titles(figure: Figure) -> list[str]:
    return [text.get_text().replace("\n", "") for text in figure.axes[0].texts if text.get_ha() == "center"]


class TestOneNumber:
    def test_is_a_line(self) -> None:
        figure = picture(grid(lambda lr: 1 + lr, optimizer__lr=(0.1, 0.001, 0.01)))
        (axes,) = figure.axes
        assert (axes.get_xlabel(), axes.get_ylabel()) == ("optimizer.lr", "best validation loss")
        assert axes.get_xscale() == "log" and axes.get_yscale() == "linear"
        (line,) = axes.lines
        assert list(line.get_xdata()) == [0.001, 0.01, 0.1]
        assert list(line.get_ydata()) == pytest.approx([1.001, 1.01, 1.1])
        assert [text.get_text() for text in axes.get_xticklabels()] == ["0.001", "0.01", "0.1"]
        assert note(figure) == ""

    def test_runs_that_differ_in_their_seed_alone_are_averaged(self) -> None:
        runs = grid(lambda lr, seed: lr + 0.2 * seed, optimizer__lr=(0.2, 0.5), seed=(0, 1))
        means, dots = picture(runs).axes[0].lines
        assert list(means.get_ydata()) == pytest.approx([0.3, 0.6])
        assert list(dots.get_ydata()) == pytest.approx([0.2, 0.4, 0.5, 0.7])
        assert sweep_figure(compare(grid(lambda seed: 0.1 * seed, seed=(0, 1, 2)))) is None

    def test_a_loss_over_more_than_two_powers_of_ten_is_on_a_logarithmic_axis(self) -> None:
        for values, metric, scale in (
            ([0.1, 10.1], "val/loss", "log"),
            ([0.1, 9.9], "val/loss", "linear"),
            ([0.0, 9.9], "val/loss", "linear"),
            ([0.001, 0.99], "val/accuracy", "linear"),
        ):
            runs = [made({"model.width": i}, value, metric=metric) for i, value in enumerate(values, start=1)]
            assert picture(runs).axes[0].get_yscale() == scale

    def test_the_scale_follows_from_the_values(self) -> None:
        for values, scale in (
            ((16, 32, 64), "linear"),
            ((1, 3, 10), "log"),
            ((0, 1e-5, 1e-4, 1e-3), "symlog"),  # with and without weight decay
            (range(1, 21), "linear"),
            ([10 ** (-i / 5) for i in range(20)], "log"),
        ):
            assert picture(grid(float, model__size=values)).axes[0].get_xscale() == scale

    def test_ticks_that_would_collide_are_left_out(self) -> None:
        axes = picture(grid(float, data__batch_size=(16, 17, 18, 150))).axes[0]
        assert [text.get_text() for text in axes.get_xticklabels()] == ["16", "150"]

    def test_accuracies_are_in_per_cent(self) -> None:
        figure = picture(grid(lambda lr: 1 - lr, metric="val/accuracy", optimizer__lr=(0.1, 0.2)))
        assert list(figure.axes[0].lines[0].get_ydata()) == pytest.approx([90, 80])
        assert figure.axes[0].get_ylabel() == "best validation accuracy / %"

    def test_another_metric_can_be_asked_for(self) -> None:
        runs = grid(lambda lr: lr, optimizer__lr=(0.1, 0.2))
        for run in runs:
            run.metrics["test/accuracy"] = 0.5
        assert picture(runs, "test/accuracy").axes[0].get_ylabel() == "best test accuracy / %"
        assert sweep_figure(compare(runs), "test/r2") is None


class TestOneNumberAndACategory:
    def test_is_a_line_each(self) -> None:
        runs = grid(lambda model, lr: lr + (model == "mlp"), model=("mlp", "cnn"), optimizer__lr=(0.01, 0.1))
        figure = picture(runs)
        axes, (legend,) = figure.axes[0], figure.legends
        assert [text.get_text() for text in legend.get_texts()] == ["mlp", "cnn"]
        assert legend.get_title().get_text() == "model"
        assert [list(line.get_ydata()) for line in axes.lines] == [[1.01, 1.1], [0.01, 0.1]]
        assert len({(line.get_color(), line.get_marker()) for line in axes.lines}) == 2

    def test_seeds_are_averaged_in_each(self) -> None:
        runs = grid(lambda m, lr, s: lr + s, model=("mlp", "cnn"), optimizer__lr=(0.1, 0.3), seed=(0, 1))
        figure = picture(runs)
        assert list(figure.axes[0].lines[0].get_ydata()) == pytest.approx([0.6, 0.8])
        assert len(figure.axes[0].lines) == 4 and "means over seeds" in note(figure)

    def test_more_than_six_are_parallel_coordinates(self) -> None:
        six, seven = (
            picture(grid(lambda a, lr: lr, model__activation=list("abcdefg")[:n], optimizer__lr=(0.1, 0.2)))
            for n in (6, 7)
        )
        assert len(six.axes[0].lines) == 6 and six.legends
        assert axis_titles(seven) == ["model.activation", "optimizer.lr"]


class TestTwoNumbers:
    def test_are_a_heat_map_with_its_values(self) -> None:
        figure = picture(grid(lambda lr, n: lr * n, optimizer__lr=(0.1, 0.01), data__batch_size=(32, 64)))
        axes, bar = figure.axes
        assert axes.images[0].get_array().tolist() == [[0.32, 3.2], [0.64, 6.4]]
        assert (axes.get_xlabel(), axes.get_ylabel()) == ("optimizer.lr", "data.batch_size")
        assert sorted(text.get_text() for text in axes.texts) == ["0.3200", "0.6400", "3.2000", "6.4000"]
        assert bar.get_ylabel() == "best validation loss\n(lower is better)"

    @pytest.mark.parametrize(
        ("metric", "place", "better"), [("val/loss", (0, 0), "lower"), ("val/accuracy", (1, 1), "higher")]
    )
    def test_the_best_cell_is_framed_and_the_darkest(self, metric: str, place: tuple[int, int], better: str) -> None:
        runs = grid(lambda lr, n: lr * n, metric, optimizer__lr=(0.001, 0.01), data__batch_size=(32, 64))
        figure = picture(runs)
        axes, bar = figure.axes
        (frame,) = axes.patches
        assert (frame.get_x() + 0.5, frame.get_y() + 0.5) == place
        assert f"({better} is better)" in bar.get_ylabel() and "framed: the best" in note(figure)
        image = axes.images[0]
        darkness = [[-sum(image.to_rgba(value)[:3]) for value in row] for row in image.get_array()]
        assert max(max(row) for row in darkness) == darkness[place[1]][place[0]]

    def test_colours_of_losses_over_powers_of_ten_are_logarithmic(self) -> None:
        runs = grid(lambda lr, n: 10.0 ** (lr + n), optimizer__lr=(0, 1), data__batch_size=(1, 3))
        assert isinstance(picture(runs).axes[0].images[0].norm, LogNorm)

    def test_many_cells_have_no_texts(self) -> None:
        axes = picture(grid(lambda a, b: a * b, model__depth=range(1, 31), model__width=range(1, 31))).axes[0]
        assert not axes.texts and axes.patches

    def test_a_random_search_is_points(self) -> None:
        runs = [made({"optimizer.lr": 10.0**-i, "model.dropout": i / 10}, i / 9) for i in range(1, 6)]
        figure = picture(runs)
        axes = figure.axes[0]
        assert not axes.images and axes.get_xscale() == "log" and axes.get_yscale() == "linear"
        assert len(axes.collections[0].get_offsets()) == 5
        (ring,) = axes.lines
        assert (ring.get_xdata()[0], ring.get_ydata()[0]) == (0.1, 0.1) and "ringed: the best" in note(figure)


class TestOneCategory:
    def test_is_a_row_of_dots_each(self) -> None:
        accuracy = {"mlp": 0.9, "cnn": 0.95, "simple_nn": 0.8}
        runs = grid(lambda m, s: accuracy[m] + s / 100, "val/accuracy", model=list(accuracy), seed=(0, 1, 2))
        figure = picture(runs)
        (axes,) = figure.axes
        assert [text.get_text() for text in axes.get_yticklabels()] == ["mlp", "cnn", "simple_nn"]
        assert (axes.get_ylabel(), axes.get_xlabel()) == ("model", "best validation accuracy / %")
        dots, means = axes.lines[::2], axes.lines[1::2]
        assert list(dots[0].get_xdata()) == pytest.approx([90, 91, 92])
        assert [line.get_xdata()[0] for line in means] == pytest.approx([91, 96, 81])
        assert [text.get_text() for text in axes.texts] == ["91.00", "96.00", "81.00"]
        assert vermilion_texts(figure) == ["96.00"]

    def test_of_too_many_the_best_are_shown(self) -> None:
        figure = picture(grid(lambda hidden: float(hidden[1:-1]), model__hidden=[f"[{n}]" for n in range(60, 0, -1)]))
        names = [text.get_text() for text in figure.axes[0].get_yticklabels()]
        assert names == [f"[{n}]" for n in range(ROWS_AT_MOST, 0, -1)]
        assert "the best 40 of 60" in note(figure)

    def test_numbers_and_a_word_are_in_order(self) -> None:
        figure = picture(grid(lambda v: 1.0 + len(str(v)), optimizer__clip=(10, "null", 1.5)))
        assert [text.get_text() for text in figure.axes[0].get_yticklabels()] == ["null", "1.5", "10"]

    def test_long_names_are_shortened_and_stay_different(self) -> None:
        paths = [f"/a/very/long/way/to/the/data/of/part_{n}.csv" for n in (1, 2)]
        figure = picture(grid(lambda path: 1 + len(path), data__path=[*paths, ""]))
        *names, none = [text.get_text() for text in figure.axes[0].get_yticklabels()]
        assert (
            none == "none"
            and len(set(names)) == 2
            and all(len(name) <= 28 and name.startswith("...") for name in names)
        )


class TestParallelCoordinates:
    def runs(self, metric: str = "val/loss") -> list[ComparedRun]:
        return grid(
            lambda m, lr, n: 0.1 * (m == "mlp") + lr + n / 1000,
            metric,
            model=("mlp", "cnn"),
            optimizer__lr=(0.1, 0.01, 0.001),
            data__batch_size=(32, 64),
        )

    def test_have_an_axis_for_each_parameter_and_the_metric(self) -> None:
        figure = picture(self.runs())
        assert axis_titles(figure) == ["model", "optimizer.lr", "data.batch_size"]
        texts = [text.get_text() for text in figure.axes[0].texts]
        assert {"mlp", "cnn", "0.1", "0.01", "0.001", "32", "64"} <= set(texts)
        assert figure.axes[1].get_ylabel() == "best validation loss\n(lower is better)"
        assert len(lines(figure).get_segments()) == 12 and lines(figure).get_cmap().name == "cividis"

    @pytest.mark.parametrize(
        ("metric", "best"),
        [("val/loss", ["cnn", "0.001", "32", "0.0330"]), ("val/accuracy", ["mlp", "0.1", "64", "26.40"])],
    )
    def test_the_best_line_is_thick_and_has_its_values(self, metric: str, best: list[str]) -> None:
        figure = picture(self.runs(metric))
        assert vermilion_texts(figure) == best
        (thick,) = (line for line in figure.axes[0].lines if line.get_color() == VERMILION)
        assert thick.get_linewidth() > max(lines(figure).get_linewidths())
        ends = [segment[-1][1] for segment in lines(figure).get_segments()]
        assert thick.get_ydata()[-1] == (min(ends) if metric == "val/loss" else max(ends))
        assert "thick: the best" in note(figure)

    def test_lines_through_the_same_values_are_told_apart(self) -> None:
        starts = {segment[0][1] for segment in lines(picture(self.runs())).get_segments()}
        assert len(starts) == 12

    def test_seeds_are_averaged(self) -> None:
        runs = grid(lambda m, d, s: s + len(m), model=("mlp", "cnn2"), data__augment=("none", "flip"), seed=(0, 1))
        figure = picture(runs)
        assert sorted(lines(figure).get_array().tolist()) == [3.5, 3.5, 4.5, 4.5]
        assert "mean over seeds" in note(figure)

    def test_the_colours_of_losses_over_powers_of_ten_are_logarithmic(self) -> None:
        runs = self.runs()
        runs[0].metrics["val/loss"] = 1e4
        assert isinstance(lines(picture(runs)).norm, LogNorm)

    def random_search(self, count: int) -> list[ComparedRun]:
        settings = [
            {
                "optimizer.lr": 10 ** (-1 - 3 * i / count),
                "optimizer.weight_decay": 0.0 if i % 3 else 1e-4 * (i + 1),
                "model.dropout": (7 * i % count) / count / 2,
                "data.batch_size": 2 ** (4 + i % 5),
            }
            for i in range(count)
        ]
        return [made(setting, 1 + math.sin(i)) for i, setting in enumerate(settings)]

    def test_a_random_search_is_placed_by_value(self) -> None:
        figure = picture(self.random_search(200))
        assert axis_titles(figure) == ["optimizer.lr", "optimizer.weight_decay", "model.dropout", "data.batch_size"]
        texts = [text.get_text() for text in figure.axes[0].texts]
        assert {"0.01", "0.001", "0", "0.1", "0.4", "16", "256"} <= set(texts)
        assert 0 < lines(figure).get_alpha() < 0.5

    def test_texts_do_not_cover_one_another_or_leave_the_figure(self) -> None:
        runs = self.random_search(60)
        for index, run in enumerate(runs):
            run.config |= {
                "model.a_parameter_with_a_very_long_name_indeed": f"[{index % 40}]",
                "model.activation": f"some.package.of.activations.{'ReLU' if index % 2 else 'GELU'}",
                "trainer.epochs": str(index % 7),
                "data.augment": "null" if index % 3 else "some.package.RandomCrop",
            }
        figure = picture(runs)
        figure.draw_without_rendering()
        bar = figure.axes[1]
        shown = [*figure.axes[0].texts, *bar.get_yticklabels(), bar.yaxis.label]
        boxes = [text.get_window_extent() for text in shown if text.get_text()]
        assert len(boxes) > 40
        assert all(figure.bbox.contains(box.x0, box.y0) and figure.bbox.contains(box.x1, box.y1) for box in boxes)
        bare = [box.padded(-1.5) for box in boxes]  # letters do not fill their bounding box
        assert not [1 for i, one in enumerate(bare) for other in bare[:i] if one.overlaps(other)]

    def test_the_value_of_the_best_is_in_the_figure_where_it_is_longer_than_all_others(self) -> None:
        settings: list[Setting] = [
            {"model.dropout": 0.0591234 if i == 3 else i / 20, "model.width": i % 3, "data.batch_size": 2 ** (i % 4)}
            for i in range(20)
        ]
        figure = picture([made(setting, i != 3) for i, setting in enumerate(settings)])
        figure.draw_without_rendering()
        (best,) = (text for text in figure.axes[0].texts if text.get_text() == "0.0591")
        assert best.get_window_extent().x0 > 0

    def test_of_more_than_eight_parameters_those_that_tell_most_are_shown(self) -> None:
        runs = [made({f"model.p{k}": (i >> k) % 2 for k in range(10)}, i) for i in range(0, 1024, 7)]
        figure = picture(runs)
        assert len(axis_titles(figure)) == AXES_AT_MOST and "8 of 10 parameters" in note(figure)

    def test_of_runs_that_are_no_sweep_nothing_is_shown_then(self, tmp_path: Path) -> None:
        eight, nine = (
            compare([made({f"model.p{k}": (i >> k) % 2 for k in range(n)}, i + 1) for i in range(0, 512, 7)])
            for n in (AXES_AT_MOST, AXES_AT_MOST + 1)
        )
        assert sweep_figure(eight, one_sweep=False) is not None and sweep_figure(nine, one_sweep=False) is None
        picture = tmp_path / "sweep.png"
        assert picture not in comparison.draw(nine, tmp_path) and not picture.exists()
        assert picture in comparison.draw(nine, tmp_path, one_sweep=True)

    def test_a_parameter_that_some_have_not_has_a_place_for_none(self) -> None:
        settings: list[Setting] = [{"optimizer": "sgd", "optimizer.momentum": m / 20} for m in range(10)]
        runs = [made(setting, i) for i, setting in enumerate([*settings, {"optimizer": "adam"}])]
        figure = picture(runs)
        assert axis_titles(figure) == ["optimizer", "optimizer.momentum"]
        assert {"none", "sgd", "adam", "0.2"} <= {text.get_text() for text in figure.axes[0].texts}


def tagged(runs: Sequence[ComparedRun], *keys: str) -> list[ComparedRun]:
    return [replace(run, log_axes=frozenset(keys)) for run in runs]


def heights(figure: Figure, texts: Sequence[str]) -> list[float]:
    """Return the positions of the labels beside an axis."""
    places = {text.get_text(): text.get_position()[1] for text in figure.axes[0].texts}
    return [places[text] for text in texts]


class TestTaggedLog:
    """`tag(log,...)`: without it these values would be linear, or evenly spaced."""

    def test_a_line(self) -> None:
        runs = grid(lambda m, lr: lr, model="ab", optimizer__lr=(0.02, 0.05, 0.08))
        axes = picture(tagged(runs, "optimizer.lr")).axes[0]
        assert (axes.get_xscale(), picture(runs).axes[0].get_xscale()) == ("log", "linear")
        assert [text.get_text() for text in axes.get_xticklabels()] == ["0.02", "0.05", "0.08"]

    def test_only_what_is_tagged(self) -> None:
        runs = [made({"optimizer.lr": 0.1 + i / 40, "model.dropout": (7 * i % 20) / 40}, i) for i in range(20)]
        axes = picture(tagged(runs, "optimizer.lr")).axes[0]
        assert (axes.get_xscale(), axes.get_yscale()) == ("log", "linear")
        assert [text.get_text() for text in axes.get_xticklabels()] == ["0.1", "0.2", "0.3", "0.4", "0.5"]

    def test_the_cells_of_a_heat_map_are_as_wide_as_their_factors(self) -> None:
        runs = grid(lambda lr, n: lr * n, optimizer__lr=(1e-4, 1e-3, 1e-1), data__batch_size=(16, 48, 64))
        figure = picture(tagged(runs, "optimizer.lr"))
        axes = figure.axes[0]
        assert (axes.get_xscale(), axes.get_yscale()) == ("log", "linear") and not axes.images
        (mesh,) = axes.collections
        across = mesh.get_coordinates()[0, :, 0].tolist()
        assert across == pytest.approx([10**-4.5, 10**-3.5, 1e-2, 1])
        assert axes.get_xlim() == (across[0], across[-1])
        values = [n * lr for n in (16, 48, 64) for lr in (1e-4, 1e-3, 1e-1)]
        assert mesh.get_array().ravel().tolist() == pytest.approx(values)
        assert list(axes.get_xticks()) == [1e-4, 1e-3, 1e-1]
        uneven = grid(lambda lr, n: lr * n, optimizer__lr=(1e-4, 1e-3, 3e-3, 1e-1), data__batch_size=(16, 48))
        assert list(picture(tagged(uneven, "optimizer.lr")).axes[0].get_xticks()) == [1e-4, 1e-3, 3e-3, 1e-1]
        assert [text.get_text() for text in axes.get_yticklabels()] == ["16", "48", "64"]
        (frame,) = axes.patches
        assert (frame.get_x(), frame.get_x() + frame.get_width()) == pytest.approx((10**-4.5, 10**-3.5))
        assert len(axes.texts) == 9
        both = picture(tagged(runs, "optimizer.lr", "data.batch_size")).axes[0]
        assert (both.get_xscale(), both.get_yscale()) == ("log", "log")

    def test_parallel_coordinates_of_few_values(self) -> None:
        runs = grid(
            lambda m, lr, n: lr + n, model="ab", optimizer__lr=(1e-4, 1e-3, 1e-1), data__batch_size=(16, 48, 64)
        )
        texts = ["0.0001", "0.001", "0.1"]
        assert heights(picture(tagged(runs, "optimizer.lr")), texts) == pytest.approx([0, 1 / 3, 1])
        assert heights(picture(runs), texts) == pytest.approx([0, 0.5, 1])

    def test_parallel_coordinates_of_many_values(self) -> None:
        runs = [made({"model": "ab"[i % 2], "optimizer.lr": 0.1 + 0.9 * i / 19, "seed": i}, i) for i in range(20)]
        for run in runs:
            run.config["model.width"] = str(1 + int(run.config["seed"]) % 3)
        low, high = heights(picture(tagged(runs, "optimizer.lr")), ["0.2", "0.5"])
        assert (low, high) == pytest.approx((math.log10(2), math.log10(5)))

    @pytest.mark.parametrize("lowest", [-1, 0])
    def test_values_without_a_logarithm_decide_by_themselves(self, lowest: float) -> None:
        for values in ((lowest, 2, 5), (lowest, 0.1, 10)):
            runs = grid(float, model__size=values)
            scale = picture(tagged(runs, "model.size")).axes[0].get_xscale()
            assert scale == picture(runs).axes[0].get_xscale() != "log"
        cells = grid(lambda a, b: a + b, model__size=(lowest, 2, 5), data__batch_size=(16, 32))
        assert picture(tagged(cells, "model.size")).axes[0].images


class TestWhatCounts:
    def test_runs_without_a_value_are_left_out_and_that_is_said(self) -> None:
        runs = [
            *grid(lambda lr: lr, optimizer__lr=(0.1, 0.2, 0.3)),
            made({"optimizer.lr": 0.4}, 0.01, "FAILED"),  # after its first epoch
            made({"optimizer.lr": 0.5}, 0.01, "FAILED"),
            made({"optimizer.lr": 0.6}, math.nan),
            ComparedRun(1, "run", "NOT STARTED"),
        ]
        figure = picture(runs)
        assert list(figure.axes[0].lines[0].get_xdata()) == [0.1, 0.2, 0.3]
        assert note(figure) == "left out of 7 runs: 2 failed, 1 without a finite value, 1 not started"

    def test_fewer_than_two_configurations_are_no_picture(self, tmp_path: Path) -> None:
        runs = [made({"optimizer.lr": 0.1}, 0.1), made({"optimizer.lr": 0.2}, 0.1, "FAILED")]
        assert sweep_figure(compare(runs)) is None
        assert draw_sweep(compare(runs), tmp_path / "sweep.png") is None and not list(tmp_path.iterdir())
        assert sweep_figure(compare([ComparedRun(1, "run", "NOT STARTED")])) is None

    def test_a_parameter_that_only_failed_runs_varied_is_no_axis(self) -> None:
        runs = [*grid(lambda m, lr: lr, model=("mlp",), optimizer__lr=(0.1, 0.2))]
        runs.append(made({"model": "cnn", "optimizer.lr": 0.1}, math.nan))
        figure = picture(runs)
        assert figure.axes[0].get_xlabel() == "optimizer.lr" and not figure.legends
        assert "all with model=mlp" in note(figure)

    def test_what_follows_from_a_choice_is_no_axis(self) -> None:
        runs = grid(lambda m, lr: lr, model=("mlp", "cnn"), optimizer__lr=(0.1, 0.2))
        for run in runs:
            mlp = run.choices["model"] == "mlp"
            run.config |= {"model.depth": "2" if mlp else "8", "model.hidden" if mlp else "model.channels": "[64]"}
            run.config["experiment"] = "null"
        assert picture(runs).legends  # a numeric parameter and a category

    def test_what_follows_from_a_preset_is_no_axis(self) -> None:
        runs = grid(lambda preset, lr: lr, experiment=("one", "other"), optimizer__lr=(0.1, 0.2))
        for run in runs:
            run.config |= {"trainer.epochs": "3" if run.choices["experiment"] == "one" else "5"}
        assert picture(runs).legends[0].get_title().get_text() == "experiment"

    def test_of_presets_that_tell_one_another_one_is_an_axis(self) -> None:
        runs = grid(lambda preset, lr: lr, experiment=("one", "other"), optimizer__lr=(0.1, 0.2))
        for run in runs:
            run.choices["debug"] = "fast" if run.choices["experiment"] == "one" else "null"
        figure = picture(runs)
        assert figure.legends[0].get_title().get_text() == "experiment" and "debug changes with" in note(figure)

    def test_of_parameters_that_change_together_one_is_an_axis(self) -> None:
        runs = grid(lambda m, n: n, model=("mlp", "cnn"), data__batch_size=(32, 64, 128))
        for run in runs:
            run.config["optimizer.lr"] = str(int(run.config["data.batch_size"]) / 1000)
        figure = picture(runs)
        assert figure.axes[0].get_xlabel() == "data.batch_size" and "optimizer.lr changes with" in note(figure)

    @pytest.mark.parametrize(("metric", "none"), [("val/loss", True), ("val/accuracy", False)])
    def test_of_different_losses_none_is_the_best(self, metric: str, none: bool) -> None:
        figure = picture(grid(lambda name, m: len(name + m), metric, loss=("CE", "MSE"), model=("mlp", "cnn2")))
        assert bool(vermilion_texts(figure)) is not none and ("no run is the best" in note(figure)) is none

    def test_where_all_are_the_same_none_is_the_best(self) -> None:
        for axes in (
            {"model": ("a", "b")},
            {"model": "ab", "data.augment": "cd"},
            {"model.a": (1, 2), "model.b": (3, 4)},
        ):
            figure = picture(grid(lambda *_: 0.5, **{key.replace(".", "__"): v for key, v in axes.items()}))
            assert not vermilion_texts(figure) and not figure.axes[0].patches and "best" not in note(figure)


class TestFile:
    def test_is_written_in_our_style_and_leaves_matplotlib_alone(self, tmp_path: Path) -> None:
        c = compare(grid(lambda m, lr: lr, model=("$a", "b$"), optimizer__lr=(0.1, 0.2)))
        before = dict(mpl.rcParams)
        file = draw_sweep(c, tmp_path / "a.png")
        assert file == tmp_path / "a.png" and dict(mpl.rcParams) == before
        with Image.open(file) as image:
            assert min(image.size) > 400
        figure = sweep_figure(c)
        assert figure is not None and not figure.axes[0].spines["top"].get_visible()

    def test_is_among_those_of_a_comparison(self, tmp_path: Path) -> None:
        files = comparison.draw(compare(grid(lambda m, lr: lr, model="ab", optimizer__lr=(0.1, 0.2))), tmp_path)
        assert tmp_path / "sweep.png" in files and (tmp_path / "sweep.png").exists()
