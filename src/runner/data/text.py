"""`data=text`: the characters of a text, in windows that follow one another."""

import hashlib
import importlib
import platform
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from runner.data.paths import find_data_file
from runner.data.source import Source
from runner.errors import ConfigError, Problem
from runner.util.ranges import Range

REFERENCE = "pydoc_data.topics"


class Windows(Dataset[Tensor]):
    """Windows of a text, each `block` + 1 characters long: a model sees the first `block`, and predicts all but one.

    The text is held once, with a byte for each character if there are at most 256 different ones. `data.in_memory=auto`
    holds all windows as one int64 tensor where memory allows it: eight times as much with `stride` = `block`.

    Args:
        ids: of the characters, (length,).
        block: characters that the model sees.
        stride: characters from the beginning of a window to that of the next.
    """

    def __init__(self, ids: Tensor, block: int, stride: int) -> None:
        self.ids, self.block, self.stride = ids, block, stride

    def __len__(self) -> int:
        return max(0, (len(self.ids) - self.block - 1) // self.stride + 1)

    def __getitem__(self, index: int) -> Tensor:
        """Return a window (block + 1,)."""
        if not 0 <= index < len(self):
            raise IndexError(index)
        first = index * self.stride
        return self.ids[first : first + self.block + 1].long()

    def __getitems__(self, indices: list[int]) -> list[Tensor]:
        """Return several windows at once."""
        places = torch.tensor(indices)[:, None] * self.stride + torch.arange(self.block + 1)
        return list(self.ids[places].long())

    def fingerprint(self) -> bytes:
        """Hash all that the windows hold."""
        digest = hashlib.sha256(repr((str(self.ids.dtype), self.block, self.stride)).encode())
        digest.update(self.ids.numpy().data)
        return digest.digest()


def text(
    path: str | Path | None = None,
    block: Annotated[int, Range(1, 2**20, whole=True)] = 128,
    stride: Annotated[int | None, Range(1, 2**20, whole=True)] = None,
    held_out: Annotated[float, Range(0, 0.5, open_low=True, open_high=True)] = 0.1,
) -> Source:
    """Read a text, and divide it: its end is the test part, what stands before that the validation part.

    An epoch is a permutation of the windows of the training part. No window reaches over the end of its part.

    Args:
        path: a UTF-8 file; None takes Python's language reference, which every installation has (the help topics in
            `pydoc_data`, about 0.5 million characters; another version of Python has another text).
        block: characters that the model sees.
        stride: characters from the beginning of a training window to that of the next; None is `block`: each character
            is predicted once in an epoch.
        held_out: share of the text for the test, and as much for validation.

    Returns:
        Items are int64 (block + 1,), the indices of characters in `classes`.

    Raises:
        ConfigError: the file cannot be read, or is too short.
    """
    content, origin = _reference() if path is None else _read(path)
    characters, ids = _encode(content)
    length = round(len(ids) * held_out)
    needed = block + 1
    if length < needed:
        of = f"data.path={path}" if path is not None else "data=text"
        said = f"{of} has {len(ids):,} characters, of which data.held_out={held_out:g} leaves {length:,} for the test"
        if (fitting := len(ids) * held_out / 2 - 1) >= 1:
            instead = f"write data.block={int(fitting)}"
        else:
            instead = "give a longer text"
        raise ConfigError(Problem("data.block", f"{said}: too few for data.block={block}", instead, topic="range"))
    train, val, test = ids.split([len(ids) - 2 * length, length, length])
    return Source(
        "text",
        train=Windows(train, block, stride or block),
        val=Windows(val, block, block),
        test=Windows(test, block, block),
        classes=characters,
        origin=origin,
        notes=[f"{len(ids):,} characters, {len(characters)} different ones; validation and test are its end"],
    )


def _reference() -> tuple[str, str]:
    """Return Python's language reference, and where it comes from."""
    try:
        topics: dict[str, Any] = importlib.import_module(REFERENCE).topics
    except ImportError as error:  # some distributions leave it out
        said = f"data=text: this Python has no {REFERENCE}, the text that is read without data.path"
        raise ConfigError(Problem("data.path", said, "write data.path=<a text file>", topic="unavailable")) from error
    content = "\n".join(topics[name] for name in sorted(topics))
    return content, f"the language reference of Python {platform.python_version()}"


def _read(path: str | Path) -> tuple[str, str]:
    file = find_data_file(path, "data.path")
    try:
        return file.read_text(encoding="utf-8-sig"), str(file)
    except UnicodeDecodeError as error:
        said = f"data.path={path} is not UTF-8 (byte {error.start:,})"
        instead = "convert it: iconv -f latin1 -t utf-8 <file> > <new file>"
        raise ConfigError(Problem("data.path", said, instead, topic="data")) from error
    except OSError as error:
        said = f"data.path={path} cannot be read: {error.strerror or error}"
        raise ConfigError(Problem("data.path", said, "name another file", topic="file")) from error


def _encode(content: str) -> tuple[list[str], Tensor]:
    """Return the characters that occur, in the order of Unicode, and the text as their indices."""
    points = np.frombuffer(content.encode("utf-32-le"), dtype="<u4")
    found = np.flatnonzero(np.bincount(points))
    index = np.zeros(found[-1] + 1, dtype=np.uint8 if len(found) <= 256 else np.int32)
    index[found] = np.arange(len(found))
    return [chr(point) for point in found], torch.from_numpy(index[points])
