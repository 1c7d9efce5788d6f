"""Which splits and columns of a data set of the library `datasets` are used, and for what."""

from collections.abc import Mapping, Sequence
from typing import Any

from runner.data.hf_load import library
from runner.data.listing import list_names
from runner.errors import ConfigError, Problem, did_you_mean

TRAIN_NAMES = ("train", "training")
VAL_NAMES = ("validation", "valid", "val", "dev")
TEST_NAMES = ("test", "testing")
TARGET_NAMES = ("labels", "label", "target")
PANDAS_INDEX = ("Unnamed: 0", "__index_level_0__")
"""Names of the column in which pandas writes the index of a table, as CSV and as Parquet; it is no feature."""


def choose_splits(splits: Mapping[str, Any], typed: Mapping[str, str | None]) -> dict[str, str]:
    """Choose the split of each part.

    Args:
        splits: of the data set.
        typed: `data.train_split`, `data.val_split` and `data.test_split`, by part.

    Raises:
        ConfigError: there is no such split, or none to train on.
    """
    chosen: dict[str, str] = {}
    for part, names in {"train": TRAIN_NAMES, "val": VAL_NAMES, "test": TEST_NAMES}.items():
        key, split = f"data.{part}_split", typed[part]
        if split is None:
            split = next((name for name in names if name in splits), None)
            if split is None and part == "train" and len(splits) == 1:
                split = next(iter(splits))
        elif split == "none" and part != "train":
            continue
        elif split not in splits:
            text = f"{key}={split}: there is no such split"
            raise ConfigError(Problem(key, text, did_you_mean(split, splits), topic="unknown"))
        if split is not None:
            chosen[part] = split
    if "train" not in chosen:
        text = f"data.train_split: none of the splits {list_names(splits)} is called train"
        instead = f"write data.train_split={next(iter(splits), '<name>')}"
        raise ConfigError(Problem("data.train_split", text, instead, topic="missing"))
    return chosen


def kind_of(feature: Any) -> str:
    """Return the kind of a column: text, classes, number, image, list (of numbers), or other."""
    datasets = library("datasets")
    if isinstance(feature, datasets.ClassLabel):
        return "classes"
    if isinstance(feature, datasets.Image):
        return "image"
    if isinstance(feature, datasets.Value):
        if feature.dtype in ("string", "large_string"):
            return "text"
        return "number" if feature.dtype.startswith(("int", "uint", "float", "bool")) else "other"
    inner = getattr(feature, "feature", None)
    if isinstance(feature, datasets.Array2D | datasets.Array3D | datasets.Array4D | datasets.Array5D):
        return "list"
    return "list" if inner is not None and kind_of(inner) in ("number", "classes", "list") else "other"


def choose_target(kinds: Mapping[str, str], typed: str | None) -> str | None:
    """Choose the column of the targets; None if there is none."""
    if typed == "none":
        return None
    if typed is not None:
        if typed not in kinds:
            text = f"data.target={typed}: there is no such column"
            raise ConfigError(Problem("data.target", text, did_you_mean(typed, kinds), topic="unknown"))
        if kinds[typed] in ("image", "other"):
            text = f"data.target={typed}: the column has neither classes nor numbers nor texts"
            raise ConfigError(Problem("data.target", text, "write data.target=<another>, or none", topic="type"))
        return typed
    classes = [column for column, kind in kinds.items() if kind == "classes"]
    named = [column for column in TARGET_NAMES if kinds.get(column) not in (None, "image", "other")]
    return next(iter(named), classes[0] if len(classes) == 1 else None)


def choose_columns(kinds: Mapping[str, str], typed: Sequence[str] | str | None, target: str | None) -> list[str]:
    """Choose the columns that go to the model."""
    key = "data.columns"
    if typed is None:
        for wanted in ("text", "image", "number", "list"):
            features = (column for column, kind in kinds.items() if kind == wanted and column not in PANDAS_INDEX)
            if chosen := [column for column in features if column != target]:
                return chosen
        text = f"{key}: there is no column of texts, images or numbers besides the target"
        raise ConfigError(Problem(key, text, "name another data set", topic="data"))
    chosen = [typed] if isinstance(typed, str) else list(typed)
    problems = []
    for column in chosen:
        if column not in kinds:
            text = f"{key}: there is no column {column}"
            problems.append(Problem(key, text, did_you_mean(column, kinds), topic="unknown"))
        elif kinds[column] == "other" or column == target:
            why = "is the target" if column == target else "has neither texts nor images nor numbers"
            problems.append(Problem(key, f"{key}: {column} {why}", "leave it out", topic="conflict"))
    if not chosen:
        problems.append(Problem(key, f"{key} names no column", f"write {key}=null", topic="missing"))
    if problems:
        raise ConfigError(*problems)
    return chosen


def check_columns(rows: Any, split: str, columns: Sequence[str], part: str) -> None:
    """Check that a part has rows, and a value in each of them.

    Raises:
        ConfigError: it has not.
    """
    key = f"data.{part}_split"
    if missing := [column for column in columns if column not in rows.features]:
        text = f"{key}={split} has no column {list_names(missing)}"
        raise ConfigError(Problem(key, text, f"write {key}=<another>, or none", topic="data"))
    if not len(rows):
        raise ConfigError(Problem(key, f"{key}={split} has no rows", f"write {key}=<another>", topic="data"))
    table = rows.select_columns(list(columns)).with_format("arrow")[:]
    empty = {column: table[column].null_count for column in columns if table[column].null_count}
    if empty:
        which = ", ".join(f"{column} in {count} rows" for column, count in empty.items())
        text = f"{key}={split}: values are missing: {which}"
        raise ConfigError(Problem("data.columns", text, "leave out these columns or rows", topic="data"))


def describe_choice(
    chosen: Mapping[str, str], kinds: Mapping[str, str], inputs: Sequence[str], target: str | None
) -> list[str]:
    """Describe what was chosen, for the user to check."""
    others = [column for column in kinds if column not in (*inputs, target)]
    left_out = f" (left out: {list_names(others)})" if others else ""
    verbs = {"train": "trains", "val": "validates", "test": "tests"}
    splits = ", ".join(f"{split} {verbs[part]}" for part, split in chosen.items())
    return [splits, f"inputs {list_names(inputs)}{left_out}", f"target {target}" if target else "no target"]
