"""`debug=lr_range`: what the test of learning rates finds, and that it leaves no trace."""

import csv
import json
import math
import re
from collections.abc import Callable
from copy import deepcopy
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from conftest import Called
from helpers import stateful_models
from helpers.composed import built
from helpers.tasks import PAIR
from helpers.training import Stop, divided, exact_state, same, training
from runner.assembly import strategy_checks
from runner.config.settings import LrRangeSettings
from runner.data.source import Source
from runner.errors import ConfigError
from runner.loss import MSE
from runner.rundir.checkpoint_file import load
from runner.scheduler import cosine
from runner.strategy.ddp import DDP
from runner.training.loop import fit
from runner.training.lr_range import range_test
from runner.training.saving import checkpoint_state, restore
from runner.training.state import Interrupted, Training

TEST = LrRangeSettings(12, 1e-3, 1.0)


def adam(parameters: Any) -> torch.optim.Optimizer:
    first, *others = parameters
    return torch.optim.AdamW([{"params": [first], "lr": 0.01}, {"params": others, "lr": 0.04}])


CASES: dict[str, dict[str, Any]] = {
    "dropout and BatchNorm": {"model": stateful_models.Dropout, "ema_decay": 0.9, "schedule": lambda o: cosine(o, 9)},
    "buffers that no state_dict has": {"model": stateful_models.NonPersistent, "grad_accumulation": 3},
    "a generator of its own": {"model": stateful_models.OwnGenerator, "precision": "bf16", "optimizer": adam},
    "a counter": {"model": stateful_models.Counter, "precision": "fp16", "clip_norm": 0.1},
    "data that draw": {"splits": stateful_models.drawing, "in_memory": False, "on_oom": "accumulate"},
}


def prepared(folder: Path, case: str, **more: Any) -> Training:
    keys = dict(CASES[case])
    if "splits" in keys:
        keys["splits"] = divided(keys["splits"]())
    if "model" in keys:
        keys["model"] = keys["model"]()
    torch.manual_seed(1)
    return training(folder, lr_range=TEST, **keys, **more)


@pytest.mark.parametrize("case", CASES)
def test_training_after_it_is_bit_for_bit_that_without_it(tmp_path: Path, case: str) -> None:
    without = prepared(tmp_path / "without", case)
    start = deepcopy(exact_state(checkpoint_state(without)))
    fit(without)
    after = prepared(tmp_path / "after", case)
    result = range_test(after)
    assert len(result.rates) == 12 and len(set(result.losses)) > 1  # it has trained
    assert same(start, exact_state(checkpoint_state(after)))
    assert all(parameter.grad is None for parameter in after.parameters)
    fit(after)
    assert same(exact_state(checkpoint_state(without)), exact_state(checkpoint_state(after)))
    assert without.log.exact() == after.log.exact()


def test_rates_rise_exponentially_and_those_of_all_groups_alike(tmp_path: Path) -> None:
    state, seen = training(tmp_path, lr_range=TEST, optimizer=adam), []
    state.optimizer.register_step_post_hook(lambda o, *_: seen.append([group["lr"] for group in o.param_groups]))
    result = range_test(state)
    assert result.rates[0] == 1e-3 and result.rates[-1] == pytest.approx(1.0)
    assert len({round(math.log(b / a), 9) for a, b in pairwise(result.rates)}) == 1
    assert [first for first, _ in seen] == result.rates[:-1]  # the last loss needs no step after it
    assert [second for _, second in seen] == pytest.approx([4 * rate for rate in result.rates[:-1]])


def test_it_takes_the_batches_of_a_real_training_in_their_order(tmp_path: Path) -> None:
    """A rate of almost nothing: the losses are those of the initial weights."""
    state = training(tmp_path, lr_range=LrRangeSettings(7, 1e-30, 1e-29), precision="fp64")
    result, expected = range_test(state), []
    for epoch in (1, 2, 3):
        for batch in state.loaders.train.epoch(epoch):
            expected.append(state.task.measure(state.model, batch).loss.item())
    assert result.losses == expected[:7]
    assert result.suggestion is None


