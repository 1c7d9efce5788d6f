"""Checks that a strategy, and what changes how a step is computed, can do what the config asks for."""

from collections.abc import Sequence

import torch

from runner.config.settings import TrainerSettings
from runner.data.splits import Splits
from runner.errors import ConfigError, Problem
from runner.optimizer import label
from runner.optimizer.several import Several
from runner.strategy import Strategy
from runner.task import Task, takes_larger_batches


def engine(
    strategy: Strategy, trainer: TrainerSettings, scaled: bool, task: Task, optimizer: torch.optim.Optimizer
) -> None:
    """Check that a strategy which divides the weights can train with what the config asks for.

    Args:
        strategy: of the config.
        trainer: its settings.
        scaled: gradients are scaled, for float16.
        task: trained beside the model.
        optimizer: of all parameters.

    Raises:
        ConfigError: it cannot.
    """
    if not strategy.divides:
        return
    refused = {
        "optimizers: several optimizers are": isinstance(optimizer, Several),
        "trainer.ema_decay: averaged weights are": trainer.ema_decay is not None,
        "precision: float16 with a scaler is": scaled,
        "optimizer=muon is": "Muon" in label(optimizer),
        "task: parameters of a task or a loss are": any(weight.requires_grad for weight in task.parameters()),
    }
    instead = {"precision": "write precision=bf16, or strategy=ddp"}
    problems = [
        Problem(
            key := text.partition(":")[0].partition("=")[0],
            f"{text} not supported with strategy={strategy.name}",
            instead.get(key, "write strategy=ddp"),
            topic="conflict",
        )
        for text, is_asked in refused.items()
        if is_asked
    ]
    if problems:
        raise ConfigError(*problems)


def why_no_parts(
    strategy: Strategy, trainer: TrainerSettings, task: Task, optimizer: torch.optim.Optimizer
) -> str | None:
    """Return why batches cannot be computed in parts with the same gradient; None if they can."""
    if strategy.ranks > 1 or strategy.divides:
        return f"with strategy={strategy.name}, the ranks wait for each other in a step"
    if trainer.compile:
        return "with trainer.compile=true, the model is compiled for the batches of the run"
    if isinstance(optimizer, Several):
        return "with several optimizers, a step has a backward pass for each"
    if not takes_larger_batches(task):
        return f"the class {type(task).__name__} does not say larger_batches = True: samples may depend on each other"
    return None


def parts(strategy: Strategy, trainer: TrainerSettings, task: Task, optimizer: torch.optim.Optimizer) -> None:
    """Check that batches can be computed in parts if `trainer.on_oom` asks for it.

    Raises:
        ConfigError: they cannot.
    """
    key = "trainer.on_oom"
    if trainer.on_oom == "accumulate" and (reason := why_no_parts(strategy, trainer, task, optimizer)):
        instead = f"write {key}=fail, and a smaller data.batch_size with trainer.grad_accumulation"
        raise ConfigError(Problem(key, f"{key}=accumulate: {reason}", instead, topic="conflict"))


def range_test(
    strategy: Strategy, trainer: TrainerSettings, measured: Sequence[str], optimizer: torch.optim.Optimizer
) -> None:
    """Check that the learning rates of `trainer.lr_range` can be tested.

    Raises:
        ConfigError: they cannot.
    """
    test, key = trainer.lr_range, "trainer.lr_range.steps"
    if test.steps is None:
        return
    problems = []
    if test.lowest >= test.highest:
        text = f"trainer.lr_range.lowest={test.lowest:g} is not below trainer.lr_range.highest={test.highest:g}"
        problems.append(Problem("trainer.lr_range.lowest", text, "write a lower one", topic="range"))
    if isinstance(optimizer, Several):
        text = f"{key}={test.steps}: several optimizers have a learning rate each, and the test finds one"
        problems.append(Problem(key, text, "leave out debug=lr_range", topic="conflict"))
    elif "loss" not in measured:
        text = f"{key}={test.steps}: the task measures no loss"
        problems.append(Problem(key, text, "leave out debug=lr_range", topic="conflict"))
    if strategy.ranks > 1 or strategy.divides:
        text = f"{key}={test.steps}: one process finds the rate, as the batches of several ranks are the same"
        problems.append(Problem(key, text, "write strategy=single", topic="conflict"))
    if problems:
        raise ConfigError(*problems)


def shares(strategy: Strategy, splits: Splits, batch_size: int) -> None:
    """Check that each rank gets samples.

    Raises:
        ConfigError: one gets none.
    """
    ranks, problems = strategy.ranks, []
    if ranks == 1:
        return
    if batch_size < ranks:
        text = f"data.batch_size={batch_size}: the {ranks} ranks share each batch"
        problems.append(Problem("data.batch_size", text, f"write data.batch_size={ranks}, or more", topic="range"))
    elif batch_size % ranks and splits.train.streams:
        text = f"data.batch_size={batch_size}: the {ranks} ranks read equal shares of each batch of a stream"
        instead = f"write data.batch_size={batch_size - batch_size % ranks}"
        problems.append(Problem("data.batch_size", text, instead, topic="range"))
    for name, part in (("training", splits.train), ("validation", splits.val), ("test", splits.test)):
        if part is not None and not part.streams and len(part) < ranks:
            text = f"strategy={strategy.name}: the {name} part has {len(part)} samples for {ranks} ranks"
            problems.append(Problem("strategy", text, "start fewer ranks", topic="range"))
    if problems:
        raise ConfigError(*problems)
