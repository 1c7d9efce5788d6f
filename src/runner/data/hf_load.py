"""Data sets of the library `datasets`: from files, from folders, or from the Hugging Face hub."""

import importlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from runner.data import fetch
from runner.data.paths import find_data_file, find_data_folder, full_path
from runner.errors import ConfigError, Problem, describe_error, first_line
from runner.util import hub

KEY = "data.name"
BUILDERS = {
    ".csv": "csv", ".tsv": "csv", ".json": "json", ".jsonl": "json", ".parquet": "parquet", ".arrow": "arrow",
    ".txt": "text",
}  # fmt: skip
"""What reads a file, by its ending."""


def library(name: str) -> Any:
    """Import `datasets` or `transformers`.

    Raises:
        ConfigError: it is not installed.
    """
    return hub.library(name, "data=huggingface", "huggingface")


def load(name: str | None, subset: str | None, revision: str | None) -> tuple[Mapping[str, Any], str]:
    """Load all splits of a data set.

    Args:
        name: a file, a folder, or a name on the hub.
        subset: the configuration, of a data set that has several.
        revision: a branch, a tag or a commit of the hub.

    Returns:
        The splits by name, and where they come from.

    Raises:
        ConfigError: they cannot be had.
        Forbidden: they have to be downloaded, within `fetch.forbidden()`.
    """
    if name is None:
        text = f"{KEY} is not set"
        raise ConfigError(Problem(KEY, text, f"write {KEY}=<file, folder or name on the hub>", topic="missing"))
    datasets = library("datasets")
    path = full_path(name, KEY)
    with _without_progress(datasets):
        if path.is_dir():
            loaded, origin = _from_folder(datasets, path, subset), str(path)
        elif path.suffix in BUILDERS or name.startswith(("/", "~", ".")) or name.count("/") > 1:
            loaded, origin = _from_file(datasets, find_data_file(name, KEY)), str(path)
        else:
            loaded, origin = _from_hub(datasets, name, subset, revision), f"huggingface.co/datasets/{name}"
    return (loaded if isinstance(loaded, Mapping) else {"train": loaded}), origin


@contextmanager
def _without_progress(datasets: Any) -> Iterator[None]:
    """Load without bars and log lines."""
    shown, level = datasets.are_progress_bars_disabled(), datasets.logging.get_verbosity()
    datasets.disable_progress_bars()
    datasets.logging.set_verbosity(datasets.logging.CRITICAL)
    try:
        yield
    finally:
        datasets.logging.set_verbosity(level)
        if not shown:
            datasets.enable_progress_bars()


def _from_folder(datasets: Any, folder: Path, subset: str | None) -> Any:
    saved = any((folder / name).is_file() for name in ("dataset_dict.json", "state.json"))
    if saved:
        if subset is not None:
            text = f"data.subset={subset}: {folder} was saved by save_to_disk, and has no subsets"
            raise ConfigError(Problem("data.subset", text, "write data.subset=null", topic="conflict"))
        return _read(lambda: datasets.load_from_disk(str(folder)), str(folder))
    return _read(lambda: datasets.load_dataset(str(folder), subset), str(folder))


def _from_file(datasets: Any, file: Path) -> Any:
    if file.suffix not in BUILDERS:
        text = f"{KEY}={file}: the ending is unknown"
        raise ConfigError(Problem(KEY, text, f"name a file that ends with {', '.join(BUILDERS)}", topic="file"))
    options = {"sep": "\t"} if file.suffix == ".tsv" else {}
    builder, files = BUILDERS[file.suffix], {"train": str(file)}
    return _read(lambda: datasets.load_dataset(builder, data_files=files, **options), str(file))


def _read(load: Callable[[], Any], place: str) -> Any:
    """Load something; what the library raises becomes a problem of `data.name`, or of `data.subset`."""
    try:
        return load()
    except ValueError as error:
        if "onfig" in first_line(error):  # "Config name is missing", "BuilderConfig 'x' not found"
            lines = " ".join(str(error).split())
            raise ConfigError(
                Problem("data.subset", f"{place}: {lines[:300]}", "write data.subset=<one of them>", topic="choice")
            ) from error
        raise _unreadable(place, error) from error
    except Exception as error:  # any of several libraries
        raise _unreadable(place, error) from error


def _unreadable(place: str, error: Exception) -> ConfigError:
    reason = describe_error(error.__cause__ if isinstance(error.__cause__, Exception) else error)
    text = f"{KEY}: {place} cannot be read: {reason}"
    return ConfigError(Problem(KEY, text, "correct it, or name another", topic="file"))


def _from_hub(datasets: Any, name: str, subset: str | None, revision: str | None) -> Any:
    """Load a data set of the hub; where the hub cannot be reached, from the library's cache."""
    fetch.require_allowed()
    unreachable = hub.probe(name, revision, KEY, "data set")
    if unreachable is None:
        return _read(lambda: datasets.load_dataset(name, subset, revision=revision), name)
    try:
        with _offline():
            return datasets.load_dataset(name, subset, revision=revision)
    except Exception as error:
        where = f"no file or folder of that name, not in the cache, and the hub cannot be reached ({unreachable})"
        instead = f"download it where there is a network, save_to_disk it, and write {KEY}=<its folder>"
        raise ConfigError(Problem(KEY, f"{KEY}={name}: {where}", instead, topic="unavailable")) from error


@contextmanager
def _offline() -> Iterator[None]:
    """Let the library look into its cache alone, as with the environment variable HF_HUB_OFFLINE=1."""
    constants: Any = importlib.import_module("huggingface_hub.constants")
    before = constants.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before


def load_tokenizer(name: str) -> Any:
    """Load a tokenizer of Transformers.

    Args:
        name: a folder, or a name on the hub, whose cache is looked into first.

    Raises:
        ConfigError: it cannot be had.
        Forbidden: it has to be downloaded, within `fetch.forbidden()`.
    """
    key, transformers = "data.tokenizer", library("transformers")
    folder = full_path(name, key)
    is_folder = folder.is_dir() or name.startswith(("/", "~", ".")) or name.count("/") > 1
    place = str(find_data_folder(name, key)) if is_folder else name
    try:
        return transformers.AutoTokenizer.from_pretrained(place, local_files_only=True)
    except Exception as error:  # a damaged file can raise anything
        if is_folder:
            text = f"{key}: {place} holds no tokenizer: {describe_error(error)}"
            raise ConfigError(Problem(key, text, "name a folder of save_pretrained", topic="file")) from error
    fetch.require_allowed()
    if unreachable := hub.probe(name, None, key):
        where = f"no folder of that name, not in the cache, and the hub cannot be reached ({unreachable})"
        instead = f"save_pretrained it where there is a network, and write {key}=<its folder>"
        raise ConfigError(Problem(key, f"{key}={name}: {where}", instead, topic="unavailable"))
    try:
        return transformers.AutoTokenizer.from_pretrained(name)
    except Exception as error:
        text = f"{key}={name} cannot be loaded from the hub: {describe_error(error)}"
        raise ConfigError(Problem(key, text, "write another name, or a folder", topic="file")) from error