def test_it_ends_where_a_parabola_diverges_and_suggests_a_rate_that_converges(tmp_path: Path) -> None:
    """Gradient descent on w^2 diverges above a rate of 1."""
    ones = Source("ones", train=(torch.ones(64, 1, dtype=torch.float64), torch.zeros(64, 1, dtype=torch.float64)))
    torch.manual_seed(0)
    state = training(
        tmp_path, model=nn.Linear(1, 1, bias=False), splits=divided(ones), loss=MSE(), precision="fp64",
        batch_size=64, optimizer=lambda p: torch.optim.SGD(p, lr=0.1), lr_range=LrRangeSettings(100, 1e-4, 1e4),
    )  # fmt: skip
    result = range_test(state)
    assert result.diverged and 1 < result.rates[-1] < 1000
    assert result.suggestion is not None and 0.01 < result.rates[result.suggestion] < 1


def test_a_stopped_test_leaves_a_checkpoint_of_the_start(tmp_path: Path) -> None:
    state = prepared(tmp_path, "dropout and BatchNorm", stop=Stop(3))
    start = deepcopy(exact_state(checkpoint_state(state)))
    with pytest.raises(Interrupted):
        range_test(state)
    again = prepared(tmp_path / "again", "dropout and BatchNorm")
    restore(again, load(tmp_path / "checkpoints" / "last.pt"))
    assert same(start, exact_state(checkpoint_state(again)))
    assert range_test(again).losses == range_test(prepared(tmp_path / "b", "dropout and BatchNorm")).losses


@pytest.mark.parametrize(
    ("overrides", "key", "topic"),
    [
        (["trainer.lr_range.lowest=1", "trainer.lr_range.highest=0.5"], "trainer.lr_range.lowest", "range"),
        (["trainer.lr_range.steps=1"], "trainer.lr_range.steps", "range"),
        (["trainer.lr_range.lowest=0"], "trainer.lr_range.lowest", "range"),
        (PAIR, "trainer.lr_range.steps", "conflict"),
    ],
)
def test_what_it_cannot_test_is_refused(overrides: list[str], key: str, topic: str) -> None:
    with pytest.raises(ConfigError) as raised:
        built("debug=lr_range", "data.limit=50", *overrides)
    assert [(problem.key, problem.topic) for problem in raised.value.problems] == [(key, topic)]


def test_several_ranks_are_refused(tmp_path: Path) -> None:
    group: Any = SimpleNamespace(rank=0, count=2)
    state = training(tmp_path, lr_range=TEST)
    with pytest.raises(ConfigError) as raised:
        strategy_checks.range_test(DDP(group), state.settings, ("loss",), state.optimizer)
    assert raised.value.problems[0].suggestion == "write strategy=single"


def test_a_command_ends_with_a_line_to_type(runner: Callable[..., Called], here: Path) -> None:
    groups = "optimizer.groups={head:{params:layers.3.*,lr:0.1}}"
    called = runner("debug=lr_range", "trainer.lr_range.steps=60", "hydra.run.dir=run", "scheduler=onecycle", groups)
    assert called.code == 0, called.err
    found = re.search(r"suggestion optimizer\.lr=(\S+) optimizer\.groups\.head\.lr=(\S+)", called.err)
    assert found is not None, called.err
    rate, of_head = map(float, found.groups())
    assert of_head == pytest.approx(2 * rate, rel=0.01)  # as 0.1 is to 0.05
    result = json.loads((here / "run" / "result.json").read_text())
    assert (result["status"], result["epochs"], result["lr_range/suggestion"]) == ("FINISHED", 0, rate)
    with (here / "run" / "plots" / "lr_range.csv").open() as file:
        rows = [{name: float(value) for name, value in row.items()} for row in csv.DictReader(file)]
    assert rate == pytest.approx(next(row["lr"] for row in rows if f"{row['lr']:.3g}" == f"{rate:.3g}"), rel=0.01)
    journal = [json.loads(line) for line in (here / "run" / "metrics.jsonl").read_text().splitlines()]
    smoothed = [point["value"] for point in journal if point["name"] == "lr_range/smoothed_loss"]
    assert smoothed == [row["smoothed_loss"] for row in rows]
    assert (here / "run" / "plots" / "lr_range.png").stat().st_size > 5000
    again = runner("resume=run")
    assert again.code == 0 and "a test of learning rates, is finished: nothing to do" in again.err
