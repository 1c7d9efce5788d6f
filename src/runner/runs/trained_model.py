"""A run's model with its best weights, made without the data it was trained on."""

import torch
from torch import nn

from runner.assembly.target import call
from runner.saved import input_spec
from runner.saved.input_spec import Samples
from runner.saved.run import SavedRun
from runner.saved.weights import Weights, load_exactly, of_run


def trained_model(run: SavedRun) -> tuple[Samples, nn.Module, Weights]:
    """Make it.

    Returns:
        What it takes; itself, on the CPU and in evaluation mode; and its weights.

    Raises:
        ConfigError: something of it is not to be had.
    """
    taken = input_spec.read(run)
    found = of_run(run)
    shape = tuple(taken.input_shape)
    model = call("model", run.config["model"], nn.Module, input_shape=shape, num_outputs=taken.num_outputs)
    model.to(torch.float64 if run.config["precision"]["name"] == "fp64" else torch.float32)
    load_exactly(model, found, run.given)
    return taken, model.eval(), found
