"""`trainer.compile`: the model through `torch.compile`, all of it before the first epoch."""

import logging
from collections.abc import Iterator
from time import perf_counter

import torch
from torch import Tensor

from .data.loading import Loader
from .training import Training


def compile_model(t: Training) -> float:
    """Compile training and evaluation for the batch sizes that will come, and leave everything else as it was.

    `torch.compile` works when it is first called, which would fall into the first epoch's time. On two cores it takes
    the MNIST MLP 8 s, and its epoch then takes 0.8 to 1.1 times as long, from one attempt to the next; the CNN 11 s
    (3 s where its code is cached), and its epochs of 20 s 0.93 times as long: made up for after eight (or three).

    Returns:
        Seconds that it took.
    """
    began = perf_counter()
    logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)  # that there is no CUDA is known
    t.forward = torch.compile(t.model)
    t.forward_evaluated = t.forward if t.evaluated is t.model else torch.compile(t.evaluated)
    buffers = [(buffer, buffer.clone()) for buffer in (*t.model.buffers(), *t.evaluated.buffers())]
    devices = [t.device.torch] if t.device.torch.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        for inputs, targets in _batches(t, t.loaders.train):
            with t.precision.autocast():
                outputs = t.forward(inputs)
            t.loss(t.precision.upcast(outputs), targets).backward()
        t.optimizer.zero_grad(set_to_none=True)
        t.evaluated.eval()
        with torch.inference_mode():
            for loader in (t.loaders.val, t.loaders.test):
                for inputs, _ in _batches(t, loader) if loader is not None else ():
                    with t.precision.autocast():
                        t.forward_evaluated(inputs)
        t.evaluated.train()
    with torch.no_grad():
        for buffer, before in buffers:
            buffer.copy_(before)
    t.device.synchronize()
    return perf_counter() - began


def _batches(t: Training, loader: Loader) -> Iterator[tuple[Tensor, Tensor]]:
    """A batch of each size that an epoch has, whole ones and the rest; none any more once a stop is requested."""
    if t.stop.requested:
        return
    inputs, targets = next(iter(loader.epoch(1)))
    yield inputs, targets
    rest = loader.samples % loader.batch_size
    if rest and len(inputs) > rest and not t.stop.requested:
        yield inputs[:rest], targets[:rest]
