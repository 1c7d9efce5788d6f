"""Divided weights, with one rank in this process: what is gathered when does not depend on the number of ranks."""

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch.distributed import HashStore

from helpers.composed import built, trained
from helpers.problems import about, problems_of
from helpers.tasks import Stacked
from helpers.training import Log, Silent, Stop
from runner.errors import TrainingError
from runner.model import probe
from runner.rundir.checkpoint import Checkpoints
from runner.strategy.blocks import find_blocks, uses_outside
from runner.training.compilation import compile_model
from runner.training.loop import fit
from runner.training.state import make_training

OWN = (
    "model=custom", "model._target_=helpers.tasks.Stacked", "task=custom", "task._target_=helpers.tasks.ByMethods",
    "data.limit=50", "data.batch_size=16", "trainer.epochs=2", "device=cpu", "device.threads=1", "precision=fp64",
)  # fmt: skip


@pytest.fixture
def one_rank(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let this process be the only rank of torchrun."""
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_PORT"):
        monkeypatch.setenv(name, "1" if "SIZE" in name else "0")
    dist.init_process_group("gloo", store=HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def losses(folder: Path, *more: str) -> dict[int, float]:
    state = trained(folder, *OWN, *more)
    assert isinstance(state.log, Log)
    return state.log.of("val/loss")


@pytest.mark.usefixtures("one_rank")
class TestMethodsOfTheModel:
    @pytest.mark.parametrize("inside", ("false", "true"))
    def test_are_called_by_a_task(self, inside: str, tmp_path: Path) -> None:
        alone = losses(tmp_path / "alone", f"+task.inside={inside}")
        divided = losses(tmp_path / "divided", f"+task.inside={inside}", "strategy=fsdp")
        assert divided == pytest.approx(alone, rel=1e-12)

    def test_parts_of_blocks_that_are_used_are_said(self) -> None:
        experiment = built(*OWN, "+task.inside=true", "strategy=fsdp")
        assert "layers.0, layers.1 are whole" in " ".join(experiment.strategy.notes(experiment.model))
        assert not built(*OWN, "strategy=fsdp").strategy.notes(experiment.model)

    def test_blocks_that_are_asked_for_have_to_be_called(self) -> None:
        chosen = (*OWN, "strategy=fsdp", "strategy.shard=[layers.1]")
        problems = problems_of(lambda: built(*chosen, "+task.inside=true"))
        assert about(problems) == [("strategy.shard", "conflict")]
        assert "layers.1" in str(problems[0])
        built(*chosen)

    @pytest.mark.parametrize("computed", (False, True))
    def test_blocks_of_plain_models_are_called(self, computed: bool, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(probe, "COMPUTED", probe.COMPUTED if computed else 0)
        experiment = built("data.limit=50", "model.hidden=[16,16]", "device=cpu", "strategy=fsdp")
        assert not experiment.strategy.notes(experiment.model)

    def test_what_only_the_evaluation_does_is_said_plainly(self, tmp_path: Path) -> None:
        with pytest.raises(TrainingError, match=r"without calling the block.*strategy=ddp"):
            losses(tmp_path, "+task.in_evaluation=true", "strategy=fsdp")


@pytest.mark.usefixtures("one_rank")
def test_blocks_are_compiled_each(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compile_it, compiled = torch.compile, []
    quickly = partial(compile_it, backend="aot_eager")

    def quick(function: Callable[..., Any], mode: str, **more: Any) -> Any:
        compiled.append((function.__self__, mode))
        return quickly(function, **more)

    monkeypatch.setattr(torch, "compile", quick)
    plain, state = (
        make_training(built(*OWN, *more), Checkpoints(tmp_path / str(bool(more)), 1), Log(), Silent(), Stop())
        for more in ((), ("strategy=fsdp", "trainer.compile=max-autotune"))
    )
    compile_model(state)
    assert compiled == [(layer, "max-autotune") for layer in state.model.layers]
    for each in (plain, state):
        fit(each)
    assert state.log.of("val/loss") == pytest.approx(plain.log.of("val/loss"), rel=1e-12)
    assert list(state.model.state_dict()) == list(plain.model.state_dict())


def test_a_block_is_used_outside_while_it_does_not_run() -> None:
    model = Stacked().double()
    blocks = {f"layers.{number}": block for number, block in enumerate(find_blocks(model))}
    images = model.stem.weight.new_ones(2, 64)
    with uses_outside(model, blocks) as outside:
        model.encode(images)
        assert not outside
        model.layers[1][0](model.stem(images))
    assert outside == {"layers.1"}
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
