"""Both kinds of parts answer alike: nothing that uses a part has to know which kind it is."""

from hashlib import sha256
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.data import Dataset, Subset

from helpers.problems import about, problem_of
from helpers.training import blobs, same
from runner.data.dataset_part import DatasetPart
from runner.data.part import Part, seeded
from runner.data.parts import part_of
from runner.data.source import Source
from runner.data.splitting import split
from runner.data.tensor_part import TensorPart
from runner.errors import ConfigError, TrainingError


class Items(Dataset[Any]):
    def __init__(self, inputs: Tensor, targets: Tensor) -> None:
        self.inputs, self.labels, self.read = inputs, targets, 0

    def __len__(self) -> int:
        return len(self.inputs)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        self.read += 1
        return self.inputs[index], self.labels[index]


class Listing(Items):
    @property
    def targets(self) -> list[int]:
        return self.labels.tolist()


class Failing(Items):
    error: Exception = TrainingError("row 3 is damaged")

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        raise self.error


INPUTS, TARGETS = blobs(40).train
KINDS = [
    lambda: (INPUTS, TARGETS),
    lambda: Items(INPUTS, TARGETS),
    lambda: Listing(INPUTS, TARGETS),
    lambda: list(zip(INPUTS, TARGETS, strict=True)),
]


@pytest.fixture(params=range(len(KINDS)))
def part(request: pytest.FixtureRequest) -> Part:
    return part_of(KINDS[request.param]())


def test_a_part_is_made_of_tensors_or_of_anything_that_has_items() -> None:
    assert [type(part_of(kind())) for kind in KINDS] == [TensorPart, DatasetPart, DatasetPart, DatasetPart]


@pytest.mark.parametrize(
    "samples",
    [
        None, 5, (), {}, (INPUTS.numpy(), TARGETS.numpy()), (INPUTS, TARGETS[:5]),
        {"x": INPUTS, "name": "x"}, {"x": INPUTS, "labels": TARGETS[:5]}, (torch.tensor(1.0), torch.tensor(1.0)),
        torch.tensor(1.0),
    ],
)  # fmt: skip
def test_anything_else_is_refused_by_the_name_of_data_set_and_part(samples: Any) -> None:
    train = Source("mine", train=samples)
    val = Source("mine", train=(INPUTS, TARGETS), val=samples)
    for source, part in ((train, "training"), (val, "validation")):
        if source is val and samples is None:
            continue
        problem = problem_of(lambda source=source: split(source, val_fraction=None, limit=None, seed=0))
        assert about([problem]) == [("data", "code")]
        assert f"data=mine: the {part} part" in problem.text and "(inputs, targets)" in problem.suggestion


def test_items_that_are_not_pairs_have_no_targets() -> None:
    for items in ([INPUTS[0], INPUTS[1]], [3, 4], [(1, 2, 3)]):
        splits = split(Source("mine", items), val_fraction=0, limit=None, seed=0)
        problem = problem_of(splits.targets)
        assert about([problem]) == [("data", "code")] and "(input, target)" in problem.suggestion


def test_samples_and_batches_are_the_same(part: Part) -> None:
    assert len(part) == 40 and not part.is_random()
    assert same(part.sample(7), (INPUTS[7], TARGETS[7]))
    assert same(part.batch(seeded([3, 1, 3], "test")), (INPUTS[[3, 1, 3]], TARGETS[[3, 1, 3]]))
    assert torch.equal(part.read_targets(), TARGETS)


def test_what_is_taken_is_a_part_too(part: Part) -> None:
    twice = part.take(torch.tensor([9, 4, 6, 2])).take(torch.tensor([3, 1]))
    assert len(twice) == 2
    assert same(twice.batch(seeded([0, 1], "test")), (INPUTS[[2, 4]], TARGETS[[2, 4]]))
    assert same(twice.sample(1), (INPUTS[4], TARGETS[4]))
    assert torch.equal(twice.read_targets(), TARGETS[[2, 4]])


def test_moments_agree(part: Part) -> None:
    mean, std = part.moments(2.0, 0)
    torch.testing.assert_close(mean, INPUTS.double().mean(0) / 2)
    torch.testing.assert_close(std, INPUTS.double().std(0, correction=0) / 2)
    assert torch.equal(torch.cat(list(part.some_inputs(40))), INPUTS)


def test_nothing_is_read_to_take_samples_or_for_targets_that_are_listed() -> None:
    items, listing = Items(INPUTS, TARGETS), Listing(INPUTS, TARGETS)
    assert part_of(items).take(torch.arange(5)).known_targets() is None
    known = part_of(listing).take(torch.tensor([8, 3])).known_targets()
    assert known is not None and known.tolist() == TARGETS[[8, 3]].tolist()
    assert items.read == listing.read == 0


def test_tensors_are_not_copied() -> None:
    part = part_of((INPUTS, TARGETS))
    assert part.tensors is not None and part.tensors[0] is INPUTS and part.tensors[1] is TARGETS
    assert next(part.some_inputs(1)) is INPUTS


def test_the_data_set_behind_a_part_is_the_user_s() -> None:
    items = Items(INPUTS, TARGETS)
    assert part_of(Subset(Subset(items, range(20)), range(9))).take(torch.arange(3)).data_set is items
    assert part_of((INPUTS, TARGETS)).data_set is None and part_of(KINDS[3]()).data_set is None


def test_one_changed_sample_changes_the_hash() -> None:
    def digest(part: Part) -> str:
        hashed = sha256()
        part.hash_into(hashed)
        return hashed.hexdigest()

    changed = INPUTS.clone()
    changed[11, 2] += 1
    for kind in (lambda *both: both, Items):
        assert digest(part_of(kind(INPUTS, TARGETS))) == digest(part_of(kind(INPUTS.clone(), TARGETS)))
        assert digest(part_of(kind(INPUTS, TARGETS))) != digest(part_of(kind(changed, TARGETS)))


def test_a_sample_that_cannot_be_read_is_a_problem_of_the_config_before_training() -> None:
    part = part_of(Failing(INPUTS, TARGETS))
    for read in (lambda: part.sample(0), part.is_random, part.read_targets):
        with pytest.raises(ConfigError, match="row 3 is damaged") as caught:
            read()
        assert about(caught) == [("data", "data")]
    with pytest.raises(TrainingError, match="row 3 is damaged"):
        part.batch(seeded([0], "test"))
    Failing.error = FileNotFoundError(2, "No such file or directory", "3.png")
    with pytest.raises(TrainingError, match=r"3\.png: No such file"):
        part.batch(seeded([0], "test"))
