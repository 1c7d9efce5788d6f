"""How training works, from top to bottom: `fit`, `run_epoch`, `train_batches`, `take_step`, `finish_epoch`.

`stacked.py` trains several models with the same functions, except for the step itself.

Nothing here knows Hydra, OmegaConf or MLflow. No step reads a number from the device: sums stay on it and are read
once per logging interval. (A GradScaler reads one number per step; so does `on_nonfinite=skip`.)
`with state.span("forward")` names a part of training for the profiler; without `trainer.profile_steps` it does nothing.
"""

import math
from collections.abc import Callable, Mapping
from time import perf_counter

from torch.optim.lr_scheduler import ReduceLROnPlateau

from runner.data.collate import Batch
from runner.optimizer.groups import rates
from runner.task import Step
from runner.training.evaluation import validate
from runner.training.micro_batches import MicroBatches
from runner.training.norms import layer_norms
from runner.training.progress import Metrics
from runner.training.saving import save, save_within_epoch
from runner.training.spans import each
from runner.training.state import Interrupted, Paused, Training, require_finite
from runner.training.turns import take_turns
from runner.training.weighting import correct_gradients, share


def fit(state: Training) -> str | None:
    """Train until the planned epochs, steps or seconds are done, or patience is exhausted.

    Returns:
        Why training ended before its epochs were done; None if it did not.

    Raises:
        Interrupted: a stop was requested, or training pauses; the last checkpoint holds everything up to that step.
        TrainingError: the loss is not finite.
    """
    state.model.train()
    state.task.train()
    reason: str | None = None
    while state.progress.epoch <= state.settings.epochs and reason is None:
        if not state.progress.batch and (reason := ended_early(state)):  # an epoch in progress is finished first
            break
        try:
            with state.span("epoch"):
                reason = run_epoch(state)
        except Interrupted:
            save_within_epoch(state, wait=True)  # raised only between two steps, so training can resume here
            raise
    state.checkpoints.wait()
    state.callbacks.at_end(state)
    return reason


def run_epoch(state: Training) -> str | None:
    """Train the epoch in progress, or the rest of it, and finish it; return the limit that was reached, if any."""
    if limit := start_epoch(state):
        return limit
    limit = train_batches(state)
    state.progress.seconds = state.clock.stop()
    finish_epoch(state, is_last(state, limit))
    return limit


def start_epoch(state: Training) -> str | None:
    """Start the epoch in progress, or resume it; return the limit that a finished run had reached before."""
    progress, settings = state.progress, state.settings
    # The metrics of an epoch can be left out only if it is known at its start that nobody reads them at its end.
    may_end_early = (
        settings.max_steps or settings.max_time or settings.early_stopping.patience or state.callbacks.by_name
    )
    state.sums.with_metrics = bool(may_end_early or log_due(state) or state.monitor.metric.startswith("train/"))
    state.sums.reset(progress.sums, progress.more_sums)
    state.unfreeze()
    state.clock.start(progress.seconds)
    if state.stopping():  # before the first step: while the model was compiled
        raise Interrupted
    if state.pause_after is not None and progress.finished_epochs >= state.pause_after:
        raise Paused
    if progress.step and not progress.batch:  # a finished run may have been resumed
        return limit_reached(state)
    return None


def is_last(state: Training, limit: str | None) -> bool:
    """Return whether the epoch in progress is the last one."""
    return limit is not None or state.progress.epoch == state.settings.epochs


