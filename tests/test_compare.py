"""`python -m runner.compare`: differing parameters, the best runs, speed; as a table, files and plots."""

import csv
import io
import json
import re
import shutil
from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from helpers.problems import about
from helpers.quick import without_plots_and_rehearsal
from runner.cli import run_command
from runner.compare import main, notes
from runner.comparison.find import find
from runner.comparison.repeated_runs import find_repetitions
from runner.comparison.results import gather
from runner.comparison.runs import ComparedRun, from_folder
from runner.comparison.table import compare, rows, to_json, to_text
from runner.config.keys import flatten
from runner.errors import ConfigError, Problem
from runner.plots import comparison
from runner.plots.sweep import sweep_figure
from runner.rundir.code import Code, CodeFolder, Module
from runner.rundir.manifest import Manifest
from runner.rundir.points import Curve
from runner.saved.run import read_config
from runner.tracking.deliver import Delivery
from runner.tracking.store import local_uri
from runner.util import options


def curve(*values: float) -> Curve:
    return Curve(np.arange(1.0, 1 + len(values)), np.array(values))


def made(number: int = 1, status: str = "FINISHED", **known: Any) -> ComparedRun:
    return ComparedRun(number, f"run{number}", status, **({"config": {"seed": "0"}} | known))


def with_config(*configs: dict[str, str], choices: Sequence[dict[str, str]] = ()) -> list[ComparedRun]:
    chosen = list(choices) or [{}] * len(configs)
    return [made(i, config=config, choices=chosen[i - 1]) for i, config in enumerate(configs, start=1)]


def with_code(number: int, commit: str | None, dirty: bool = False, **modules: str) -> ComparedRun:
    """Make a run whose imported files have these contents."""
    files = {name: Module(f"{name}.py", f"{content:0>64}") for name, content in modules.items()}
    return made(number, code=Code([CodeFolder("/own", commit and commit * 40, dirty, modules=files)]))


