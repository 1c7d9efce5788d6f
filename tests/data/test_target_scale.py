"""`data.scale_targets`: training sees standardised targets, everything else the units of the data."""

import csv
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from sklearn.metrics import mean_absolute_error, r2_score, root_mean_squared_error
from torch import nn

from helpers.composed import built
from helpers.problems import about, problem_of
from helpers.trained import place, result, train
from helpers.training import same, step, supervised
from runner import export, predict
from runner.cli import run_command
from runner.data.target_scale import TargetScale, choose_target_scale, preprocessing, read_target_scale
from runner.loss import MSE, Metric
from runner.rundir import journal
from runner.runs import evaluation, result_file
from runner.saved.run import find
from runner.saved.weights import weights_of_run
from runner.training.predictions import Predictions
from runner.training.running_metrics import RunningMetrics

CPU, F64 = torch.device("cpu"), torch.float64
VALUES = torch.tensor([[1.0, 500.0, 7.0], [3.0, 700.0, 7.0], [8.0, 600.0, 7.0]], dtype=F64)


def of(values: torch.Tensor, setting: Any, auto: bool = True, **more: Any) -> TargetScale:
    scale = choose_target_scale(values, setting, auto=auto, **more)
    assert scale is not None
    return scale


class TestChoice:
    def test_each_column_is_standardised_and_constant_ones_are_left(self) -> None:
        scale = of(VALUES, "auto")
        assert scale.state() == {
            "mean": [4.0, 600.0, 0.0],
            "std": pytest.approx([*VALUES[:, :2].numpy().std(0), 1.0]),
        }
        trained_on = scale.wrap_prepare(MSE().prepare, CPU)(VALUES, F64)
        torch.testing.assert_close(trained_on[:, :2].mean(0), torch.zeros(2, dtype=F64))
        torch.testing.assert_close(trained_on[:, :2].std(0, correction=0), torch.ones(2, dtype=F64))
        assert trained_on[:, 2].tolist() == [7.0] * 3
        torch.testing.assert_close(scale.in_units(trained_on), VALUES)

    @pytest.mark.parametrize(("setting", "auto"), [(None, True), (False, True), ("auto", False)])
    def test_what_is_left_alone(self, setting: Any, auto: bool) -> None:
        assert choose_target_scale(VALUES, setting, auto=auto) is None

    def test_true_scales_whatever_auto_would_do_and_refuses_constants(self) -> None:
        assert of(VALUES[:, :2], True, auto=False).standardizes
        for refused, names, where in ((VALUES, [], "in column 2"), (VALUES[:, 2:], ["price"], "of price")):
            problem = problem_of(
                lambda refused=refused, names=names: choose_target_scale(refused, True, auto=True, names=names)
            )
            assert about([problem]) == [("data.scale_targets", "data")]
            assert f"{where} are all 7" in problem.text and "write data.scale_targets=auto" in problem.suggestion

    def test_all_constant_is_not_scaled(self) -> None:
        assert choose_target_scale(torch.full((9, 1), 0.1, dtype=F64), "auto", auto=True) is None

    def test_targets_far_from_0_that_are_not_scaled_have_a_center(self) -> None:
        scale = of(1e6 + VALUES, False)
        assert not scale.standardizes and not preprocessing(scale)
        assert scale.center[0] == pytest.approx(1e6 + 4) and (scale.mean == 0).all() and (scale.std == 1).all()

    def test_given_weights_go_on_meaning_the_same(self) -> None:
        old = preprocessing(of(VALUES[:, :2], "auto"))
        for setting in ("auto", True, None):
            assert of(9 * VALUES[:, :2], setting, weights=old).state() == old["targets"]
        problem = problem_of(lambda: choose_target_scale(VALUES, False, auto=True, weights=old))
        assert about([problem]) == [("data.scale_targets", "conflict")]
        assert problem.suggestion == "write data.scale_targets=auto"
        assert choose_target_scale(VALUES, "auto", auto=True, weights={}) is None
        assert of(VALUES[:, :2], True, weights={}).standardizes

    def test_it_comes_back_out_of_a_checkpoint_bit_for_bit(self) -> None:
        scale = of(torch.randn(50, 3, dtype=F64) / 3, "auto")
        again = read_target_scale(preprocessing(scale))
        assert again is not None and same([again.mean, again.std], [scale.mean, scale.std])
        assert read_target_scale({}) is None


