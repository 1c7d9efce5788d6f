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


def fit(t: Training) -> str | None:
    """Train until the planned epochs, steps or seconds are done, or patience has run out.

    Returns:
        Why training ended before its epochs were done; None if it did not.

    Raises:
        Interrupted: a stop was requested; the last checkpoint holds everything up to that step.
        TrainingError: the loss is not finite.
    """
    t.model.train()
    t.loss.train()
    while t.progress.epoch <= t.settings.epochs:
        if reason := exhausted(t):
            return reason
        try:
            reached = one_epoch(t)
        except Interrupted:
            # Raised between two steps only, so this is a state to go on from.
            save_within_epoch(t)
            raise
        if reached:
            return reached
    return None


def one_epoch(t: Training) -> str | None:
    """Train the epoch in progress, or what is left of it, and finish it."""
    p, s = t.progress, t.settings
    # Only an epoch whose end is known before it begins can be known not to be logged.
    may_end_early = s.max_steps or s.max_time or s.early_stopping.patience
    t.sums.metrics_wanted = bool(may_end_early or log_due(t) or t.monitor.metric.startswith("train/"))
    t.sums.reset(p.sums)
    t.clock.start(p.seconds)
    if t.stop.requested:  # before the first step: while the model was compiled
        raise Interrupted
    if p.step and not p.batch and (reached := limit_reached(t)):  # a finished run that was resumed
        return reached
    reached = train_epoch(t)
    p.seconds = t.clock.stop()
    finish_epoch(t, last=reached is not None or p.epoch == t.settings.epochs)
    return reached


def train_epoch(t: Training) -> str | None:
    """Train on the batches of the epoch in progress that are not done yet.

    Returns:
        The limit that training reached, if it did; the epoch may then be incomplete.
    """
    p, s = t.progress, t.settings
    batches = len(t.loaders.train)
    saved_at = perf_counter()
    skipped = 0
    usable = True  # the step in progress; False if a loss in it was not finite and is to be skipped
    t.display.start_epoch(p.epoch, batches, p.batch)
    if p.batch == 0:
        p.lr, p.epoch_steps = learning_rate(t), 0
    else:  # resumed: what the last step may still owe
        if validation_due(t):
            validate_within_epoch(t)
        if reached := limit_reached(t):
            return reached
    for index, (inputs, targets) in enumerate(t.loaders.train.epoch(p.epoch, p.batch), start=p.batch):
        with t.precision.autocast():
            outputs = t.forward(inputs)
        outputs = t.precision.upcast(outputs)
        loss = t.loss(outputs, targets)
        if s.on_nonfinite == "skip" and not math.isfinite(loss.item()):
            usable = False
        else:
            t.sums.add(loss, outputs, targets)
            if s.grad_accumulation > 1:
                # Weighted by its share of the step's samples: exactly the gradient of one large batch.
                loss = loss * (len(targets) / samples_of_step(t.loaders.train, index, s.grad_accumulation))
            t.precision.backward(loss)
        if (index + 1) % s.grad_accumulation and index + 1 < batches:
            continue

        p.batch = index + 1
        if not usable:
            t.optimizer.zero_grad(set_to_none=True)
            skipped, usable = skipped + 1, True
        elif t.precision.step(t.optimizer, t.parameters, s.clip_norm):
            p.take_step(lr := learning_rate(t))
            if t.average is not None:
                t.average.update(t.model)
            if t.schedule.scheduler is not None and t.schedule.every == "step":
                t.schedule.scheduler.step()
            if due(s.log_every_steps, p.step):
                t.log({"train/loss_step": running_loss(t), "lr_step": lr}, p.step)
            if validation_due(t):
                validate_within_epoch(t)
        if t.display.due():
            t.display.batch(p.batch, running_loss(t))
        if reached := limit_reached(t):
            return reached
        if p.batch == batches:
            break
        seconds = s.checkpoint_every_seconds
        if due(s.checkpoint_every_steps, p.step) or (seconds is not None and perf_counter() - saved_at >= seconds):
            save_within_epoch(t)
            saved_at = perf_counter()
        if t.stop.requested:
            raise Interrupted
    if skipped:
        t.display.note(f"the loss was not finite in {skipped} steps of epoch {p.epoch}, which were skipped")
    return None


def limit_reached(t: Training) -> str | None:
    """The limit of steps, seconds or patience that is reached, in words."""
    p, s = t.progress, t.settings
    if s.max_steps is not None and p.step >= s.max_steps:
        return f"trainer.max_steps={s.max_steps} is reached"
    if s.max_time is not None and sum(p.epoch_seconds) + t.clock.read() >= s.max_time:
        return f"trainer.max_time={s.max_time:g} is reached"
    return exhausted(t)


def exhausted(t: Training) -> str | None:
    """That patience has run out, in words."""
    if not t.monitor.exhausted(t.progress):
        return None
    return f"{t.monitor.metric} has not improved in {t.progress.stale} validations"


