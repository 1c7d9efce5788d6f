"""`data=wine`: scikit-learn's table of wines, part of the package: no download."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from runner.data.held_out import TEST_FRACTION
from runner.data.named_path import NamedPath
from runner.data.source import Source
from runner.data.table import assemble
from runner.data.table_files import TRAIN
from runner.data.table_reader import Frame
from runner.data.table_target import Takes


def wine(
    loss_takes: Takes | None = None, model_embeds: bool = False, fitted: Mapping[str, Any] | None = None
) -> Source:
    """Load 178 wines of three cultivars, by 13 chemical measurements; a fifth of them is for the test.

    The table is UCI's "Wine" (https://doi.org/10.24432/C5PC7J), as scikit-learn ships it.

    Args:
        loss_takes: what the loss takes as targets; None if it is not known.
        model_embeds: whether the model takes numbers and categories apart; here there are only numbers.
        fitted: the transformers of the run that trained the model; None fits them.

    Returns:
        Rows, as `runner.data.table.table` returns them.
    """
    from sklearn.datasets import load_wine  # takes 2 s

    loaded = load_wine(as_frame=True)
    cells = loaded.data.assign(cultivar=loaded.target.map(lambda number: f"cultivar {number + 1}"))
    source = assemble(
        "wine",
        {TRAIN: Frame(cells, header=True, unnamed=False, comma=False, notes=())},
        {TRAIN: NamedPath("data", "wine", Path("wine"))},
        targets=["cultivar"],
        left_out=None,
        test_fraction=TEST_FRACTION,
        target_type="auto",
        loss_takes=loss_takes,
        model_embeds=model_embeds,
        fitted=fitted,
    )
    return Source(**{**vars(source), "notes": (), "origin": "scikit-learn"})
