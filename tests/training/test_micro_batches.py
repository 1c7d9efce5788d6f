"""`trainer.on_oom=accumulate`: out of memory, a step is repeated in parts, and nothing else changes."""

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from conftest import Called
from helpers.composed import built
from helpers.limited import Limited
from helpers.training import Stop, blobs, divided, exact_state, same, training
from runner.assembly import strategy_checks
from runner.errors import ConfigError
from runner.loss import CrossEntropy
from runner.rundir.checkpoint_file import load
from runner.strategy import Single
from runner.strategy.ddp import DDP
from runner.training.loop import fit
from runner.training.saving import checkpoint_state, restore
from runner.training.state import Interrupted, Training

SAMPLES = {"splits": divided(blobs(120)), "batch_size": 32}  # 96 of them are trained on
UNLIMITED = 1000


def trained(folder: Path, **keys: Any) -> Training:
    torch.manual_seed(1)
    state = training(folder, **(SAMPLES | keys))
    fit(state)
    return state


def ended(state: Training) -> dict[str, Any]:
    """Return the state that training ended with, without times and the size of micro-batches."""
    end = exact_state(checkpoint_state(state))
    for key in ("batch", "micro_batch"):
        end["progress"].pop(key, None)
    return end


@pytest.mark.parametrize("in_backward", [False, True])
def test_it_ends_bit_for_bit_as_a_run_of_smaller_batches_that_are_accumulated(
    tmp_path: Path, in_backward: bool
) -> None:
    divided_ = trained(tmp_path / "a", model=Limited(16, in_backward), on_oom="accumulate", ema_decay=0.9)
    accumulated = trained(tmp_path / "b", model=Limited(UNLIMITED), batch_size=16, grad_accumulation=2, ema_decay=0.9)
    assert divided_.progress.micro_batch == 16
    assert same(ended(divided_), ended(accumulated))  # weights, statistics, optimizer, generators
    assert divided_.log.exact() == accumulated.log.exact()
    assert divided_.model.calls == accumulated.model.calls
    (note,) = divided_.display.notes
    assert note.startswith("out of memory with 32 samples at once in step 1: from here on micro-batches of 16 ")
    assert "BatchNorm" in note


def test_where_memory_suffices_it_changes_no_bit(tmp_path: Path) -> None:
    plain, prepared = (
        trained(tmp_path / on_oom, model=Limited(UNLIMITED), on_oom=on_oom) for on_oom in ("fail", "accumulate")
    )
    assert same(ended(plain), ended(prepared))
    assert plain.log.exact() == prepared.log.exact()
    assert prepared.progress.micro_batch is None
    assert "micro_batch" not in prepared.progress.state_dict()


@pytest.mark.parametrize(
    ("accumulation", "keys"), [(1, {"loss": CrossEntropy(class_weight=[1.0, 0.0, 5.0])}), (3, {"clip_norm": 0.1})]
)
def test_the_batch_stays_what_it_was_and_each_sample_counts_once(
    tmp_path: Path, keys: dict[str, Any], accumulation: int
) -> None:
    """Memory runs out in the second epoch, with three batches in the third of a step; 81 samples are 17 in the last."""
    keys = {**keys, "precision": "fp64", "grad_accumulation": accumulation, "splits": divided(), "epochs": 3}
    whole = trained(tmp_path / "a", model=Limited(UNLIMITED, dropout=0), **keys)
    limited = Limited(5, in_backward=True, from_call=6, dropout=0)
    parts = trained(tmp_path / "b", model=limited, on_oom="accumulate", **keys)
    assert parts.progress.micro_batch in (4, 5)  # of 32, or of the 17 of the last batch
    assert parts.progress.samples == whole.progress.samples == 3 * 81
    assert parts.progress.step == whole.progress.step
    for name, weight in whole.model.state_dict().items():
        torch.testing.assert_close(parts.model.state_dict()[name], weight, rtol=1e-12, atol=1e-14)
    expected = pytest.approx(whole.log.exact(), rel=1e-9)
    assert parts.log.exact() == expected


