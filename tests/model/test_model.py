import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from conftest import Called
from helpers.operations import Operations
from helpers.problems import about
from helpers.training import same
from runner.device import set_deterministic
from runner.errors import ConfigError
from runner.model.cnn import CNN
from runner.model.mlp import MLP
from runner.model.probe import Cost, check_shapes, has_convolutions, parameter_count, wrong_kind

MNIST = (1, 28, 28)

needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


def mlp(**arguments: Any) -> MLP:
    return MLP(**({"input_shape": MNIST, "num_outputs": 10, "hidden": [128, 64]} | arguments))


def cnn(**arguments: Any) -> CNN:
    values: dict[str, Any] = {"channels": [32, 64, 128], "strides": [1, 2, 2], "hidden": [64]}
    return CNN(**({"input_shape": MNIST, "num_outputs": 10} | values | arguments))


@pytest.mark.parametrize(
    ("model", "parameters", "flops", "values"),
    # The numbers of the notebooks; a multiply-add counts as two operations. The largest layer outputs are the
    # flattened image, and 32 channels of 28 x 28.
    [
        (mlp(), 109_386, 218_368, 784),
        (cnn(), 101_578, 14_919_936, 25_088),
        (mlp(hidden=[128]), 101_770, 203_264, 784),
    ],
)
def test_size_and_arithmetic_of_the_course_s_networks(
    model: nn.Module, parameters: int, flops: int, values: int
) -> None:
    assert parameter_count(model) == parameters
    assert check_shapes(model, MNIST, 10, torch.float32) == Cost(flops, values)


@pytest.mark.parametrize("make", [mlp, cnn])
def test_the_shapes_come_from_the_data(make: Any) -> None:
    model = make(input_shape=(3, 9, 11), num_outputs=4)
    assert model(torch.randn(2, 3, 9, 11)).shape == (2, 4)


