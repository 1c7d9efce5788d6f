"""`model.lora`."""

import copy
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from conftest import Called
from helpers.composed import built
from helpers.problems import about, problem_of
from helpers.trained import result
from helpers.training import Log, Silent, Stop, exact_state, same, training
from runner import export
from runner.model.lora import add_adapters, is_adapted, merge, merged
from runner.rundir.checkpoint import Checkpoints
from runner.rundir.checkpoint_file import load
from runner.runs.evaluation import evaluate
from runner.runs.predictor import Predictor, trained_model
from runner.saved.input_spec import read_input_spec
from runner.saved.run import find
from runner.saved.weights import load_into
from runner.training.loop import fit
from runner.training.saving import checkpoint_state, restore
from runner.training.state import Interrupted, make_training
from runner.util.rng import seed_all

pytest.importorskip("peft")


class Network(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 8))
        self.head = nn.Linear(8, 3)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return self.head(self.body(inputs))


def test_adapters_and_the_last_layer_are_trained_and_all_else_rests(tmp_path: Path) -> None:
    model, start = Network(), Network().state_dict()
    frozen = add_adapters(model, "body", rank=2)
    assert len(frozen.parameters) == 6 and frozen.resting == [model.body[1]]
    assert frozen.note == "2 adapters of rank 2; trained in full: head.weight, head.bias"
    fit(training(tmp_path, model=model, optimizer=lambda p: torch.optim.SGD([x for x in p if x.requires_grad], lr=0.1)))
    trained = {name.replace("base_layer.", ""): t for name, t in model.state_dict().items() if "lora" not in name}
    assert all(same(trained[name], start[name]) != name.startswith("head") for name in start)
    assert all(tensor.any() for name, tensor in model.state_dict().items() if "lora_B" in name)


def test_merged_it_computes_the_same_under_its_own_names(tmp_path: Path) -> None:
    model = Network().double()
    add_adapters(model, ["body.0", "head"], rank=3, alpha=6, train=[])
    assert [name for name, p in model.named_parameters() if p.requires_grad and "lora" not in name] == []
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    model.eval()
    inputs = torch.randn(5, 6, dtype=torch.float64)
    alone = merged(model)
    assert is_adapted(model.state_dict()) and alone.state_dict().keys() == Network().state_dict().keys()
    assert torch.allclose(alone(inputs), model(inputs), atol=1e-12)
    assert merged(alone) is alone


def test_adapters_of_torch_s_own_transformer_are_not_passed_by_in_evaluation() -> None:
    model = nn.Sequential(nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), nn.Linear(8, 2)).eval()
    inputs = torch.randn(3, 4, 8)
    with torch.inference_mode():
        before = model(inputs)
    add_adapters(model, "0")
    adapted = {name.rpartition(".lora")[0] for name in model.state_dict() if "lora" in name}
    assert adapted == {"0.linear1", "0.linear2"}, "attention computes with the weights themselves"
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.fill_(0.3)
    with torch.inference_mode():
        assert not torch.allclose(model(inputs), before)
        assert torch.allclose(merge(copy.deepcopy(model))(inputs), model(inputs), atol=1e-5)


def test_the_layers_of_gpt_2_have_adapters_too() -> None:
    transformers = pytest.importorskip("transformers")
    tokens = {"vocab_size": 12, "bos_token_id": 0, "eos_token_id": 0}
    small = transformers.GPT2Config(n_embd=8, n_layer=1, n_head=2, **tokens)
    model = transformers.GPT2LMHeadModel(small)
    add_adapters(model, "*.c_attn")
    assert [name for name, p in model.named_parameters() if p.requires_grad] == [
        "transformer.h.0.attn.c_attn.lora_A.default.weight",
        "transformer.h.0.attn.c_attn.lora_B.default.weight",
    ], "the last linear layer shares its weight with the embedding"
    other = transformers.GPT2LMHeadModel(small)
    problem = problem_of(lambda: add_adapters(other, ["*.wte", "*.c_attn"]))
    assert about([problem]) == [("model.lora.params", "conflict")] and "lm_head" in problem.text


