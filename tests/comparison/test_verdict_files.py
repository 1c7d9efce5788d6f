"""The files of a verdict: CSV, JSON, and the paragraph for a paper."""

import csv
import io
import json
from pathlib import Path

import pytest

from helpers.repeated import ACCURACY, LOSS, paused, repeated, without
from runner.comparison.repetitions import Repetition
from runner.comparison.runs import ComparedRun
from runner.comparison.setting import Setting, find_setting
from runner.comparison.verdict import judge
from runner.comparison.verdict_files import conclude, to_csv
from runner.comparison.verdict_paper import to_markdown
from runner.comparison.verdict_text import format_number, to_text
from runner.rundir.looks import Look
from runner.rundir.manifest import Dataset, Manifest

RUNS = without(repeated({"0.1": 0.9, "0.03": 0.899, "0.01": 0.7, "1": 0.5}, 5), "1", 2)
ENVIRONMENT = """python: 3.12.1 (CPython)
cpu: A CPU
cores: 4 (2 usable)

runner: 1.2.3
torch: 2.14.1

# every installed package
torch==9
"""


def paragraph(runs: list[Repetition], setting: Setting = Setting(), **known: float) -> str:  # noqa: B008
    return to_markdown(judge(runs, ACCURACY, **known), setting).splitlines()[-1]  # type: ignore[arg-type]


def run_in(folder: Path, number: int = 0, **config: str) -> ComparedRun:
    """Make a run whose folder has a manifest and an environment."""
    folder.mkdir()
    (folder / "environment.txt").write_text(ENVIRONMENT)
    (folder / "samples.json").write_text('{"data": "digits"}')
    profile = {"train": 1150, "val": 287, "test": 0}
    Manifest("", "", "", dataset=Dataset("", "", "", profile)).save(folder)
    settings = {"device.name": "cpu", "device.threads": "2", "precision.name": "fp32", "data.val_fraction": "0.2"}
    settings |= {"data.split": "random", "data.split_by": "null", "trainer.monitor": "val/loss"}
    settings |= {"data.batch_size": "64", "trainer.epochs": "3"} | config
    choices = {"model": "mlp", "optimizer": "sgd" if number else "adam"}
    return ComparedRun(number, folder.name, "FINISHED", folder=str(folder), config=settings, choices=choices)


def test_a_line_of_the_table_is_a_configuration() -> None:
    best, close, worse, missing = csv.DictReader(io.StringIO(to_csv(judge(RUNS, ACCURACY))))
    assert (best["name"], best["optimizer.lr"], best["n"], best["verdict"]) == ("lr=0.1", "0.1", "5", "best")
    assert float(best["mean_low"]) < float(best["mean"]) < float(best["mean_high"])
    assert best["difference"] == best["low"] == best["p"] == ""
    assert close["verdict"] == "cannot be told" and int(close["seeds_needed"]) > 5
    assert float(close["low"]) < float(close["uncorrected_low"]) < 0 < float(close["uncorrected_high"])
    assert float(close["uncorrected_high"]) < float(close["high"])
    assert worse["verdict"] == "worse" and float(worse["p_corrected"]) == pytest.approx(3 * float(worse["p"]))
    assert float(worse["difference"]) == pytest.approx(0.2, abs=0.01) and worse["seeds_needed"] == ""
    assert (missing["verdict"], missing["n"], missing["mean"] != "") == ("not ranked", "4", True)


def test_all_files_are_written(tmp_path: Path) -> None:
    verdict, names = conclude(RUNS, ACCURACY, [], tmp_path)
    assert names == ["verdict.csv", "verdict.json", "verdict.md"]
    assert (tmp_path / "verdict.csv").read_text() == to_csv(verdict)
    content = json.loads((tmp_path / "verdict.json").read_text())
    assert (content["metric"], content["direction"], content["best"]) == ("val/accuracy", "max", "lr=0.1")
    assert (content["pairs"], content["test"]) == (3, "paired t")
    assert content["error_of_a_pair"] == pytest.approx(0.05 / 3)
    assert content["configurations"][0]["values"].keys() == set("01234")
    assert content["configurations"][1]["words"] in (tmp_path / "verdict.md").read_text()


def test_they_can_be_private(tmp_path: Path) -> None:
    conclude(RUNS, ACCURACY, [], tmp_path, private=True)
    assert {file.stat().st_mode & 0o777 for file in tmp_path.iterdir()} == {0o600}


def test_looks_at_the_test_part_are_told_in_order(tmp_path: Path) -> None:
    looks = [Look("m", "9", 6, 3, chosen=False), Look("m", "7", 5, 3, chosen=True), Look("a", "1", 1, 1, chosen=True)]
    runs = [ComparedRun(number, "", "FINISHED", look=look) for number, look in enumerate(looks)]
    verdict, _ = conclude(RUNS, ACCURACY, runs, tmp_path)
    first, third, last = to_text(verdict)[-3:]
    assert first.strip() == "a version 1: the 1st champion chosen on this test set, with the 1st look at it"
    assert third.strip().startswith("m version 7: the 3rd champion chosen on this test set, with the 5th look at it: ")
    assert last.strip().startswith("m version 9: the 6th look at this test set: ")
    sentence = "The test part has decided 6 times which version of m is its champion; 3 times it was a new one."
    assert sentence in (tmp_path / "verdict.md").read_text()


