"""The step of several optimizers, each in its turn: a GAN, for example.

`Task.step` is then a generator of (name, loss). Each name takes all micro-batches of the step; then its optimizer
steps, and only then is the next name computed, with the new weights. A name without an optimizer is logged only.
A name may come several times in a step, such as the critic of a Wasserstein GAN: the last of its losses is logged.
"""

import math
from collections.abc import Generator

from torch import Tensor

from runner.data.share import Padding
from runner.optimizer.several import Several
from runner.precision import forget_gradients
from runner.task import Step, StepError
from runner.task.task import count, scalar
from runner.training.norms import layer_norms
from runner.training.state import Training


def take_turns(state: Training) -> bool:
    """Compute and take the optimizer step of the batches in `state.waiting`.

    Returns:
        False if the scaler found an infinite gradient, or no optimizer has stepped.

    Raises:
        StepError: the batches of the step yield different names.
    """
    optimizer, batches = state.optimizer, state.waiting
    assert isinstance(optimizer, Several)
    state.waiting = []
    samples = [0 if isinstance(batch, Padding) else count(batch[0]) for batch in batches]
    in_all = state.strategy.sum(sum(samples))
    running = [state.task.turns(state.forward, batch) for batch in batches]
    scalars: list[dict[str, Tensor]] = [{} for _ in batches]
    skipped, kept = False, True
    stepped: set[str] = set()  # since the scaler was updated
    while (name := _turn(state, optimizer, running, samples, in_all, scalars)) is not None:
        if name not in optimizer.by_name:
            continue
        part = optimizer.by_name[name]
        if state.settings.on_nonfinite == "skip" and state.strategy.agree(
            "skip", not all(math.isfinite(own[name].item()) for own in scalars), now=True
        ):
            forget_gradients(part)
            skipped = True
            for own in scalars:
                del own[name]
            continue
        if name in stepped:  # a scaler lets an optimizer step only once between two updates
            kept &= state.precision.update()
            stepped.clear()
        state.strategy.add_gradients(optimizer.parameters(name))
        state.progress.norms |= layer_norms(state, optimizer.parameters(name))
        with state.span("step"):
            state.precision.apply(part, optimizer.parameters(name), state.settings.clip_norm)
        stepped.add(name)
    for own, number in zip(scalars, samples, strict=True):
        state.sums.add(Step(own.pop("loss", None), number, number, scalars=own))
    if skipped:
        state.display.note(f"epoch {state.progress.epoch}: skipped an optimizer whose loss was not finite")
    if not stepped:
        return False
    optimizer.step()
    return state.precision.update() and kept


def _turn(
    state: Training,
    optimizer: Several,
    running: list[Generator[tuple[str, Tensor], None, None]],
    samples: list[int],
    in_all: int,
    scalars: list[dict[str, Tensor]],
) -> str | None:
    """Compute the next name for all micro-batches; returns it, or None at the end of the step.

    Args:
        state: the training.
        optimizer: has the names.
        running: the step of each micro-batch.
        samples: of each.
        in_all: the samples of all, of all ranks.
        scalars: what each has yielded.
    """
    names: set[str | None] = set()
    for steps, number, own in zip(running, samples, scalars, strict=True):
        with state.span("forward"), state.precision.autocast():
            item = next(steps, None)
        if item is None:
            names.add(None)
            continue
        name, value = item
        names.add(name)
        own[name] = (loss := scalar(name, value)).detach()
        if name in optimizer.by_name:
            with state.span("backward"):
                share = loss if number == in_all else loss * (number / in_all)
                state.precision.backward(share, optimizer.parameters(name))
    if len(names) > 1:
        raise StepError(f"the batches of a step yield different names: {', '.join(map(str, names))}")
    return names.pop()
