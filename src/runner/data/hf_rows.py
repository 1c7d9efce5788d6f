"""The rows of a data set of the library `datasets`, as samples: texts as tokens, images as pixels."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from runner.data.image_file import ImageError, fit_square, to_pixels
from runner.errors import TrainingError, describe_error

TOKENS = ("input_ids", "attention_mask", "token_type_ids")
"""What a tokenizer returns, as far as models take it."""


@dataclass
class Texts:
    """How texts become tokens.

    Attributes:
        columns: one of texts, or two of pairs of texts.
        tokenizer: of Transformers.
        max_length: tokens; longer texts are cut.
        padding: `longest`: to the longest of a batch; `max_length`.
    """

    columns: Sequence[str]
    tokenizer: Any
    max_length: int
    padding: str

    def tokens(self, columns: Mapping[str, Sequence[str]]) -> dict[str, list[list[int]]]:
        """Tokenize the texts of some rows: lists of numbers by name."""
        texts = [list(columns[name]) for name in self.columns]
        padding = "max_length" if self.padding == "max_length" else False
        encoded = self.tokenizer(*texts, truncation=True, max_length=self.max_length, padding=padding)
        return {name: encoded[name] for name in TOKENS if name in encoded}

    def pad(self, name: str, column: Sequence[Sequence[int]]) -> Tensor:
        """Pad the lists of one name to the longest."""
        tokenizer = self.tokenizer
        fill = {"input_ids": tokenizer.pad_token_id, "token_type_ids": tokenizer.pad_token_type_id}.get(name, 0)
        length = max(map(len, column))
        rows = np.full((len(column), length), fill, dtype=np.int64)
        for row, values in zip(rows, column, strict=True):
            at = slice(length - len(values), None) if tokenizer.padding_side == "left" else slice(0, len(values))
            row[at] = values
        return torch.from_numpy(rows)


@dataclass
class Images:
    """How images become pixels.

    Attributes:
        columns: of images.
        size: pixels of a side; None leaves images as they are.
        channels: 3 for colour, 1 for grey.
    """

    columns: Sequence[str]
    size: int | None
    channels: int

    def pixels(self, image: Any) -> Tensor:
        """Return an image as uint8 (channels, H, W).

        Raises:
            TrainingError: it cannot be read.
        """
        try:
            pixels = to_pixels(image, self.channels)
        except (ImageError, OSError, ValueError) as error:
            reason = str(error) if isinstance(error, ImageError) else describe_error(error)
            raise TrainingError(f"an image cannot be read: {reason}") from error
        if self.size is not None:
            return fit_square(pixels, self.size)
        return torch.from_numpy(pixels.reshape(*pixels.shape[:2], -1)).permute(2, 0, 1).contiguous()


class Rows(Dataset):
    """Rows as samples: (inputs, target), or the inputs where there is no target.

    Inputs are the only column, or a dict by name: tokens under the names of the tokenizer, all else by column.

    Args:
        rows: a `datasets.Dataset`.
        columns: what becomes inputs.
        targets: of all rows; None if there are none.
        texts: the columns of texts, and how they become tokens.
        images: the columns of images, and how they become pixels.
    """

    def __init__(
        self, rows: Any, columns: Sequence[str], targets: Tensor | None, texts: Texts | None, images: Images
    ) -> None:
        self._rows, self._columns, self._texts, self._images = (
            rows.select_columns(list(columns)),
            columns,
            texts,
            images,
        )
        if targets is not None:
            self.targets = targets
        if texts is not None and texts.padding == "longest":
            self.collate_fn = self._collate

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> Any:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[Any]:
        """Read some rows."""
        read = self._rows[list(indices)]
        named: dict[str, Sequence[Any]] = {} if self._texts is None else dict(self._texts.tokens(read))
        texts = () if self._texts is None else self._texts.columns
        for name in self._columns:
            if name in self._images.columns:
                named[name] = [self._images.pixels(image) for image in read[name]]
            elif name not in texts:
                named[name] = [torch.as_tensor(value) for value in read[name]]
        if self._texts is None or self._texts.padding == "max_length":
            named = {name: [torch.as_tensor(value) for value in column] for name, column in named.items()}
        columns = list(named.values())
        single = len(columns) == 1 and self._texts is None
        inputs = columns[0] if single else [dict(zip(named, row, strict=True)) for row in zip(*columns, strict=True)]
        if not hasattr(self, "targets"):
            return list(inputs)
        return [(item, self.targets[index]) for item, index in zip(inputs, indices, strict=True)]

    def _collate(self, samples: Sequence[Any]) -> Any:
        """Make a batch, whose texts are padded to the longest."""
        assert self._texts is not None
        labelled = isinstance(samples[0], tuple)
        items = [sample[0] for sample in samples] if labelled else samples
        inputs: dict[str, Tensor] = {}
        for name in items[0]:
            column = [item[name] for item in items]
            inputs[name] = self._texts.pad(name, column) if name in TOKENS else torch.stack(column)
        return (inputs, torch.stack([sample[1] for sample in samples])) if labelled else inputs
