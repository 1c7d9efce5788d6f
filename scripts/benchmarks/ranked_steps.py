"""Time epochs of the MNIST MLP on several ranks, by runner and by a bare loop around DistributedDataParallel, in turns.

torchrun --nproc-per-node=<ranks> ranked_steps.py <file> <root of MNIST> <rounds>
"""

import json
import sys
import tempfile
import time
from pathlib import Path

import torch
import torch.distributed as dist
from loops import BATCH, images, mlp
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from runner.assembly import build
from runner.config.command_line import make_composer, parse_arguments
from runner.config.hydra_job import group_choices, without_hydra
from runner.rundir.checkpoint import NoCheckpoints
from runner.training import loop
from runner.training.display import Bar
from runner.training.state import Training, make_training
from runner.util.ranks import Ranks
from runner.util.stopping import Stop

SAMPLES = 12_800


def make(folder: Path, root: str) -> Training:
    """Make runner's training of this rank."""
    overrides = [
        "data=mnist", f"data.root={root}", f"data.limit={SAMPLES}", "data.val_fraction=0", f"data.batch_size={BATCH}",
        "device=cpu", "device.threads=1", "strategy=ddp", "optimizer.lr=0.01", "scheduler=constant",
        "trainer.epochs=1000000", "trainer.monitor=train/loss",
    ]  # fmt: skip
    cfg, problems = make_composer(parse_arguments([])).compose(overrides)
    assert cfg is not None and not problems, problems
    experiment = build.build(without_hydra(cfg), group_choices(cfg))
    return make_training(experiment, NoCheckpoints(folder), lambda *_: None, Bar(1, 1, 1, quiet=True), Stop())


def ours(state: Training) -> None:
    """Train an epoch."""
    state.progress.batch = 0
    loop.start_epoch(state)
    loop.train_batches(state)


def bare(net: nn.Module, optimizer: torch.optim.Optimizer, inputs: Tensor, targets: Tensor) -> None:
    """Train an epoch on this rank's half, or third, of each batch."""
    loss, size = nn.CrossEntropyLoss(), BATCH // dist.get_world_size()
    first = dist.get_rank() * size
    for index in torch.randperm(len(inputs), generator=torch.Generator().manual_seed(0)).split(BATCH):
        own = index[first : first + size]
        optimizer.zero_grad()
        loss(net(inputs[own]), targets[own]).backward()
        optimizer.step()


def main(file: Path, root: str, rounds: int) -> None:
    """Write the milliseconds of a step of both."""
    torch.set_num_threads(1)
    group = Ranks.here()
    assert group is not None
    figures: dict[str, list[float]] = {"runner": [], "bare": []}
    with group.joined(), tempfile.TemporaryDirectory() as folder:
        state, (inputs, targets) = make(Path(folder), root), images(root, SAMPLES)
        torch.set_num_threads(1)
        net = DistributedDataParallel(mlp())
        optimizer = torch.optim.SGD(net.parameters(), lr=0.01, momentum=0.9, fused=True)
        steps = SAMPLES // BATCH
        for number in range(rounds + 1):  # the first one warms up
            dist.barrier()
            began = time.perf_counter()
            ours(state)
            dist.barrier()
            between = time.perf_counter()
            bare(net, optimizer, inputs, targets)
            dist.barrier()
            if number:
                figures["runner"].append((between - began) / steps * 1e3)
                figures["bare"].append((time.perf_counter() - between) / steps * 1e3)
        if group.rank == 0:
            file.write_text(json.dumps(figures))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]))