@pytest.mark.parametrize(
    ("params", "topic", "words"),
    [
        ("bdy", "unknown", "model.lora.params=body.*"),
        ("body.1", "conflict", "body.0, body.3, head"),
        ("*.bias", "conflict", "head"),
    ],
)
def test_patterns_without_such_a_layer_are_refused(params: str, topic: str, words: str) -> None:
    problem = problem_of(lambda: add_adapters(Network(), params))
    assert about([problem]) == [("model.lora.params", topic)] and words in problem.suggestion


def test_without_peft_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "peft", None)
    problem = problem_of(lambda: add_adapters(Network(), "body"))
    assert about([problem]) == [("model.lora", "unavailable")] and "runner-torch[lora]" in problem.suggestion


TUNED = ("debug=fast", "model=cnn", "model.batch_norm=true", "model.channels=[4,4]", "model.strides=[1,2]",
         "model.lora.params=[features]", "model.lora.rank=2", "model.lora.dropout=0.2")  # fmt: skip


@pytest.mark.parametrize("stop", [3, 9])
def test_it_resumes_bit_for_bit(stop: int, here: Path) -> None:
    def state(folder: str, after: int | None = None) -> Any:
        experiment = built(*TUNED, "trainer.ema_decay=0.9", "optimizer=adamw")
        return make_training(experiment, Checkpoints(here / folder), Log(), Silent(), Stop(after))

    whole, parts, rest = state("whole"), state("parts", stop), state("rest")
    seed_all(0)  # of dropout
    fit(whole)
    seed_all(0)
    with pytest.raises(Interrupted):
        fit(parts)
    restore(rest, load(parts.checkpoints.last))
    fit(rest)
    assert same(exact_state(checkpoint_state(rest)), exact_state(checkpoint_state(whole)))


def test_a_run_is_evaluated_predicted_exported_and_started_from(here: Path, runner: Callable[..., Called]) -> None:
    base = [part for part in TUNED if "lora" not in part]
    assert runner(*base, "tracking=off", "hydra.run.dir=base").code == 0
    tuned = [*TUNED, "tracking=off", "tracking.log_model=true", "model.weights=base", "hydra.run.dir=tuned"]
    called = runner(*tuned)
    assert called.code == 0 and "2 adapters of rank 2" in called.err and "note " not in called.err, called.err
    own, first = (load(Path(f"{name}/checkpoints/best.pt"))["model"] for name in ("tuned", "base"))
    assert same(own["features.0.base_layer.weight"], first["features.0.weight"])
    run = find("tuned")
    figures = evaluate(run).metrics
    assert all(figures[name] == result(Path("tuned"))[name] for name in ("test/loss", "test/accuracy"))
    _, model, _ = trained_model(run)
    assert not is_adapted(model.state_dict()) and model.state_dict().keys() == first.keys()
    with_adapters = built(*TUNED).model
    with_adapters.load_state_dict(own)
    inputs = torch.rand(4, 1, 8, 8)
    expected = with_adapters.eval()(read_input_spec(run).normalize(inputs, torch.float32))
    assert torch.allclose(Predictor(run)(inputs), expected, atol=1e-5)
    assert export.main(["run=tuned"]) == 0
    for file in ("tuned/export/model.pt2", "tuned/model/data/model.pt2"):
        names = torch.export.load(file).state_dict
        assert not is_adapted(names) and {f"model.{name}" for name in first} <= set(names)
    plain, other = built(*base).model, built(*base, "data.limit=300").model
    load_into(plain, "tuned")
    assert same(plain.state_dict(), model.state_dict()) and not same(plain.state_dict(), other.state_dict())
    problem = problem_of(lambda: load_into(built(*base).model, "tuned/checkpoints/best.pt"))
    assert about([problem]) == [("model.weights", "file")]
    warm = runner("resume=tuned", "resume_mode=warm_start", "hydra.run.dir=warm")
    assert warm.code == 0, warm.err
