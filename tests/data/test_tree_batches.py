"""Trees from a `Source` to the batches of an epoch: in memory, read one by one, and by workers."""

from collections import UserDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor
from torch.utils.data import Dataset

from helpers.problems import about, problem_of
from helpers.training import loaders
from runner.data.loading import TensorLoader, WorkerLoader
from runner.data.memory import decide_in_memory
from runner.data.source import Source
from runner.data.splits import Splits
from runner.data.splitting import split
from runner.data.workers import Pinnable, read_all
from runner.device import resolve
from runner.util import trees

MADE = torch.Generator().manual_seed(2)
TOKENS = torch.randint(100, (30, 5), generator=MADE)
MASK = torch.rand(30, 5, generator=MADE) < 0.5
NUMBERS = torch.randn(30, 2, dtype=torch.float64, generator=MADE)
PIXELS = torch.randint(256, (30, 3, 4, 4), generator=MADE, dtype=torch.uint8)
LABELS = torch.arange(30) % 3


class Named(NamedTuple):
    tokens: Any
    mask: Any
    numbers: Any
    pixels: Any


@dataclass
class Fields:
    tokens: Any
    mask: Any
    numbers: Any
    pixels: Any


class Encoding(UserDict[str, Any]):
    pass


CONTAINERS: dict[str, Callable[..., Any]] = {
    "dict": lambda *four: dict(zip(Named._fields, four, strict=True)),
    "tuple": lambda *four: four,
    "named": Named,
    "dataclass": Fields,
    "encoding": lambda *four: Encoding(zip(Named._fields, four, strict=True)),
}
FOUR = (TOKENS, MASK, NUMBERS, PIXELS)


class Items(Dataset[Any]):
    """Items made of rows."""

    def __init__(self, make: Callable[[int], Any], samples: int = 30) -> None:
        self.make, self.samples = make, samples

    def __len__(self) -> int:
        return self.samples

    def __getitem__(self, index: int) -> Any:
        return self.make(index)


def divided(samples: Any, **arguments: Any) -> Splits:
    values: dict[str, Any] = {"val_fraction": 0.2, "limit": None, "seed": 0}
    return split(Source("mine", samples), **(values | arguments))


def labels_apart(item: Any) -> tuple[Any, Any]:
    """The division of a task that takes the targets of a dict."""
    return {name: part for name, part in item.items() if name != "labels"}, item["labels"]


def read(splits: Splits, **arguments: Any) -> list[tuple[Any, Any]]:
    return list(loaders(splits, prepare=lambda targets, dtype: targets, **arguments).train.epoch(1))


@pytest.mark.parametrize("container", CONTAINERS)
def test_batches_are_the_same_in_memory_and_read_one_by_one(container: str) -> None:
    make = CONTAINERS[container]
    tensors = divided((make(*FOUR), LABELS))
    items = divided(Items(lambda i: (make(*(leaf[i] for leaf in FOUR)), int(LABELS[i]))))
    expected = read(tensors)
    assert len(expected) == 4 and sum(len(targets) for _, targets in expected) == 24
    for splits, in_memory in ((tensors, False), (items, True), (items, False)):
        for (inputs, targets), (others, other_targets) in zip(read(splits, in_memory=in_memory), expected, strict=True):
            assert type(inputs) is type(others) is type(make(*FOUR))
            both = zip(trees.leaves(inputs), trees.leaves(others), strict=True)
            assert all(one.dtype == other.dtype and torch.equal(one, other) for one, other in both)
            assert torch.equal(targets, other_targets)
    tokens, mask, numbers, pixels = trees.leaves(expected[0][0])
    assert (tokens.dtype, mask.dtype) == (torch.int64, torch.bool), "these may be indices"
    assert numbers.dtype == pixels.dtype == torch.float32 and 0.5 < pixels.max() <= 1


def test_workers_bring_trees_too() -> None:
    for container in ("dict", "dataclass", "encoding"):
        make = CONTAINERS[container]
        splits = divided(Items(lambda i, make=make: make(*(leaf[i] for leaf in FOUR))))
        with_workers, alone = (read(splits, in_memory=False, num_workers=count) for count in (1, 0))
        for (inputs, targets), (others, _) in zip(with_workers, alone, strict=True):
            assert targets is None and type(inputs) is type(others)
            assert all(map(torch.equal, trees.leaves(inputs), trees.leaves(others)))


@pytest.mark.parametrize("in_memory", [True, False])
def test_the_targets_of_a_dict_do_not_go_to_the_model(in_memory: bool) -> None:
    whole = {"tokens": TOKENS, "mask": MASK, "labels": LABELS}
    for samples in (whole, Items(lambda i: {name: part[i] for name, part in whole.items()})):
        splits = divided(samples, divide=labels_apart)
        assert splits.input_shape == {"tokens": (5,), "mask": (5,)} and splits.input_values == 10
        (inputs, targets), *_ = read(splits, in_memory=in_memory)
        assert list(inputs) == ["tokens", "mask"] and targets.shape == (7,)
        assert sorted(splits.targets().tolist()) == sorted(LABELS.tolist())
        raw, raw_targets = splits.example(3)
        assert raw["tokens"].shape == (3, 5) and len(raw_targets) == 3


