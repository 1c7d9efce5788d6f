"""`data=webdataset`: tar files ("shards") whose samples are files of one name, in the format of the library webdataset.

Samples are not streamed: an index of each shard has the offset of every file in it, so that any sample can be read by
itself. The order of an epoch depends on the seed and the epoch alone, not on the numbers of ranks, workers or shards.
"""

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Annotated, Any

import torch
from torch import Tensor

from runner.data.hf_load import load_tokenizer
from runner.data.hf_rows import Images, Texts
from runner.data.image_file import EXTENSIONS
from runner.data.listing import NAMES_SHOWN, list_names
from runner.data.shard_files import ShardError, ShardFile, list_shards
from runner.data.shard_index import ShardIndex, read_index
from runner.data.shard_samples import ShardSamples
from runner.data.source import Source
from runner.errors import ConfigError, Problem
from runner.util.cores import usable_cores
from runner.util.ranges import COUNT, Choice, Range

IMAGES = tuple(ending.removeprefix(".") for ending in EXTENSIONS)
TEXTS = ("txt", "text", "transcript")
VALUES = ("cls", "json")
KINDS = {"image": IMAGES, "array": ("npy",), "text": TEXTS}
WAITING = 8  # threads that read headers, as most of the time is spent waiting for the disk or the network


def webdataset(
    path: str | list[str] | None,
    val_path: str | list[str] | None = None,
    test_path: str | list[str] | None = None,
    inputs: str | None = None,
    target: str | None = None,
    classes: list[str] | None = None,
    size: Annotated[int, COUNT] | None = None,
    channels: Annotated[int, Choice((1, 3))] = 3,
    tokenizer: str | None = None,
    max_length: Annotated[int, COUNT] = 128,
    padding: Annotated[str, Choice(("longest", "max_length"))] = "longest",
    shuffle_window: Annotated[int, COUNT] = 10_000,
    download_limit: Annotated[float, Range(0, open_low=True)] | None = None,
    mean: float | list[float] | None = None,
    std: float | list[float] | None = None,
) -> Source:
    """Load shards.

    Args:
        path: of the training shards: see `list_shards`.
        val_path: of the validation shards; None holds samples out of the training shards.
        test_path: of the test shards; None: no test.
        inputs: the endings of the inputs, `jpg;png`; None: those of images, else `npy`, else `txt`.
        target: the ending of the targets: `cls`, `json.<name>`, or one that ends with `npy`; None: `cls` if there is
            one; `none`: none.
        classes: the names of the classes; None: the words of the training part, if targets are words.
        size: pixels: the shorter side of an image is resized to it, then the centre is cropped; None: as it is.
        channels: of images: 3 for colour, 1 for grey.
        tokenizer: for texts: what `AutoTokenizer` takes.
        max_length: tokens; longer texts are cut.
        padding: of texts: `longest`: to the longest of a batch; `max_length`.
        shuffle_window: shards are shuffled each epoch, and then each sample within so many places.
        download_limit: GB of downloaded shards, beyond which those that were not used for the longest time are removed.
        mean: subtracted from images or numbers; None computes it.
        std: divides them afterwards; None computes it.

    Raises:
        ConfigError: the shards cannot be had, or used as they are.
        Forbidden: they have to be downloaded, within `fetch.forbidden()`.
    """
    limit = None if download_limit is None else int(download_limit * 1e9)
    named = {"train": ("data.path", path), "val": ("data.val_path", val_path), "test": ("data.test_path", test_path)}
    shards = {part: list_shards(value, key, limit) for part, (key, value) in named.items() if part == "train" or value}
    keys = {part: key for part, (key, _) in named.items()}
    first = _read_indices(shards["train"][:1], None, "data.path")[0]
    kind, endings = _choose_inputs(first, inputs)
    target = _choose_target(first, target)
    by_value = target is not None and target.partition(".")[0] in VALUES
    indices = {part: _read_indices(files, target if by_value else None, keys[part]) for part, files in shards.items()}
    for part in shards:
        _check_samples(shards[part], indices[part], endings, None if by_value else target, keys[part])
    targets, classes = _read_targets(indices, classes, keys) if by_value else ({}, classes)
    texts = _make_texts(kind, tokenizer, max_length, padding)
    images = Images(endings if kind == "image" else [], size, channels)
    parts = {
        part: ShardSamples(
            files,
            indices[part],
            endings,
            targets.get(part),
            None if by_value else target,
            images,
            texts,
            shuffle_window,
        )
        for part, files in shards.items()
    }
    counts = []
    for part, verb in (("train", "train"), ("val", "validate"), ("test", "test")):
        if part in parts:
            files = f"{len(shards[part]):,} shard{'s' * (len(shards[part]) != 1)}"
            counts.append(f"{len(parts[part]):,} samples in {files} {verb}")
    described = f"inputs {';'.join(endings)}, " + (f"target {target}" if target else "no target")
    return Source(
        name="webdataset",
        train=parts["train"],
        val=parts.get("val"),
        test=parts.get("test"),
        mean=mean,
        std=std,
        classes=classes,
        origin=path if isinstance(path, str) else list_names(path or []),
        notes=[", ".join(counts), described],
    )


