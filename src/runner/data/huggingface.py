"""`data=huggingface`: data sets of the library `datasets`: text, images or numbers."""

import os
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

from runner.data.hf_columns import check_columns, choose_columns, choose_splits, choose_target, describe_choice, kind_of
from runner.data.hf_load import load, load_tokenizer
from runner.data.hf_rows import Images, Rows, Texts
from runner.data.hf_targets import is_hidden, read_numbers, read_targets
from runner.data.listing import list_names
from runner.data.source import Samples, Source
from runner.errors import ConfigError, Problem, TrainingError
from runner.util.ranges import COUNT, Choice

LONGEST = 2**20  # tokens; a tokenizer that does not know its limit has 1e30
TRIED = 16  # rows whose images are read before the start


def huggingface(
    name: str | None,
    subset: str | None = None,
    revision: str | None = None,
    train_split: str | None = None,
    val_split: str | None = None,
    test_split: str | None = None,
    columns: list[str] | str | None = None,
    target: str | None = None,
    tokenizer: str | None = None,
    max_length: Annotated[int, COUNT] | None = 128,
    padding: Annotated[str, Choice(("longest", "max_length"))] = "longest",
    size: Annotated[int, COUNT] | None = None,
    channels: Annotated[int, Choice((1, 3))] = 3,
    mean: float | list[float] | None = None,
    std: float | list[float] | None = None,
) -> Source:
    """Load a data set.

    Columns of numbers become one vector of features in memory. Texts become tokens, and images pixels, when they are
    read: inputs are then the only column, or a dict by name.

    Args:
        name: a file, a folder of files or of `save_to_disk`, or a name on the hub.
        subset: the configuration, of a data set that has several.
        revision: a branch, a tag or a commit of the hub.
        train_split: the split to train on; None: `hf_columns.TRAIN_NAMES`, or the only one.
        val_split: the split to validate on; None: `VAL_NAMES`, if there is one; `none`: none.
        test_split: the split to test on; None: `TEST_NAMES`, if there is one with labels; `none`: none.
        columns: what goes to the model; None: the texts, else the images, else all numbers.
        target: the column to predict; None: `TARGET_NAMES`, else the only column of classes; `none`: none.
        tokenizer: for texts: what `AutoTokenizer` takes.
        max_length: tokens; longer texts are cut. None: as many as the tokenizer's model takes.
        padding: of texts: `longest`: to the longest of a batch; `max_length`.
        size: pixels: the shorter side of an image is resized to it, then the centre is cropped; None: as it is.
        channels: of images: 3 for colour, 1 for grey.
        mean: subtracted from images or numbers; None computes it.
        std: divides them afterwards; None computes it.

    Raises:
        ConfigError: the data cannot be had, or used as they are.
    """
    splits, origin = load(name, subset, revision)
    chosen = choose_splits(splits, {"train": train_split, "val": val_split, "test": test_split})
    parts = {part: splits[split] for part, split in chosen.items()}
    kinds = {column: kind_of(feature) for column, feature in parts["train"].features.items()}
    target = choose_target(kinds, target)
    inputs = choose_columns(kinds, columns, target)
    for part, split in chosen.items():
        check_columns(parts[part], split, [*inputs, *([target] if target else [])], part)
    hidden = test_split is None and target and "test" in parts and is_hidden(parts["test"], target, kinds[target])
    unused = {"test": chosen.pop("test")} if hidden else {}
    notes = describe_choice(chosen, kinds, inputs, target)
    for part, split in unused.items():
        del parts[part]
        notes.append(f"the labels of {split} are hidden: no test part")
    targets, classes = read_targets(parts, chosen, target, kinds) if target else ({}, None)
    texts = _make_texts(inputs, kinds, tokenizer, max_length, padding, notes)
    images = Images([column for column in inputs if kinds[column] == "image"], size, channels)
    if size is not None and not images.columns:
        text = f"data.size={size}: there is no column of images among {list_names(inputs)}"
        raise ConfigError(Problem("data.size", text, "write data.size=null", topic="conflict"))
    numbers = all(kinds[column] == "number" for column in inputs)
    if numbers:
        data: dict[str, Samples] = {
            part: (read_numbers(rows, inputs), targets[part]) if target else read_numbers(rows, inputs)
            for part, rows in parts.items()
        }
    else:
        data = {part: Rows(rows, inputs, targets.get(part), texts, images) for part, rows in parts.items()}
        _check_sizes(parts["train"], images)
    return Source(
        name="huggingface",
        train=data["train"],
        val=data.get("val"),
        test=data.get("test"),
        mean=mean,
        std=std,
        classes=classes,
        origin=origin,
        notes=notes,
        reading={"header": True, "index": None} if numbers else None,  # the library takes names from the first row
        features=inputs if numbers else None,
    )


def _make_texts(
    inputs: Sequence[str],
    kinds: Mapping[str, str],
    name: str | None,
    max_length: int | None,
    padding: str,
    notes: list[str],
) -> Texts | None:
    """Load the tokenizer for the columns of texts; None if there are none."""
    texts, key = [column for column in inputs if kinds[column] == "text"], "data.tokenizer"
    if not texts:
        if name is not None:
            text = f"{key}={name}: there is no column of texts among {list_names(inputs)}"
            raise ConfigError(Problem(key, text, f"write {key}=null", topic="conflict"))
        return None
    if len(texts) > 2:
        text = f"data.columns: a tokenizer takes one text, or a pair, not {len(texts)} ({list_names(texts)})"
        instead = f"write data.columns=[{','.join(texts[:2])}]"
        raise ConfigError(Problem("data.columns", text, instead, topic="conflict"))
    if name is None:
        text = f"{key} is not set, and {' and '.join(texts)} hold{'s' * (len(texts) == 1)} text"
        raise ConfigError(Problem(key, text, f"write {key}=<folder or name on the hub>", topic="missing"))
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # its threads do not survive the fork of a worker
    tokenizer = load_tokenizer(name)
    if tokenizer.pad_token_id is None:
        if tokenizer.eos_token is None:
            text = f"{key}={name} has no padding token"
            raise ConfigError(Problem(key, text, "add one by tokenizer.add_special_tokens", topic="data"))
        tokenizer.pad_token = tokenizer.eos_token
        notes.append(f"texts padded with {tokenizer.eos_token}")
    if max_length is None:
        max_length = int(tokenizer.model_max_length)
        if max_length > LONGEST:
            text = f"data.max_length=null: {key}={name} does not say how many tokens its model takes"
            raise ConfigError(Problem("data.max_length", text, "write data.max_length=128", topic="missing"))
    return Texts(texts, tokenizer, max_length, padding)


def _check_sizes(rows: Any, images: Images) -> None:
    """Check on some rows that images have one size.

    Raises:
        ConfigError: they differ, or cannot be read.
    """
    if not images.columns or images.size is not None:
        return
    some = rows[list(range(0, len(rows), max(1, len(rows) // TRIED)))[:TRIED]]
    for column in images.columns:
        try:
            shapes = sorted({tuple(images.pixels(image).shape) for image in some[column]})
        except TrainingError as error:
            raise ConfigError(Problem("data.columns", f"data.columns: {column}: {error}", topic="data")) from error
        if len(shapes) > 1:
            (_, height, width), (_, other, wide) = shapes[0], shapes[-1]
            text = f"data.size=null: images of {column} differ in size, {height}x{width} and {other}x{wide}"
            raise ConfigError(Problem("data.size", text, "write data.size=224", topic="shape"))
