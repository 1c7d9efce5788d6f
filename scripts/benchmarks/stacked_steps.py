"""Time epochs of digits models in a stack and alone, in turns: `stacked_steps.py <file> <models> <rounds>`."""

import json
import sys
import tempfile
import time
from pathlib import Path

import torch

from runner.assembly import build
from runner.assembly.shared import SharedData
from runner.config.command_line import make_composer, parse_arguments
from runner.config.hydra_job import group_choices, without_hydra
from runner.rundir.checkpoint import Checkpoints
from runner.training import loop
from runner.training.display import Bar
from runner.training.stacked_step import Stack
from runner.training.state import Training, make_training
from runner.util.stopping import Stop

SEEDS = 8


def make(folder: Path, seed: int, lr: float, shared: SharedData) -> Training:
    """Make the training of a digits model."""
    overrides = [f"seed={seed}", f"optimizer.lr={lr}", "device.threads=1", "trainer.epochs=1000000"]
    cfg, _ = make_composer(parse_arguments([])).compose(overrides)
    assert cfg is not None
    experiment = build.build(without_hydra(cfg), group_choices(cfg), shared=shared)
    return make_training(experiment, Checkpoints(folder), lambda *_: None, Bar(1, 1, 1, quiet=True), Stop())


def together(states: list[Training], stack: Stack) -> None:
    """Train an epoch of all models."""
    for state in states:
        state.progress.batch = 0
        loop.start_epoch(state)
        loop.start_batches(state)
    stack.start_epoch()
    for index in range(len(states[0].loaders.train)):
        stack.step()
        for state in states:
            state.progress.batch = index + 1
            loop.finish_step(state)
            loop.finish_batch(state)


def alone(state: Training) -> None:
    """Train an epoch of one model."""
    state.progress.batch = 0
    loop.start_epoch(state)
    loop.train_batches(state)


def main(file: Path, models: int, rounds: int) -> None:
    """Write the milliseconds of a step of all models, in a stack and one after the other."""
    torch.set_num_threads(1)
    figures: dict[str, list[float]] = {"stacked": [], "alone": []}
    with tempfile.TemporaryDirectory() as folder:
        shared = SharedData()
        numbers = [(seed, place) for seed in range(SEEDS) for place in range(models // SEEDS)]
        states = [make(Path(folder), seed, 0.005 * (place + 1), shared) for seed, place in numbers]
        single = make(Path(folder), 0, 0.05, SharedData())
        stack, steps = Stack(states), len(single.loaders.train)
        for number in range(rounds + 1):  # the first one warms up
            began = time.process_time()
            together(states, stack)
            between = time.process_time()
            alone(single)
            ended = time.process_time()
            if number:
                figures["stacked"].append((between - began) / steps * 1e3)
                figures["alone"].append((ended - between) / steps * 1e3 * models)
    file.write_text(json.dumps(figures))


if __name__ == "__main__":
    main(Path(sys.argv[1]), *map(int, sys.argv[2:]))