def _read_indices(shards: Sequence[ShardFile], target: str | None, key: str) -> list[ShardIndex]:
    """Read the indices of shards, some at a time.

    Raises:
        ConfigError: with a problem for each shard that cannot be read; of more than a few, with their number.
    """

    def attempt(shard: ShardFile) -> ShardIndex | ShardError:
        try:
            return read_index(shard, target)
        except ShardError as error:
            return error

    with ThreadPoolExecutor(max(WAITING, usable_cores())) as pool:
        read = list(pool.map(attempt, shards)) if len(shards) > 1 else [attempt(shard) for shard in shards]
    make = partial(Problem, key, suggestion="correct it, or leave it out", topic="file")
    faults = [make(f"{key}: {error}") for error in read if isinstance(error, ShardError)]
    if len(faults) > NAMES_SHOWN:
        more = f"{key}: {len(faults) - NAMES_SHOWN} more of {len(shards)} shards cannot be read either"
        faults = [*faults[:NAMES_SHOWN], Problem(key, more, topic="file")]
    if faults:
        raise ConfigError(*faults)
    return [index for index in read if isinstance(index, ShardIndex)]


def _choose_inputs(index: ShardIndex, inputs: str | None) -> tuple[str, list[str]]:
    """Return the kind of the inputs, and their endings."""
    key, present = "data.inputs", list_names(index.columns)
    if inputs is None:
        for kind, known in KINDS.items():
            if chosen := [ending for ending in known if ending in index.columns]:
                return kind, chosen
        text = f"{key} is not set, and samples have neither an image nor .npy nor .txt, but {present}"
        raise ConfigError(Problem(key, text, f"write {key}=<an ending>", topic="missing"))
    endings = [ending.strip().lower().removeprefix(".") for ending in inputs.split(";")]
    if not any(ending in index.columns for ending in endings):
        text = f"{key}={inputs}: samples have {present}"
        raise ConfigError(Problem(key, text, "write one of these", topic="unknown"))
    kinds = {
        next((kind for kind, known in KINDS.items() if ending.rpartition(".")[2] in known), "") for ending in endings
    }
    if len(kinds) > 1 or "" in kinds:
        text = f"{key}={inputs}: inputs are images ({', '.join(IMAGES)}), arrays (npy) or texts (txt)"
        raise ConfigError(Problem(key, text, "name endings of one kind", topic="choice"))
    return kinds.pop(), endings