def train_batches(state: Training) -> str | None:
    """Train on the remaining batches of the epoch in progress.

    Returns:
        The limit that training reached, if it did; the epoch may then be incomplete.
    """
    progress, settings, loader = state.progress, state.settings, state.loaders.train
    batches, accumulation, saved_at = len(loader), settings.grad_accumulation, perf_counter()
    skipped = 0
    add = add_gradients if settings.on_oom == "fail" and not progress.micro_batch else divide_batches(state)
    usable = True  # the step in progress; False if one of its losses is not finite, and the step is to be skipped
    if limit := start_batches(state):
        return limit
    data = each(state.span, "data", loader.epoch(progress.epoch, progress.batch))
    for index, batch in enumerate(data, start=progress.batch):
        ends_step = (index + 1) % accumulation == 0 or index + 1 == batches
        usable &= add(state, batch, index, ends_step)
        if not ends_step:
            continue
        progress.batch = index + 1
        correct_gradients(state, index)
        if usable:
            take_step(state)
        else:
            state.optimizer.zero_grad(set_to_none=True)
            skipped, usable = skipped + 1, True
        if limit := finish_batch(state):
            return limit
        if progress.batch == batches:
            break
        seconds = settings.checkpoint_every_seconds
        if due(settings.checkpoint_every_steps, progress.step) or (
            seconds is not None and state.strategy.agree("checkpoint", perf_counter() - saved_at >= seconds)
        ):
            save_within_epoch(state)
            saved_at = perf_counter()
        if state.stopping("step"):
            raise Interrupted
    if skipped:
        state.display.note(f"epoch {progress.epoch}: skipped {skipped} steps whose loss was not finite")
    return None


def start_batches(state: Training) -> str | None:
    """Show the epoch, and start its mean rates; in a resumed epoch, return the limit that was reached before."""
    progress = state.progress
    state.display.start_epoch(progress.epoch, len(state.loaders.train), progress.batch)
    if progress.batch:
        return finish_resumed_step(state)
    progress.start_epoch(learning_rate(state), named_rates(state))
    return None


def finish_batch(state: Training) -> str | None:
    """Show the progress within the epoch; return the limit that was reached, if any."""
    if state.display.due():
        state.display.batch(state.progress.batch, next(iter(running_losses(state, own=True).values()), 0.0))
    return limit_reached(state)


def add_gradients(state: Training, batch: Batch, index: int, ends_step: bool) -> bool:
    """Add the gradients of the batch `index` (from 0), and count it; False if `on_nonfinite=skip` rejects its loss."""
    if state.takes_turns:  # several optimizers need all batches of the step
        state.waiting.append(batch)
        return True
    if (step := compute_gradients(state, batch, index, ends_step)) is None:
        return False
    state.sums.add(step)
    return True


def compute_gradients(state: Training, batch: Batch, index: int, ends_step: bool) -> Step | None:
    """Forward, loss and backward of a batch, or of a part of it; None if `on_nonfinite=skip` rejects its loss."""
    with state.span("forward"), state.precision.autocast():
        syncs = ends_step or state.settings.on_nonfinite == "skip"  # a skipped batch leaves nothing that waits for it
        step = state.strategy.measure(state.task, state.forward, batch, syncs)
    assert step.loss is not None
    if state.settings.on_nonfinite == "skip" and not math.isfinite(state.strategy.sum(step.loss.detach()).item()):
        return None
    with state.span("backward"):
        state.precision.backward(share(state, step, index))
    return step


def divide_batches(state: Training) -> Callable[[Training, Batch, int, bool], bool]:
    """Return `add_gradients` for batches that are divided where memory runs out."""
    return MicroBatches(state, compute_gradients).add


def take_step(state: Training) -> None:
    """Step the optimizer with the gradients so far, average the weights, and do what is due after a step."""
    progress, settings = state.progress, state.settings
    if state.norms is not None:
        progress.norms = {} if state.takes_turns else layer_norms(state)
    if state.takes_turns:
        stepped = take_turns(state)
    else:
        with state.span("step"):
            stepped = state.precision.step(state.optimizer, state.parameters, settings.clip_norm)
    if not stepped:
        return
    if state.average is not None:
        state.average.update(state.model)
    finish_step(state)


def finish_step(state: Training) -> None:
    """Count the step that the optimizer has taken; schedule, log and validate, as far as each is due."""
    progress, settings = state.progress, state.settings
    progress.take_step(lr := learning_rate(state), named_rates(state))
    if state.schedule.scheduler is not None and state.schedule.every == "step":
        state.schedule.scheduler.step()
    if due(settings.log_every_steps, progress.step):
        norms = {f"{name}_step": norm for name, norm in progress.norms.items()}
        log_metrics(state, {**running_losses(state), "lr_step": lr, **norms}, progress.step)
    state.callbacks.after_step(state)
    if validation_due(state):
        validate_within_epoch(state)