class Ending(nn.Module):
    """A linear layer, followed by a function."""

    def __init__(self, end: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.layer, self.end = nn.Linear(64, 10), end

    def forward(self, inputs: Tensor) -> Tensor:
        return self.end(self.layer(inputs.flatten(1)))


class NotOnMeta(Ending):
    def forward(self, inputs: Tensor) -> Tensor:
        assert inputs.device.type != "meta"
        return super().forward(inputs)


@pytest.mark.parametrize(
    ("end", "by"),
    [
        (nn.Softmax(dim=1), "softmax"),
        (lambda outputs: outputs.softmax(1).unsqueeze(2).squeeze(2), "softmax"),
        (lambda outputs: outputs.sigmoid_(), "sigmoid"),
        (lambda outputs: torch.sigmoid(outputs).view(-1, 10), "sigmoid"),
        (nn.LogSoftmax(dim=1), "log_softmax"),  # cross entropy accepts it unchanged
        (nn.Tanh(), "tanh"),
        (lambda outputs: outputs.relu_().flatten(1), "relu"),
        (lambda outputs: outputs * outputs.softmax(1), None),
        (nn.Identity(), None),
    ],
)
@pytest.mark.parametrize("kind", [Ending, NotOnMeta])
def test_a_model_that_ends_in_an_activation_is_seen(kind: type[Ending], end: Any, by: str | None) -> None:
    assert check_shapes(kind(end), (1, 8, 8), 10, torch.float32).activation == by


def test_probabilities_before_a_loss_that_takes_logits_are_said_before_training(
    here: Path, runner: Callable[..., Called], monkeypatch: pytest.MonkeyPatch
) -> None:
    (here / "nets.py").write_text(
        "from torch import nn\n"
        "class Net(nn.Sequential):\n"
        "    def __init__(self, num_outputs: int):\n"
        "        super().__init__(nn.Flatten(), nn.Linear(64, num_outputs), nn.Softmax(1))\n"
        "class Fails(nn.Linear):\n"
        "    def __init__(self, num_outputs: int):\n"
        "        super().__init__(64, num_outputs)\n"
        "    def forward(self, inputs):\n"
        "        hidden = inputs.flatten(1)\n"
        "        return super().forward(hidden[:, :7])\n"
        "class FailsWhenMade(nn.Module):\n"
        "    def __init__(self, num_outputs: int, width: int = 3):\n"
        "        super().__init__()\n"
        "        self.layer = nn.Linear(64, self.widht)\n"
    )
    monkeypatch.syspath_prepend(here)
    monkeypatch.delitem(sys.modules, "nets", raising=False)
    typed = ["model=custom", "trainer.epochs=1", "data.limit=60", "tracking=off"]
    called = runner(*typed, "model._target_=nets.Net")
    assert called.code == 0 and re.search("softmax.*loss=cross_entropy", called.err)
    for name, where in {"Fails": "line 10, in forward", "FailsWhenMade": "line 14, in __init__"}.items():
        called = runner(*typed, f"model._target_=nets.{name}")
        assert called.code == 2 and f"(nets.py, {where})" in called.err
        assert "change model." not in called.err


def test_knobs_change_the_network() -> None:
    assert not any(isinstance(m, nn.Dropout) for m in mlp().modules())
    assert sum(isinstance(m, nn.Dropout) for m in mlp(dropout=0.5).modules()) == 2
    assert any(isinstance(m, nn.Tanh) for m in mlp(activation="tanh").modules())
    assert parameter_count(mlp(hidden=[])) == 7850
    assert parameter_count(cnn(hidden=[], channels=[4], strides=[1])) == 40 + 50


def drawn(make: Any, **arguments: Any) -> dict[str, Tensor]:
    torch.manual_seed(0)
    return make(**arguments).state_dict()


def test_an_activation_behind_the_last_layer_changes_nothing_else() -> None:
    bare, bent = drawn(mlp), drawn(mlp, output_activation="sigmoid")
    assert list(bare) == [f"layers.{index}.{name}" for index in (1, 3, 5) for name in ("weight", "bias")]
    assert all(torch.equal(bare[name], bent[name]) for name in bare | bent)
    inputs = torch.randn(2, *MNIST)
    torch.manual_seed(0)
    linear = mlp()
    torch.manual_seed(0)
    assert torch.equal(mlp(output_activation="sigmoid")(inputs), linear(inputs).sigmoid())
    with pytest.raises(ConfigError) as error:
        mlp(output_activation="sigmoit")
    assert about(error) == [("model.output_activation", "choice")]
    assert "sigmoid" in error.value.problems[0].suggestion


def test_batch_norm_stands_between_a_convolution_and_its_activation() -> None:
    convolutions = [f"features.{index}.{name}" for index in (0, 2, 4) for name in ("weight", "bias")]
    assert list(drawn(cnn)) == [*convolutions, *(f"head.{i}.{name}" for i in (0, 2) for name in ("weight", "bias"))]
    model = cnn(batch_norm=True)
    kinds = [type(layer) for layer in model.features]
    assert kinds[:9] == [nn.Conv2d, nn.BatchNorm2d, nn.ReLU] * 3
    assert all(layer.bias is None for layer in model.features if isinstance(layer, nn.Conv2d))
    seen: list[Tensor] = []
    model.features[1].register_forward_hook(lambda module, inputs, outputs: seen.append(outputs))
    model(3 + 5 * torch.randn(16, *MNIST))
    assert seen[0].mean(dim=(0, 2, 3)).abs().max() < 1e-4
    assert seen[0].std(dim=(0, 2, 3)).sub(1).abs().max() < 1e-2


@pytest.mark.parametrize("kernel_size", [1, 2, 3, [5, 4, 7]])
def test_without_a_pool_the_head_gets_every_position(kernel_size: int | list[int]) -> None:
    model = cnn(kernel_size=kernel_size, strides=[1, 2, 3], pool="none", hidden=[]).eval()
    sizes = [layer.kernel_size[0] for layer in model.features if isinstance(layer, nn.Conv2d)]
    assert sizes == (kernel_size if isinstance(kernel_size, list) else [kernel_size] * 3)
    images = torch.randn(2, 1, 28, 20)
    with pytest.raises(RuntimeError):  # the head is made for 28 x 28
        model(images)
    model = cnn(input_shape=(1, 28, 20), kernel_size=kernel_size, strides=[1, 2, 3], pool="none", hidden=[])
    maps = model.features[:-1](images)
    head = model.head[0]
    assert isinstance(head, nn.Linear)
    by_position = head.weight.unflatten(1, maps.permute(0, 2, 3, 1).shape[1:])
    expected = torch.einsum("nchw,khwc->nk", maps, by_position) + head.bias
    assert torch.allclose(model(images), expected, atol=1e-5)


def test_every_position_of_a_channels_last_tensor_is_a_view_of_it() -> None:
    flatten = cnn(pool="none").features[-1]
    maps = torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last).requires_grad_()
    rows = flatten(maps)
    assert rows.data_ptr() == maps.data_ptr()
    rows.square().sum().backward()
    assert maps.grad is not None and maps.grad.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=needs_cuda)])
def test_deterministic_gives_the_same_without_what_a_gpu_cannot_do_then(device: str) -> None:
    torch.manual_seed(0)
    model = cnn(channels=[4, 64], strides=[1, 2]).to(device, memory_format=torch.channels_last)
    images = torch.rand(8, *MNIST, device=device).to(memory_format=torch.channels_last)
    with torch.no_grad():
        model.features[2].bias.fill_(-0.5)  # channels of zeros after the activation
    found = []
    try:
        for wanted in (False, True):
            set_deterministic(wanted)
            model.zero_grad()
            with Operations() as operations:
                outputs = model(images)
                outputs.square().sum().backward()
            found.append([outputs, *(p.grad for p in model.parameters())])
    finally:
        set_deterministic(False)
    assert "convolution_backward" in operations.names and "adaptive_max_pool2d_backward" not in operations.names
    if device == "cpu":
        assert same(*found)


