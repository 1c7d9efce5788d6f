"""`data.split_by` and `data.sample_weight` of a config are columns of a file; the model does not learn from them."""

from pathlib import Path

import pytest

from helpers.composed import built


@pytest.mark.parametrize("data", ["table", "csv"])
def test_groups_and_weights_are_columns_that_are_no_features(tmp_path: Path, data: str) -> None:
    rows = [f"{row // 5},{row * 7 % 11},{row * 3 % 13 + 1},{row % 2}" for row in range(200)]
    (tmp_path / "t.csv").write_text("\n".join(["group,x,weight,y", *rows, ""]))
    words = [f"data={data}", f"data.path={tmp_path / 't.csv'}", "data.sampler=weighted", "data.sample_weight=weight"]
    made = built(*words, "data.split_by=group")
    splits = made.splits
    assert tuple(splits.input_shape) == (1,)
    assert splits.weights is not None and set(splits.weights.tolist()) == set(map(float, range(1, 14)))
    sizes = splits.sizes
    assert all(size and size % 5 == 0 for size in sizes.values()), "groups have five rows"