def finish_resumed_step(state: Training) -> str | None:
    """Validate after the last step before a resume, if that is still due; return the limit that was reached."""
    if validation_due(state):
        validate_within_epoch(state)
    return limit_reached(state)


def limit_reached(state: Training) -> str | None:
    """Describe the limit of steps, seconds or patience that is reached, or a request to end; None without one."""
    progress, settings = state.progress, state.settings
    if settings.max_steps is not None and progress.step >= settings.max_steps:
        return f"trainer.max_steps={settings.max_steps} is reached"
    if settings.max_time is not None:
        is_over = progress.trained_seconds + state.clock.read() >= settings.max_time
        if state.strategy.agree("max_time", is_over):
            return f"trainer.max_time={settings.max_time:g} is reached"
    return ended_early(state)


def ended_early(state: Training) -> str | None:
    """Describe why training ends: a callback asked to, or patience is exhausted; None if it goes on."""
    state.settle_requests()
    if not state.progress.stale and state.progress.stop_reason is None:
        return None
    if state.progress.stop_reason or not state.monitor.exhausted(state.progress):
        return state.progress.stop_reason
    return f"{state.monitor.metric} has not improved in {state.progress.stale} validations"


def finish_epoch(state: Training, last: bool) -> None:
    """Validate, log, compare with the best, step the schedule and write a checkpoint, as far as each is due."""
    progress, settings = state.progress, state.settings
    if state.stopping():
        raise Interrupted
    validates = state.loaders.val is not None and (last or due(settings.validate_every_epochs, progress.epoch))
    logs = log_due(state)
    metrics, timed = measure_epoch(state, last or logs or state.monitor.metric.startswith("train/"), validates)
    best = state.monitor.update(progress, metrics)
    last = last or ended_early(state) is not None
    if last or logs:
        log_epoch(state, metrics, timed)
    if last or due(settings.log_every_epochs, progress.epoch):
        state.display.end_epoch(progress.epoch, metrics, progress.seconds, best)
    step_schedule(state, metrics)
    state.callbacks.after_epoch(state, metrics)
    state.settle_requests()
    if progress.stop_reason is not None and not last:
        best = measure_rest(state, metrics, best, logs)
        last, validates = True, state.loaders.val is not None
    checkpoint_due = best or last or due(settings.checkpoint_every_epochs, progress.epoch)
    if state.best_is_last:
        best, progress.best_epoch, progress.best_metrics = checkpoint_due, progress.epoch, metrics
    if progress.batch < len(state.loaders.train):
        progress.cut_short = progress.epoch
    if validates and not due(settings.validate_every_epochs, progress.epoch):
        progress.out_of_turn = progress.epoch
    progress.end_epoch(state.strategy.sum(state.sums.samples))
    if checkpoint_due:
        save(state, best, wait=last)


def measure_epoch(state: Training, train: bool, val: bool) -> tuple[Metrics, Metrics]:
    """Read the sums of training, and validate, as asked; return the metrics, and the seconds of the validation."""
    metrics, timed = Metrics(), Metrics()
    if train:
        metrics |= {f"train/{name}": mean for name, mean in state.sums.means().items()}
        for name in state.losses:
            require_finite(state, metrics.get(f"train/{name}", 0.0), f"train/{name}")
    if val and state.loaders.val is not None:
        started_at = perf_counter()
        metrics |= validate(state, state.loaders.val)
        timed["time/validation_seconds"] = perf_counter() - started_at
        for name in state.losses:
            require_finite(state, metrics.get(f"val/{name}", 0.0), f"val/{name}")
        state.callbacks.after_validation(state, metrics)
    return metrics, timed


