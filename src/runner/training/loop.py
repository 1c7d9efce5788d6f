"""How training works, from top to bottom: `fit`, `train_epoch`, `evaluate`.

Nothing in here knows of a config or of MLflow. The device is not asked for a number inside a step: sums stay
on it and are read once a logging interval. (A GradScaler reads one number a step; so does `on_nonfinite=skip`.)
"""

import math
from collections.abc import Callable
from time import perf_counter

import torch
from torch import Tensor
from torch.optim.lr_scheduler import ReduceLROnPlateau

from runner.data.loading import Loader
from runner.training.progress import Metrics, RunningMetrics
from runner.training.state import Interrupted, Training, require_finite, save, save_within_epoch


def fit(state: Training) -> str | None:
    """Train until the planned epochs, steps or seconds are done, or patience has run out.

    Returns:
        Why training ended before its epochs were done; None if it did not.

    Raises:
        Interrupted: a stop was requested; the last checkpoint holds everything up to that step.
        TrainingError: the loss is not finite.
    """
    state.model.train()
    state.loss.train()
    while state.progress.epoch <= state.settings.epochs:
        if reason := exhausted(state):
            return reason
        try:
            reached = one_epoch(state)
        except Interrupted:
            # Raised between two steps only, so this is a state to go on from.
            save_within_epoch(state)
            raise
        if reached:
            return reached
    return None


def one_epoch(state: Training) -> str | None:
    """Train the epoch in progress, or what is left of it, and finish it."""
    progress, settings = state.progress, state.settings
    # Only an epoch whose end is known before it begins can be known not to be logged.
    may_end_early = settings.max_steps or settings.max_time or settings.early_stopping.patience
    state.sums.metrics_wanted = bool(may_end_early or log_due(state) or state.monitor.metric.startswith("train/"))
    state.sums.reset(progress.sums)
    state.clock.start(progress.seconds)
    if state.stop.requested:  # before the first step: while the model was compiled
        raise Interrupted
    if progress.step and not progress.batch and (reached := limit_reached(state)):  # a finished run that was resumed
        return reached
    reached = train_epoch(state)
    progress.seconds = state.clock.stop()
    finish_epoch(state, last=reached is not None or progress.epoch == state.settings.epochs)
    return reached


def train_epoch(state: Training) -> str | None:
    """Train on the batches of the epoch in progress that are not done yet.

    Returns:
        The limit that training reached, if it did; the epoch may then be incomplete.
    """
    progress, settings = state.progress, state.settings
    batches = len(state.loaders.train)
    saved_at = perf_counter()
    skipped = 0
    usable = True  # the step in progress; False if a loss in it was not finite and is to be skipped
    state.display.start_epoch(progress.epoch, batches, progress.batch)
    if progress.batch == 0:
        progress.lr, progress.epoch_steps = learning_rate(state), 0
    else:  # resumed: what the last step may still owe
        if validation_due(state):
            validate_within_epoch(state)
        if reached := limit_reached(state):
            return reached
    for index, (inputs, targets) in enumerate(
        state.loaders.train.epoch(progress.epoch, progress.batch), start=progress.batch
    ):
        with state.precision.autocast():
            outputs = state.forward(inputs)
        outputs = state.precision.upcast(outputs)
        loss = state.loss(outputs, targets)
        if settings.on_nonfinite == "skip" and not math.isfinite(loss.item()):
            usable = False
        else:
            state.sums.add(loss, outputs, targets)
            if settings.grad_accumulation > 1:
                # Weighted by its share of the step's samples: exactly the gradient of one large batch.
                loss = loss * (len(targets) / samples_of_step(state.loaders.train, index, settings.grad_accumulation))
            state.precision.backward(loss)
        if (index + 1) % settings.grad_accumulation and index + 1 < batches:
            continue

        progress.batch = index + 1
        if not usable:
            state.optimizer.zero_grad(set_to_none=True)
            skipped, usable = skipped + 1, True
        elif state.precision.step(state.optimizer, state.parameters, settings.clip_norm):
            progress.take_step(lr := learning_rate(state))
            if state.average is not None:
                state.average.update(state.model)
            if state.schedule.scheduler is not None and state.schedule.every == "step":
                state.schedule.scheduler.step()
            if due(settings.log_every_steps, progress.step):
                state.log({"train/loss_step": running_loss(state), "lr_step": lr}, progress.step)
            if validation_due(state):
                validate_within_epoch(state)
        if state.display.due():
            state.display.batch(progress.batch, running_loss(state))
        if reached := limit_reached(state):
            return reached
        if progress.batch == batches:
            break
        seconds = settings.checkpoint_every_seconds
        if due(settings.checkpoint_every_steps, progress.step) or (
            seconds is not None and perf_counter() - saved_at >= seconds
        ):
            save_within_epoch(state)
            saved_at = perf_counter()
        if state.stop.requested:
            raise Interrupted
    if skipped:
        state.display.note(f"the loss was not finite in {skipped} steps of epoch {progress.epoch}, which were skipped")
    return None


def limit_reached(state: Training) -> str | None:
    """The limit of steps, seconds or patience that is reached, in words."""
    progress, settings = state.progress, state.settings
    if settings.max_steps is not None and progress.step >= settings.max_steps:
        return f"trainer.max_steps={settings.max_steps} is reached"
    if settings.max_time is not None and sum(progress.epoch_seconds) + state.clock.read() >= settings.max_time:
        return f"trainer.max_time={settings.max_time:g} is reached"
    return exhausted(state)


def exhausted(state: Training) -> str | None:
    """That patience has run out, in words."""
    if not state.monitor.exhausted(state.progress):
        return None
    return f"{state.monitor.metric} has not improved in {state.progress.stale} validations"


