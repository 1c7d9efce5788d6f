"""`model=timm`."""

import logging
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from conftest import Called
from helpers.problems import about, problem_of
from helpers.training import same
from runner.model.pretrained import weights_unwanted
from runner.model.timm import network
from runner.util.hub import library

timm = pytest.importorskip("timm")


@pytest.mark.parametrize("name", ["resnet10t", "vit_tiny_patch16_224"])
def test_channels_outputs_and_size_come_from_the_data(name: str) -> None:
    model = network((2, 32, 32), 7, name)
    assert model(torch.zeros(3, 2, 32, 32)).shape == (3, 7)


@pytest.mark.parametrize(
    ("shape", "arguments", "key", "topic", "words"),
    [
        ((64,), {"name": "resnet10t"}, "model", "shape", "model=mlp"),
        ((1, 8, 8), {"name": "resnet10"}, "model.name", "unknown", "did you mean resnet1"),
        ((1, 8, 8), {"name": "qqq"}, "model.name", "unknown", "timm.list_models()"),
        ((1, 8, 8), {"name": "resnet10t", "drop_rte": 0.1}, "model.drop_rte", "unknown", "leave it out"),
        ((1, 8, 8), {"name": "resnet10t", "pretrained": "no.pth"}, "model.pretrained", "file", "write a file"),
    ],
)
def test_what_is_wrong_is_named(shape: Any, arguments: Any, key: str, topic: str, words: str, here: Path) -> None:
    problem = problem_of(lambda: network(shape, 5, **arguments))
    assert about([problem]) == [(key, topic)] and words in problem.suggestion


def test_weights_of_a_file_are_taken_for_other_channels_and_outputs(
    here: Path, caplog: pytest.LogCaptureFixture
) -> None:
    there = timm.create_model("resnet10t")
    torch.save(there.state_dict(), "resnet10t.pth")
    with caplog.at_level(logging.INFO, "runner"):
        model = network((1, 32, 32), 5, "resnet10t", pretrained="resnet10t.pth")
    own, saved = model.state_dict(), there.state_dict()
    first, *middle, bias = [name for name in own if name != "fc.weight"]
    assert all(same(own[name], saved[name]) for name in middle) and bias == "fc.bias"
    assert torch.allclose(own[first], saved[first].sum(1, keepdim=True), atol=1e-5), "as timm converts them"
    assert "the output layer is initialized" in caplog.text
    problem = problem_of(lambda: network((1, 32, 32), 5, "resnet14t", pretrained="resnet10t.pth"))
    assert about([problem]) == [("model.pretrained", "shape")] and "layer1.0.conv3.weight" in problem.text
    with weights_unwanted():
        assert isinstance(network((1, 32, 32), 5, "resnet10t", pretrained="gone.pth"), nn.Module)


def test_without_the_library_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    problem = problem_of(lambda: library("timm", "model=timm", "timm"))
    assert about([problem]) == [("model", "unavailable")]
    assert 'pip install "runner-torch[timm]"' in problem.suggestion


def test_where_the_hub_cannot_be_reached_it_says_what_to_do(monkeypatch: pytest.MonkeyPatch, here: Path) -> None:
    import huggingface_hub

    def unreachable(*_: Any, **__: Any) -> None:
        raise ConnectionError("no network")

    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", unreachable)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(here))
    for name, instead in (("resnet18", "model.pretrained=<folder>/"), ("hf-hub:someone/net", "model.name=local-dir:")):
        problem = problem_of(lambda name=name: network((3, 32, 32), 5, name, pretrained=True))
        assert about([problem]) == [("model.name", "unavailable")]
        assert "no network" in problem.text and "hf download" in problem.suggestion and instead in problem.suggestion


def test_a_run_goes_on_and_is_evaluated_without_the_file_of_its_first_weights(
    here: Path, runner: Callable[..., Called]
) -> None:
    torch.save(timm.create_model("test_resnet").state_dict(), "first.pth")
    arguments = ("tracking=off", "debug=fast", "model=timm", "model.name=test_resnet", "model.pretrained=first.pth")
    called = runner(*arguments, "hydra.run.dir=run")
    assert called.code == 0 and "first.pth; the output layer is initialized" in called.err, called.err
    Path("first.pth").unlink()
    assert runner("resume=run", "trainer.epochs=3").code == 0
    from runner.evaluate import main

    assert main(["run=run"]) == 0
    assert runner(*arguments).about == [("model.pretrained", "file")]
