"""`trainer.activation_checkpointing`: the same numbers to the bit, with less memory."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from conftest import Called
from helpers.composed import built
from helpers.training import same, training
from runner.errors import ConfigError
from runner.model.recomputation import chosen, recomputing
from runner.training.loop import fit


class Block(nn.Module):
    calls = 0

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(6, 6), nn.BatchNorm1d(6), nn.Unflatten(1, (2, 3)),
            nn.InstanceNorm1d(2, affine=True, track_running_stats=True), nn.Flatten(), nn.Dropout(0.4), nn.Tanh(),
        )  # fmt: skip

    def forward(self, inputs: Tensor) -> Tensor:
        Block.calls += 1
        return self.layers(inputs) + inputs


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.blocks, self.head = nn.ModuleList([Block(), Block()]), nn.Linear(6, 3)

    def forward(self, inputs: Tensor) -> Tensor:
        for block in self.blocks:
            inputs = block(inputs)
        return self.head(inputs)


def test_numbers_are_the_same_to_the_bit_with_dropout_running_statistics_and_averaged_weights(tmp_path: Path) -> None:
    states: dict[Any, Any] = {}
    calls = {}
    for patterns in (None, ["blocks"]):
        torch.manual_seed(1)
        state = training(tmp_path / str(bool(patterns)), model=Net(), epochs=2, ema_decay=0.9)
        Block.calls = 0
        with recomputing(state.model, patterns):
            fit(state)
        calls[bool(patterns)] = Block.calls
        states[bool(patterns)] = state
        assert "forward" not in vars(state.model.blocks[0])
    assert calls[True] > calls[False]
    assert states[True].log.exact() == states[False].log.exact()
    for name in ("model", "eval_model", "optimizer"):
        assert same(*(dict(getattr(states[which], name).state_dict()) for which in (True, False)))


def test_activations_are_not_stored() -> None:
    stored = {}
    for patterns in (None, ["blocks.*"]):
        kept: list[int] = []
        model = Net()
        with recomputing(model, patterns), torch.autograd.graph.saved_tensors_hooks(
            lambda tensor, kept=kept: (kept.append(tensor.numel()), tensor)[1], lambda tensor: tensor
        ):  # fmt: skip
            model(torch.randn(512, 6))
        stored[bool(patterns)] = sum(kept)
    assert stored[True] < 0.5 * stored[False]


def test_patterns_choose_the_outermost_modules_that_compute() -> None:
    model = Net()
    assert chosen(model, ["blocks"]) == chosen(model, ["blocks.*"]) == list(model.blocks)
    assert chosen(model, ["blocks.1.layers.[01]"]) == list(model.blocks[1].layers[:2])
    with pytest.raises(ConfigError, match=r"bloks matches no module of the model; its modules begin with blocks, head"):
        chosen(model, ["blocks", "bloks"])
    model.blocks[0].own = torch.Generator()
    with pytest.raises(ConfigError, match=r"blocks\.0 has a generator of its own"):
        chosen(model, ["blocks"])


def test_a_run(runner: Callable[..., Called], here: Path) -> None:
    for number, more in enumerate(((), ("trainer.activation_checkpointing=[features.*]",))):
        typed = ("model=cnn", "model.batch_norm=true", "data.limit=60", "trainer.epochs=1", "tracking=off", *more)
        called = runner(*typed, f"hydra.run.dir={here / str(number)}")
        assert called.code == 0 and "missing from checkpoints" not in called.err
    states = [torch.load(here / str(number) / "checkpoints" / "last.pt", weights_only=True) for number in (0, 1)]
    assert same(states[0]["model"], states[1]["model"])


def test_a_compiled_model_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"trainer\.compile exclude each other"):
        built("data.limit=50", "trainer.compile=true", "trainer.activation_checkpointing=['layers.*']")