def finish_epoch(state: Training, last: bool) -> None:
    """Validate, log, compare with the best, step the schedule and write a checkpoint, as far as each is due."""
    progress, settings = state.progress, state.settings
    if state.stop.requested:
        raise Interrupted
    validate_due = state.loaders.val is not None and (last or due(settings.validate_every_epochs, progress.epoch))
    metrics: Metrics = {}
    timed: Metrics = {}
    if last or log_due(state) or state.monitor.metric.startswith("train/"):
        metrics |= {f"train/{name}": mean for name, mean in state.sums.means().items()}
        require_finite(state, metrics.get("train/loss", 0.0), "train/loss")
    if validate_due and state.loaders.val is not None:
        began = perf_counter()
        metrics |= {f"val/{name}": mean for name, mean in evaluate(state, state.loaders.val).items()}
        timed["time/validation_seconds"] = perf_counter() - began
        require_finite(state, metrics["val/loss"], "val/loss")
    best = state.monitor.update(progress, metrics)
    last = last or state.monitor.exhausted(progress)
    if last or log_due(state):
        rate = state.sums.samples / progress.seconds
        timed |= {"lr": progress.lr, "time/epoch_seconds": progress.seconds, "throughput/samples_per_second": rate}
        state.log(metrics | timed, progress.epoch)
    if last or due(settings.log_every_epochs, progress.epoch):
        state.display.end_epoch(progress.epoch, metrics, progress.seconds, best)
    step_schedule(state, metrics)
    checkpoint_due = best or last or due(settings.checkpoint_every_epochs, progress.epoch)
    if state.best_is_last:
        best, progress.best_epoch, progress.best_metrics = checkpoint_due, progress.epoch, metrics
    if progress.batch < len(state.loaders.train):
        progress.cut_short = progress.epoch
    if validate_due and not due(settings.validate_every_epochs, progress.epoch):
        progress.out_of_turn = progress.epoch
    progress.samples += state.sums.samples
    progress.epoch_seconds.append(progress.seconds)
    progress.epoch, progress.batch, progress.sums, progress.seconds = progress.epoch + 1, 0, [], 0.0
    if checkpoint_due:
        save(state, best)


def due(every: int | None, count: int) -> bool:
    """Whether it is time for what is done every so many steps or epochs; never, if that is None."""
    return every is not None and count % every == 0


def log_due(state: Training) -> bool:
    """Whether the epoch in progress is one to log: every so many, the last, and those that are validated."""
    progress, settings = state.progress, state.settings
    validated = state.loaders.val is not None and due(settings.validate_every_epochs, progress.epoch)
    return validated or due(settings.log_every_epochs, progress.epoch) or progress.epoch == settings.epochs


def step_schedule(state: Training, metrics: Metrics) -> None:
    """Step a schedule that goes by epochs, or by what was measured at the end of one."""
    scheduler = state.schedule.scheduler
    if isinstance(scheduler, ReduceLROnPlateau):
        if state.monitor.metric in metrics:
            scheduler.step(metrics[state.monitor.metric])
    elif scheduler is not None and state.schedule.every == "epoch":
        scheduler.step()


def evaluate(state: Training, loader: Loader, see: Callable[[Tensor, Tensor], None] | None = None) -> Metrics:
    """Loss and metrics over all samples, with dropout and the like at rest, and the averaged weights if there are any.

    Args:
        state: whose model and loss.
        loader: the samples.
        see: is shown the outputs and targets of each batch.

    Raises:
        Interrupted: a stop was requested.
    """
    modules = (state.evaluated, state.loss)
    were_training = [module.training for module in modules]
    for module in modules:
        module.eval()
    sums = RunningMetrics(state.loss, state.device.torch, state.target_scale)
    with state.device.evaluating(), torch.inference_mode():
        for inputs, targets in loader.epoch(0):
            with state.precision.autocast():
                outputs = state.forward_evaluated(inputs)
            outputs = state.precision.upcast(outputs)
            sums.add(state.loss(outputs, targets), outputs, targets)
            if see is not None:
                see(outputs, targets)
            if state.stop.requested:
                break
    for module, was_training in zip(modules, were_training, strict=True):
        module.train(was_training)
    if state.stop.requested:
        raise Interrupted
    return sums.means()


def validation_due(state: Training) -> bool:
    """Whether the step just taken is one to validate after."""
    progress = state.progress
    return due(state.settings.validate_every_steps, progress.step) and progress.step > progress.validated_step


def validate_within_epoch(state: Training) -> None:
    """Validate between two steps: logged by step, and a candidate for the best weights."""
    if state.loaders.val is None:
        return
    state.clock.stop()
    means = evaluate(state, state.loaders.val)
    state.progress.validated_step = state.progress.step
    state.log({f"val/{name}_step": mean for name, mean in means.items()}, state.progress.step)
    if state.monitor.update(state.progress, {f"val/{name}": mean for name, mean in means.items()}, within_epoch=True):
        save_within_epoch(state, best=True)
    state.clock.start()


def running_loss(state: Training) -> float:
    """The mean training loss of the epoch so far: one read of the device."""
    return require_finite(state, state.sums.means().get("loss", 0.0), "train/loss")


def learning_rate(state: Training) -> float:
    """The learning rate of the next optimizer step, or of the one just taken until the schedule is stepped."""
    return float(state.optimizer.param_groups[0]["lr"])


def samples_of_step(loader: Loader, index: int, accumulation: int) -> int:
    """How many samples the optimizer step has that the batch `index` (from 0) belongs to."""
    first = index // accumulation * accumulation * loader.batch_size
    return min(first + accumulation * loader.batch_size, loader.samples) - first
