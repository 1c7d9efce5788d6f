"""Samples of a run as its task draws them."""

from collections.abc import Mapping

import torch
from torch import Tensor

from runner.assembly.experiment import Experiment
from runner.data.normalize import Normalize
from runner.data.preprocess import Preprocess
from runner.task import Task
from runner.training.state import Training


def make_pictures(state: Training, experiment: Experiment, count: int) -> tuple[Mapping[str, Tensor], str]:
    """Return pictures of evenly spaced validation samples; of test samples without a validation part.

    Args:
        state: has the weights.
        experiment: has the samples.
        count: the largest number of samples.

    Returns:
        Pictures by title, images in the units of the data; and which samples they are. Without pictures where the task
        draws none.
    """
    splits, task = experiment.splits, experiment.task
    part, name = (splits.val, "validation") if splits.val is not None else (splits.test, "test")
    if part is None or type(task).pictures is Task.pictures:
        return {}, ""
    device, dtype = experiment.device.torch, experiment.precision.dtype
    preprocess = Preprocess(splits.normalize, task.prepare, device, dtype, experiment.channels_last)
    inputs, targets = preprocess(*part.example(count))
    for module in (state.eval_model, task):
        module.eval()
    with state.device.evaluating(), torch.inference_mode(), state.evaluation_rng(), state.precision.autocast():
        pictures = task.pictures(state.eval_model, inputs if targets is None else (inputs, targets))
    shown = {title: _in_units(values, splits.normalize) for title, values in pictures.items()}
    total = f" of {len(part):,}" if not part.streams else ""
    return shown, f"{len(next(iter(shown.values()))) if shown else 0}{total} {name} samples"


def _in_units(values: Tensor, normalize: Normalize) -> Tensor:
    """Undo the normalisation of images; classes of pixels stay, and images with other channels than the inputs."""
    parts = (normalize.mean, normalize.std)
    channels = values.shape[1] if values.ndim == 4 else 1
    fit = all(part.numel() == 1 or (part.ndim == 3 and len(part) == channels) for part in parts)
    if not fit or not values.is_floating_point() or normalize.scales is not None:
        return values.cpu()
    return values.cpu().double() * normalize.std + normalize.mean
