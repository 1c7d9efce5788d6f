"""`model=huggingface`."""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from conftest import Called
from helpers.problems import about, problem_of
from helpers.training import same
from runner.model.huggingface import automodel

pytest.importorskip("transformers")

BERT = {
    "model_type": "bert", "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 16,
    "vocab_size": 30, "max_position_embeddings": 16,
}  # fmt: skip
TEXT = {"auto": "AutoModelForSequenceClassification", "config": BERT}
IMAGE = (1, 8, 8)


def test_without_anything_else_it_is_a_small_vision_transformer_for_the_data() -> None:
    model = automodel((2, 12, 12), 7)
    assert type(model).__name__ == "ViTForImageClassification"
    assert model(torch.zeros(3, 2, 12, 12)).logits.shape == (3, 7)


def test_a_type_and_keys_of_the_configuration_make_a_model_with_random_weights() -> None:
    torch.manual_seed(0)
    model = automodel({"input_ids": (5,)}, 4, **TEXT)
    assert model(input_ids=torch.ones(2, 5, dtype=torch.long)).logits.shape == (2, 4)
    torch.manual_seed(0)
    assert same(automodel({"input_ids": (5,)}, 4, **TEXT).state_dict(), model.state_dict())


def test_weights_of_a_folder_are_taken_for_another_number_of_outputs(
    here: Path, caplog: pytest.LogCaptureFixture
) -> None:
    there = automodel(None, 4, **TEXT)
    there.save_pretrained("saved")
    with caplog.at_level(logging.INFO, "runner"):
        model = automodel(None, 7, name="saved", auto=TEXT["auto"], pretrained=True)
    own, saved = model.state_dict(), there.state_dict()
    assert {name for name in own if not same(own[name], saved[name])} == {"classifier.weight", "classifier.bias"}
    assert "saved; initialized: classifier.bias, classifier.weight" in caplog.text
    scratch = automodel(None, 4, name="saved", auto=TEXT["auto"], config={"num_hidden_layers": 1})
    assert len(scratch.bert.encoder.layer) == 1
    assert not same(scratch.state_dict()["classifier.weight"], saved["classifier.weight"])


@pytest.mark.parametrize(
    ("arguments", "key", "topic", "words"),
    [
        ({"auto": "AutoModelForImageClasification"}, "model.auto", "choice", "AutoModelForImageClassification?"),
        ({"config": {"model_type": "brt"}}, "model.config.model_type", "choice", "write model.config.model_type="),
        ({"config": {"hiden_size": 3}}, "model.config.hiden_size", "unknown", "did you mean model.config.hidden_size?"),
        ({"config": {"hidden_size": "wide"}}, "model.config", "type", ""),
        ({"config": {"model_type": "bert"}}, "model.auto", "conflict", "Classification"),
        ({"pretrained": True}, "model.pretrained", "missing", "write model.name="),
        ({"name": "."}, "model.name", "file", "save_pretrained"),
        ({"name": "/no/such"}, "model.name", "unknown", "huggingface.co"),
        ({"auto": "AutoModelForCausalLM"}, "model.name", "missing", "model.config.model_type="),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named(arguments: Any, key: str, topic: str, words: str, here: Path) -> None:
    problem = problem_of(lambda: automodel(IMAGE, 5, **arguments))
    assert about([problem]) == [(key, topic)] and words in problem.suggestion


def test_where_the_hub_cannot_be_reached_it_says_what_to_do(monkeypatch: pytest.MonkeyPatch, here: Path) -> None:
    import huggingface_hub

    def unreachable(*_: Any, **__: Any) -> None:
        raise ConnectionError("no network")

    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", unreachable)
    problem = problem_of(lambda: automodel(IMAGE, 5, name="someone/no-such-net"))
    assert about([problem]) == [("model.name", "unavailable")]
    assert "hf download someone/no-such-net" in problem.suggestion and "model.name=<folder>" in problem.suggestion


SENTENCES = """
import torch
from torch.utils.data import Dataset
from transformers import BatchEncoding
from runner.data.source import Source
class Sentences(Dataset):
    def __init__(self, count): self.count = count
    def __len__(self): return self.count
    def __getitem__(self, index):
        drawn = torch.Generator().manual_seed(index)
        tokens = torch.randint(2, 30, (8,), generator=drawn)
        mask = (torch.arange(8) < 4 + index % 5).long()
        return BatchEncoding({"input_ids": tokens, "attention_mask": mask, "labels": tokens[0] % 2})
def sentences():
    return Source("sentences", train=Sentences(96), test=Sentences(32))
"""


def test_batches_by_name_are_trained_resumed_and_evaluated(
    here: Path, runner: Callable[..., Called], monkeypatch: pytest.MonkeyPatch
) -> None:
    (here / "sentences_of_tests.py").write_text(SENTENCES)
    monkeypatch.syspath_prepend(str(here))
    keys = [f"model.config.{key}={value}" for key, value in BERT.items()]
    arguments = (
        "tracking=off", "trainer.epochs=2", "data.batch_size=16", "data._target_=sentences_of_tests.sentences",
        "~data.mean", "~data.std", "model=huggingface", f"model.auto={TEXT['auto']}", *keys,
        "model.freeze=[bert.embeddings,bert.encoder.layer.0]", "optimizer=adamw", "optimizer.lr=0.01",
        "optimizer.groups.head.params=classifier", "optimizer.groups.head.lr=0.05",
    )  # fmt: skip
    called = runner(*arguments, "hydra.run.dir=parts")
    assert called.code == 0, called.err
    assert "frozen: " in called.err and "head " in called.err
    assert runner(*arguments, "trainer.epochs=3", "hydra.run.dir=whole").code == 0
    assert runner("resume=parts", "trainer.epochs=3").code == 0
    one, other = (torch.load(f"{name}/checkpoints/last.pt", weights_only=True) for name in ("whole", "parts"))
    assert same(one["model"], other["model"]) and same(one["optimizer"], other["optimizer"])
    from runner.evaluate import main

    assert main(["run=parts"]) == 0
