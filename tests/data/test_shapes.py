import torch

from runner.data.shapes import CLASSES, draw, shapes
from runner.util.rng import make_generator


def test_images_and_masks_fit_together() -> None:
    images, masks = draw(300, 32, make_generator("test", 0))
    assert images.shape == (300, 3, 32, 32) and masks.shape == (300, 32, 32)
    assert images.dtype == masks.dtype == torch.uint8
    shares = torch.bincount(masks.flatten().long(), minlength=len(CLASSES)) / masks.numel()
    assert len(shares) == len(CLASSES) and shares[0] < 0.8 and shares[1:].min() > 0.05
    # A border of the mask is one of the image: neighbours of two classes differ more in colour than those of one.
    steps = (images[..., 1:].float() - images[..., :-1].float()).abs().mean(1)
    border = masks[..., 1:] != masks[..., :-1]
    assert steps[border].mean() > 2 * steps[~border].mean()


def test_shapes_are_those_of_their_class() -> None:
    """A disc fills pi/4 of its bounding box, a square all of it, a triangle half."""
    _, masks = draw(2000, 48, make_generator("test", 1))
    expected = {1: 3.1416 / 4, 2: 1.0, 3: 0.5}
    for kind, share in expected.items():
        filled = []
        for mask in masks:
            places = (mask == kind).nonzero()
            if len(places) == 0 or set(mask.unique().tolist()) != {0, kind}:
                continue
            low, high = places.amin(0), places.amax(0)
            if low.min() > 0 and high.max() < 47:
                filled.append(len(places) / int((high - low + 1).prod()))
        single = [value for value in filled if abs(value - share) < 0.12]
        assert len(single) >= 2, (kind, filled)


def test_they_are_the_same_each_time_and_the_test_part_is_another() -> None:
    one, other = shapes(samples=20, size=16), shapes(samples=20, size=16)
    assert all(map(torch.equal, one.train, other.train))  # type: ignore[arg-type]
    assert not torch.equal(one.train[0][:4], one.test[0])  # type: ignore[index]
    assert [len(part[0]) for part in (one.train, one.test)] == [20, 4]  # type: ignore[index]
    assert torch.equal(shapes(samples=501, size=16).train[0][:20], shapes(samples=501, size=16).train[0][:20])  # type: ignore[index]