def test_a_resumed_run_goes_on_with_its_micro_batches(tmp_path: Path) -> None:
    keys = {**SAMPLES, "epochs": 3}
    whole = trained(tmp_path / "a", model=Limited(8), on_oom="accumulate", epochs=3)
    with pytest.raises(Interrupted):
        trained(tmp_path / "b", model=Limited(8), on_oom="accumulate", stop=Stop(5), epochs=3)
    resumed = training(tmp_path / "c", model=Limited(UNLIMITED), on_oom="fail", **keys)  # as much memory as it wants
    restore(resumed, load(tmp_path / "b" / "checkpoints" / "last.pt"))
    assert resumed.progress.micro_batch == 8
    fit(resumed)
    assert same(ended(whole), ended(resumed))
    assert resumed.model.largest == 8


def test_a_loss_that_is_skipped_is_skipped_with_all_its_parts(tmp_path: Path) -> None:
    source = blobs(120)
    source.train[0][5, 0] = torch.nan
    keys = {"splits": divided(source), "on_nonfinite": "skip", "epochs": 1, "precision": "fp64"}
    whole = trained(tmp_path / "a", model=Limited(UNLIMITED, dropout=0), **keys)
    parts = trained(tmp_path / "b", model=Limited(8, dropout=0), on_oom="accumulate", **keys)
    assert parts.progress.step == whole.progress.step == 2
    assert parts.log.exact() == pytest.approx(whole.log.exact(), rel=1e-9)


@pytest.mark.parametrize(("on_oom", "limit"), [("fail", 16), ("accumulate", 1)])
def test_what_no_smaller_part_helps_ends_the_run(tmp_path: Path, on_oom: str, limit: int) -> None:
    """BatchNorm has no variance of a single sample."""
    with pytest.raises(torch.OutOfMemoryError):
        trained(tmp_path, model=Limited(limit), on_oom=on_oom)


REFUSED = {
    "trainer.compile=true": "the model is compiled for the batches of the run",
    "task=custom task._target_=helpers.tasks.Contrastive": "Contrastive does not say larger_batches = True",
}


@pytest.mark.parametrize("overrides", REFUSED)
def test_what_cannot_be_divided_is_refused_before_the_start(overrides: str) -> None:
    with pytest.raises(ConfigError) as raised:
        built("data.limit=50", "trainer.on_oom=accumulate", *overrides.split())
    (problem,) = raised.value.problems
    assert (problem.key, problem.topic) == ("trainer.on_oom", "conflict")
    assert REFUSED[overrides] in problem.text


def test_ranks_that_wait_for_each_other_are_refused(tmp_path: Path) -> None:
    group: Any = SimpleNamespace(rank=0, count=2)
    state = training(tmp_path, on_oom="accumulate")
    with pytest.raises(ConfigError) as raised:
        strategy_checks.parts(DDP(group), state.settings, state.task, state.optimizer)
    assert raised.value.problems[0].text.startswith("trainer.on_oom=accumulate: with strategy=ddp, the ranks wait")
    strategy_checks.parts(Single(), state.settings, state.task, state.optimizer)


MODEL = (
    "data=custom",
    "data._target_=helpers.training.blobs",
    "model=custom",
    "model._target_=helpers.limited.Limited",
)


def test_a_command_fails_with_the_key_and_is_resumed_with_it(runner: Callable[..., Called], here: Path) -> None:
    model = (*MODEL, "+model.limit=16", "+model.from_call=4", "data.batch_size=32", "trainer.epochs=3")
    failed = runner("tracking=off", "tracking.log_model=false", "hydra.run.dir=run", *model)
    assert failed.code == 1
    assert "write trainer.on_oom=accumulate, " in failed.err
    resumed = runner("resume=run", "trainer.on_oom=accumulate")
    assert resumed.code == 0, resumed.err
    assert resumed.err.count("from here on micro-batches of 16") == 1
    assert json.loads((here / "run" / "result.json").read_text())["micro_batch_size"] == 16
