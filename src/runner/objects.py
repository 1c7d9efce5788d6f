"""Objects of a notebook or a script: `_target_: runner.objects.Net_3f2a91bc4d5e6f70` in a config names one of them.

Each is a file `<name>.pkl`, in which cloudpickle has put the object with the code of its class, if that was defined in
a notebook or a script. The name ends in a digest of the file. `put` writes it into the folder `objects/` of all
outputs, `keep` copies it into the folder of a run or a sweep, and what reads a saved run says by `offer` where its
files are. To load one runs code, as importing the module that any other `_target_` names does.
"""

import functools
import hashlib
import inspect
import pickle
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from runner.errors import ConfigError, Problem, describe_error
from runner.rundir import layout
from runner.rundir.folders import outputs
from runner.rundir.ownership import is_own_folder, is_real_file, real_files
from runner.util.files import hard_link, open_to_read, replacing

MODULE = __name__
SUFFIX = ".pkl"
DIGEST = 16
"""Characters of a digest."""

_NAME = re.compile(rf"[A-Za-z_]\w*_[0-9a-f]{{{DIGEST}}}")
_TARGET = re.compile(rf"{re.escape(MODULE)}\.({_NAME.pattern})\b")

Finder = Callable[[str], Path | None]
"""Returns the path of a file of a saved run by its name, `objects/<name>.pkl`; None if the run has no such file."""

_offered: dict[str, Finder] = {}


def __getattr__(name: str) -> Any:
    """Return what a config calls: a class or a function itself, of another object a function that returns it.

    Raises:
        AttributeError: this is not the name of an object.
        ConfigError: its file cannot be found or loaded.
    """
    if not _NAME.fullmatch(name):
        raise AttributeError(f"module {MODULE} has no attribute {name}")
    return _load(name)


@functools.lru_cache(maxsize=64)
def _load(name: str) -> Callable[..., Any]:
    from runner.util.code_state import note_code  # late: torch

    content = _read(name)
    note_code(name)
    loaded = _unpickle(name, content)
    if inspect.isclass(loaded) or inspect.isroutine(loaded) or isinstance(loaded, functools.partial):
        return loaded
    return lambda: _unpickle(name, content)  # each run begins with the object as it was given


def _unpickle(name: str, content: bytes) -> Any:
    try:
        return pickle.loads(content)
    except Exception as error:  # the modules that it needs may be missing, or have changed
        text = f"{MODULE}.{name} cannot be loaded: {describe_error(error)}"
        raise ConfigError(Problem(name, text, "start from the folder of its modules", topic="code")) from error


def _read(name: str) -> bytes:
    """Read the file of an object, and check its digest."""
    file = find(name)
    if file is None:
        text = f"{MODULE}.{name}: there is no {layout.OBJECTS}/{name}{SUFFIX}"
        instead = f"copy it from the folder of its run into {outputs() / layout.OBJECTS}"
        raise ConfigError(Problem(name, text, instead, topic="file"))
    with open_to_read(file) as opened:
        content = opened.read()
    if digest_of(content) != name[-DIGEST:]:
        text = f"{file} has changed since its run was started"
        raise ConfigError(Problem(name, text, "restore it", topic="file"))
    return content


def digest_of(content: bytes) -> str:
    """Return the digest in the name of a file."""
    return hashlib.sha256(content).hexdigest()[:DIGEST]


def find(name: str) -> Path | None:
    """Find the file of an object: in the saved runs that were read, or among those of all outputs."""
    file = _offered[name](f"{layout.OBJECTS}/{name}{SUFFIX}") if name in _offered else None
    shared = outputs() / layout.OBJECTS
    if file is None and is_own_folder(shared) and is_real_file(shared / f"{name}{SUFFIX}"):
        file = shared / f"{name}{SUFFIX}"
    return file


def names_in(config: Any) -> set[str]:
    """Return the names of the objects that a config, or a list of arguments, mentions."""
    return {name for text in _texts(config) for name in _TARGET.findall(text)}


def _texts(node: Any) -> Iterator[str]:
    if isinstance(node, str):
        yield node
    elif isinstance(node, Mapping):
        for value in node.values():
            yield from _texts(value)
    elif isinstance(node, list | tuple):
        for value in node:
            yield from _texts(value)


def offer(config: Any, file: Finder) -> None:
    """Look for the objects of a saved run or sweep among its files from now on."""
    _offered.update(dict.fromkeys(names_in(config), file))


def put(name: str, suffix: str, content: bytes) -> Path:
    """Write a file into the folder of objects; if it is there already, nothing is written.

    Args:
        name: its first part; the second is the digest of the content.
        suffix: its ending.
        content: what is in it.

    Raises:
        ConfigError: it cannot be written.
    """
    folder = outputs() / layout.OBJECTS
    path = folder / f"{name}_{digest_of(content)}{suffix}"
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not path.is_file():
            with replacing(path, private=True) as fresh:
                fresh.write_bytes(content)
    except OSError as error:  # a full disk, or the folder of another user
        instead = "set RUNNER_OUTPUTS to a folder of yours with more room"
        raise ConfigError(Problem("RUNNER_OUTPUTS", describe_error(error), instead, topic="file")) from error
    return path


def share(folder: Path) -> None:
    """Copy the objects of a sweep back into the folder of all outputs, where the processes of its jobs look for them.

    Raises:
        OSError: one cannot be copied.
    """
    shared = outputs() / layout.OBJECTS
    for file in real_files(folder / layout.OBJECTS):
        if not (shared / file.name).exists():
            shared.mkdir(mode=0o700, parents=True, exist_ok=True)
            hard_link(file, shared / file.name)


def keep(config: Any, folder: Path) -> None:
    """Copy the objects of a config into the folder of a run or a sweep, as links where the disk is the same.

    Raises:
        OSError: one cannot be copied.
    """
    for name in sorted(names_in(config)):
        file, own = find(name), folder / layout.OBJECTS / f"{name}{SUFFIX}"
        if file is not None and not own.exists():
            own.parent.mkdir(exist_ok=True)
            hard_link(file, own)
