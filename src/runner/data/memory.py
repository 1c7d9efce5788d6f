"""Whether the samples are held in memory: `data.in_memory`, and what there is of it."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from runner.data.loading import is_random
from runner.data.splits import Splits
from runner.device import Device, free_host_memory
from runner.errors import ConfigError, first_line, is_out_of_memory

log = logging.getLogger("runner")

MEMORY_SHARE = 0.5  # of the free memory: what data may take before `in_memory=auto` leaves it where it is
LESS_MEMORY = "write data.in_memory=false, or data.limit=<fewer samples>"


@contextmanager
def memory_for_data() -> Iterator[None]:
    """Where samples are read.

    Raises:
        ConfigError: there is not enough memory for them.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        raise ConfigError(f"data: {first_line(error)}; {LESS_MEMORY}") from error


def decide_in_memory(wanted: bool | str, splits: Splits, dtype: torch.dtype, device: Device) -> bool:
    """Whether samples are tensors on the device, or are read by batch.

    Raises:
        ConfigError: they are to be, and there is too little memory; or one cannot be read.
    """
    free = device.free_memory()
    if not isinstance(splits.train, tuple):  # on its way to a GPU it lies in the host's memory
        free = min(free, free_host_memory())
    if not fits_in_memory(wanted, splits.nbytes(dtype), free):
        return False
    if not is_random(splits.train):  # held, what is drawn first would be every epoch's
        return True
    if wanted is True:
        log.warning(
            "data.in_memory=true holds samples as they were drawn at random first:"
            " write data.in_memory=false for others each epoch"
        )
    return wanted is True


def fits_in_memory(wanted: bool | str, taken: int, free: int) -> bool:
    """Whether samples of so many bytes are held in memory, of which so many bytes are free.

    Raises:
        ConfigError: they are to be, and there is too little of it.
    """
    if wanted == "auto":
        return taken < MEMORY_SHARE * free
    if wanted and taken > free:  # a system that promises more than it has ends the process later
        raise ConfigError(
            f"data.in_memory=true: {taken / 1e9:.1f} GB of samples, and {free / 1e9:.1f} free; {LESS_MEMORY}"
        )
    return bool(wanted)
