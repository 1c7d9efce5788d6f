"""`data=huggingface`: files, folders of `save_to_disk`, texts, images and numbers; without a network."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from conftest import Called
from helpers.composed import accuracy, built, trained
from helpers.problems import about, problem_of
from helpers.training import same
from runner.data import fetch, hf_load
from runner.data.hf_columns import choose_columns, describe_choice
from runner.data.huggingface import huggingface
from runner.data.part import Indices
from runner.data.parts import part_of
from runner.data.source import Source
from runner.util import hub

datasets = pytest.importorskip("datasets")
transformers = pytest.importorskip("transformers")

WORDS = ["[PAD]", "[UNK]", "good", "great", "bad", "awful", "film", "actor", "story", "the"]


@pytest.fixture(autouse=True)
def offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


@pytest.fixture
def tokenizer(here: Path) -> str:
    from tokenizers import Tokenizer, models, pre_tokenizers

    made = Tokenizer(models.WordLevel({word: number for number, word in enumerate(WORDS)}, unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    fast = transformers.PreTrainedTokenizerFast(tokenizer_object=made, unk_token="[UNK]", pad_token="[PAD]")
    fast.save_pretrained(here / "tok")
    return "tok"


def reviews(samples: int, seed: int = 0) -> dict[str, list[Any]]:
    draw = np.random.default_rng(seed)
    labels = draw.integers(0, 2, samples).tolist()
    texts = [
        " ".join([str(draw.choice(WORDS[2:4] if label else WORDS[4:6])), *draw.choice(WORDS[6:], draw.integers(1, 6))])
        for label in labels
    ]
    return {"idx": list(range(samples)), "text": texts, "label": labels}


def rows(columns: dict[str, list[Any]], **features: Any) -> Any:
    data = datasets.Dataset.from_dict(columns)
    return data.cast(datasets.Features({**data.features, **features})) if features else data


def sentiment(samples: int, seed: int = 0, **changed: Any) -> Any:
    return rows(reviews(samples, seed) | changed, label=datasets.ClassLabel(names=["neg", "pos"]))


def batch(source: Source, indices: list[int], part: str = "train") -> Any:
    return part_of(getattr(source, part)).batch(Indices(indices))


def test_numbers_become_features_in_memory_and_the_same_from_every_kind_of_file(here: Path) -> None:
    columns = {"a": [1.5, 2.0, -3.0], "b": [2**53 + 1, 2, 3], "label": [0, 1, 1]}
    data = rows(columns)
    data.to_csv("t.csv")
    data.to_csv("t.tsv", sep="\t")
    data.to_json("t.jsonl")
    data.to_parquet("t.parquet")
    data.save_to_disk("saved")
    datasets.DatasetDict({"train": data}).save_to_disk("saved_dict")
    (here / "folder").mkdir()
    data.to_csv("folder/train.csv")
    for name in ("t.csv", "t.tsv", "t.jsonl", "t.parquet", "saved", "saved_dict", "folder"):
        source = huggingface(name)
        assert isinstance(source.train, tuple)
        inputs, targets = source.train
        assert torch.equal(inputs, torch.tensor([[1.5, 2.0**53], [2, 2], [-3, 3]], dtype=torch.float64)), name
        assert torch.equal(targets, torch.tensor([0, 1, 1])) and source.classes is None
        assert source.notes[1:] == ["inputs a, b", "target label"] and source.origin == str(here / name)


def test_the_index_that_pandas_writes_is_no_feature_unless_it_is_typed() -> None:
    kinds = {"Unnamed: 0": "number", "__index_level_0__": "number", "a": "number", "label": "classes"}
    assert choose_columns(kinds, None, "label") == ["a"]
    assert choose_columns(kinds, ["Unnamed: 0"], "label") == ["Unnamed: 0"]
    assert "left out: Unnamed: 0" in describe_choice({"train": "train"}, kinds, ["a"], "label")[1]


def test_columns_of_whole_numbers_keep_every_digit(here: Path) -> None:
    rows({"a": [2**53 + 1, 2], "on": [True, False], "label": [0.5, 1]}).save_to_disk("saved")
    inputs, targets = huggingface("saved").train
    assert inputs.tolist() == [[2**53 + 1, 1], [2, 0]] and targets.tolist() == [0.5, 1]


def test_the_splits_are_found_by_their_usual_names_or_as_typed(here: Path) -> None:
    data = {name: rows({"x": [float(n)], "label": [0]}) for n, name in enumerate(["train", "dev", "test", "more"])}
    datasets.DatasetDict(data).save_to_disk("saved")

    def values(**typed: Any) -> list[float | None]:
        source = huggingface("saved", **typed)
        return [None if part is None else part[0].item() for part in (source.train, source.val, source.test)]

    assert values() == [0, 1, 2]
    assert values(train_split="more", val_split="none", test_split="none") == [3, None, None]
    assert values(val_split="more", test_split="dev") == [0, 3, 1]
    (only,) = [huggingface("one") for _ in [datasets.DatasetDict({"x": data["more"]}).save_to_disk("one")]]
    assert only.train[0].item() == 3


def test_texts_are_padded_to_the_longest_of_a_batch(here: Path, tokenizer: str) -> None:
    texts = ["good film", "the bad story story", "what"]
    rows({"text": texts, "label": [1, 0, 0]}).save_to_disk("saved")
    inputs, targets = batch(huggingface("saved", tokenizer=tokenizer), [0, 2, 1])
    assert inputs["input_ids"].tolist() == [[2, 6, 0, 0], [1, 0, 0, 0], [9, 4, 8, 8]]
    assert inputs["attention_mask"].tolist() == [[1, 1, 0, 0], [1, 0, 0, 0], [1, 1, 1, 1]]
    assert targets.tolist() == [1, 0, 0]
    inputs, _ = batch(huggingface("saved", tokenizer=tokenizer), [0, 2])
    assert inputs["input_ids"].shape == (2, 2)
    inputs, _ = batch(huggingface("saved", tokenizer=tokenizer, max_length=3), [1, 0])
    assert inputs["input_ids"].tolist() == [[9, 4, 8], [2, 6, 0]]  # cut


def test_padding_is_what_the_tokenizer_does_itself(here: Path, tokenizer: str) -> None:
    rows({"a": ["good film", "story"], "b": ["bad", "the the the"], "label": [1, 0]}).save_to_disk("saved")
    for side in ("right", "left"):
        names = ["input_ids", "token_type_ids", "attention_mask"]
        made = transformers.AutoTokenizer.from_pretrained(tokenizer, padding_side=side, model_input_names=names)
        made.save_pretrained("changed")
        inputs, _ = batch(huggingface("saved", tokenizer="changed"), [0, 1])
        expected = made(["good film", "story"], ["bad", "the the the"], padding=True, return_tensors="pt")
        assert same(dict(inputs), dict(expected)) and len(inputs) == 3


def test_a_fixed_length_can_be_held_in_memory(here: Path, tokenizer: str) -> None:
    sentiment(40).save_to_disk("saved")
    asked = ("data=huggingface", "data.name=saved", "data.tokenizer=tok", *BERT)
    assert built(*asked, "data.padding=max_length", "data.max_length=9").in_memory
    made = built(*asked)
    assert not made.in_memory
    whole = list(made.loaders.train.epoch(2))
    assert same(list(made.loaders.train.epoch(2, 1)), whole[1:])
    workers = built(*asked, "data.num_workers=2")
    assert same(list(workers.loaders.train.epoch(2)), whole)
    workers.loaders.close()


BERT = (
    "model=huggingface", "model.auto=AutoModelForSequenceClassification", "optimizer=adamw", "optimizer.lr=0.01",
    "model.config={model_type:distilbert,dim:16,n_layers:1,n_heads:2,hidden_dim:16,vocab_size:10}",
)  # fmt: skip


def test_texts_train_a_model_of_transformers(here: Path, tokenizer: str) -> None:
    parts = {"train": sentiment(200), "validation": sentiment(40, 1), "test": sentiment(20, 2, label=[-1] * 20)}
    datasets.DatasetDict(parts).save_to_disk("saved")
    state = trained(here, "data=huggingface", "data.name=saved", "data.tokenizer=tok", *BERT, "trainer.epochs=6")
    assert accuracy(state) > 0.9


def test_labels_that_are_hidden_are_no_test_part(here: Path) -> None:
    hidden = rows({"x": [1.0, 2.0], "label": [-1, -1]}, label=datasets.ClassLabel(names=["no", "yes"]))
    shown = rows({"x": [1.0, 2.0], "label": [0, 1]}, label=datasets.ClassLabel(names=["no", "yes"]))
    datasets.DatasetDict({"train": shown, "test": hidden}).save_to_disk("saved")
    source = huggingface("saved")
    assert source.test is None and source.classes == ["no", "yes"] and "hidden" in source.notes[-1]
    for part in ("test", "train"):
        problem = problem_of(lambda part=part: huggingface("saved", **{f"{part}_split": "test"}))
        assert about([problem]) == [(f"data.{part}_split", "data")]


def picture(value: int, side: int = 6, mode: str = "RGB") -> Any:
    from PIL import Image

    return Image.new(mode, (side + 2, side), value if mode == "L" else (value, 0, 255))


def test_images_become_pixels(here: Path) -> None:
    columns = {"image": [picture(10), picture(200), picture(30, mode="L")], "label": [0, 1, 1]}
    rows(columns, image=datasets.Image()).save_to_disk("saved")
    inputs, targets = batch(huggingface("saved"), [2, 0])
    assert inputs.shape == (2, 3, 6, 8) and inputs.dtype == torch.uint8 and targets.tolist() == [1, 0]
    assert inputs[:, 0].unique().tolist() == [10, 30] and inputs[1, :, 0, 0].tolist() == [10, 0, 255]
    inputs, _ = batch(huggingface("saved", size=4, channels=1), [0])
    assert inputs.shape == (1, 1, 4, 4)
    rows({"image": [picture(1), picture(1, 9)], "label": [0, 1]}, image=datasets.Image()).save_to_disk("sizes")
    problem = problem_of(lambda: huggingface("sizes"))
    assert about([problem]) == [("data.size", "shape")]
    assert batch(huggingface("sizes", size=5), [0, 1])[0].shape == (2, 3, 5, 5)


def test_images_train_a_cnn(here: Path) -> None:
    values = [20 * (number % 2) + 100 for number in range(80)]
    rows(
        {"image": [picture(value) for value in values], "label": [number % 2 for number in range(80)]},
        image=datasets.Image(),
    ).save_to_disk("saved")
    state = trained(here, "data=huggingface", "data.name=saved", "model=cnn", "trainer.epochs=8", "data.batch_size=8")
    assert accuracy(state) > 0.9


def test_several_columns_are_inputs_by_name(here: Path, tokenizer: str) -> None:
    columns = {"text": ["good", "bad film"], "stars": [1.5, 2.5], "boxes": [[1, 2], [3, 4]], "label": [1, 0]}
    rows(columns).save_to_disk("saved")
    inputs, _ = batch(huggingface("saved", tokenizer=tokenizer, columns=["text", "stars", "boxes"]), [1, 0])
    assert list(inputs) == ["input_ids", "attention_mask", "stars", "boxes"]
    assert inputs["stars"].tolist() == [2.5, 1.5] and inputs["boxes"].tolist() == [[3, 4], [1, 2]]
    inputs, _ = batch(huggingface("saved", columns="boxes"), [0])
    assert isinstance(inputs, Tensor) and inputs.tolist() == [[1, 2]]


def test_without_a_target_a_sample_is_its_inputs(here: Path, tokenizer: str) -> None:
    rows({"text": ["good", "bad film"], "label": [1, 0]}).save_to_disk("saved")
    inputs, targets = batch(huggingface("saved", tokenizer=tokenizer, target="none"), [1, 0])
    assert targets is None and inputs["input_ids"].shape == (2, 2)


def test_targets_may_be_texts_lists_and_truth_values(here: Path) -> None:
    columns = {"x": [1.0, 2.0], "kind": ["b", "a"], "several": [[0.0, 1.0], [1.0, 1.0]], "right": [True, False]}
    rows(columns).save_to_disk("saved")

    def targets(target: str) -> tuple[Any, list[str] | None]:
        source = huggingface("saved", target=target, columns=["x"])
        assert isinstance(source.train, tuple)
        return source.train[1].tolist(), source.classes

    assert targets("kind") == ([1, 0], ["a", "b"])
    assert targets("several") == ([[0, 1], [1, 1]], None)
    assert targets("right") == ([1, 0], ["false", "true"])


@pytest.mark.parametrize(
    ("keys", "key", "topic"),
    [
        ({"name": None}, "data.name", "missing"),
        ({"name": "saved/no.csv"}, "data.name", "file"),
        ({"name": "./nowhere"}, "data.name", "file"),
        ({"name": "broken.jsonl"}, "data.name", "file"),
        ({"name": "empty"}, "data.name", "file"),
        ({"name": "saved", "subset": "x"}, "data.subset", "conflict"),
        ({"name": "saved", "train_split": "trian"}, "data.train_split", "unknown"),
        ({"name": "two"}, "data.train_split", "missing"),
        ({"name": "saved", "columns": ["txet"]}, "data.columns", "unknown"),
        ({"name": "saved", "columns": ["label"]}, "data.columns", "conflict"),
        ({"name": "saved", "columns": []}, "data.columns", "missing"),
        ({"name": "saved", "target": "lable"}, "data.target", "unknown"),
        ({"name": "saved"}, "data.tokenizer", "missing"),
        ({"name": "saved", "tokenizer": "tok", "columns": ["idx"]}, "data.tokenizer", "conflict"),
        ({"name": "saved", "tokenizer": "saved"}, "data.tokenizer", "file"),
        ({"name": "saved", "tokenizer": "tok", "max_length": None}, "data.max_length", "missing"),
        ({"name": "saved", "tokenizer": "tok", "size": 8}, "data.size", "conflict"),
        ({"name": "gaps", "tokenizer": "tok"}, "data.columns", "data"),
        ({"name": "three", "tokenizer": "tok"}, "data.columns", "conflict"),
    ],
)
def test_what_cannot_be_used_is_said_in_one_line(
    keys: dict[str, Any], key: str, topic: str, here: Path, tokenizer: str
) -> None:
    data = sentiment(6)
    datasets.DatasetDict({"train": data}).save_to_disk("saved")
    datasets.DatasetDict({"a": data, "b": data}).save_to_disk("two")
    rows({"text": ["a", None], "label": [0, 1]}).save_to_disk("gaps")
    rows({"a": ["a"], "b": ["b"], "c": ["c"], "label": [0]}).save_to_disk("three")
    (here / "broken.jsonl").write_text('{"a": 1}\n{"a": oops}\n')
    (here / "empty").mkdir()
    problem = problem_of(lambda: huggingface(**keys))
    assert (problem.key, problem.topic) == (key, topic) and problem.suggestion


def test_what_the_hub_has_is_asked_once_and_an_absence_says_what_to_do(here: Path, tokenizer: str) -> None:
    problem = problem_of(lambda: huggingface("someone/reviews"))
    assert about([problem]) == [("data.name", "unavailable")] and "save_to_disk" in problem.suggestion
    sentiment(6).save_to_disk("saved")
    problem = problem_of(lambda: huggingface("saved", tokenizer="some-model"))
    assert about([problem]) == [("data.tokenizer", "unavailable")] and "save_pretrained" in problem.suggestion


def test_the_hub_is_asked_for_the_subset_and_the_revision(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []
    data = datasets.DatasetDict({"train": rows({"x": [1.0], "label": [0]})})
    monkeypatch.setattr(datasets, "load_dataset", lambda *names, **keys: asked.append((names, keys)) or data)
    monkeypatch.setattr(hub, "probe", lambda name, revision, *rest: asked.append((name, revision)))
    source = huggingface("someone/reviews", subset="small", revision="v2")
    assert asked == [("someone/reviews", "v2"), (("someone/reviews", "small"), {"revision": "v2"})]
    assert source.origin == "huggingface.co/datasets/someone/reviews"


def test_nothing_is_asked_for_a_run_that_cannot_start(here: Path) -> None:
    with fetch.forbidden(), pytest.raises(fetch.Forbidden):
        huggingface("someone/reviews")


def test_without_the_library_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    problem = problem_of(lambda: hf_load.library("datasets"))
    assert about([problem]) == [("data", "unavailable")] and "runner-torch[huggingface]" in problem.suggestion


def test_problems_of_the_command_line(runner: Callable[..., Called], here: Path) -> None:
    called = runner("data=huggingface", "data.padding=left", "data.max_length=0", "tracking=off")
    assert called.code == 2 and called.about == [("data.max_length", "range"), ("data.padding", "choice")]
