"""`model=tabular`: embeddings beside numbers, and the rows of `data=table` that it takes."""

from pathlib import Path

import pytest
import torch

from helpers.awkward import rows
from helpers.composed import accuracy, built, trained
from helpers.problems import about, problems_of
from runner.model.tabular import Tabular

SHAPES = {"numbers": (3,), "categories": (2,)}


def test_each_column_has_an_embedding_and_an_unseen_category_is_zero() -> None:
    model = Tabular(SHAPES, 4, categories=[5, 101], hidden=[8])
    assert [(layer.num_embeddings, layer.embedding_dim) for layer in model.embeddings] == [(5, 4), (101, 21)]
    assert not model.embeddings[0](torch.tensor(0)).any()
    assert model(torch.zeros(2, 3), torch.tensor([[0, 0], [4, 100]])).shape == (2, 4)


def test_a_width_can_be_typed() -> None:
    model = Tabular(SHAPES, 4, categories=[5, 101], hidden=[8], embedding=7)
    assert [layer.embedding_dim for layer in model.embeddings] == [7, 7]
    assert model.layers[0].in_features == 3 + 7 + 7


@pytest.mark.parametrize("hidden", [[8], []])
def test_a_table_may_lack_numbers_or_categories(hidden: list[int]) -> None:
    only_numbers = Tabular({"numbers": (3,), "categories": (0,)}, 1, hidden=hidden)
    assert only_numbers(torch.zeros(2, 3), torch.empty(2, 0, dtype=torch.int64)).shape == (2, 1)
    only_categories = Tabular({"numbers": (0,), "categories": (1,)}, 1, categories=[3], hidden=hidden)
    assert only_categories(torch.empty(2, 0), torch.tensor([[1], [2]])).shape == (2, 1)


def test_it_learns_what_a_category_means(here: Path) -> None:
    kinds = "abcdefgh"
    (here / "t.csv").write_bytes(rows(lambda i: f"{i % 5},{kinds[i % 8]},{'yes' if i % 8 in (1, 2, 4, 7) else 'no'}",
                                      "x,kind,y", count=240))  # fmt: skip
    state = trained(here, "data=table", "data.path=t.csv", "model=tabular", "tracking=off", "trainer.epochs=15")
    assert accuracy(state) > 0.95


@pytest.mark.usefixtures("here")
def test_it_takes_the_rows_of_a_table_only() -> None:
    assert about(problems_of(lambda: built("model=tabular"))) == [("model", "conflict")]


@pytest.mark.usefixtures("here")
def test_wine_is_part_of_scikit_learn() -> None:
    splits = built("data=wine").splits
    assert splits.sizes == {"train": 114, "val": 28, "test": 36}
    assert splits.input_shape == (13,) and splits.classes == ["cultivar 1", "cultivar 2", "cultivar 3"]