def test_a_failed_seed_leaves_valid_json(tmp_path: Path) -> None:
    conclude(without(RUNS, "0.1", 0, float("inf")), LOSS, [], tmp_path)

    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    json.loads((tmp_path / "verdict.json").read_text(), parse_constant=refuse)


def test_the_paragraph_names_data_seeds_method_hardware_and_versions(tmp_path: Path) -> None:
    setting = find_setting([run_in(tmp_path / str(number), number) for number in range(2)])
    assert paragraph(RUNS, setting) == (
        "We trained 4 configurations (optimizer.lr: 0.1, 0.03, 0.01, 1) on digits (1,150 train, 287 val samples) "
        "with 5 seeds each (0, 1, 2, 3, 4). All runs have model mlp, batches of 64, at most 3 epochs. For validation, "
        "20 % of the training samples were held out, chosen by the seed. They are compared by the mean of val/accuracy "
        "over the seeds, higher is better. The value of a run is that of its best epoch by val/loss. The best mean is "
        "that of lr=0.1: 0.9002 (n = 5, sd 0.0050). Not ranked, without a finite value for each seed: lr=1 (4 of 5). "
        "Differences to the best are paired by seed; their 95 % intervals are those of two-sided paired t tests. As "
        "the best was chosen by the same data, the intervals are simultaneous for all 3 pairs of 3 configurations "
        "(Bonferroni). Computed on A CPU (4 cores): cpu, fp32, 2 threads. Versions: Python 3.12.1 (CPython), PyTorch "
        "2.14.1, runner 1.2.3."
    )


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"data.val_fraction": "null"}, "The validation part is that of the data set."),
        ({"data.val_fraction": "0.0"}, "There is no validation part."),
        ({"data.split": "sequential"}, "For validation, 20 % of the training samples were held out, the last ones."),
        (
            {"data.split": "stratified", "data.split_by": "patient"},
            "For validation, 20 % of the training samples were held out, each class with its share, chosen by the "
            "seed; no value of patient is in both parts.",
        ),
    ],
)
def test_it_says_how_validation_samples_were_chosen(tmp_path: Path, config: dict[str, str], expected: str) -> None:
    assert find_setting([run_in(tmp_path / "0", **config)]).split == expected


def test_without_a_validation_part_the_last_epoch_counts(tmp_path: Path) -> None:
    setting = find_setting([run_in(tmp_path / "0", **{"data.val_fraction": "0.0"})])
    assert setting.epoch == "The value of a run is that of its last epoch."


def test_different_machines_are_all_named(tmp_path: Path) -> None:
    runs = [run_in(tmp_path / str(number), number) for number in range(2)]
    other = ENVIRONMENT.replace("A CPU", "Another").replace("cores: 4 (2 usable)", "cores: 8\ngpu: A GPU\ncuda: 13.0")
    (tmp_path / "1/environment.txt").write_text(other)
    assert find_setting(runs).hardware == "A CPU (4 cores) and A GPU (CUDA 13.0), Another (8 cores)"


def test_what_is_not_known_is_left_out() -> None:
    found = find_setting([ComparedRun(0, "a", "FINISHED", config={"seed": "0"}, choices={"data": "digits"})])
    assert (found.data, found.sizes, found.hardware, found.versions) == ("digits", "", "", "")
    text = paragraph(RUNS, found)
    assert " on digits with 5 seeds each" in text and text.endswith("(Bonferroni).")


def test_stages_and_a_choice_by_the_test_part_are_stated() -> None:
    staged = paragraph(RUNS, max_seeds=6)
    assert "Seeds came in stages, at most 4, 6 in all." in staged and "alpha spending" in staged
    test = type(ACCURACY)("test/accuracy", "max")
    assert "chosen by the test part" in to_markdown(judge(RUNS, test), Setting())
    two = repeated({"a": 0.9, "b": 0.8}, 2)
    assert paragraph(two).endswith("No differences are tested: 3 seeds are needed, and there are 2.")


@pytest.mark.parametrize(("ended", "others"), [(1, "the other one was"), (3, "the other 3 were")])
def test_halving_states_what_was_trained(ended: int, others: str) -> None:
    text = paragraph(paused(repeated({str(place): 0.9 - 0.1 * place for place in range(9)}, 3), ended))
    assert text.startswith("We trained 9 configurations (optimizer.lr: ") and "3 seeds each" not in text
    assert "by successive halving with one seed (0). It paused " + str(9 - ended) in text
    assert f"{others} trained with 3 seeds (0, 1, 2)." in text and "Not ranked" not in text


def test_one_configuration_is_not_compared() -> None:
    text = paragraph(repeated({"a": 0.9}, 3))
    assert "We trained 1 configuration with 3 seeds (0, 1, 2)." in text and "95 % interval of the mean [" in text
    assert "compared" not in text and "tested" not in text


@pytest.mark.parametrize(
    ("value", "digits", "text"),
    [(0.0123, 3, "0.012"), (1234567.0, 0, "1,234,567"), (23_640_720_711_749.0, 0, "2.364e+13"), (-2e14, 0, "-2e+14")],
)
def test_what_has_diverged_is_short(value: float, digits: int, text: str) -> None:
    assert format_number(value, digits) == text
