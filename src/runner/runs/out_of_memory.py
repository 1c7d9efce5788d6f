"""The error of a run whose memory does not suffice: what was wanted, and which keys need less of it."""

from torch import nn

from runner.assembly.experiment import Experiment
from runner.assembly.strategy_checks import why_no_parts
from runner.errors import describe_error, first_line, is_out_of_memory, to_one_line
from runner.model.probe import BATCH_NORM

AUTOCASTS = ("amp", "bf16", "fp16")


def describe(error: BaseException, experiment: Experiment) -> str:
    """Describe the error that ends a run, in one line; too little memory with what to change."""
    if not is_out_of_memory(error):
        return describe_error(error)
    text = first_line(error)
    text = text if "out of memory" in text else f"out of memory: {text}"
    return to_one_line(f"{text}, with {_asked(experiment)}; write {_suggestion(experiment)}")


def _asked(experiment: Experiment) -> str:
    accumulated = experiment.trainer.grad_accumulation
    more = f" trainer.grad_accumulation={accumulated}" if accumulated > 1 else ""
    return f"data.batch_size={experiment.loaders.train.batch_size}{more} on {experiment.device.torch}"


def _suggestion(experiment: Experiment) -> str:
    """Name the keys that need less memory and are not set, those first that change the result least."""
    batch, accumulated = experiment.config["data"]["batch_size"], experiment.trainer.grad_accumulation
    choices = []
    why_not = why_no_parts(experiment.strategy, experiment.trainer, experiment.task, experiment.optimizer)
    if experiment.trainer.on_oom == "fail" and batch > 1 and why_not is None:
        choices.append("trainer.on_oom=accumulate")
    if batch // 2 >= experiment.strategy.ranks:
        smaller = f"data.batch_size={batch // 2} trainer.grad_accumulation={2 * accumulated}"
        same = batch % 2 == 0 and not any(map(_is_batch_norm, experiment.model.modules()))
        choices.append(smaller + (" (the same steps)" if same else ""))
    if experiment.in_memory and experiment.device.torch.type != "cpu":
        choices.append("data.in_memory=false")
    if experiment.precision.name not in AUTOCASTS:
        choices.append("precision=amp")
    if not experiment.trainer.activation_checkpointing and not experiment.trainer.compile:
        choices.append("trainer.activation_checkpointing=[<modules>]")
    if experiment.strategy.name == "single":
        choices.append("strategy=fsdp")
    choices.append("a smaller model")
    return f"{', '.join(choices[:-1])}, or {choices[-1]}" if len(choices) > 1 else choices[0]


def _is_batch_norm(module: nn.Module) -> bool:
    return isinstance(module, BATCH_NORM)
