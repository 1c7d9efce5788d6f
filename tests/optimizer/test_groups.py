"""`optimizer.groups`, `optimizer.no_decay`, `optimizer.layer_decay`."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from conftest import Called
from helpers.composed import built
from helpers.killed import TUNED
from helpers.problems import about, problem_of
from helpers.training import Log, Silent, Stop, exact_state, same
from runner.optimizer import trainable
from runner.optimizer.groups import Grouping, parameter_groups, rates
from runner.rundir.checkpoint import Checkpoints
from runner.rundir.checkpoint_file import load
from runner.training.loop import fit
from runner.training.saving import checkpoint_state, restore
from runner.training.state import Interrupted, make_training


class Transformer(nn.Module):
    """The names and the order of a vision transformer."""

    def __init__(self) -> None:
        super().__init__()
        self.token = nn.Parameter(torch.zeros(1, 1, 4))
        self.patches = nn.Conv2d(1, 4, 2)
        self.blocks = nn.ModuleList(nn.Sequential(nn.LayerNorm(4), nn.Linear(4, 4), nn.Linear(4, 4)) for _ in range(2))
        self.norm = nn.LayerNorm(4)
        self.head = nn.Linear(4, 3)


def named(model: nn.Module, groups: list[dict[str, Any]]) -> list[tuple[dict[str, Any], list[str]]]:
    """The options of each group, and the names of its parameters."""
    names = {parameter: name for name, parameter in model.named_parameters()}
    return [({k: v for k, v in g.items() if k != "params"}, [names[p] for p in g["params"]]) for g in groups]


def made(model: nn.Module, **grouping: Any) -> list[tuple[dict[str, Any], list[str]]]:
    return named(model, parameter_groups(model, trainable(model), Grouping(**grouping), lr=1.0))


def test_the_first_group_is_the_rest_and_the_order_is_that_of_the_model() -> None:
    model = Transformer()
    groups = {"head": {"params": "head.*", "lr": 0.5}, "stem": {"params": ["patches", "token"], "weight_decay": 0.0}}
    rest, head, stem = made(model, groups=groups)
    assert rest == ({"name": "rest"}, [n for n, _ in model.named_parameters() if n.startswith(("blocks", "norm"))])
    assert head == ({"name": "head", "lr": 0.5}, ["head.weight", "head.bias"])
    assert stem == ({"name": "stem", "weight_decay": 0.0}, ["token", "patches.weight", "patches.bias"])


def test_biases_and_norms_have_no_decay_in_any_group() -> None:
    model = Transformer()
    groups = {"head": {"params": "head", "weight_decay": 0.3}}
    one, two, three, four = made(model, groups=groups, no_decay=True)
    linear = [f"blocks.{block}.{layer}.weight" for block in (0, 1) for layer in (1, 2)]
    assert one[1] == ["token", "patches.weight", *linear]
    assert two[0] == {"name": "rest", "weight_decay": 0.0} and len(two[1]) == 11
    assert three == ({"name": "head", "weight_decay": 0.3}, ["head.weight"])
    assert four == ({"name": "head", "weight_decay": 0.0}, ["head.bias"])
    _, by_name = made(model, no_decay=["token", "*.bias"])
    assert by_name[1] == [n for n, _ in model.named_parameters() if n == "token" or n.endswith("bias")]


def test_the_rate_falls_with_each_layer_before_the_last() -> None:
    model = Transformer()
    assert [(g["lr"], names) for g, names in made(model, layer_decay=0.5)] == [
        (1.0, ["head.weight", "head.bias"]),
        (0.5, [n for n, _ in model.named_parameters() if n.startswith(("blocks.1", "norm"))]),
        (0.25, [n for n, _ in model.named_parameters() if n.startswith("blocks.0")]),
        (0.125, ["token", "patches.weight", "patches.bias"]),
    ]
    groups = {"blocks": {"params": "blocks.*", "lr": 8.0}}
    assert [g["lr"] for g, _ in made(model, layer_decay=0.5, groups=groups)] == [1.0, 0.5, 0.125, 4.0, 2.0]
    plain = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2), nn.ReLU(), nn.Linear(2, 2))
    assert [(g["lr"], names) for g, names in made(plain, layer_decay=0.5)] == [
        (1.0, ["3.weight", "3.bias"]),
        (0.5, ["0.weight", "0.bias", "1.weight", "1.bias"]),
    ]


@pytest.mark.parametrize("name", ["resnet18", "vit_tiny_patch16_224", "resnet26d"])
def test_the_layers_are_those_of_timm(name: str) -> None:
    timm = pytest.importorskip("timm")
    from timm.optim import param_groups_layer_decay

    model = timm.create_model(name, pretrained=False, num_classes=3)
    theirs = param_groups_layer_decay(model, layer_decay=0.5)
    scale = {id(p): group["lr_scale"] for group in theirs for p in group["params"]}
    ours = parameter_groups(model, trainable(model), Grouping(layer_decay=0.5), lr=1.0)
    assert {id(p): group["lr"] for group in ours for p in group["params"]} == pytest.approx(scale)


@pytest.mark.parametrize(
    ("groups", "key", "topic", "words"),
    [
        ({"a": {"params": "blocks"}, "b": {"params": "*.weight"}}, "optimizer.groups.b.params", "conflict", "both"),
        ({"a": {"params": "blocsk"}}, "optimizer.groups.a.params", "unknown", "blocsk"),
        ({"a": {"params": "token"}}, "optimizer.groups.a.params", "conflict", "matches no parameter that is trained"),
    ],
)  # fmt: skip
def test_a_pattern_that_matches_twice_or_nothing_is_refused(groups: Any, key: str, topic: str, words: str) -> None:
    model = Transformer()
    model.token.requires_grad_(False)
    problem = problem_of(lambda: made(model, groups=groups))
    assert about([problem]) == [(key, topic)] and words in problem.text


@pytest.mark.parametrize("stop", [3, 5, 9])
def test_groups_and_the_epoch_of_unfreezing_resume_bit_for_bit(stop: int, here: Path) -> None:
    def state(folder: str, after: int | None = None) -> Any:
        return make_training(built(*TUNED), Checkpoints(here / folder), Log(), Silent(), Stop(after))

    whole, parts, rest = state("whole"), state("parts", stop), state("rest")
    fit(whole)
    with pytest.raises(Interrupted):
        fit(parts)
    restore(rest, load(parts.checkpoints.last))
    fit(rest)
    assert same(exact_state(checkpoint_state(rest)), exact_state(checkpoint_state(whole)))
    assert {**parts.log.exact(), **rest.log.exact()} == whole.log.exact()


def test_a_schedule_scales_the_rate_of_each_group_and_each_is_logged(here: Path) -> None:
    group = ("optimizer.groups.out.params=layers.5", "optimizer.groups.out.lr=0.4")
    experiment = built("debug=fast", "scheduler=cosine", "optimizer.lr=0.1", *group)
    state = make_training(experiment, Checkpoints(here), Log(), Silent(), Stop())
    assert rates(experiment.optimizer) == {"out": 0.4}
    fit(state)
    assert state.log.of("lr/out")[1] == pytest.approx(4 * state.log.of("lr")[1])
    assert state.log.of("lr/out")[2] < state.log.of("lr/out")[1]
    assert [group["lr"] for group in experiment.optimizer.param_groups] == pytest.approx([0, 0])


def test_a_run_prints_the_table_of_its_groups_once(here: Path, runner: Callable[..., Called]) -> None:
    group = "optimizer.groups={head:{params:[layers.5.*],lr:0.1}}"
    called = runner("debug=fast", "tracking=off", "optimizer=adamw", group, "optimizer.no_decay=true")
    assert called.code == 0
    start = next(number for number, line in enumerate(called.err.splitlines()) if "weight decay" in line)
    assert [line.split() for line in called.err.splitlines()[start + 1 : start + 5]] == [
        ["rest", "2", "16,384", "0.001", "0.01"],
        ["rest", "2", "192", "0.001", "0"],
        ["head", "1", "640", "0.1", "0.01"],
        ["head", "1", "10", "0.1", "0"],
    ]
    assert called.err.count("weight decay") == 1


@pytest.mark.soak
def test_the_rate_of_a_group_can_be_swept(here: Path, runner: Callable[..., Called]) -> None:
    group = ("optimizer.groups.head.params=layers.5.*", "trainer.epochs=1")
    called = runner(
        "--multirun", "debug=fast", "tracking=off", "sweep.jobs=1", *group, "optimizer.groups.head.lr=0.1,1e-3"
    )
    assert called.code == 0, called.err
    folder = next((here / "outputs" / "sweeps").iterdir())
    found = [
        [p["value"] for p in map(json.loads, (folder / job / "metrics.jsonl").open()) if p["name"] == "lr/head"]
        for job in ("0", "1")
    ]
    assert [one / other for one, other in zip(*found, strict=True)] == pytest.approx([100])


def test_without_such_a_key_there_is_one_group_as_ever() -> None:
    (group,) = built("debug=fast").optimizer.param_groups
    assert "name" not in group and len(group["params"]) == 6