def _choose_target(index: ShardIndex, target: str | None) -> str | None:
    """Return the target as the index names it; None if there is none."""
    key, present = "data.target", list_names(index.columns)
    if target is None:
        if "cls" in index.columns:
            return "cls"
        if "json" in index.columns:
            text = f"{key} is not set, and samples have no .cls, but {present}"
            instead = f"write {key}=json.<a name in it>, or {key}=none"
            raise ConfigError(Problem(key, text, instead, topic="missing"))
        return None
    ending, _, path = target.partition(".")
    if target == "none":
        return None
    if ending == "json" and path and ending in index.columns:
        return target
    if target not in index.columns:
        raise ConfigError(
            Problem(key, f"{key}={target}: samples have {present}", "write one of these", topic="unknown")
        )
    if target != "cls" and not target.endswith("npy"):
        text = f"{key}={target}: targets are cls, json.<a name in it>, or an array in a file that ends with npy"
        raise ConfigError(Problem(key, text, f"write {key}=none, or one of these", topic="choice"))
    return target


def _check_samples(
    shards: Sequence[ShardFile], indices: Sequence[ShardIndex], inputs: Sequence[str], target: str | None, key: str
) -> None:
    """Check that each sample has what the model gets.

    Raises:
        ConfigError: one has not.
    """
    for shard, index in zip(shards, indices, strict=True):
        for wanted in (inputs, [target] if target else []):
            columns = [index.columns.index(ending) for ending in wanted if ending in index.columns]
            lacking = (index.places[:, columns, 0] < 0).all(axis=1)
            if wanted and lacking.any():
                name = index.keys[int(lacking.argmax())]
                text = f"{key}: {shard.name}: sample {name} has no .{' or .'.join(wanted)}"
                raise ConfigError(Problem(key, text, "correct the shard, or leave it out", topic="data"))


def _read_targets(
    indices: Mapping[str, Sequence[ShardIndex]], classes: list[str] | None, keys: Mapping[str, str]
) -> tuple[dict[str, Tensor], list[str] | None]:
    """Return the targets of all parts, and the names of the classes if targets are words."""
    values = {part: [value for index in found for value in index.values] for part, found in indices.items()}
    words = {isinstance(value, str) for of_part in values.values() for value in of_part}
    if len(words) > 1:
        text = "data.target: some targets are words, some are numbers"
        raise ConfigError(Problem("data.target", text, "make them all of one kind", topic="data"))
    if True in words:
        classes = classes or sorted(set(values["train"]))
        places = {name: place for place, name in enumerate(classes)}
        for part, of_part in values.items():
            if unknown := sorted(set(of_part) - set(places)):
                text = f"{keys[part]}: classes that are not known: {list_names(unknown)}"
                raise ConfigError(Problem(keys[part], text, "write data.classes=[<all of them>]", topic="data"))
            values[part] = [places[value] for value in of_part]
    whole = all(isinstance(value, int) for of_part in values.values() for value in of_part)
    dtype = torch.int64 if whole else torch.float64
    return {part: torch.tensor(of_part, dtype=dtype) for part, of_part in values.items()}, classes


def _make_texts(kind: str, tokenizer: str | None, max_length: int, padding: str) -> Texts | None:
    """Load the tokenizer of texts; None if inputs are none."""
    key = "data.tokenizer"
    if kind != "text":
        if tokenizer is not None:
            text = f"{key}={tokenizer}: the inputs are no texts"
            raise ConfigError(Problem(key, text, f"write {key}=null", topic="conflict"))
        return None
    if tokenizer is None:
        text = f"{key} is not set, and the inputs are texts"
        raise ConfigError(Problem(key, text, f"write {key}=<folder or name on the hub>", topic="missing"))
    loaded: Any = load_tokenizer(tokenizer)
    if loaded.pad_token_id is None:
        if loaded.eos_token is None:
            text = f"{key}={tokenizer} has no padding token"
            raise ConfigError(Problem(key, text, "add one by tokenizer.add_special_tokens", topic="data"))
        loaded.pad_token = loaded.eos_token
    return Texts(["text"], loaded, max_length, padding)