class Relative(MSE):
    """Measures what depends on the values themselves, not on their differences."""

    metrics: ClassVar = {
        "relative": Metric(lambda outputs, targets: ((outputs - targets) / targets).abs().mean(dim=1).sum())
    }


class TestMetrics:
    @pytest.mark.parametrize("columns", [1, 3])
    @pytest.mark.parametrize(("offset", "setting"), [(0.0, "auto"), (500.0, "auto"), (1e6, "auto"), (1e6, False)])
    def test_they_are_scikit_learns_in_the_units_of_the_data(self, offset: float, setting: Any, columns: int) -> None:
        made = torch.Generator().manual_seed(columns)
        spread = torch.tensor([1.0, 20.0, 0.3], dtype=F64)[:columns]
        targets = offset + spread * torch.randn(103, columns, generator=made, dtype=F64)
        scale = of(targets, setting)
        outputs = (targets - scale.mean) / scale.std + 0.3 * torch.randn(103, columns, generator=made, dtype=F64)
        trained_on = scale.wrap_prepare(MSE().prepare, CPU)(targets, F64)
        sums = RunningMetrics(supervised(MSE()), CPU, scale)
        for index in torch.arange(103).split(32):
            sums.add(step(torch.tensor(0.0), outputs[index], trained_on[index]))
        found, told = sums.means(), scale.in_units(outputs).numpy()
        assert found["mae"] == pytest.approx(mean_absolute_error(targets, told), rel=1e-9)
        assert found["rmse"] == pytest.approx(root_mean_squared_error(targets, told), rel=1e-9)
        assert found["r2"] == pytest.approx(r2_score(targets, told), rel=1e-8)

    def test_a_metric_of_ones_own_is_given_the_units_of_the_data(self) -> None:
        scale = of(VALUES[:, :2], "auto")
        sums = RunningMetrics(supervised(Relative()), CPU, scale)
        trained_on = scale.wrap_prepare(MSE().prepare, CPU)(VALUES[:, :2], F64)
        told = VALUES[:, :2] * 1.1
        sums.add(step(torch.tensor(0.0), (told - scale.mean) / scale.std, trained_on))
        assert sums.means()["relative"] == pytest.approx(0.1)

    @pytest.mark.parametrize(("name", "higher"), [("mae", False), ("rmse", False), ("r2", True), ("loss", False)])
    def test_the_monitor_knows_which_way_is_better(self, name: str, higher: bool) -> None:
        assert MSE().higher_is_better(f"val/{name}") is higher

    def test_plots_get_the_units_of_the_data(self) -> None:
        scale = of(VALUES[:, :2], "auto")
        predictions = Predictions(supervised(MSE()), scale)
        trained_on = scale.wrap_prepare(MSE().prepare, CPU)(VALUES[:, :2], torch.float32)
        predictions.add(step(torch.tensor(0.0), trained_on, trained_on))
        values = predictions.values()
        assert values is not None
        torch.testing.assert_close(values.actual, VALUES[:, :2], rtol=1e-6, atol=0)


def write(path: str, slope: float = 30, offset: float = 500, rows: int = 200, target: str = "price") -> np.ndarray:
    """A linear table; its rows."""
    made = np.random.RandomState(0)
    features = made.uniform(0, 10, (rows, 2)).round(3)
    values = (offset + slope * features[:, 0] - 12 * features[:, 1] + made.normal(0, 3, rows)).round(2)
    table = np.column_stack([features, values])
    with Path(path).open("w", newline="") as file:
        csv.writer(file).writerows([["width", "height", target], *table.tolist()])
    return table


