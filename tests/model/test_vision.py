from pathlib import Path

import pytest
import torch
from torch import nn

from helpers.composed import trained
from helpers.problems import about
from runner.errors import ConfigError
from runner.model import vision
from runner.model.probe import check_shapes, parameter_count
from runner.model.vision import adapt_stem, classifier


@pytest.fixture
def unreal(monkeypatch: pytest.MonkeyPatch) -> None:
    """Create networks on the meta device, without memory."""
    make = vision.classifier

    def made(*arguments: object) -> nn.Module:
        with torch.device("meta"):
            return make(*arguments)

    monkeypatch.setattr(vision, "classifier", made)


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("resnet18", (1, 28, 28)),
        ("resnet18", (4, 8, 8)),
        ("mobilenet_v3_small", (1, 28, 28)),
        ("squeezenet1_1", (3, 32, 32)),
        ("vgg11", (1, 32, 32)),
        ("googlenet", (1, 28, 28)),
        ("inception_v3", (3, 75, 75)),
        ("shufflenet_v2_x0_5", (2, 28, 20)),
        ("vit_b_16", (1, 32, 32)),
        ("convnext_tiny", (1, 32, 32)),
    ],
)
def test_families_take_the_data_s_channels_and_classes(name: str, shape: tuple[int, ...], unreal: None) -> None:
    model = vision.classifier(shape, 7, name)
    assert model.training
    assert check_shapes(model, shape, 7, torch.float32).flops


@pytest.mark.parametrize(
    ("name", "shape", "key", "topic", "figures", "suggested"),
    [
        ("resnet19", (3, 32, 32), "model.name", "unknown", ["model.name=resnet19"], "did you mean resnet18?"),
        ("transformer", (3, 32, 32), "model.name", "unknown", ["model.name=transformer"], "model.name=resnet18"),
        ("resnet18", (64,), "model", "shape", ["(C, H, W)", "(64,)"], "model=mlp"),
        ("vgg11", (1, 28, 40), "model.name", "shape", ["model.name=vgg11", "32x32", "28x40"], "model.name=resnet18"),
        ("alexnet", (1, 28, 28), "model.name", "shape", ["63x63", "28x28"], "model.name=resnet18"),
        ("vit_b_16", (1, 28, 28), "model.name", "shape", [" 16 ", "28x28"], "model.name=resnet18"),
        ("vit_b_32", (1, 32, 64), "model.name", "shape", [" 32 ", "32x64"], "model.name=resnet18"),
        ("maxvit_t", (3, 64, 64), "model.name", "shape", [" 224 ", "64x64"], "model.name=resnet18"),
    ],
)
def test_what_does_not_fit_is_said(
    name: str, shape: tuple[int, ...], key: str, topic: str, figures: list[str], suggested: str, unreal: None
) -> None:
    with pytest.raises(ConfigError) as error:
        vision.classifier(shape, 7, name)
    assert about(error) == [(key, topic)]
    (problem,) = error.value.problems
    assert all(figure in problem.text for figure in figures)
    assert suggested in problem.suggestion


def test_the_first_convolution_is_another_only_where_it_must_be() -> None:
    torch.manual_seed(0)
    three = classifier((3, 32, 32), 10, "resnet18")
    torch.manual_seed(0)
    one = classifier((1, 32, 32), 10, "resnet18")
    assert parameter_count(three) - parameter_count(one) == 2 * 64 * 7 * 7
    before, after = three.state_dict(), one.state_dict()
    assert list(before) == list(after)
    assert [name for name in before if not torch.equal(before[name], after[name])] == ["conv1.weight"]
    assert (one.conv1.stride, one.conv1.padding, one.conv1.bias) == ((2, 2), (3, 3), None)


@pytest.mark.parametrize("channels", [1, 12])
def test_the_new_convolution_gives_outputs_that_vary_as_before(channels: int) -> None:
    model = nn.Sequential(nn.Conv2d(3, 64, 5, stride=2, padding="valid", padding_mode="reflect"), nn.ReLU())
    bias = model[0].bias.clone()
    expected = model[0](torch.randn(16, 3, 32, 32)).std().item()
    adapt_stem(model, channels)
    assert model[0](torch.randn(16, channels, 32, 32)).std().item() == pytest.approx(expected, rel=0.15)
    assert model[0].padding_mode == "reflect" and torch.equal(model[0].bias, bias)


def test_a_model_that_begins_otherwise_cannot_be_adapted() -> None:
    flat = nn.Sequential(nn.Flatten(), nn.Linear(12, 3), nn.Conv2d(3, 1, 1))
    grouped = nn.Sequential(nn.Conv2d(3, 3, 3, groups=3))
    for model in (flat, grouped, nn.Sequential(nn.ReLU())):
        with pytest.raises(ConfigError) as error:
            adapt_stem(model, 1)
        assert about(error) == [("model", "shape")]
        assert "Sequential" in str(error.value) and "1 channel" in str(error.value)


def test_the_seed_decides_the_weights() -> None:
    def drawn(seed: int) -> torch.Tensor:
        torch.manual_seed(seed)
        return torch.cat([p.flatten() for p in classifier((1, 28, 28), 3, "squeezenet1_1").parameters()])

    assert torch.equal(drawn(1), drawn(1))
    assert not torch.equal(drawn(1), drawn(2))


def test_resnet18_learns(here: Path) -> None:
    few = ("data.limit=64", "data.val_fraction=0", "data.batch_size=64", "trainer.epochs=3")
    state = trained(here, "model=torchvision", "optimizer=adam", "optimizer.lr=0.002", *few)
    assert state.log.of("train/accuracy")[3] > 0.5  # by chance 0.1


def test_another_name_is_another_network(here: Path) -> None:
    state = trained(here, "model=torchvision", "model.name=shufflenet_v2_x0_5", "data.limit=40", "trainer.epochs=1")
    assert type(state.model).__name__ == "ShuffleNetV2"