def finish_epoch(t: Training, last: bool) -> None:
    """Validate, log, compare with the best, step the schedule and write a checkpoint, as far as each is due."""
    p, s = t.progress, t.settings
    if t.stop.requested:
        raise Interrupted
    validate_due = t.loaders.val is not None and (last or due(s.validate_every_epochs, p.epoch))
    metrics: Metrics = {}
    timed: Metrics = {}
    if last or log_due(t) or t.monitor.metric.startswith("train/"):
        metrics |= {f"train/{name}": mean for name, mean in t.sums.means().items()}
        require_finite(t, metrics.get("train/loss", 0.0), "train/loss")
    if validate_due and t.loaders.val is not None:
        began = perf_counter()
        metrics |= {f"val/{name}": mean for name, mean in evaluate(t, t.loaders.val).items()}
        timed["time/validation_seconds"] = perf_counter() - began
        require_finite(t, metrics["val/loss"], "val/loss")
    best = t.monitor.update(p, metrics)
    last = last or t.monitor.exhausted(p)
    if last or log_due(t):
        rate = t.sums.samples / p.seconds
        timed |= {"lr": p.lr, "time/epoch_seconds": p.seconds, "throughput/samples_per_second": rate}
        t.log(metrics | timed, p.epoch)
    if last or due(s.log_every_epochs, p.epoch):
        t.display.end_epoch(p.epoch, metrics, p.seconds, best)
    step_schedule(t, metrics)
    checkpoint_due = best or last or due(s.checkpoint_every_epochs, p.epoch)
    if t.best_is_last:
        best, p.best_epoch, p.best_metrics = checkpoint_due, p.epoch, metrics
    if p.batch < len(t.loaders.train):
        p.cut_short = p.epoch
    if validate_due and not due(s.validate_every_epochs, p.epoch):
        p.out_of_turn = p.epoch
    p.samples += t.sums.samples
    p.epoch_seconds.append(p.seconds)
    p.epoch, p.batch, p.sums, p.seconds = p.epoch + 1, 0, [], 0.0
    if checkpoint_due:
        save(t, best)


def due(every: int | None, count: int) -> bool:
    """Whether it is time for what is done every so many steps or epochs; never, if that is None."""
    return every is not None and count % every == 0


def log_due(t: Training) -> bool:
    """Whether the epoch in progress is one to log: every so many, the last, and those that are validated."""
    p, s = t.progress, t.settings
    validated = t.loaders.val is not None and due(s.validate_every_epochs, p.epoch)
    return validated or due(s.log_every_epochs, p.epoch) or p.epoch == s.epochs


def step_schedule(t: Training, metrics: Metrics) -> None:
    """Step a schedule that goes by epochs, or by what was measured at the end of one."""
    scheduler = t.schedule.scheduler
    if isinstance(scheduler, ReduceLROnPlateau):
        if t.monitor.metric in metrics:
            scheduler.step(metrics[t.monitor.metric])
    elif scheduler is not None and t.schedule.every == "epoch":
        scheduler.step()


def evaluate(t: Training, loader: Loader, see: Callable[[Tensor, Tensor], None] | None = None) -> Metrics:
    """Loss and metrics over all samples, with dropout and the like at rest, and the averaged weights if there are any.

    Args:
        t: whose model and loss.
        loader: the samples.
        see: is shown the outputs and targets of each batch.

    Raises:
        Interrupted: a stop was requested.
    """
    modules = (t.evaluated, t.loss)
    were_training = [module.training for module in modules]
    for module in modules:
        module.eval()
    sums = RunningMetrics(t.loss, t.device.torch, t.target_scale)
    with t.device.evaluating(), torch.inference_mode():
        for inputs, targets in loader.epoch(0):
            with t.precision.autocast():
                outputs = t.forward_evaluated(inputs)
            outputs = t.precision.upcast(outputs)
            sums.add(t.loss(outputs, targets), outputs, targets)
            if see is not None:
                see(outputs, targets)
            if t.stop.requested:
                break
    for module, was_training in zip(modules, were_training, strict=True):
        module.train(was_training)
    if t.stop.requested:
        raise Interrupted
    return sums.means()


def validation_due(t: Training) -> bool:
    """Whether the step just taken is one to validate after."""
    p = t.progress
    return due(t.settings.validate_every_steps, p.step) and p.step > p.validated_step


def validate_within_epoch(t: Training) -> None:
    """Validate between two steps: logged by step, and a candidate for the best weights."""
    if t.loaders.val is None:
        return
    t.clock.stop()
    means = evaluate(t, t.loaders.val)
    t.progress.validated_step = t.progress.step
    t.log({f"val/{name}_step": mean for name, mean in means.items()}, t.progress.step)
    if t.monitor.update(t.progress, {f"val/{name}": mean for name, mean in means.items()}, within_epoch=True):
        save_within_epoch(t, best=True)
    t.clock.start()


def running_loss(t: Training) -> float:
    """The mean training loss of the epoch so far: one read of the device."""
    return require_finite(t, t.sums.means().get("loss", 0.0), "train/loss")


def learning_rate(t: Training) -> float:
    """The learning rate of the next optimizer step, or of the one just taken until the schedule is stepped."""
    return float(t.optimizer.param_groups[0]["lr"])


def samples_of_step(loader: Loader, index: int, accumulation: int) -> int:
    """How many samples the optimizer step has that the batch `index` (from 0) belongs to."""
    first = index // accumulation * accumulation * loader.batch_size
    return min(first + accumulation * loader.batch_size, loader.samples) - first
