"""Measure the time of a step and the bytes that it sends, for several models: the table of conf/strategy/README.md.

torchrun --nproc-per-node=<ranks> ranked_bytes.py <overrides of a run> ...

Each argument is a run, its overrides separated by spaces. Bytes are those of the loopback device, which all ranks of a
machine use: sent by all of them, headers included.
"""

import shlex
import statistics
import sys
import tempfile
import time
from pathlib import Path

import psutil
import torch
import torch.distributed as dist

from runner.assembly import build
from runner.config.command_line import make_composer, parse_arguments
from runner.config.hydra_job import group_choices, without_hydra
from runner.rundir.checkpoint import NoCheckpoints
from runner.training import loop
from runner.training.display import Bar
from runner.training.state import Training, make_training
from runner.util.ranks import Ranks
from runner.util.stopping import Stop

ROUNDS = 7
COMMON = ("device=cpu", "device.threads=1", "strategy=ddp", "trainer.epochs=1000000")


def make(folder: Path, overrides: list[str]) -> Training:
    """Make runner's training of this rank."""
    cfg, problems = make_composer(parse_arguments([])).compose([*COMMON, *overrides])
    assert cfg is not None and not problems, problems
    experiment = build.build(without_hydra(cfg), group_choices(cfg))
    return make_training(experiment, NoCheckpoints(folder), lambda *_: None, Bar(1, 1, 1, quiet=True), Stop())


def measure(state: Training) -> tuple[float, float]:
    """Return the milliseconds of a step, and the bytes that all ranks send in it: medians over epochs."""
    milliseconds, sent = [], []
    for number in range(ROUNDS + 1):  # the first one warms up
        dist.barrier()
        before, began = psutil.net_io_counters(pernic=True)["lo"].bytes_sent, time.perf_counter()
        state.progress.batch = 0
        loop.start_epoch(state)
        loop.train_batches(state)
        dist.barrier()
        if number:
            steps = len(state.loaders.train)
            milliseconds.append((time.perf_counter() - began) / steps * 1e3)
            sent.append((psutil.net_io_counters(pernic=True)["lo"].bytes_sent - before) / steps)
    return statistics.median(milliseconds), statistics.median(sent)


def main(runs: list[str]) -> None:
    """Print a row for each run."""
    group = Ranks.here()
    assert group is not None
    with group.joined(), tempfile.TemporaryDirectory() as folder:
        for run in runs:
            state = make(Path(folder), shlex.split(run))
            gradients = sum(weight.numel() * weight.element_size() for weight in state.parameters)
            milliseconds, sent = measure(state)
            formula = 2 * (group.count - 1) * gradients  # of a ring: 2 (N - 1) / N of them from each of N ranks
            if group.rank == 0:
                sizes = (
                    f"{gradients / 1e6:.2f} MB of gradients, {sent / 1e6:.2f} MB sent, {formula / 1e6:.2f} by formula"
                )
                print(f"{run}: {group.count} ranks, {milliseconds:.2f} ms a step, {sizes}")


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(sys.argv[1:])
