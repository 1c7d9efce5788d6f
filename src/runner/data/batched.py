"""Data sets whose samples are fetched a batch at a time, as `torch.utils.data.DataLoader` then does."""

from collections.abc import Sequence
from typing import Any

from torch.utils.data import Dataset, default_collate

from runner.data.splits import Batch, size
from runner.errors import TrainingError, describe_error
from runner.util.rng import derived_seed, isolated_rng


class Indices(list[int]):
    """Of the samples of a batch.

    Attributes:
        seed: of what is drawn at random for them.
    """

    seed = 0


def seeded(indices: Sequence[int], purpose: str, *numbers: int) -> Indices:
    """Indices with a seed that depends on the purpose and the numbers, such as (seed, epoch, batch)."""
    made = Indices(indices)
    made.seed = derived_seed(purpose, *numbers)
    return made


class Tensors(Dataset[Batch]):
    """Tensors behind the `Dataset` interface, fetched a batch at a time."""

    def __init__(self, part: Batch) -> None:
        self.inputs, self.targets = part

    def __len__(self) -> int:
        return len(self.inputs)

    def __getitem__(self, index: int) -> Batch:
        return self.inputs[index], self.targets[index]

    def __getitems__(self, indices: list[int]) -> Batch:
        return self.inputs[indices], self.targets[indices]


class MapStyle(Dataset[Batch]):
    """A map-style data set fetched a batch at a time.

    What it draws at random for a sample, to augment it say, depends on the batch alone: not on the number of workers,
    nor on where a run was resumed.

    A sample that cannot be read is returned as the error it is: raised in a worker, it would arrive as a text
    with a traceback in it.
    """

    def __init__(self, part: Dataset[Any]) -> None:
        self.part = part

    def __len__(self) -> int:
        return size(self.part)

    def __getitem__(self, index: int) -> Batch:
        inputs, targets = self.part[index]
        return inputs, targets

    def __getitems__(self, indices: "Indices") -> Any:
        fetch = getattr(self.part, "__getitems__", None)
        try:
            with isolated_rng(indices.seed):
                return default_collate(fetch(indices) if fetch else [self.part[index] for index in indices])
        except TrainingError as error:
            return error
        except OSError as error:  # a file that has been removed, say
            return TrainingError(describe_error(error))