def test_a_whole_item_may_be_one_tensor() -> None:
    splits = divided(TOKENS, integers_are_numbers=False)
    (inputs, targets), *_ = read(splits)
    assert inputs.dtype == torch.int64 and targets is None and splits.input_shape == (5,)
    as_numbers, _ = read(divided(TOKENS))[0]
    assert as_numbers.dtype == torch.float32


def test_images_of_a_tree_are_channels_last() -> None:
    splits = divided(({"pixels": PIXELS, "numbers": NUMBERS}, LABELS))
    for in_memory in (True, False):
        (inputs, _), *_ = read(splits, in_memory=in_memory, channels_last=True)
        assert inputs["pixels"].shape == (7, 3, 4, 4)
        assert inputs["pixels"].is_contiguous(memory_format=torch.channels_last)


def test_masks_stay_whole_numbers_and_images_are_said_to_be_scaled() -> None:
    mask = (PIXELS[:, 0] > 99).to(torch.uint8)
    splits = divided({"image": PIXELS, "mask": mask})
    assert splits.notes == ("uint8 images: divided by 255",)
    (inputs, _), *_ = read(splits)
    assert inputs["image"].dtype == torch.float32 and inputs["mask"].dtype == torch.uint8
    assert read(divided({"image": PIXELS, "mask": mask}, scale="none"))[0][0]["image"].dtype == torch.uint8


def test_only_a_single_input_is_normalised() -> None:
    for changed, key, typed in (
        ({"mean": 0.5}, "data.mean", "data.mean=0"),
        ({"std": [2.0]}, "data.std", "data.std=1"),
    ):
        source = Source("mine", {"a": NUMBERS}, **changed)  # type: ignore[arg-type]
        problem = problem_of(lambda source=source: split(source, val_fraction=0, limit=None, seed=0))
        assert about([problem]) == [(key, "conflict")] and typed in problem.suggestion
    assert about([problem_of(lambda: divided({"a": NUMBERS}, scale=16.0))]) == [("data.scale", "conflict")]
    computed = split(Source("mine", {"a": NUMBERS}, mean=None, std=None), val_fraction=0, limit=None, seed=0)
    assert torch.equal(computed.normalize({"a": NUMBERS}, torch.float64)["a"], NUMBERS)


def test_bytes_that_are_read_are_held_as_bytes() -> None:
    splits = divided(Items(lambda i: ({"pixels": PIXELS[i], "numbers": NUMBERS[i]}, LABELS[i])))
    made = loaders(splits, prepare=lambda targets, dtype: targets)
    assert isinstance(made.train, TensorLoader) and made.train.inputs["pixels"].dtype == torch.uint8
    assert splits.nbytes(torch.float32) == 30 * (3 * 4 * 4 + 2 * 8)
    in_memory = divided(({"pixels": PIXELS, "tokens": TOKENS}, MASK))
    assert in_memory.nbytes(torch.float32) == 30 * (3 * 4 * 4 * 4 + 5 * 8 + 5)


def test_each_leaf_is_in_the_fingerprint() -> None:
    def fingerprint(**changed: Tensor) -> str:
        return divided(({"tokens": TOKENS, "mask": MASK} | changed, LABELS)).fingerprint

    renamed = divided(({"tokens": TOKENS, "masks": MASK}, LABELS)).fingerprint
    other = {name: tensor.clone() for name, tensor in (("tokens", TOKENS), ("mask", MASK))}
    other["tokens"][3, 1] += 1
    other["mask"][3, 1] ^= True
    prints = {fingerprint(), renamed, *(fingerprint(**{name: tensor}) for name, tensor in other.items())}
    assert len(prints) == 4 and fingerprint() == fingerprint(mask=MASK.clone())


class Sentences(Items):
    """Token lists of several lengths, padded by the data set itself."""

    def __init__(self, samples: int = 30) -> None:
        super().__init__(lambda i: {"ids": list(range(1, 2 + i % 4)), "labels": i % 2}, samples)

    def collate_fn(self, items: list[Any]) -> dict[str, Tensor]:
        ids = [torch.tensor(item["ids"]) for item in items]
        padded = torch.nn.utils.rnn.pad_sequence(ids, batch_first=True)
        return {"ids": padded, "mask": padded != 0, "labels": torch.tensor([item["labels"] for item in items])}


def test_every_tensor_of_a_batch_is_pinned(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Tensor, "pin_memory", lambda tensor: tensor + 1)  # it needs a GPU
    for make in CONTAINERS.values():
        inputs, targets = Pinnable((make(*(leaf.float() for leaf in FOUR)), None)).pin_memory().tree
        assert targets is None and type(inputs) is type(make(*FOUR))
        both = zip(trees.leaves(inputs), FOUR, strict=True)
        assert all(torch.equal(leaf, raw.float() + 1) for leaf, raw in both)