def test_what_does_not_fit_is_said() -> None:
    for make, key, topic, suggested in (
        (lambda: cnn(input_shape=(4,)), "model", "shape", "write model=mlp, or model=gpt for tokens"),
        (lambda: cnn(strides=[1]), "model.strides", "conflict", "write model.strides=[1,2,2]"),
        (lambda: cnn(channels=[8], strides=[1, 2]), "model.strides", "conflict", "write model.strides=[1]"),
        (
            lambda: cnn(channels=[], strides=[]),
            "model.channels",
            "range",
            "write model.channels=[32] model.strides=[1]",
        ),
        (lambda: cnn(kernel_size=[5, 3]), "model.kernel_size", "conflict", "write model.kernel_size=3"),
        (lambda: mlp(activation="rellu"), "model.activation", "choice", "did you mean relu?"),
    ):
        with pytest.raises(ConfigError) as error:
            make()
        assert about(error) == [(key, topic)]
        assert error.value.problems[0].suggestion == suggested


class Fixed(nn.Module):
    """Takes 10 features; its forward pass reads values, which meta tensors lack."""

    def __init__(self, outputs: int = 3) -> None:
        super().__init__()
        self.layer = nn.Linear(10, outputs)

    def forward(self, inputs: Tensor) -> Tensor:
        scale = float(torch.rand(1) + inputs.abs().max())
        return self.layer(inputs / (1 + scale))


class TestCheckShapes:
    def test_a_model_that_cannot_run_on_meta_gets_real_samples_and_draws_nothing(self) -> None:
        model = Fixed()
        before = torch.get_rng_state()
        assert check_shapes(model, (10,), 3, torch.float32) == Cost(60, 3)
        assert torch.equal(torch.get_rng_state(), before)

    def test_whole_numbers_and_floats_are_told_apart_by_what_the_model_takes(self) -> None:
        ids, floats = torch.zeros(2, 4, dtype=torch.long), torch.zeros(2, 4)
        embedded = nn.Sequential(nn.Embedding(3, 5), nn.Flatten(), nn.Linear(20, 2))
        for model, inputs, kind in ((nn.Linear(4, 2), ids, "gets token ids"), (embedded, floats, "takes token ids")):
            problem = wrong_kind(model, (inputs,), {}, "reason")
            assert problem is not None and problem.topic == "shape" and kind in problem.text
        too_short = nn.Sequential(nn.Embedding(3, 5), nn.Flatten(), nn.Linear(5, 2))  # it fails for another reason
        assert wrong_kind(too_short, (floats,), {}, "reason") is None
        assert wrong_kind(nn.Linear(3, 2), (floats,), {}, "reason") is None

    def test_a_model_that_does_not_take_the_data_is_named_with_the_shape(self) -> None:
        with pytest.raises(ConfigError) as error:
            check_shapes(Fixed(), (12,), 3, torch.float32)
        assert about(error) == [("model", "shape")]
        assert "(12,)" in str(error.value)

    def test_a_model_with_other_outputs_is_told_what_is_needed(self) -> None:
        with pytest.raises(ConfigError) as error:
            check_shapes(Fixed(5), (10,), 3, torch.float32)
        assert about(error) == [("model", "shape")]
        (problem,) = error.value.problems
        assert problem.text.index("(N, 5)") < problem.text.index("(N, 3)") and "num_outputs" in problem.suggestion

    def test_a_model_that_returns_no_tensor_is_refused(self) -> None:
        class Pair(Fixed):
            def forward(self, inputs: Tensor) -> Any:
                return self.layer(inputs), inputs

        with pytest.raises(ConfigError) as error:
            check_shapes(Pair(), (10,), 3, torch.float32)
        assert about(error) == [("model", "code")]
        assert "(N, 3)" in str(error.value) and "tuple" in str(error.value)

    def test_it_leaves_the_model_as_it_was(self) -> None:
        model = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3))
        before = {k: v.clone() for k, v in model.state_dict().items()}
        check_shapes(model, (4,), 3, torch.float32)
        assert model.training
        assert not any(module._forward_hooks for module in model.modules())
        assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


def test_convolutions_are_noticed() -> None:
    assert has_convolutions(cnn())
    assert not has_convolutions(mlp())


class Inverted(nn.Module):
    """Cannot take zeros."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(torch.linalg.inv(x.squeeze(1)).flatten(1))


def test_a_model_that_cannot_take_zeros_is_checked_without_values() -> None:
    assert check_shapes(Inverted(), (1, 8, 8), 10, torch.float32) == Cost(1280, 10)


class Seen(nn.Module):
    """Notes on which device it was called."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.layer, self.devices = nn.Linear(width, 1), list[str]()

    def forward(self, x: Tensor) -> Tensor:
        self.devices.append(x.device.type)
        return self.layer(x)


@pytest.mark.parametrize(("width", "device"), [(100, "cpu"), (70_000, "meta")])
def test_only_small_samples_are_computed(width: int, device: str) -> None:
    model = Seen(width)
    check_shapes(model, (width,), 1, torch.float32)
    assert model.devices == [device]
