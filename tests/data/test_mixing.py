"""mixup and cutmix: shares of the distribution of the papers, the same in inputs and targets."""

import pytest
import torch
from scipy import stats
from torch import Tensor

from runner.data.mixing import Mix, Mixing, cover, make_mix


def identity(samples: int) -> Tensor:
    """A batch in which each sample can be told from all others: its share is on the diagonal."""
    return torch.eye(samples, dtype=torch.float64)


@pytest.mark.parametrize("alpha", [0.1, 1.0, 4.0])
def test_the_shares_of_mixup_are_beta_distributed(alpha: float) -> None:
    samples = 2000
    mixed, targets = Mixing(mixup=Mix(alpha))(identity(samples), identity(samples), seed=1)
    shares = mixed.diagonal()
    assert stats.kstest(shares.numpy(), stats.beta(alpha, alpha).cdf).pvalue > 0.01
    torch.testing.assert_close(mixed.sum(1), torch.ones(samples, dtype=torch.float64))
    torch.testing.assert_close(mixed.diagonal(-1), 1 - shares[1:])  # the rest is of the one before
    assert torch.equal(mixed, targets)


def test_a_share_of_the_samples_is_mixed_and_the_others_are_kept_exactly() -> None:
    values = torch.randn(2000, 3)
    mixed, _ = Mixing(mixup=Mix(1.0, probability=0.3))(values, values, seed=1)
    kept = (mixed == values).all(1)
    assert 0.66 < kept.double().mean() < 0.74


def test_class_indices_become_probabilities_and_values_are_mixed() -> None:
    labels = torch.tensor([2, 0, 1, 2])
    _, targets = Mixing(mixup=Mix(1.0), classes=3, dtype=torch.float64)(identity(4), labels, seed=0)
    mixed, values = Mixing(mixup=Mix(1.0))(identity(4), torch.tensor([[1.0], [2], [4], [8]]), seed=0)
    share = mixed.diagonal()
    expected = torch.nn.functional.one_hot(labels, 3) * share.unsqueeze(1)
    expected = expected + torch.nn.functional.one_hot(labels.roll(1), 3) * (1 - share).unsqueeze(1)
    torch.testing.assert_close(targets, expected)
    assert targets.dtype == torch.float64
    own = torch.tensor([1.0, 2, 4, 8], dtype=torch.float64)
    torch.testing.assert_close(values[:, 0].double(), own * share + own.roll(1) * (1 - share), rtol=1e-6, atol=0)


def planes(samples: int, height: int, width: int) -> Tensor:
    """Images whose pixels all have the number of the image."""
    return torch.arange(samples, dtype=torch.float64).view(-1, 1, 1, 1).expand(samples, 1, height, width).contiguous()


def test_cutmix_pastes_a_rectangle_of_the_image_before_and_its_area_is_the_share() -> None:
    samples, height, width = 500, 12, 20
    mixed, targets = Mixing(cutmix=Mix(1.0))(planes(samples, height, width), identity(samples), seed=3)
    own = torch.arange(samples)
    pasted = mixed[:, 0] != own.view(-1, 1, 1)
    assert (mixed[:, 0][pasted] == (own - 1).remainder(samples).view(-1, 1, 1).expand_as(pasted)[pasted]).all()
    for mask, share in zip(pasted, targets.diagonal(), strict=True):
        assert 1 - mask.double().mean() == pytest.approx(float(share))
        rows, columns = mask.any(1).sum(), mask.any(0).sum()
        assert mask.sum() == rows * columns
    whole = pasted.flatten(1).any(1)
    assert 0.8 < whole.double().mean() < 1  # a rectangle of less than two pixels is none


def test_rectangles_have_the_area_that_was_drawn_unless_the_border_cuts_them() -> None:
    shares, length = torch.linspace(0, 1, 101, dtype=torch.float64), 1000
    inside = cover(shares, torch.full((101,), 0.5), length).double().mean(1)
    torch.testing.assert_close(inside, (1 - shares).sqrt(), rtol=0, atol=2 / length)
    at_the_border = cover(shares, torch.zeros(101), length).double().mean(1)
    torch.testing.assert_close(at_the_border, (1 - shares).sqrt() / 2, rtol=0, atol=2 / length)


def test_what_the_border_cuts_off_counts_as_kept() -> None:
    samples = 300
    _, targets = Mixing(cutmix=Mix(1.0))(planes(samples, 64, 64), identity(samples), seed=1)
    shares = targets.diagonal().numpy()  # those drawn are uniform, these are larger
    assert stats.kstest(shares, stats.beta(1, 1).cdf, alternative="less").pvalue < 1e-6
    assert stats.kstest(shares, stats.beta(1, 1).cdf, alternative="greater").pvalue > 0.5


def test_with_both_each_sample_has_one_of_the_two() -> None:
    samples = 1000
    mixed, targets = Mixing(Mix(1.0), Mix(1.0))(planes(samples, 16, 16), identity(samples), seed=2)
    uniform = (mixed.flatten(2).std(2) < 1e-9).flatten()
    assert 0.45 < uniform.double().mean() < 0.6  # mixup, and rectangles of no pixel
    torch.testing.assert_close(targets.sum(1), torch.ones(samples, dtype=torch.float64))


@pytest.mark.parametrize("mixing", [Mixing(mixup=Mix(0.2)), Mixing(cutmix=Mix(1.0)), Mixing(Mix(1.0), Mix(1.0))])
def test_the_seed_decides_and_nothing_given_is_changed(mixing: Mixing) -> None:
    images, labels = torch.randn(8, 3, 6, 6).contiguous(memory_format=torch.channels_last), torch.randn(8, 2)
    before = images.clone(), labels.clone()
    one, again, other = (mixing(images, labels, seed) for seed in (1, 1, 2))
    assert torch.equal(one[0], again[0]) and torch.equal(one[1], again[1]) and not torch.equal(one[0], other[0])
    assert torch.equal(images, before[0]) and torch.equal(labels, before[1])
    assert one[0].stride() == images.stride() and one[0].dtype == images.dtype


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_every_floating_point_type_is_kept(dtype: torch.dtype) -> None:
    mixed, targets = Mixing(Mix(1.0), Mix(1.0), classes=2, dtype=dtype)(
        torch.randn(8, 1, 4, 4).to(dtype), torch.arange(8) % 2, seed=0
    )
    assert mixed.dtype == targets.dtype == dtype


def test_a_batch_of_one_stays_as_it_is() -> None:
    image = torch.randn(1, 1, 4, 4)
    mixed, targets = Mixing(Mix(1.0), Mix(1.0), classes=2)(image, torch.tensor([1]), seed=0)
    torch.testing.assert_close(mixed, image)
    torch.testing.assert_close(targets, torch.tensor([[0.0, 1.0]]))


def test_an_alpha_or_a_probability_of_0_is_off() -> None:
    assert make_mix() is None and make_mix(alpha=1, probability=0) is None
    assert make_mix(alpha=0.3, probability=0.5) == Mix(0.3, 0.5)
