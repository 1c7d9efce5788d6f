"""`data.batch_size=max`: what is found fits, and the run is that with the number typed."""

import json
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import nn

from conftest import REPOSITORY, Called
from helpers.composed import built
from helpers.training import exact_state, same
from runner.assembly import build
from runner.config.command_line import make_composer, parse_arguments
from runner.config.hydra_job import without_hydra
from runner.config.schema import check_config
from runner.device import Device
from runner.errors import ConfigError
from runner.runs import largest_batch
from runner.util import cgroup
from runner.util.live_tensors import LiveTensors

OWN = ("data=custom", "data._target_=helpers.training.blobs", "model=custom", "model._target_=helpers.limited.Limited")


def test_the_search_ends_close_below_what_does_not_fit() -> None:
    for limit, most in product((0, 1, 2, 3, 63, 500, 10_000), (1, 2, 3, 64, 1000)):
        tried: list[int] = []

        def fits(size: int, limit: int = limit, tried: list[int] = tried) -> bool:
            tried.append(size)
            return size <= limit

        found = largest_batch.search(fits, most)
        assert found <= min(limit, most)
        assert found == min(limit, most) or found + max(1, found // 32) >= limit
        assert len(tried) == len(set(tried)) <= 16 and max(tried) <= most


def composed(*overrides: str) -> Any:
    cfg, problems = make_composer(parse_arguments([])).compose(["tracking=off", "data.batch_size=max", *overrides])
    assert cfg is not None and not problems
    return without_hydra(cfg)


def outcome(folder: Path) -> tuple[Any, Any, Any]:
    """Return the last checkpoint, the metrics and the config of a run, without times and its first lines."""
    last = torch.load(folder / "checkpoints" / "last.pt", weights_only=True)
    metrics = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    timed = ("time/", "throughput/", "system/", "energy/")
    exact = {(point["name"], point["step"]): point["value"] for point in metrics if not point["name"].startswith(timed)}
    return exact_state(last), exact, yaml.safe_load((folder / "config.yaml").read_text())


def test_on_a_cpu_it_is_predicted_and_the_run_is_that_with_the_number_typed(
    runner: Callable[..., Called], here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Device, "free_memory", lambda self: 2_000_000)
    keys = (
        "tracking=off",
        "tracking.log_model=false",
        "trainer.epochs=1",
        "data.limit=700",
        "optimizer=adamw",
        "model.dropout=0.2",
    )
    found = runner(*keys, "hydra.run.dir=found", "data.batch_size=max", "trainer.ema_decay=0.9")
    assert found.code == 0, found.err
    size = outcome(here / "found")[2]["data"]["batch_size"]
    assert 16 < size < 500
    assert f"data.batch_size=max: {size}, the largest that fits in memory (predicted: " in found.err
    typed = runner(*keys, "hydra.run.dir=typed", f"data.batch_size={size}", "trainer.ema_decay=0.9")
    assert typed.code == 0
    assert same(outcome(here / "found"), outcome(here / "typed"))
    # The step of that size takes what was predicted, and a tenth more does not fit.
    setup, _ = build.prepare(composed(*keys))
    state = largest_batch._training(setup)
    peaks = []
    for samples in (size, size + size // 10):
        largest_batch._step(setup, state, samples)
        with LiveTensors() as memory:
            largest_batch._step(setup, state, samples)
        peaks.append(memory.peak)
    limit = 0.8 * 2_000_000 - largest_batch._samples(setup)
    assert peaks[0] <= 1.05 * limit and peaks[1] > 0.95 * limit
    # A resumed run does not search.
    monkeypatch.setattr(largest_batch, "find", None)
    resumed = runner("resume=found", "data.batch_size=max", "trainer.epochs=2")
    assert resumed.code == 0, resumed.err
    assert outcome(here / "found")[2]["data"]["batch_size"] == size


def test_where_the_allocator_raises_steps_are_tried(
    runner: Callable[..., Called], here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(largest_batch, "_Predicted", largest_batch._Real)
    monkeypatch.setattr(Device, "free_memory", lambda self: 1_000_000)
    keys = ("tracking=off", "tracking.log_model=false", "trainer.epochs=2", *OWN, "+model.limit=40")
    found = runner(*keys, "hydra.run.dir=found", "data.batch_size=max", "trainer.grad_accumulation=2")
    assert found.code == 0, found.err
    # 40 would leave one of the 81 samples, of which BatchNorm has no variance.
    assert "data.batch_size=max: 39, the largest that fits in memory (tried; 80% of " in found.err
    runner(*keys, "hydra.run.dir=typed", "data.batch_size=39", "trainer.grad_accumulation=2")
    assert same(outcome(here / "found"), outcome(here / "typed"))


def test_it_is_no_more_than_the_training_part(here: Path) -> None:
    assert largest_batch.find(composed(), {}, [], None) == (
        1150, "data.batch_size=max: 1,150, all samples of the training part"
    )  # fmt: skip


@pytest.mark.parametrize("limit", [0, 1])
def test_what_does_not_fit_at_all(here: Path, monkeypatch: pytest.MonkeyPatch, limit: int) -> None:
    monkeypatch.setattr(largest_batch, "_Predicted", largest_batch._Real)
    with pytest.raises(ConfigError) as raised:
        largest_batch.find(composed(*OWN, f"+model.limit={limit}"), {}, [], None)
    assert [(problem.key, problem.topic) for problem in raised.value.problems] == [("data.batch_size", "unavailable")]


def test_what_is_refused(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(REPOSITORY / "tests" / "cases"))
    with pytest.raises(ConfigError) as raised:
        built("data.batch_size=max", "data=custom", "data._target_=stream.endless", "trainer.steps_per_epoch=4")
    assert "is a stream" in raised.value.problems[0].text
    config = {"data": {"batch_size": "max"}, "strategy": {"name": "ddp"}}
    assert ("data.batch_size", "conflict") in [(problem.key, problem.topic) for problem in check_config(config)]


def test_a_step_with_sparse_gradients_is_counted() -> None:
    layer = nn.Embedding(100, 256, sparse=True)
    with LiveTensors() as memory:
        layer(torch.arange(8)).square().sum().backward()
    assert layer.weight.grad is not None and layer.weight.grad.is_sparse
    assert 8 * 1024 <= memory.peak < 100 * 1024  # of eight rows, not of the whole table


def test_the_memory_of_a_container_or_a_job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cgroup, "ROOT", tmp_path)
    monkeypatch.setattr(cgroup, "OWN", tmp_path / "own")
    assert cgroup.free_memory() is None
    (tmp_path / "own").write_text("0::/job/step\n")
    (step := tmp_path / "job" / "step").mkdir(parents=True)
    for folder, limit, used in ((step, "max", "100"), (step.parent, "5000", "1000")):
        (folder / "memory.max").write_text(f"{limit}\n")
        (folder / "memory.current").write_text(f"{used}\n")
    assert cgroup.free_memory() == 4000  # the limit of the group above it
    (step.parent / "memory.stat").write_text("anon 3\ninactive_file 500\n")
    assert cgroup.free_memory() == 4500
    (tmp_path / "own").write_text("5:cpu,memory:/job\n3:devices:/\n")
    (old := tmp_path / "memory" / "job").mkdir(parents=True)
    (old / "memory.limit_in_bytes").write_text("900\n")
    (old / "memory.usage_in_bytes").write_text("200\n")
    assert cgroup.free_memory() == 700