CSV = ("data=csv", "data.path=price.csv", "loss=mse")


@pytest.fixture(scope="module", autouse=True)
def there(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with place(tmp_path_factory.mktemp("target_scale")) as folder:
        write("price.csv")
        write("dear.csv", slope=3000, offset=90_000)
        yield folder


@pytest.fixture(scope="module")
def price(there: Path) -> Path:
    """A regression with the defaults; it has the model for MLflow."""
    return train("price", *CSV, "model=mlp", "debug=null", "tracking.log_model=true")


def predicted(run: str, capsys: pytest.CaptureFixture[str], *arguments: str) -> list[float]:
    capsys.readouterr()
    assert predict.main([f"run={run}", *arguments]) == 0
    return [float(row["price"]) for row in csv.DictReader(io.StringIO(capsys.readouterr().out))]


class TestRun:
    def test_targets_around_500_are_learnt_with_the_defaults(self, price: Path) -> None:
        found = result(price)
        assert found["test/r2"] > 0.9 and found["val/r2"] > 0.9
        scale = torch.load(price / "checkpoints" / "best.pt")["preprocessing"]["targets"]
        assert found["test/loss"] == pytest.approx((found["test/rmse"] / scale["std"][0]) ** 2, rel=1e-5)
        assert found["train/mae"] > 1
        note = f"targets standardised (mean {scale['mean'][0]:.4g}, standard deviation {scale['std'][0]:.4g}): */loss"
        assert note in (price / "run.log").read_text()

    def test_predictions_are_what_was_measured(self, price: Path, capsys: pytest.CaptureFixture[str]) -> None:
        with Path("price.csv").open() as file:
            table = np.array([[float(v) for v in row.values()] for row in csv.DictReader(file)])
        told = np.array(predicted("price", capsys, "input=price.csv"))
        test = np.random.RandomState(0).permutation(len(table)) < len(table) // 5  # as data=csv splits it off
        assert root_mean_squared_error(table[test, 2], told[test]) == pytest.approx(
            result(price)["test/rmse"], rel=1e-4
        )

    def test_evaluate_gives_the_same_bit_for_bit(self, price: Path) -> None:
        found = evaluation.evaluate(find(str(price)), "test").metrics
        assert set(found) == {f"test/{name}" for name in ("loss", "mae", "rmse", "r2")}
        assert found == {name: result(price)[name] for name in found}

    def test_evaluated_on_other_samples_the_scale_is_that_of_the_weights(self, price: Path) -> None:
        found = evaluation.evaluate(find(str(price)), "test", ["data.path=dear.csv"])
        assert found.experiment.target_scale is not None
        assert (
            found.experiment.target_scale.state()
            == evaluation.evaluate(find(str(price))).experiment.target_scale.state()
        )
        assert found.metrics["test/mae"] > 80_000

    @pytest.mark.parametrize("format", ["torch_export", pytest.param("onnx", marks=pytest.mark.soak)])
    def test_exports_give_the_units_of_the_data(
        self, format: str, price: Path, there: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        file = there / f"model{result_file.SUFFIXES[format]}"
        raw = torch.tensor([[2.0, 3.0], [9.0, 1.0]])
        if format == "onnx":
            onnxruntime = pytest.importorskip("onnxruntime")
        assert export.main([f"run={price}", f"format={format}", f"output={file}"]) == 0
        assert "float64 (N, 1), values in the units of the data" in capsys.readouterr().err
        if format == "onnx":
            (given,) = onnxruntime.InferenceSession(file).run(None, {"inputs": raw.numpy()})
        else:
            given = torch.export.load(file).module()(raw).detach().numpy()
        assert given.ravel() == pytest.approx(predicted("price", capsys, "input=[[2,3],[9,1]]"), rel=1e-5)

    def test_without_checkpoints_the_served_model_tells_the_scale(
        self, price: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        wanted = predicted("price", capsys, "input=[[2,3]]")
        hidden = (price / "checkpoints").rename(price / "hidden")
        try:
            assert predicted("price", capsys, "input=[[2,3]]") == wanted
        finally:
            hidden.rename(price / "checkpoints")

    @pytest.mark.soak
    def test_a_resumed_run_is_bit_for_bit_what_it_would_have_been(self, price: Path) -> None:
        train("halves", *CSV, "trainer.epochs=2", "data.batch_size=16")
        assert run_command(["resume=halves", "trainer.epochs=4"]) == 0
        train("whole", *CSV, "trainer.epochs=4", "data.batch_size=16")
        halves, whole = (torch.load(Path(name) / "checkpoints" / "last.pt") for name in ("halves", "whole"))
        assert same(halves["model"], whole["model"]) and halves["preprocessing"] == whole["preprocessing"] != {}
        assert result(Path("halves"))["test/rmse"] == result(Path("whole"))["test/rmse"]


class TestOtherData:
    def test_model_weights_carry_their_scale(self, price: Path, caplog: pytest.LogCaptureFixture) -> None:
        experiment = built("data=csv", "data.path=dear.csv", "loss=mse", f"model.weights={price}")
        own = built("data=csv", "data.path=dear.csv", "loss=mse")
        assert experiment.target_scale is not None and own.target_scale is not None
        assert (
            experiment.target_scale.state()
            == weights_of_run(find(str(price))).preprocessing["targets"]
            != own.target_scale.state()
        )
        assert "targets standardised (as for the weights it starts from, mean " in experiment.splits.notes[-1]

    @pytest.mark.soak
    def test_a_warm_start_carries_it_too(self, price: Path, capsys: pytest.CaptureFixture[str]) -> None:
        warm = ["resume=price", "resume_mode=warm_start", "data.path=dear.csv", "trainer.epochs=1"]
        assert run_command([*warm, "hydra.run.dir=warm", "optimizer.lr=1e-30"]) == 0
        assert predicted("warm", capsys, "input=[[2,3]]") == predicted("price", capsys, "input=[[2,3]]")
        assert run_command(["resume=warm", "trainer.epochs=2"]) == 0
        scale = torch.load("warm/checkpoints/last.pt")["preprocessing"]
        assert scale == torch.load(price / "checkpoints" / "last.pt")["preprocessing"]
        capsys.readouterr()
        assert run_command([*warm, "data.scale_targets=false"]) == 2
        assert "error: data.scale_targets=false: the initial weights" in capsys.readouterr().err

    def test_weights_in_the_units_of_the_data_go_on_in_these(self, there: Path) -> None:
        plain = train("plain", *CSV, "data.scale_targets=false", "trainer.epochs=1", "optimizer.lr=1e-9")
        experiment = built(*CSV, "model.hidden=[8]", f"model.weights={plain}")
        assert experiment.target_scale is None
        assert experiment.splits.notes[-1].startswith(
            "targets not standardised: the weights it starts from give the units"
        )

    def test_weights_of_a_plain_file_or_with_a_new_output_layer_are_scaled_by_the_data(self, price: Path) -> None:
        torch.save(weights_of_run(find(str(price))).tensors, "plain.pt")
        own = built(*CSV).target_scale
        assert own is not None
        for more in ("plain.pt", "three.pt"):
            if more == "three.pt":
                tensors = torch.load("plain.pt")
                tensors["layers.5.weight"] = tensors["layers.5.weight"].repeat(3, 1)
                tensors["layers.5.bias"] = tensors["layers.5.bias"].repeat(3)
                torch.save(tensors, "three.pt")
            experiment = built(*CSV, f"model.weights={more}")
            assert experiment.target_scale is not None and experiment.target_scale.state() == own.state()


class Squashed(nn.Module):
    """A function, not a layer, behind the last layer."""

    def __init__(self, num_outputs: int) -> None:
        super().__init__()
        self.activation, self.layer = nn.ReLU(), nn.Linear(2, num_outputs)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return torch.sigmoid(self.layer(inputs)).squeeze(-1).unsqueeze(-1)


class Open(Squashed):
    """Its last operation is a layer, though an activation was made after it."""

    def __init__(self, num_outputs: int) -> None:
        super().__init__(num_outputs)
        self.last = nn.Sigmoid()

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return self.layer(self.last(inputs)).view(-1, 1)


class TestAuto:
    @pytest.mark.parametrize(
        ("overrides", "scaled"),
        [
            (("model=mlp",), True),
            (("model.output_activation=sigmoid",), False),
            (("model=custom", "model._target_=test_target_scale.Squashed"), False),
            (("model=custom", "model._target_=test_target_scale.Open"), True),
            (("data.scale_targets=false",), False),
            (("data.scale_targets=true", "model.output_activation=tanh"), True),
        ],
    )
    def test_a_table_with_a_model_that_can_give_any_number(self, overrides: tuple[str, ...], scaled: bool) -> None:
        experiment = built(*CSV, *overrides)
        assert (experiment.target_scale is not None and experiment.target_scale.standardizes) is scaled
        assert any("targets standardised" in note for note in experiment.splits.notes) is scaled

    def test_tensors_are_left_alone_unless_it_is_typed(self) -> None:
        tensors = ("data=tensors", "data.inputs=[[1],[2],[3]]", "data.targets=[5.0,6.0,9.0]", "data.val_fraction=0")
        assert built(*tensors, "loss=mse").target_scale is None
        scale = built(*tensors, "loss=mse", "data.scale_targets=true").target_scale
        assert scale is not None and scale.state()["mean"] == pytest.approx([20 / 3])

    def test_classes_are_never_scaled(self) -> None:
        write("kind.csv", slope=0, offset=0)
        assert built("data=digits").target_scale is None
        problem = problem_of(lambda: built("data=digits", "data.scale_targets=true"))
        assert about([problem]) == [("data.scale_targets", "conflict")]

    def test_a_saved_config_without_the_key_is_as_it_was(self, price: Path) -> None:
        saved = find(str(price))
        del saved.config["data"]["scale_targets"]
        assert evaluation.rebuild(saved).target_scale is None


@pytest.mark.parametrize(
    ("name", "pick"), [("r2", max), *(pytest.param(n, min, marks=pytest.mark.soak) for n in ("rmse", "mae"))]
)
def test_a_run_that_monitors_r2_keeps_the_largest(name: str, pick: Any, there: Path) -> None:
    run = train(f"by_{name}", *CSV, f"trainer.monitor=val/{name}", "trainer.epochs=5", "data.batch_size=8")
    values = {p.step: p.value for p in journal.read(run / "metrics.jsonl")[0] if p.name == f"val/{name}"}
    assert result(run)["best_epoch"] == pick(values, key=values.__getitem__)


@pytest.mark.parametrize("unit", [1e-9, 1.0, 1e6])
def test_a_table_shows_the_decimals_that_the_targets_had(unit: float) -> None:
    targets = torch.tensor([[238.69], [259.19], [0.01], [117.3], [512.64]], dtype=torch.float64) * unit
    targets = targets.apply_(lambda value: float(f"{value:.12g}"))
    scale = choose_target_scale(targets, True, auto=True)
    assert scale is not None
    for dtype in (torch.float32, torch.float64):
        standardised = ((targets - scale.mean) / scale.std).to(dtype)
        shown = scale.rounded(scale.in_units(standardised), dtype)
        assert [repr(value) for value in shown.flatten().tolist()] == [
            repr(value) for value in targets.flatten().tolist()
        ]


def test_values_that_are_not_scaled_stay() -> None:
    targets = torch.tensor([[1e-9, 2.0], [3e-9, 2.0]], dtype=torch.float64)
    scale = TargetScale(*(torch.tensor(values, dtype=torch.float64) for values in ([0, 2e6], [1, 3e6], [0, 0])))
    assert scale.rounded(targets, torch.float32)[:, 0].tolist() == [1e-9, 3e-9]
