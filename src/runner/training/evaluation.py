"""Loss and metrics of a part of the samples, in evaluation mode."""

from collections.abc import Callable, Iterator

import torch

from runner.data.collate import Batch
from runner.data.loading import Loader
from runner.data.streaming import StreamLoader
from runner.task import Step
from runner.training.progress import Metrics
from runner.training.running_metrics import RunningMetrics
from runner.training.state import Interrupted, Training


def evaluate(state: Training, loader: Loader, on_batch: Callable[[Step], None] | None = None) -> Metrics:
    """Measure loss and metrics over all samples, in evaluation mode, with the averaged weights if there are any.

    Args:
        state: the training whose model and task are evaluated.
        loader: the samples.
        on_batch: is called with the step of each batch.

    Raises:
        Interrupted: a stop was requested.
    """
    modules = (state.eval_model, state.task)
    were_training = [module.training for module in modules]
    for module in modules:
        module.eval()
    sums = RunningMetrics(state.task, state.device.torch, state.target_scale, strategy=state.strategy)
    state.strategy.level(state.eval_model)
    stopped = False
    with state.device.evaluating(), torch.inference_mode(), state.evaluation_rng():
        for batch in batches_of(state, loader):
            with state.precision.autocast():
                step = state.strategy.measure(state.task, state.eval_forward, batch)
            sums.add(step)
            if on_batch is not None:
                on_batch(step)
            if stopped := state.stopping("evaluation"):
                break
    for module, was_training in zip(modules, were_training, strict=True):
        module.train(was_training)
    if stopped:
        raise Interrupted
    means = sums.means()
    if sums.extra is not None:
        part = next((name for name in ("test", "val") if getattr(state.loaders, name) is loader), "train")
        state.per_class = {f"{part}/{name}": values for name, values in sums.extra.per_class().items()}
        for note in sums.extra.notes():
            state.note_once(note)
    return means


def batches_of(state: Training, loader: Loader) -> Iterator[Batch]:
    """Yield the batches of a part; of a stream, until those of all ranks have ended: all take the same steps."""
    batches = loader.epoch(0)
    if state.strategy.ranks == 1 or not isinstance(loader, StreamLoader):
        yield from batches
        return
    while state.strategy.sum(int((batch := next(batches, None)) is not None)):
        yield loader.padding() if batch is None else batch


def validate(state: Training, loader: Loader) -> Metrics:
    """Evaluate the validation samples: `val/<name>`."""
    with state.span("validation"):
        return {f"val/{name}": mean for name, mean in evaluate(state, loader).items()}