@pytest.mark.parametrize("num_workers", [0, 1])
def test_a_data_set_pads_its_own_batches(num_workers: int) -> None:
    splits = divided(Sentences(), divide=labels_apart)
    assert splits.train.collates
    assert not decide_in_memory("auto", splits, torch.float32, resolve("cpu", threads=1))
    batches = read(splits, in_memory=False, num_workers=num_workers)
    assert {inputs["ids"].shape[1] for inputs, _ in batches} <= {2, 3, 4} and len(batches) == 4
    assert all(torch.equal(inputs["mask"], inputs["ids"] != 0) for inputs, _ in batches)
    assert sorted(splits.targets().tolist()) == [0] * 15 + [1] * 15
    problem = problem_of(lambda: decide_in_memory(True, splits, torch.float32, resolve("cpu", threads=1)))
    assert about([problem]) == [("data.in_memory", "conflict")] and "data.in_memory=false" in problem.suggestion


def test_a_source_may_bring_the_collate_fn_of_a_list() -> None:
    items = [{"ids": [1] * (1 + i % 3), "labels": 0} for i in range(20)]
    source = Source("mine", items, val=items, collate_fn=Sentences().collate_fn)
    splits = split(source, val_fraction=None, limit=12, seed=0, divide=labels_apart)
    assert splits.val is not None
    for loader in (made := loaders(splits, in_memory=False)).train, made.val:
        assert isinstance(loader, WorkerLoader)
        assert next(iter(loader.epoch(1)))[0]["ids"].shape[1] == 3
    bare = problem_of(lambda: split(Source("mine", items), val_fraction=0, limit=None, seed=0))
    assert about([bare]) == [("data", "data")] and "`ids` differ in shape" in bare.text and "collate_fn" in bare.text


def test_what_a_collate_fn_pads_to_one_length_may_be_held() -> None:
    items = Items(lambda i: (torch.zeros(3), i))
    items.collate_fn = lambda some: (torch.stack([one for one, _ in some]), torch.tensor([i for _, i in some]))  # type: ignore[attr-defined]
    splits = divided(items)
    device = resolve("cpu", threads=1)
    assert decide_in_memory(True, splits, torch.float32, device)
    assert not decide_in_memory("auto", splits, torch.float32, device)
    assert read_all(splits.train, 0)[0].shape == (24, 3)


@pytest.mark.parametrize(
    ("batch", "said"),
    [
        (lambda some: (torch.zeros(len(some), 2), torch.tensor(1.0)), "targets is a single number"),
        (lambda some: {"a": torch.zeros(len(some)), "b": torch.zeros(1 + len(some))}, "a has 4 samples, b has 5"),
        (lambda some: {"a": torch.zeros(len(some)), "text": ["x"] * len(some)}, "text.0 is of type str"),
        (lambda some: None, "no tensor"),
    ],
)
def test_a_batch_without_a_common_first_axis_is_refused_before_the_start(batch: Any, said: str) -> None:
    items = Items(lambda i: i)
    items.collate_fn = batch  # type: ignore[attr-defined]
    problem = problem_of(lambda: split(Source("mine", items), val_fraction=0, limit=None, seed=0))
    assert about([problem]) == [("data", "shape")] and said.replace("has 4", "has 1").replace("5", "2") in problem.text


def test_parts_of_other_leaves_do_not_fit() -> None:
    source = Source("mine", {"a": TOKENS}, test={"b": TOKENS})
    problem = problem_of(lambda: split(source, val_fraction=0, limit=None, seed=0))
    assert about([problem]) == [("data", "shape")] and "{'b': (5,)}" in problem.text


def test_a_hugging_face_data_set_is_one_of_dicts() -> None:
    datasets = pytest.importorskip("datasets")
    rows = datasets.Dataset.from_dict({"ids": TOKENS.tolist(), "numbers": NUMBERS.tolist(), "labels": LABELS.tolist()})
    for data_set in (rows, rows.with_format("torch")):
        splits = divided(data_set, divide=labels_apart)
        assert splits.input_shape == {"ids": (5,), "numbers": (2,)}
        for in_memory in (True, False):
            (inputs, targets), *_ = read(splits, in_memory=in_memory)
            assert inputs["ids"].dtype == targets.dtype == torch.int64 and inputs["numbers"].dtype == torch.float32
    whole = split(Source("mine", rows), val_fraction=0, limit=None, seed=0, divide=labels_apart)
    assert torch.equal(whole.train.sample(4)[0]["ids"], TOKENS[4])
    text = problem_of(lambda: divided(rows.add_column("text", ["a"] * 30), divide=labels_apart))
    assert "`text` of an item" in text.text and "str" in text.text
