"""The plots: their content, that it is legible, and that no measured value makes them fail."""

import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import TensorDataset

from helpers.drawn import Plot
from helpers.training import step, supervised, training
from runner.data.parts import part_of
from runner.loss import MSE, BCEWithLogits, CrossEntropy, Loss
from runner.plots import curves, thinning
from runner.plots.drawing import Drawing
from runner.plots.samples import draw_predictions
from runner.rundir.points import MetricPoint, curves_of
from runner.training.evaluation import evaluate
from runner.training.predictions import MOST_VALUES, Predictions, confusion, mistakes, raw_images

# ResourceWarning: a process of another test may be collected here
pytestmark = [pytest.mark.filterwarnings("error", "default::ResourceWarning"), pytest.mark.usefixtures("plots")]


def curve(name: str, values: list[float], first: int = 1) -> list[MetricPoint]:
    return [MetricPoint(name, value, step, 0.0) for step, value in enumerate(values, start=first)]


def draw(points: list[MetricPoint], folder: Path, **arguments: Any) -> list[Path]:
    return curves.draw(curves_of(points), folder, **arguments)


def a_run(epochs: int) -> list[MetricPoint]:
    """Points of a classification; the validation loss rises from the third quarter on."""
    share = [epoch / epochs for epoch in range(1, epochs + 1)]
    return [
        *curve("train/loss", [2 * math.exp(-3 * x) for x in share]),
        *curve("train/accuracy", [x / 1.1 for x in share]),
        *curve("val/loss", [2 - x * (1.5 - x) for x in share]),
        *curve("val/accuracy", [x / 1.2 for x in share]),
        *curve("lr", [0.05 * (1 - x) for x in share]),
        *curve("time/epoch_seconds", [0.02 + 0.001 * x for x in share]),
        *curve("throughput/samples_per_second", [1e4] * epochs),
        *curve("test/loss", [0.3]),
    ]


