"""Chains of linear layers are computed without `vmap`: the same gradients, whoever is beside a model."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F  # noqa: N812 - torch's own name for it
from torch import Tensor, nn

from runner.loss import MSE, CrossEntropy
from runner.task.supervised import Supervised
from runner.training.stacked_gradients import Gradients
from runner.training.stacked_layers import chain_of


class Functional(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(12, 5), nn.Linear(5, 4)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.two(F.relu(self.one(inputs.flatten(1)), inplace=True))


class Residual(Functional):
    def forward(self, inputs: Tensor) -> Tensor:
        hidden = self.one(torch.flatten(inputs, 1))
        return self.two(hidden + hidden.tanh())


class Twice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one = nn.Linear(12, 12)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.one(self.one(torch.flatten(inputs, 1)))


class Branching(Functional):
    def forward(self, inputs: Tensor) -> Tensor:
        return super().forward(inputs if inputs.sum() > 0 else -inputs)


def layers(*more: nn.Module, width: int = 20, bias: bool = True) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(12, width, bias), *more, nn.Linear(width, 4, bias))


def hooked() -> nn.Module:
    model = layers(nn.ReLU())
    model[1].register_forward_hook(lambda module, inputs, output: 2 * output)
    return model


def frozen() -> nn.Module:
    model = layers(nn.ReLU())
    model[1].bias.requires_grad_(False)
    return model


CHAINS: dict[str, Callable[[], nn.Module]] = {
    "relu": lambda: layers(nn.ReLU()),
    "narrow": lambda: layers(nn.ReLU(), width=3),
    "gelu without bias": lambda: layers(nn.GELU("tanh"), bias=False),
    "relu, and leaky": lambda: layers(nn.ReLU(inplace=True), nn.Identity(), nn.LeakyReLU(0.3)),
    "relu first": lambda: nn.Sequential(nn.ReLU(), nn.Flatten(), nn.Linear(12, 4), nn.Tanh()),
    "functions": Functional,
    "on rows": lambda: nn.Sequential(nn.Linear(4, 20), nn.ReLU(), nn.Linear(20, 3), nn.Flatten(), nn.Linear(9, 4)),
}
OTHERS: dict[str, Callable[[], nn.Module]] = {
    "residual": Residual,
    "a layer twice": Twice,
    "a branch": Branching,
    "a hook": hooked,
    "frozen": frozen,
    "dropout": lambda: layers(nn.Dropout(0.5)),
    "inputs in other axes": lambda: nn.Sequential(nn.Flatten(2), nn.Linear(4, 4), nn.Flatten(), nn.Linear(12, 4)),
}


@pytest.mark.parametrize("name", CHAINS)
@pytest.mark.parametrize("loss", ["classes", "smoothed", "values"])
def test_gradients_are_those_of_vmap(name: str, loss: str) -> None:
    model, task = CHAINS[name](), Supervised()
    task.loss = MSE() if loss == "values" else CrossEntropy(label_smoothing=0.2 * (loss == "smoothed"))
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(3, 7, 3, 4, generator=generator)
    classes = torch.randint(0, 4, (3, 7), generator=generator)
    targets = torch.randn(3, 7, 4, generator=generator) if loss == "values" else classes
    differing = torch.tensor([0.0, 0.1, 0.3]) if loss == "smoothed" else None
    for smoothing in (None, differing):
        direct, with_vmap = Gradients(model, task), Gradients(model, task)
        assert direct._chain is not None
        with_vmap._chain = None
        weights = {
            name: torch.stack([own.detach() * factor for factor in (1.0, 0.7, -0.5)])
            for name, own in model.named_parameters()
        }
        found = direct.compute(weights, {}, inputs, targets, smoothing)
        expected = with_vmap.compute(weights, {}, inputs, targets, smoothing)
        for one, other in zip((*found[:2], *found[2].values()), (*expected[:2], *expected[2].values()), strict=True):
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)
        for place in range(3):  # alone in a stack: the same bits
            rows = ({n: w[place, None].clone() for n, w in weights.items()}, {}, inputs[place, None])
            own = smoothing[place, None] if smoothing is not None else None
            alone = Gradients(model, task).compute(*rows, targets[place, None], own)
            if "gelu" in name:  # torch rounds the last values of a tensor in another way than the others
                torch.testing.assert_close(alone[0][0], found[0][place])
                continue
            assert alone[0][0] == found[0][place]
            assert all(torch.equal(gradient[0], found[2][n][place]) for n, gradient in alone[2].items())


@pytest.mark.parametrize("name", OTHERS)
def test_other_models_are_no_chains(name: str) -> None:
    assert chain_of(OTHERS[name]()) is None
