"""The samples of shards as a map-style data set: any of them is read by its offset in a tar file."""

import os
from collections import OrderedDict
from collections.abc import Sequence
from hashlib import blake2b
from io import BytesIO
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from runner.data.hf_rows import TOKENS, Images, Texts
from runner.data.part import spaced
from runner.data.sampling import Nearby
from runner.data.shard_files import ShardError, ShardFile
from runner.data.shard_index import ShardIndex
from runner.errors import TrainingError, describe_error

OPEN_FILES = 32  # shards that a process has open at once
HASHED = 64  # samples whose contents are in the fingerprint


class ShardSamples(Dataset[Any]):
    """Samples (input, target), or inputs where there are no targets.

    Args:
        shards: the files, in their order.
        indices: what each of them holds.
        inputs: the endings of the inputs; each sample has one of them.
        targets: of all samples; None if each is an array in its own file, or if there are none.
        target: the ending of such files.
        images: how images become pixels.
        texts: how texts become tokens.
        window: see `Nearby`.

    Attributes:
        nearby: which samples are read together.
    """

    def __init__(
        self,
        shards: Sequence[ShardFile],
        indices: Sequence[ShardIndex],
        inputs: Sequence[str],
        targets: Tensor | None,
        target: str | None,
        images: Images,
        texts: Texts | None,
        window: int,
    ) -> None:
        self._shards, self._indices, self._inputs, self._target = shards, indices, inputs, target
        self._images, self._texts = images, texts
        if targets is not None:
            self.targets = targets
        if texts is not None and texts.padding == "longest":
            self.collate_fn = self._collate
        counts = torch.tensor([len(index.keys) for index in indices])
        self._starts = [0, *counts.cumsum(0).tolist()]
        self.nearby = Nearby(torch.arange(len(counts)).repeat_interleave(counts), window)
        self._open: OrderedDict[int, int] = OrderedDict()
        self._process = os.getpid()

    def __len__(self) -> int:
        return self._starts[-1]

    def __getitem__(self, index: int) -> Any:
        """Read a sample.

        Raises:
            TrainingError: it cannot be read; in one line that names the shard.
        """
        shard, row = self._find(index)
        ending = next(ending for ending in self._inputs if self._place(shard, row, ending)[0] >= 0)
        inputs = self._decode(shard, row, ending)
        if hasattr(self, "targets"):
            return inputs, self.targets[index]
        return inputs if self._target is None else (inputs, self._decode(shard, row, self._target))

    def _find(self, index: int) -> tuple[int, int]:
        """Return the shard of a sample, and its place in it."""
        shard = int(np.searchsorted(self._starts, index, side="right")) - 1
        return shard, index - self._starts[shard]

    def _place(self, shard: int, row: int, ending: str) -> tuple[int, int]:
        """Return offset and size of a sample's file; -1 if it has none."""
        of_shard = self._indices[shard]
        if ending not in of_shard.columns:
            return -1, -1
        offset, size = of_shard.places[row, of_shard.columns.index(ending)].tolist()
        return offset, size

    def _decode(self, shard: int, row: int, ending: str) -> Any:
        """Read a file of a sample."""
        data = self._read(shard, *self._place(shard, row, ending))
        try:
            if ending.endswith("npy"):
                array = np.lib.format.read_array(BytesIO(data), allow_pickle=False)
                return torch.from_numpy(np.ascontiguousarray(array))
            if self._texts is not None:
                tokens = self._texts.tokens({"text": [data.decode()]})
                made: Any = list if hasattr(self, "collate_fn") else torch.as_tensor
                return {name: made(rows[0]) for name, rows in tokens.items()}
            from PIL import Image

            with Image.open(BytesIO(data)) as image:
                return self._images.pixels(image)
        except TrainingError as error:
            raise self._unreadable(shard, row, ending, str(error)) from error
        except Exception as error:  # a damaged file can raise anything in a decoder
            raise self._unreadable(shard, row, ending, describe_error(error)) from error

    def _unreadable(self, shard: int, row: int, ending: str, reason: str) -> TrainingError:
        return TrainingError(f"{self._shards[shard].name}: {self._indices[shard].keys[row]}.{ending}: {reason}")

    def _read(self, shard: int, offset: int, size: int) -> bytes:
        """Read bytes of a shard."""
        try:
            data = os.pread(self._descriptor(shard), size, offset)
        except ShardError as error:
            raise TrainingError(str(error)) from error
        except OSError as error:
            raise TrainingError(f"{self._shards[shard].name} cannot be read: {error.strerror}") from error
        if len(data) != size:
            raise TrainingError(f"{self._shards[shard].name} has become shorter")
        return data

    def _descriptor(self, shard: int) -> int:
        """Return a descriptor of a shard; a process has only the last ones open."""
        if self._process != os.getpid():
            self._open, self._process = OrderedDict(), os.getpid()
        if shard in self._open:
            self._open.move_to_end(shard)
            return self._open[shard]
        number = self._shards[shard].open()
        if os.fstat(number).st_size != self._indices[shard].size:
            os.close(number)
            raise ShardError(f"{self._shards[shard].name} has changed since the run was started")
        self._open[shard] = number
        if len(self._open) > OPEN_FILES:
            os.close(self._open.popitem(last=False)[1])
        return number

    def __getstate__(self) -> dict[str, Any]:
        """Leave out what belongs to this process."""
        return {**vars(self), "_open": OrderedDict()}

    def _collate(self, samples: Sequence[Any]) -> Any:
        """Make a batch of texts, padded to the longest."""
        assert self._texts is not None
        pairs = isinstance(samples[0], tuple)
        items = [sample[0] for sample in samples] if pairs else samples
        inputs = {name: self._texts.pad(name, [item[name] for item in items]) for name in TOKENS if name in items[0]}
        return (inputs, torch.stack([sample[1] for sample in samples])) if pairs else inputs

    def fingerprint(self) -> bytes:
        """Hash names, sizes and targets of all samples, and the contents of some."""
        digest = blake2b(repr((self._inputs, self._target, self._images)).encode())
        for index in self._indices:
            digest.update(repr((index.keys, index.columns, index.values)).encode())
            digest.update(index.places[..., 1].tobytes())
        for number in spaced(len(self), HASHED):
            shard, row = self._find(number)
            for ending in self._inputs:
                if (place := self._place(shard, row, ending))[0] >= 0:
                    digest.update(self._read(shard, *place))
        return digest.digest()