class TestCurves:
    def test_what_a_run_leaves(self, tmp_path: Path, plots: dict[str, Plot]) -> None:
        files = draw(a_run(20), tmp_path / "plots", best_epoch=15)
        names = ["loss", "accuracy", "epoch_seconds", "learning_rate"]
        assert files == [tmp_path / "plots" / f"{name}.png" for name in names]
        assert list(plots) == names and all(file.is_file() for file in files)
        assert plots["loss"].labels == ("epoch", "loss (mean over samples)")
        assert plots["loss"].y_scale == "log"
        assert plots["loss"].lines["training"][-1] == (20, pytest.approx(2 * math.exp(-3)))
        assert plots["accuracy"].labels == ("epoch", "accuracy (%)")
        assert plots["accuracy"].lines["validation"][-1] == (20, pytest.approx(100 / 1.2))
        assert plots["epoch_seconds"].labels == ("epoch", "time (ms)")
        assert plots["epoch_seconds"].lines["median: 20.5 ms"]
        assert plots["learning_rate"].labels[1] == "learning rate"
        for plot in plots.values():
            assert plot.size == (768, 504)

    def test_the_best_epoch_is_the_one_that_the_run_says(self, tmp_path: Path, plots: dict[str, Plot]) -> None:
        draw(a_run(20), tmp_path, best_epoch=4)  # the lowest validation loss is that of epoch 15
        assert plots["loss"].lines["best epoch: 4 (by validation loss)"][0][0] == 4
        assert plots["loss"].stars == [(4, pytest.approx(2 - 0.2 * 1.3))]
        assert not plots["accuracy"].stars
        assert plots["accuracy"].lines["best epoch: 4 (by validation loss)"][0][0] == 4
        draw(a_run(20), tmp_path, best_epoch=20, monitor="val/accuracy")
        assert not plots["loss"].stars
        assert plots["accuracy"].stars == [(20, pytest.approx(100 / 1.2))]
        assert "best epoch: 20 (by validation accuracy)" in plots["loss"].lines
        draw(a_run(20), tmp_path, best_epoch=20, monitor="train/loss")
        assert plots["loss"].stars == [(20, pytest.approx(2 * math.exp(-3)))]

    def test_without_validation_the_last_is_the_best(self, tmp_path: Path, plots: dict[str, Plot]) -> None:
        draw([point for point in a_run(5) if not point.name.startswith("val/")], tmp_path, best_epoch=5)
        assert set(plots["loss"].lines) == {"training", "best epoch: 5 (the last)"}

    def test_no_epoch_is_the_best(self, tmp_path: Path, plots: dict[str, Plot]) -> None:
        draw(a_run(5), tmp_path, best_epoch=None)
        assert set(plots["loss"].lines) == {"training", "validation"}

    def test_one_epoch(self, tmp_path: Path, plots: dict[str, Plot]) -> None:
        draw(a_run(1), tmp_path, best_epoch=1)
        assert set(plots["loss"].lines) == {"training", "validation"}, "one epoch has no best"
        assert plots["loss"].markers == {"o", "s"}, "a line of one point is invisible"
        assert set(plots["epoch_seconds"].lines) == {"training of an epoch"}, "one value has no median"

    def test_ten_thousand_epochs(self, tmp_path: Path, plots: dict[str, Plot]) -> None:
        points = a_run(10_000)
        start = time.process_time()
        draw(points, tmp_path, best_epoch=7_500)
        assert time.process_time() - start < 2, "half a second on an idle machine"
        assert plots["loss"].markers == {"None"}

    def test_a_hundred_thousand_noisy_steps(self, tmp_path: Path, plots: dict[str, Plot]) -> None:
        noise = np.random.default_rng(0).lognormal(size=100_000).tolist()
        draw([*curve("train/loss_step", noise), MetricPoint("val/loss_step", 1.0, 50_000, 0.0)], tmp_path, best_epoch=3)
        assert list(plots) == ["loss_by_step"]
        assert plots["loss_by_step"].labels[0] == "optimizer step"
        assert set(plots["loss_by_step"].lines) == {"training: mean of the epoch so far", "validation"}

    @pytest.mark.parametrize("kind", ["noise", "gaps", "spikes", "zeros"])
    def test_a_long_curve_has_the_picture_of_all_its_points(
        self, kind: str, tmp_path: Path, plots: dict[str, Plot], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        draws, count = np.random.default_rng(0), 50_000
        values = np.exp(np.linspace(0, -4, count)) * draws.lognormal(
            sigma=0.02 if kind == "spikes" else 0.3, size=count
        )
        if kind == "gaps":
            values[10_000:12_000] = values[30_000::100] = math.nan
        elif kind == "spikes":
            values[[7_000, 23_456]] = 9.0, 1e-4
        elif kind == "zeros":
            values[20_000::3] = 0.0
        points = curve("train/loss", values.tolist())
        pictures = []
        for folder in ("thin", "whole"):
            draw(points, tmp_path / folder)
            line = plots["loss"].lines["training"]
            pictures.append(np.asarray(Image.open(tmp_path / folder / "loss.png").convert("L"), dtype=float))
            monkeypatch.setattr(curves, "thin", lambda steps, values: (steps, values))
            if folder == "thin":
                assert len(line) <= 4 * thinning.COLUMNS and line[0][0] == 1 and line[-1] == (count, values[-1])
                shown, positive = [y for _, y in line if y > 0], values[values > 0]
                assert (max(shown), min(shown)) == (positive.max(), positive.min())
        assert pictures[0].shape == pictures[1].shape
        difference = np.abs(pictures[0] - pictures[1])
        assert difference.mean() < 0.5 and (difference > 128).mean() < 1e-3

    def test_what_cannot_be_drawn_is_counted(self, tmp_path: Path, plots: dict[str, Plot]) -> None:
        inf, nan = math.inf, math.nan
        points = [*curve("train/loss", [3, nan, inf, -inf, 0.5, 0.0]), *curve("val/loss", [4, 2, 1, 0.0, 0.3, 0.1])]
        draw(points, tmp_path, best_epoch=6)
        assert plots["loss"].y_scale == "log"
        assert "not shown: 3 not finite, 2 equal to 0" in plots["loss"].texts

    @pytest.mark.parametrize("values", [[math.nan] * 3, [0.0] * 3, [1.0, -1.0, 2.0], [math.inf], [1e-150, 1e150]])
    def test_values_that_are_strange(self, values: list[float], tmp_path: Path, plots: dict[str, Plot]) -> None:
        names = ("train/loss", "val/r2", "time/epoch_seconds")
        draw([point for name in names for point in curve(name, values)], tmp_path, best_epoch=2)
        assert len(plots) == 3
        assert plots["loss"].y_scale == ("log" if values[0] == 1e-150 else "linear")

    @pytest.mark.parametrize("low", [0.9, 0.5, 0.03, 1e-9])
    def test_a_logarithmic_axis_has_numbers(self, low: float, tmp_path: Path) -> None:
        from runner.plots.drawing import new_drawing

        with new_drawing(tmp_path) as d:
            found: list[int] = []
            d.save = lambda name: found.append(len([t for t in d.figure.axes[0].get_yticks() if low <= t <= 1]))  # type: ignore[method-assign]
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr("runner.plots.curves.new_drawing", lambda folder: _as_is(d))
                draw(curve("train/loss", [1.0, low]), tmp_path)
        assert 2 <= found[0] <= 9

    def test_a_regression(self, tmp_path: Path, plots: dict[str, Plot]) -> None:
        points = [*curve("val/mae", [30, 3, 2]), *curve("train/r2", [-900, 0.5, 0.8]), *curve("val/r2", [-2, 0.1, 0.7])]
        draw(points, tmp_path, best_epoch=3, monitor="val/r2")
        assert list(plots) == ["mae", "r2"]
        assert plots["mae"].labels[1] == "mean absolute error (target's unit)"
        assert "not shown: 2 below \N{MINUS SIGN}1" in plots["r2"].texts
        assert plots["r2"].stars == [(3, 0.7)]

    def test_a_metric_of_ones_own(self, tmp_path: Path, plots: dict[str, Plot]) -> None:
        draw([*curve("val/top@5/x", [0.1, 0.2]), *curve("train/loss", [2, 1])], tmp_path)
        assert list(plots) == ["loss", "top_5_x"]
        assert plots["top_5_x"].labels[1] == "top@5/x"

    def test_nothing_measured(self, tmp_path: Path) -> None:
        assert draw([], tmp_path) == []


class _as_is:  # noqa: N801 - reads as a verb in its `with`
    def __init__(self, made: Drawing) -> None:
        self.made = made

    def __enter__(self) -> Drawing:
        return self.made

    def __exit__(self, *_: object) -> None: ...


def seen(loss: Loss, outputs: Tensor, targets: Tensor, batch: int = 7) -> Predictions:
    predictions = Predictions(supervised(loss))
    for first in range(0, len(outputs), batch):
        predictions.add(step(torch.tensor(0.0), outputs[first : first + batch], targets[first : first + batch]))
    return predictions


def classified(actual: list[int], predicted: list[int], classes: int, sure: list[float] | None = None) -> Predictions:
    """Predictions with given classes and probabilities (default 0.9)."""
    shares = torch.tensor(sure or [0.9] * len(actual)).unsqueeze(1)
    outputs = ((1 - shares) / (classes - 1)).expand(-1, classes).log().clone()
    outputs.scatter_(1, torch.tensor(predicted).unsqueeze(1), shares.log())
    return seen(CrossEntropy(), outputs, torch.tensor(actual))


class TestPredictions:
    def test_they_are_those_that_the_test_measures(self, tmp_path: Path) -> None:
        state = training(tmp_path, batch_size=4)
        predictions = Predictions(state.task)
        assert state.loaders.test is not None
        measured = evaluate(state, state.loaders.test, on_batch=predictions.add)
        found = predictions.classes()
        assert found is not None and predictions.values() is None
        assert predictions.samples == len(found.actual) == 20 and predictions.num_classes == 3
        inputs, targets = next(iter(state.loaders.test.epoch(0)))
        probabilities = state.model.eval()(inputs).softmax(1)
        assert torch.equal(found.actual, targets)
        assert torch.equal(found.predicted, probabilities.argmax(1))
        assert torch.allclose(found.probability, probabilities.amax(1))
        counts = confusion(found, 3)
        assert counts.shape == (3, 3) and counts.trace() / 20 == pytest.approx(measured["accuracy"])

    def test_a_row_is_a_true_class(self) -> None:
        found = classified([0, 0, 2, 2], [0, 1, 2, 0], classes=4).classes()
        assert found is not None
        assert confusion(found, 4).tolist() == [[1, 1, 0, 0], [0, 0, 0, 0], [1, 0, 1, 0], [0, 0, 0, 0]]

    def test_yes_and_no(self) -> None:
        outputs = torch.tensor([[2.0], [-1.0], [-3.0]])
        predictions = seen(BCEWithLogits(), outputs, torch.tensor([[1.0], [1.0], [0.0]]))
        found = predictions.classes()
        assert found is not None and predictions.num_classes == 2
        assert (found.actual.tolist(), found.predicted.tolist()) == ([1, 1, 0], [1, 0, 0])
        assert torch.allclose(found.probability, torch.tensor([2.0, 1.0, 3.0]).sigmoid())

    def test_several_questions_at_once_are_neither_classes_nor_values(self, tmp_path: Path) -> None:
        predictions = seen(BCEWithLogits(), torch.randn(9, 3), torch.ones(9, 3))
        assert predictions.classes() is None and predictions.values() is None and predictions.samples == 9
        assert draw_predictions(predictions, tmp_path) == []

    def test_values_are_kept_up_to_a_number(self) -> None:
        targets = torch.arange(2.0 * MOST_VALUES).reshape(-1, 4)
        predictions = seen(MSE(), targets + 1, targets, batch=100_000)
        found = predictions.values()
        assert found is not None and predictions.classes() is None
        assert MOST_VALUES <= found.actual.numel() < MOST_VALUES + 400_000
        assert predictions.samples == len(targets)
        assert torch.equal(found.predicted, targets[: len(found.predicted)] + 1)

    def test_what_is_kept_is_a_copy(self) -> None:
        outputs = torch.ones(3, 1)
        predictions = Predictions(supervised(MSE()))
        predictions.add(step(torch.tensor(0.0), outputs, torch.zeros(3, 1)))
        outputs.fill_(5)  # like a CUDA graph that reuses its memory
        found = predictions.values()
        assert found is not None and found.predicted.tolist() == [[1], [1], [1]]

    def test_the_most_confident_mistake_comes_first(self) -> None:
        found = classified([0, 1, 2, 0, 1], [0, 2, 1, 1, 0], 3, [0.99, 0.6, 0.9, 0.5, math.nan]).classes()
        assert found is not None
        assert mistakes(found)[:3].tolist() == [2, 1, 3]

    def test_nothing_seen(self, tmp_path: Path) -> None:
        assert draw_predictions(Predictions(CrossEntropy()), tmp_path) == []


def random_classes(classes: int, samples: int = 300) -> Predictions:
    made = torch.Generator().manual_seed(0)
    targets = torch.randint(classes, (samples,), generator=made)
    outputs = torch.randn(samples, classes, generator=made) + 3 * torch.eye(classes)[targets]
    return seen(CrossEntropy(), outputs, targets, batch=samples)


class TestConfusionMatrix:
    def test_counts_and_shares(self, tmp_path: Path, plots: dict[str, Plot]) -> None:
        predictions = classified([0] * 4 + [1] * 1200, [0, 0, 0, 1] + [1] * 1199 + [0], classes=3)
        assert draw_predictions(predictions, tmp_path, ["ham", "$5 spam$", "ünï"]) == [
            tmp_path / "confusion_matrix.png"
        ]
        plot = plots["confusion_matrix"]
        assert plot.labels == ("predicted class", "true class")
        cells = {"3\n75.0 %", "1\n25.0 %", "1,199\n99.9 %", "1\n<0.1 %"}
        assert set(plot.texts) == cells | {"1,202 of 1,204 test samples right (99.83 %)"}
        shares = plot.images[0]
        assert shares[0].tolist() == [75, 25, 0]
        assert np.ma.getmaskarray(shares)[2].all() or np.isnan(shares[2]).all(), "the test part lacks the third class"

    @pytest.mark.parametrize(
        ("classes", "named"), [(2, True), (10, False), (20, True), (21, False), (47, True), (100, True), (1000, False)]
    )
    def test_many_classes(self, classes: int, named: bool, tmp_path: Path, plots: dict[str, Plot]) -> None:
        names = [f"a class of a long name, {index}" for index in range(classes)] if named else None
        draw_predictions(random_classes(classes), tmp_path, names)
        plot = plots["confusion_matrix"]
        assert plot.images[0].shape == (classes, classes)
        annotated = len(plot.texts) > 1
        assert annotated == (classes <= 20)

    def test_more_than_a_picture_can_show(self, tmp_path: Path) -> None:
        assert draw_predictions(random_classes(1001), tmp_path) == []


class TestMistakes:
    @staticmethod
    def images(shape: tuple[int, ...], asked: list[list[int]]) -> Callable[[list[int]], Tensor]:
        def give(indices: list[int]) -> Tensor:
            asked.append(indices)
            return torch.rand(len(indices), *shape, generator=torch.Generator().manual_seed(0))

        return give

    def test_the_images_that_were_taken_for_something_else(self, tmp_path: Path, plots: dict[str, Plot]) -> None:
        predictions = classified([0, 1, 2, 0], [0, 2, 1, 1], 3, [0.99, 0.6, 0.9996, 0.5])
        asked: list[list[int]] = []
        files = draw_predictions(predictions, tmp_path, ["a", "b", "c"], self.images((1, 4, 4), asked))
        assert [file.name for file in files] == ["confusion_matrix.png", "mistakes.png"]
        assert asked == [[2, 1, 3]]
        captions = ["c → b, 99.9 %", "b → c, 60 %", "a → b, 50 %"]
        assert plots["mistakes"].texts[:3] == captions
        assert "All mistakes in 4 test samples" in plots["mistakes"].texts[3]
        assert len(plots["mistakes"].images) == 3

    def test_there_are_25_at_most(self, tmp_path: Path, plots: dict[str, Plot]) -> None:
        predictions = classified([0] * 100, [1] * 90 + [0] * 10, 2)
        draw_predictions(predictions, tmp_path, None, self.images((3, 32, 32), []))
        assert len(plots["mistakes"].images) == 25
        assert "The most confident 25 of 90 mistakes in 100 test samples" in plots["mistakes"].texts[-1]

    def test_without_a_mistake_those_of_an_earlier_test_go(self, tmp_path: Path) -> None:
        (tmp_path / "mistakes.png").write_bytes(b"old")
        files = draw_predictions(classified([0, 1], [0, 1], 2), tmp_path, None, self.images((1, 4, 4), []))
        assert [file.name for file in files] == ["confusion_matrix.png"]
        assert not (tmp_path / "mistakes.png").exists()

    @pytest.mark.parametrize(
        ("shape", "longest"), [((1, 28, 28), 1), ((3, 32, 32), 40), ((1, 8, 80), 1), ((3, 90, 9), 40), ((2, 1, 1), 4)]
    )
    def test_images_and_names_of_all_sizes(
        self, shape: tuple[int, ...], longest: int, tmp_path: Path, plots: dict[str, Plot]
    ) -> None:
        names = ["W" * longest, "M" * longest]
        draw_predictions(classified([0] * 26, [1] * 26, 2), tmp_path, names, self.images(shape, []))
        image = plots["mistakes"].images[0]
        assert image.shape == ((*shape[1:], 3) if shape[0] == 3 else shape[1:])

    @pytest.mark.parametrize(
        ("raw", "shown"),
        [
            (torch.tensor([0, 51, 255], dtype=torch.uint8), [0, 0.2, 1]),
            (torch.tensor([0.0, 0.25, 1.0]), [0, 0.25, 1]),
            (torch.tensor([-1.0, 0.0, 3.0]), [0, 0.25, 1]),
            (torch.tensor([0.0, 8.0, 16.0]), [0, 0.5, 1]),
            (torch.tensor([math.nan, 0.5, 1.0]), [0, 0.5, 1]),
        ],
    )
    def test_bytes_and_numbers(self, raw: Tensor, shown: list[float], tmp_path: Path, plots: dict[str, Plot]) -> None:
        images = raw.reshape(1, 1, 1, 3)
        draw_predictions(classified([0], [1], 2), tmp_path, None, lambda indices: images[indices])
        assert plots["mistakes"].images[0].tolist()[0] == pytest.approx(shown)

    def test_raw_images_by_index(self) -> None:
        inputs, targets = torch.rand(5, 3, 2, 2), torch.zeros(5)
        for samples in ((inputs, targets), TensorDataset(inputs, targets)):
            images = raw_images(part_of(samples), (3, 2, 2))
            assert images is not None and torch.equal(images([4, 1]), inputs[[4, 1]])
        assert raw_images(part_of((torch.rand(5, 12), targets)), (12,)) is None


class TestValues:
    def test_predicted_against_true(self, tmp_path: Path, plots: dict[str, Plot]) -> None:
        targets = torch.tensor([[1.0], [2.0], [5.0]])
        predictions = seen(MSE(), torch.tensor([[1.5], [math.nan], [4.0]]), targets)
        assert draw_predictions(predictions, tmp_path) == [tmp_path / "predictions.png"]
        plot = plots["predictions"]
        assert plot.labels == ("true value", "predicted value")
        diagonal, points = plot.lines.values()
        assert all(x == y for x, y in diagonal)
        assert points == [(1, 1.5), (5, 4)]
        assert plot.texts == ["3 test samples; 1 predictions are not finite"]

    @pytest.mark.parametrize("outputs", [2, 4, 9])
    def test_several_outputs(self, outputs: int, tmp_path: Path, plots: dict[str, Plot]) -> None:
        targets = 1e4 * torch.randn(50, outputs, generator=torch.Generator().manual_seed(0))
        draw_predictions(seen(MSE(), targets, targets), tmp_path)
        cut = "; the first 6 of 9 outputs" if outputs == 9 else ""
        assert plots["predictions"].texts == [f"50 test samples{cut}"]

    @pytest.mark.parametrize("value", [0.0, -3.5, 1e-20, 1e30])
    def test_all_the_same(self, value: float, tmp_path: Path, plots: dict[str, Plot]) -> None:
        same = torch.full((4, 1), value)
        draw_predictions(seen(MSE(), same, same), tmp_path)
        assert plots["predictions"].lines

    def test_many_samples(self, tmp_path: Path, plots: dict[str, Plot]) -> None:
        targets = torch.randn(20_001, 1)
        draw_predictions(seen(MSE(), targets, targets, batch=1000), tmp_path)
        assert plots["predictions"].texts == ["20,001 test samples, 4,001 of them shown"]