class TestCode:
    def test_files_that_several_runs_have_are_compared(self) -> None:
        runs = [
            with_code(1, "a", net="1", cnn="5"),
            with_code(2, "b", net="2", mlp="6"),
            with_code(3, "b", dirty=True, net="3"),
            with_code(4, None, net="1"),
            with_code(5, "a", other="9"),
            made(6),
        ]
        compared = compare(runs)
        column = compared.differing["code"]
        assert column[:2] == ["aaaaaaa", "bbbbbbb"] and column[4:] == ["", ""]
        assert re.fullmatch(r"bbbbbbb\+[0-9a-f]{4}", column[2]) and re.fullmatch("[0-9a-f]{7}", column[3])
        assert any("the code differs in net.py;" in note for note in notes(compared))
        assert "code" in to_text(compared)[0] and rows(compared)[0]["code"] == "aaaaaaa"

    def test_code_that_was_edited_between_seeds_is_no_choice(self) -> None:
        runs = [with_code(number, "a", net=str(number)) for number in range(6)]
        for run, (lr, seed) in zip(runs, product("12", "012"), strict=True):
            run.config, run.metrics = {"optimizer.lr": lr, "seed": seed}, {"val/loss": float(lr) + float(seed)}
        assert {each.point["optimizer.lr"] for each in find_repetitions(compare(runs), "val/loss")} == {"1", "2"}
        results = gather(compare(runs))
        assert results is not None and [parameter.key for parameter in results.parameters] == ["optimizer.lr"]
        assert "the code differs between runs" in results.notes

    def test_folds_are_no_configurations(self) -> None:
        runs = [made(number) for number in range(4)]
        for run, (fold, seed) in zip(runs, product("01", "01"), strict=True):
            run.config, run.metrics = {"data.fold": fold, "seed": seed}, {"val/loss": float(fold) + float(seed)}
        assert find_repetitions(compare(runs), "val/loss") == []
        for run in runs:
            del run.config["data.fold"]
        assert find_repetitions(compare(runs), "val/loss")

    def test_code_that_was_tried_with_the_same_seeds_is_a_choice(self) -> None:
        runs = [with_code(number, "ab"[number // 3], net=str(number // 3)) for number in range(6)]
        for number, run in enumerate(runs):
            run.config, run.metrics = {"seed": str(number % 3)}, {"val/loss": float(number)}
        assert len({each.point["code"] for each in find_repetitions(compare(runs), "val/loss")}) == 2

    def test_the_same_code_and_modules_of_one_run_are_no_difference(self) -> None:
        runs = [with_code(1, "a", net="1", cnn="5"), with_code(2, "b", net="1", mlp="6"), made(3)]
        assert compare(runs).differing == {} and not any("code" in note for note in notes(compare(runs)))


class TestDiffering:
    def test_only_what_differs_is_shown(self) -> None:
        runs = with_config({"optimizer.lr": "0.1", "seed": "0"}, {"optimizer.lr": "0.2", "seed": "0"})
        assert compare(runs).differing == {"optimizer.lr": ["0.1", "0.2"]}

    def test_its_place_and_its_name_are_no_difference(self) -> None:
        one = {"tracking.run_name": "a", "resume": "null", "runner.quiet": "true", "tracking.uri": "x"}
        other = {"tracking.run_name": "b", "resume": "y", "runner.quiet": "false", "tracking.uri": "null"}
        assert compare(with_config(one, other)).differing == {}

    def test_a_choice_stands_for_the_keys_that_only_it_has(self) -> None:
        mlp = {"model._target_": "MLP", "model.hidden": "[128]", "model.dropout": "0.0"}
        cnn = {"model._target_": "CNN", "model.channels": "[32]", "model.strides": "[1]", "model.dropout": "0.5"}
        c = compare(with_config(mlp, cnn, choices=[{"model": "mlp"}, {"model": "cnn"}]))
        assert c.differing == {"model": ["mlp", "cnn"], "model.dropout": ["0.0", "0.5"]}
        assert c.labels == ["1: mlp", "2: cnn"]  # the dropout follows from it

    def test_what_was_varied_within_a_choice_is_shown_too(self) -> None:
        mlp, small, large = {"model.hidden": "[128]"}, {"model.channels": "[8]"}, {"model.channels": "[32]"}
        choices = [{"model": "mlp"}, {"model": "cnn"}, {"model": "cnn"}]
        c = compare(with_config(mlp, small, large, choices=choices))
        assert c.differing == {"model": ["mlp", "cnn", "cnn"], "model.channels": ["", "[8]", "[32]"]}
        assert c.labels == ["1: mlp", "2: cnn, channels [8]", "3: cnn, channels [32]"]

    def test_a_device_is_named_once(self) -> None:
        runs = with_config(
            {"device.name": "cpu"}, {"device.name": "cuda"}, choices=[{"device": "cpu"}, {"device": "cuda"}]
        )
        assert compare(runs).differing == {"device": ["cpu", "cuda"]}
        same_choice = with_config({"device.name": "cpu"}, {"device.name": "cuda"}, choices=[{"device": "auto"}] * 2)
        assert compare(same_choice).differing == {"device.name": ["cpu", "cuda"]}

    def test_without_recorded_choices_classes_stand_for_them(self) -> None:
        runs = with_config({"model._target_": "a.b.MLP"}, {"model._target_": "a.b.CNN"})
        assert compare(runs).differing == {"model": ["MLP", "CNN"]}

    def test_labels_begin_with_what_tells_most_runs_apart(self) -> None:
        same = {"data": "digits", "loss": "mse", "precision": "fp32"}
        odd = {"data": "csv", "loss": "l1", "precision": "amp"}
        configs = [{"optimizer.lr": lr, "trainer.epochs": n} for lr, n in (("1", "5"), ("2", "5"), ("1", "6"))]
        choices = [same, same, odd]
        c = compare(with_config(*configs, {"optimizer.lr": "3", "trainer.epochs": "5"}, choices=[*choices, same]))
        assert c.labels[0] == "1: lr 1, digits, mse, ..." and c.labels[2] == "3: lr 1, csv, l1, ..."
        assert len({label.partition(": ")[2] for label in c.labels}) == 4

    def test_a_long_value_leaves_room_for_others_in_a_label(self) -> None:
        configs = [{"data.inputs": f"[[{i}.0,{'2.0,' * 20}]]", "seed": str(i)} for i in (1, 2)]
        assert compare(with_config(*configs)).labels[0] == "1: inputs [[1.0,2.0,2.0..., seed 1"

    def test_a_job_that_never_started_has_empty_cells(self) -> None:
        runs = [made(0, config={"seed": "0"}), made(1, config={"seed": "1"}), made(2, "NOT STARTED", config={})]
        assert compare(runs).differing == {"seed": ["0", "1", ""]}


class TestFigures:
    def test_the_first_epoch_is_left_out_where_there_are_others(self) -> None:
        run = made(epoch_seconds=curve(9, 1, 3, 1.5), rates=curve(10, 100, 80))
        assert (run.epoch_time, run.samples_per_second) == (1.5, 90.0)
        assert (made(epoch_seconds=curve(9)).epoch_time, made().epoch_time) == (9.0, None)

    def test_speed_up_is_against_the_first(self) -> None:
        c = compare([made(i, epoch_seconds=curve(5, s)) for i, s in enumerate((2.0, 0.5, 4.0))] + [made(3, "FAILED")])
        assert [c.speed_up(i) for i in range(4)] == [1.0, 4.0, 0.5, None]

    def test_the_best_finished_run_of_each_metric_is_marked(self) -> None:
        runs = [
            made(1, metrics={"val/loss": 0.3, "test/accuracy": 0.9}),
            made(2, metrics={"val/loss": 0.2, "test/accuracy": 0.8}),
            made(3, "KILLED", metrics={"val/loss": 0.1, "test/accuracy": 0.99}),
            made(4, "FAILED"),
        ]
        c = compare(runs)
        assert c.best == {"val/loss": [1], "test/accuracy": [0]}
        lines = to_text(c)
        assert [("*" in line) for line in lines[1:]] == [True, True, False, False]
        assert "0.2000*" in lines[2] and "90.00 %*" in lines[1]
        assert json.loads(to_json(c))["best"] == {"val/loss": [2], "test/accuracy": [1]}
        assert any("*" in note for note in notes(c)) and not any("*" in note for note in notes(compare(runs[2:])))

    def test_parameters_that_do_not_fit_the_terminal_are_named_below(self) -> None:
        keys = [f"model.key_{i}" for i in range(9)]
        c = compare(with_config(dict.fromkeys(keys, "1"), dict.fromkeys(keys, "x" * 20)))
        whole, cut = to_text(c), to_text(c, 100)
        assert len(whole[0]) > 200 and to_text(c, 1000) == whole
        assert max(map(len, cut[:-1])) <= 100 and "model.key_0" in cut[0] and "model.key_8" not in cut[0]
        assert cut[-1].startswith("not shown for the width of the terminal: model.key_") and "comparison.csv" in cut[-1]

    def test_where_all_are_the_same_none_is_best(self) -> None:
        assert compare([made(i, metrics={"val/loss": 0.3}) for i in (1, 2)]).best == {"val/loss": []}

    def test_a_value_that_is_no_number_is_null_in_json_and_never_best(self) -> None:
        c = compare([made(i, metrics={"val/loss": v}) for i, v in ((1, float("nan")), (2, 0.3), (3, 0.4))])
        assert c.best == {"val/loss": [1]}
        assert json.loads(to_json(c))["runs"][0]["val/loss"] is None

    def test_a_star_is_set_among_runs_of_the_same_data_and_loss(self) -> None:
        digits = {"data._target_": "digits", "loss._target_": "CrossEntropy", "data.batch_size": "32"}
        table = {"data._target_": "csv", "loss._target_": "BCE"}
        configs = [digits, digits | {"data.batch_size": "64"}, table, table, digits | {"data.limit": "9"}]
        losses = (0.3, 0.2, 0.02, 0.01, 0.001)
        runs = [
            made(i, config=c, metrics={"val/loss": v}) for i, (c, v) in enumerate(zip(configs, losses, strict=True))
        ]
        assert compare(runs).best == {"val/loss": [1, 3]}

    def test_an_accuracy_can_be_compared_across_losses_and_a_loss_cannot(self) -> None:
        settings: list[dict[str, str]] = [
            {"loss._target_": "CrossEntropy", "loss.label_smoothing": "0.0"},
            {"loss._target_": "CrossEntropy", "loss.label_smoothing": "0.1"},  # in training only
            {"loss._target_": "MultiMargin"},
        ]
        names = ("val/loss", "val/accuracy", "train/loss")
        runs = [made(i, config=c, metrics=dict.fromkeys(names, 0.1 * i)) for i, c in enumerate(settings)]
        assert compare(runs).best == {"val/loss": [0], "val/accuracy": [2], "train/loss": []}

    def test_losses_of_different_tasks_are_not_compared(self) -> None:
        supervised = {"task._target_": "runner.task.supervised.Supervised", "task.targets": "null"}
        settings: list[dict[str, str]] = [
            {"loss._target_": "CrossEntropy"},  # of version 0.1.0
            {"loss._target_": "CrossEntropy"} | supervised,
            {"loss._target_": "CrossEntropy", "task._target_": "vae.VAE", "task.beta": "1"},
            {"loss._target_": "CrossEntropy", "task._target_": "vae.VAE", "task.beta": "2"},
        ]
        runs = [made(i, config=c, metrics={"val/loss": 0.1 * i, "val/found": 0.1 * i}) for i, c in enumerate(settings)]
        assert compare(runs).best == {"val/loss": [0], "val/found": [0]}, "each task of its own has one run"
        assert compare(runs[1:]).best["val/loss"] == []
        twice = [*runs, made(4, config=settings[2], metrics={"val/loss": 0.1})]
        assert compare(twice).best["val/loss"] == [0, 4]

    def test_what_makes_data_different_is_noted_and_gives_no_speed_up(self) -> None:
        def run(seconds: float, samples: int, **data: str) -> ComparedRun:
            config = {"seed": "0"} | {f"data.{key}": value for key, value in data.items()}
            return made(config=config, epoch_seconds=curve(9, seconds), rates=curve(samples / 9, samples / seconds))

        here, there = (
            run(3.0, 100, _target_="digits", root="a"),
            run(0.7, 100, _target_="digits", root="b", batch_size="9"),
        )
        assert compare([here, there]).speed_up(1) == 3.0 / 0.7
        assert not any("no speed-up" in note for note in notes(compare([here, there])))
        for other, what in (
            (run(1.0, 100, _target_="csv", path="x"), "data"),
            (run(1.0, 100, _target_="csv", limit="100"), "data, data.limit"),
            (run(1.0, 50, _target_="digits", limit="50"), "data.limit, samples per epoch"),
            (run(1.0, 50, _target_="digits"), "samples per epoch"),
        ):
            assert compare([here, other]).speed_up(1) is None
            compared = compare([here, other, made(3, "NOT STARTED", config={})])
            (note,) = (note for note in notes(compared) if "no speed-up" in note)
            assert f" {what}:" in note

    def test_columns_of_the_table_are_aligned(self) -> None:
        runs = [
            made(i, config={"optimizer.lr": lr}, parameters=p) for i, lr, p in ((1, "0.1", 9), (22, "0.015", 12345))
        ]
        head, *lines = to_text(compare(runs))
        assert len({line.index("FINISHED") for line in lines}) == 1
        assert head.index("status") == lines[0].index("FINISHED")
        assert head.index("parameters") + len("parameters") == lines[0].index(" 9") + 2


class TestPlots:
    def runs(self, count: int) -> list[ComparedRun]:
        return [
            made(
                i,
                config={"optimizer.lr": str(10.0**-i), "trainer.monitor": "val/loss"},
                metrics={"val/loss": 0.1 * i, "test/accuracy": 0.9},
                epoch_seconds=curve(3, i),
                rates=curve(5, 100 / i),
                curves={"val/loss": curve(1 + i, 0.5 + i)},
            )
            for i in range(1, count + 1)
        ]

    def test_a_bar_a_run_in_each_panel(self) -> None:
        figure = comparison.bars(compare([*self.runs(2), made(3, "FAILED", config=self.runs(3)[2].config)]))
        assert figure is not None
        time, rate, accuracy = figure.axes
        assert [bar.get_width() for bar in time.patches] == [1.0, 2.0, 0.0]
        assert [bar.get_width() for bar in rate.patches] == [100.0, 50.0, 0.0]
        assert [bar.get_width() for bar in accuracy.patches] == [90.0, 90.0, 0.0]
        assert [text.get_text() for text in time.texts] == ["1 (1.00x)", "2 (0.50x)", "failed"]
        assert "/ s" in time.get_xlabel() and accuracy.get_xlabel() == "test accuracy / %"
        assert [label.get_text() for label in time.get_yticklabels()][:2] == ["1: lr 0.1", "2: lr 0.01"]

    def test_words_about_speed_up_only_where_there_is_one(self) -> None:
        first_failed = [made(1, "FAILED"), *self.runs(2)]
        for runs, expected in ((self.runs(2), True), (self.runs(1), False), (first_failed, False)):
            figure = comparison.bars(compare(runs))
            assert figure is not None
            assert ("speed-up" in figure.axes[0].get_xlabel()) is expected
            assert any("x)" in text.get_text() for text in figure.axes[0].texts) is expected

    def test_a_finished_run_without_the_metric_has_none(self) -> None:
        figure = comparison.bars(compare([*self.runs(1), made(2, metrics={"train/loss": 0.1})]))
        assert figure is not None
        assert [text.get_text() for text in figure.axes[2].texts] == ["90.00", "none"]

    def test_at_most_twelve_loss_curves_told_apart_by_colour_and_line(self) -> None:
        figure = comparison.loss_curves(compare(self.runs(14)))
        assert figure is not None
        (axes,) = figure.axes
        assert len({(line.get_color(), line.get_linestyle()) for line in axes.lines}) == len(axes.lines) == 12
        assert axes.get_yscale() == "log"
        assert axes.lines[0].get_ydata()[1] == 1.5 and "12 of 14" in axes.get_title()


HITS = """
from runner.loss import CrossEntropy, Metric, correct


class Hits(CrossEntropy):
    metrics = {"hits": Metric(correct, higher_is_better=True)}
"""


@pytest.fixture(scope="module")
def outputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a sweep of three jobs, of which the last was killed, and a fourth that never started."""
    folder = tmp_path_factory.mktemp("outputs")
    small = ("data.limit=64", "trainer.epochs=3", "model.hidden=[4]", "tracking=off", "runner.quiet=true")
    with pytest.MonkeyPatch.context() as patch:
        without_plots_and_rehearsal(patch)
        for number, lr in enumerate((0.01, 0.1, 1)):
            assert run_command([*small, f"optimizer.lr={lr}", f"hydra.run.dir={folder}/sweeps/s/{number}"]) == 0
    killed = folder / "sweeps" / "s" / "2"
    (killed / "result.json").unlink()
    journal = (killed / "metrics.jsonl").read_text().splitlines(keepends=True)
    (killed / "metrics.jsonl").write_text("".join(line for line in journal if '"step": 1,' in line))
    killed.rename(killed.with_name("10"))
    (folder / "sweeps" / "s" / "11").mkdir()
    return folder


@pytest.fixture
def no_plots(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("runner.plots.comparison.draw", lambda *arguments, **known: [])
    monkeypatch.setattr("runner.plots.verdict.draw_verdict", lambda *arguments: None)


def repeated(run: Path, sweep: Path, losses: dict[str, float], seeds: int) -> Path:
    """Make a sweep over learning rates and seeds out of one run."""
    for number, (lr, seed) in enumerate(product(losses, range(seeds))):
        shutil.copytree(run, sweep / str(number))
        for name, old, new in (
            ("config.yaml", "seed: 0", f"seed: {seed}"),
            ("config.yaml", "  lr: 0.01", f"  lr: {lr}"),
            ("result.json", r'"val/loss": [^,]*', f'"val/loss": {losses[lr] + 0.01 * np.sin(seed + 20 * float(lr))}'),
        ):
            text, count = re.subn(old, new, (sweep / str(number) / name).read_text(), count=1)
            assert count == 1
            (sweep / str(number) / name).write_text(text)
    return sweep


@pytest.fixture(autouse=True)
def _there(outputs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RUNNER_OUTPUTS", str(outputs))


class TestCommand:
    def test_a_run_without_validation_and_test_shows_its_training(
        self, outputs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        without_plots_and_rehearsal(monkeypatch)
        tiny = ("experiment=tiny_relu", "trainer.epochs=20", "tracking=off", "runner.quiet=true")
        assert run_command([*tiny, f"hydra.run.dir={tmp_path / 'tiny'}"]) == 0
        result = json.loads((tmp_path / "tiny/result.json").read_text())
        assert main([f"runs=[{tmp_path / 'tiny'},{outputs / 'sweeps/s/0'}]", f"output={tmp_path / 'out'}"]) == 0
        printed = capsys.readouterr()
        tiny_row, digits = csv.DictReader(io.StringIO(printed.out))
        assert float(tiny_row["train/loss"]) == result["train/loss"] and tiny_row["val/loss"] == ""
        assert digits["train/loss"] == "" and digits["val/loss"] != "" and digits["speed_up"] == ""
        assert " data, data.limit" in printed.err and "no speed-up" in printed.err
        figure = comparison.bars(compare([from_folder(tmp_path / "tiny", 1)]))
        assert figure is not None and figure.axes[2].get_xlabel() == "training loss"

    def test_without_tracking_labels_name_what_was_swept(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        without_plots_and_rehearsal(monkeypatch)
        swept = [(model, precision) for model in ("mlp", "cnn") for precision in ("fp32", "amp")]
        preset = ("experiment=device_comparison", "data=digits", "data.limit=32", "trainer.epochs=1", "device=cpu")
        for number, (model, precision) in enumerate(swept):
            chosen = (f"model={model}", f"precision={precision}", "tracking=off", "runner.quiet=true")
            assert run_command([*preset, *chosen, f"hydra.run.dir={tmp_path}/{number}"]) == 0
        c = compare([from_folder(tmp_path / str(number), number) for number in range(4)])
        assert c.labels == ["0: MLP, fp32", "1: MLP, amp", "2: CNN, fp32", "3: CNN, amp"]

    def test_a_metric_of_one_s_own_that_rises(
        self, tmp_path: Path, here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        without_plots_and_rehearsal(monkeypatch)
        (here / "hits.py").write_text(HITS)
        monkeypatch.syspath_prepend(str(here))
        small = ("data.limit=200", "trainer.epochs=1", "model.hidden=[4]", "tracking=off", "runner.quiet=true")
        mine = ("loss._target_=hits.Hits", "trainer.monitor=val/hits", "scheduler=plateau")
        for number, lr in enumerate((0.3, 1e-6)):
            chosen = (f"optimizer.lr={lr}", f"hydra.run.dir={tmp_path}/{number}")
            assert run_command([*small, *mine, *chosen]) == 0
        c = compare([from_folder(tmp_path / str(number), number) for number in range(2)])
        better, worse = c.values("val/hits")
        assert better > worse and c.best["val/hits"] == [0] and c.best["val/loss"] == [0]
        results = gather(c)
        assert results is not None
        assert (results.metric, results.maximized, results.best) == ("val/hits", True, 0)

    def test_a_sweep_by_its_folder(self, outputs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert main([f"sweep={outputs / 'sweeps/s'}", f"output={tmp_path / 'out'}"]) == 0
        printed = capsys.readouterr()
        table = list(csv.DictReader(io.StringIO(printed.out)))
        assert [row["number"] for row in table] == ["0", "1", "10", "11"]
        assert [row["status"] for row in table] == ["FINISHED", "FINISHED", "KILLED", "NOT STARTED"]
        assert [row["optimizer.lr"] for row in table] == ["0.01", "0.1", "1", ""]
        assert "data.batch_size" not in table[0]
        result = json.loads((outputs / "sweeps/s/1/result.json").read_text())
        for name in ("val/loss", "val/accuracy", "test/loss", "test/accuracy"):
            assert float(table[1][name]) == result[name]
            assert (table[2][name], table[3][name]) == ("", "")
        assert float(table[1]["epoch_seconds"]) == pytest.approx(sum(result["epoch_seconds"][1:]) / 2)
        assert float(table[1]["speed_up"]) == float(table[0]["epoch_seconds"]) / float(table[1]["epoch_seconds"])
        assert table[2]["epochs"] == "1" and "run 10: times of the first epoch" in printed.err
        assert printed.err.splitlines()[0].startswith(" #  optimizer.lr  status")
        assert (tmp_path / "out" / "comparison.csv").read_text() == printed.out
        for name in ("bars", "loss", "sweep"):
            with Image.open(tmp_path / "out" / f"{name}.png") as image:
                assert min(image.size) > 200 and len(image.convert("RGB").getcolors(1 << 20)) > 20

    def test_runs_that_differ_in_their_seed_get_a_verdict(
        self, outputs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        sweep = repeated(outputs / "sweeps/s/0", tmp_path / "s", {"0.1": 0.5, "0.03": 0.6}, seeds=3)
        out = tmp_path / "o"
        assert main([f"sweep={sweep}", f"output={out}"]) == 0
        lines = capsys.readouterr().err.splitlines()
        (line,) = [place for place, line in enumerate(lines) if line.startswith("verdict ")]
        assert lines[line].split()[1:5] == ["lr=0.1", "has", "the", "best"] and "val/loss" in lines[line]
        assert lines[line + 1].strip().startswith("better than lr=0.03 by 0.1")
        assert {"verdict.csv", "verdict.json", "verdict.md", "verdict.png"} <= {path.name for path in out.iterdir()}
        assert [row["verdict"] for row in csv.DictReader((out / "verdict.csv").open())] == ["best", "worse"]
        assert "2 configurations (optimizer.lr: 0.1, 0.03)" in (out / "verdict.md").read_text()

    def test_the_verdict_is_by_the_metric_of_the_sweep(
        self, outputs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], no_plots: None
    ) -> None:
        sweep = repeated(outputs / "sweeps/s/0", tmp_path / "s", {"0.1": 0.5, "0.03": 0.6}, seeds=3)
        (sweep / "jobs.json").write_text('{"metric": "val/loss", "direction": "max"}')
        assert main([f"sweep={sweep}", f"output={tmp_path / 'o'}"]) == 0
        assert "verdict    lr=0.03 has the best mean val/loss" in capsys.readouterr().err
        (sweep / "verdict.json").write_text('{"smallest_difference": 0.5, "max_seeds": 4}')
        assert main([f"sweep={sweep}", f"output={tmp_path / 'o'}"]) == 0
        settings = json.loads((tmp_path / "o/verdict.json").read_text())
        assert (settings["smallest_difference"], settings["max_seeds"]) == (0.5, 4)
        assert "not ranked: lr=0.03 has values for 3 of 4 seeds" in capsys.readouterr().err
        two = {"metric": "val/loss", "direction": "min", "objectives": [{}, {}]}
        (sweep / "jobs.json").write_text(json.dumps(two))
        assert main([f"sweep={sweep}", f"output={tmp_path / 'o'}"]) == 0
        assert "verdict  " not in capsys.readouterr().err

    def test_a_seed_that_was_killed_is_one_too_few(
        self, outputs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], no_plots: None
    ) -> None:
        sweep = repeated(outputs / "sweeps/s/0", tmp_path / "s", {"0.1": 0.5, "0.03": 0.6, "0.01": 0.7}, seeds=3)
        (sweep / "1/result.json").unlink()
        assert main([f"sweep={sweep}", f"output={tmp_path / 'o'}"]) == 0
        printed = capsys.readouterr().err
        assert (
            "verdict    lr=0.03 has the best" in printed and "not ranked: lr=0.1 has values for 2 of 3 seeds" in printed
        )

    def test_what_halving_has_paused_is_named_so(self, outputs: Path, tmp_path: Path, no_plots: None) -> None:
        sweep = repeated(outputs / "sweeps/s/0", tmp_path / "s", {"0.1": 0.5, "0.03": 0.6}, seeds=3)
        result = json.loads((sweep / "3/result.json").read_text())
        (sweep / "3/result.json").write_text(json.dumps(result | {"status": "PAUSED"}))
        assert main([f"sweep={sweep}", f"output={tmp_path / 'o'}"]) == 0
        rows = list(csv.DictReader((tmp_path / "o/verdict.csv").open()))
        assert [(row["optimizer.lr"], row["verdict"]) for row in rows] == [("0.1", "best"), ("0.03", "paused")]

    def test_other_data_with_another_seed_are_no_verdict(
        self, outputs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], no_plots: None
    ) -> None:
        sweep = repeated(outputs / "sweeps/s/0", tmp_path / "s", {"0.1": 0.5, "0.03": 0.6}, seeds=3)
        config = sweep / "5/config.yaml"
        config.write_text(config.read_text().replace("  limit: 64\n", "  limit: 65\n"))
        assert main([f"sweep={sweep}", f"output={tmp_path / 'o'}"]) == 0
        printed = capsys.readouterr().err
        assert (
            "no verdict on the configurations: their data or losses differ" in printed and "verdict.csv" not in printed
        )

    def test_axes_that_the_sweep_has_tagged_log_are_drawn_so(self, outputs: Path, tmp_path: Path) -> None:
        for number in (0, 1):
            shutil.copytree(outputs / "sweeps/s" / str(number), tmp_path / "s" / str(number))
        jobs = [from_folder(tmp_path / "s" / str(number), number) for number in (0, 1)]
        assert compare(jobs).log_axes == frozenset()
        record = {"arguments": [], "axes": {}, "jobs": [], "log_axes": ["optimizer.lr"]}
        (tmp_path / "s" / "sweep.json").write_text(json.dumps(record))
        c = compare([from_folder(tmp_path / "s" / str(number), number) for number in (0, 1)])
        figure = sweep_figure(c)
        assert c.log_axes == {"optimizer.lr"} and figure is not None and figure.axes[0].get_xscale() == "log"

    def test_runs_by_folder_and_id_where_the_folder_is_gone(
        self, outputs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        folder = tmp_path / "gone"
        shutil.copytree(outputs / "sweeps/s/1", folder)
        uri = local_uri(tmp_path)
        params = flatten(read_config(folder / "config.yaml", "")) | {"model": "mlp"}
        tags = {
            "runner.folder": str(folder),
            "runner.parameters": "310",
            "runner.log_axes": "optimizer.lr data.batch_size",
        }
        parent = Manifest(uri, "e", "parent").ended("FINISHED")
        parent.save(tmp_path)
        assert Delivery(tmp_path).step()
        parent_id = Delivery(tmp_path).run_id
        Manifest(uri, "e", "child", params=params, tags=tags, parent_run_id=parent_id).ended("FINISHED").save(folder)
        delivery = Delivery(folder)
        assert delivery.step()
        here = from_folder(folder, 1)
        shutil.rmtree(folder)
        for given in (
            [f"runs={outputs}/sweeps/s/0,{delivery.run_id}"],
            [f"sweep={parent_id}", f"runs=[{outputs}/sweeps/s/0]"],
        ):
            assert main([*given, f"tracking.uri={uri}", f"output={tmp_path / 'out'}"]) == 0
            table = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
            assert [row["optimizer.lr"] for row in table] == ["0.01", "0.1"]
            assert [row["run_id"] for row in table] == ["", delivery.run_id]
            assert table[1]["speed_up"]  # folder and store have the same data
        (gone,) = find(str(delivery.run_id), None, uri)
        assert gone.log_axes == {"optimizer.lr", "data.batch_size"}
        kept = json.loads((tmp_path / "out" / "comparison.json").read_text())["runs"][1]
        expected = rows(compare([here]))[0]
        figures = ("val/loss", "test/accuracy", "epochs", "epoch_seconds", "samples_per_second", "status")
        assert [kept[name] for name in figures] == [expected[name] for name in figures]
        assert kept["parameters"] == 310 and kept["folder"] is None

    def test_without_arguments_the_newest_runs(
        self, outputs: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        monkeypatch.setenv("RUNNER_OUTPUTS", str(tmp_path))
        for number in range(22):
            folder = tmp_path / "runs" / f"run{number:02}"
            folder.mkdir(parents=True)
            (folder / "config.yaml").write_text(f"seed: {number}\n")
        assert main([]) == 0
        printed = capsys.readouterr()
        assert "the newest 20 of 22 runs" in printed.err
        assert [row["seed"] for row in csv.DictReader(io.StringIO(printed.out))] == [str(n) for n in range(2, 22)]
        (kept,) = (tmp_path / "comparisons").iterdir()
        assert {path.name for path in kept.iterdir()} == {"comparison.csv", "comparison.json"}

    @pytest.mark.parametrize(
        ("arguments", "problems", "suggestion"),
        [
            (["sweep=nowhere"], [("sweep", "file")], "write sweep=<"),
            (["runs=[]"], [("runs", "missing")], "write runs=[<"),
            (["runs=sweeps/s"], [("runs", "run")], "write sweep=sweeps/s"),
            (["sweep=sweeps/s/0"], [("sweep", "run")], "write runs=sweeps/s/0"),
            (["run=x"], [("run", "unknown")], "did you mean runs?"),
            (["runs=sweeps/s/0", "output=sweeps/s/0/config.yaml"], [("output", "file")], "write another folder"),
        ],
    )
    def test_mistakes_are_exit_2_in_one_line_each(
        self,
        arguments: list[str],
        problems: list[tuple[str, str]],
        suggestion: str,
        outputs: Path,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        monkeypatch.chdir(outputs)
        reported: list[Problem] = []

        def fail(*each: Problem) -> int:
            reported.extend(each)
            return print_problems(*each)

        print_problems = options.print_errors
        monkeypatch.setattr(options, "print_errors", fail)
        assert main(arguments) == 2
        printed = capsys.readouterr()
        assert about(reported) == problems and suggestion in reported[0].suggestion
        assert [line.startswith("error: ") for line in printed.err.splitlines()] == [True] * len(problems)
        assert printed.out == ""
        assert not (outputs / "comparisons").exists()

    @pytest.mark.parametrize(("runs", "topics"), [("[nowhere,there]", ["file", "file"]), ("0" * 32, ["store"])])
    def test_each_run_that_is_not_found_is_a_problem(
        self, runs: str, topics: list[str], outputs: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(outputs)
        with pytest.raises(ConfigError) as raised:
            find(runs, None, None)
        assert about(raised) == [("runs", topic) for topic in topics]
