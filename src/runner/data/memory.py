"""`data.in_memory`: whether samples are held in memory, and what happens if there is too little of it."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from runner.data.splits import Splits
from runner.device import Device, free_host_memory
from runner.errors import ConfigError, Problem, first_line, is_out_of_memory

log = logging.getLogger("runner")

MEMORY_SHARE = 0.5  # of the free memory, which samples may take with `in_memory=auto`
LESS_MEMORY = "write data.in_memory=false, or data.limit=<fewer samples>"


@contextmanager
def memory_for_data() -> Iterator[None]:
    """Turn the error of too little memory for samples into one of the config.

    Raises:
        ConfigError: the samples that are read in this context do not fit into memory.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        raise ConfigError(Problem("data", f"data: {first_line(error)}", LESS_MEMORY, topic="unavailable")) from error


def decide_in_memory(setting: bool | str, splits: Splits, dtype: torch.dtype, device: Device) -> bool:
    """Decide whether samples are held as tensors on the device, or are read batch by batch.

    Args:
        setting: `data.in_memory`: True, False or `auto`.
        splits: the samples.
        dtype: of normalised inputs.
        device: where they would be held.

    Raises:
        ConfigError: they should be held, and there is too little memory; or a sample cannot be read.
    """
    if streams := [part for part in (splits.train, splits.val, splits.test) if part is not None and part.streams]:
        if setting is True:
            text = f"data.in_memory=true: data={splits.name} is a stream"
            raise ConfigError(Problem("data.in_memory", text, "write data.in_memory=auto", topic="conflict"))
        if splits.train in streams:
            return False
    if splits.train.collates and (setting == "auto" or splits.train.varies()):
        if setting is True:
            text = "data.in_memory=true: samples differ in shape, and a batch is padded to its longest one"
            raise ConfigError(Problem("data.in_memory", text, "write data.in_memory=false", topic="conflict"))
        return False  # what a `collate_fn` does may depend on the other samples of the batch
    free = device.free_memory()
    if splits.train.tensors is None:  # on its way to a GPU, what is read passes through the host's memory
        free = min(free, free_host_memory())
    if not fits_in_memory(setting, splits.nbytes(dtype), free):
        return False
    if not splits.train.is_random():
        return True
    if setting is True:
        log.warning(
            "data.in_memory=true freezes random augmentation at its first draw:"
            " write data.in_memory=false for a new one each epoch"
        )
    return setting is True


def fits_in_memory(setting: bool | str, needed: int, free: int) -> bool:
    """Decide whether samples are held in memory by their size alone.

    Args:
        setting: `data.in_memory`: True, False or `auto`.
        needed: bytes of the samples.
        free: bytes of memory.

    Raises:
        ConfigError: they should be held, and there is too little memory.
    """
    if setting == "auto":
        return needed < MEMORY_SHARE * free
    if setting and needed > free:  # a system that overcommits memory would kill the process later
        text = f"data.in_memory=true: {needed / 1e9:.1f} GB of samples, {free / 1e9:.1f} GB free"
        raise ConfigError(Problem("data.in_memory", text, LESS_MEMORY, topic="unavailable"))
    return bool(setting)