def measure_rest(state: Training, metrics: Metrics, best: bool, logged: bool) -> bool:
    """Measure and log what only a last epoch has, after a callback has made this the last.

    Args:
        state: the training.
        metrics: of the epoch so far; the rest is added to them.
        best: this epoch is the best so far.
        logged: it is logged already.

    Returns:
        Whether this epoch is the best, by the rest too.
    """
    progress = state.progress
    train, val = (not any(name.startswith(part) for name in metrics) for part in ("train/", "val/"))
    more, timed = measure_epoch(state, train, val)
    metrics |= more
    best = (state.monitor.metric in more and state.monitor.update(progress, metrics)) or best
    if not logged:
        log_epoch(state, metrics, timed)
    elif more:
        log_metrics(state, more | timed, progress.epoch)
    if more or not due(state.settings.log_every_epochs, progress.epoch):
        state.display.end_epoch(progress.epoch, metrics, progress.seconds, best)
    return best


def log_epoch(state: Training, metrics: Metrics, timed: Metrics) -> None:
    """Log the metrics of the epoch with its learning rates, its time, throughput and energy."""
    progress = state.progress
    rate = state.strategy.sum(state.sums.samples) / progress.seconds
    more = {"lr": progress.lr, "time/epoch_seconds": progress.seconds, "throughput/samples_per_second": rate}
    more |= {f"lr/{group}": mean for group, mean in progress.rates.items()}
    if state.task.unit != "samples":
        more[f"throughput/{state.task.unit}_per_second"] = state.sums.weight / progress.seconds
    more |= state.energy.of_epoch(progress.epoch)
    log_metrics(state, metrics | timed | more | progress.norms, progress.epoch)


def due(every: int | None, count: int) -> bool:
    """Return whether an action with this interval, in steps or epochs, is due at this count; None: never."""
    return every is not None and count % every == 0


def log_due(state: Training) -> bool:
    """Return whether to log the epoch in progress: every `log_every_epochs`-th, each validated one, and the last."""
    progress, settings = state.progress, state.settings
    validated = state.loaders.val is not None and due(settings.validate_every_epochs, progress.epoch)
    return validated or due(settings.log_every_epochs, progress.epoch) or progress.epoch == settings.epochs


def step_schedule(state: Training, metrics: Metrics) -> None:
    """Step a schedule that is stepped by epochs, or by the metric measured at the end of one."""
    scheduler = state.schedule.scheduler
    if isinstance(scheduler, ReduceLROnPlateau):
        if state.monitor.metric in metrics:
            scheduler.step(metrics[state.monitor.metric])
    elif scheduler is not None and state.schedule.every == "epoch":
        scheduler.step()


def validation_due(state: Training) -> bool:
    """Return whether to validate after the step just taken."""
    step = state.progress.step
    return due(state.settings.validate_every_steps, step) and step > state.progress.validated_step


def validate_within_epoch(state: Training) -> None:
    """Validate between two steps; log by step, and save the weights if they are the best so far."""
    if state.loaders.val is None:
        return
    state.clock.stop()
    metrics = validate(state, state.loaders.val)
    state.progress.validated_step = state.progress.step
    log_metrics(state, {f"{name}_step": mean for name, mean in metrics.items()}, state.progress.step)
    state.callbacks.after_validation(state, metrics)
    if state.monitor.update(state.progress, metrics, within_epoch=True):
        save_within_epoch(state, best=True)
    state.clock.start()


def log_metrics(state: Training, metrics: Mapping[str, float], step: int) -> None:
    """Log metrics at a step, or at an epoch."""
    with state.span("logging"):
        state.log(metrics, step)


def running_losses(state: Training, own: bool = False) -> Metrics:
    """Return the mean training loss of the epoch so far, or one of each optimizer: one read of the device.

    Args:
        state: the training.
        own: of this rank alone, which then does not wait for others.
    """
    means = state.sums.means(extra=False, own=own)
    return {f"train/{name}_step": require_finite(state, means.get(name, 0.0), f"train/{name}") for name in state.losses}


def named_rates(state: Training) -> Mapping[str, float]:
    """Return the learning rates of the groups that have names."""
    return rates(state.optimizer) if state.has_named_groups else {}


def learning_rate(state: Training) -> float:
    """Return the optimizer's current learning rate."""
    return float(state.optimizer.param_groups[0]["lr"])
