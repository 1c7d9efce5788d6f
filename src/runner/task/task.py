"""The base class of tasks: a user's task overrides `step`, and `predict` where the default does not fit."""

from collections.abc import Collection, Generator, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from runner.loss import Loss, Metric
from runner.util import metric_names, trees

if TYPE_CHECKING:
    from runner.metrics import MetricSet

LOSS, WEIGHT, OUTPUTS, TARGETS = "loss", "weight", "outputs", "targets"
RESERVED = (LOSS, WEIGHT, OUTPUTS, TARGETS)
"""Names in the result of `Task.step` with a meaning; all others are scalars to log."""

HALVES = (torch.float16, torch.bfloat16)


class Step(NamedTuple):
    """What a step computed for a batch.

    Attributes:
        loss: to minimise, a scalar: a mean over `weight`; None if a step of several optimizers has none.
        weight: what the loss is a mean over: a number of samples or tokens, a sum of class weights.
        samples: the number of samples.
        outputs: of the model, for the metrics; None if the task has none to measure.
        targets: for the metrics, likewise.
        scalars: other scalars to log, by name; means over `weight` too.
    """

    loss: Tensor | None
    weight: Tensor | int
    samples: int
    outputs: Any = None
    targets: Any = None
    scalars: Mapping[str, Tensor] = {}


class StepError(Exception):
    """`Task.step` returned something that training cannot use.

    Args:
        text: what it returned.
        instead: what to do.
    """

    def __init__(self, text: str, instead: str = "return the loss, or a dict of scalars with loss") -> None:
        super().__init__(text)
        self.instead = instead


class DividedData(Protocol):
    """What a task may look at in a divided data set (`runner.data.splits.Splits`) before it starts."""

    @property
    def classes(self) -> Any:
        """The names of the classes; None if they have none."""

    @property
    def all_targets(self) -> Any:
        """The targets of all samples; None if the data set does not list them."""

    @property
    def input_shape(self) -> Any:
        """The shape of one sample."""

    @property
    def normalize(self) -> Any:
        """The function from raw inputs, and a dtype, to inputs of the model."""

    def targets(self) -> Any:
        """Return all targets; each sample is read if there is no other way."""

    def example(self, count: int) -> tuple[Any, Any]:
        """Return a raw batch of at most `count` training samples: inputs and targets."""


class Task(nn.Module):
    """What a batch is, what a step computes, what is measured, what a prediction looks like.

    A subclass overrides `step`. Modules, parameters and buffers that it holds are in the checkpoint; parameters that
    require gradients are trained with those of the model.

    Attributes:
        uses_loss: whether `step` uses `self.loss`, which `loss=` chooses. It is set after the constructor.
        default_loss: the loss that `loss=auto` stands for; None: the targets tell.
        loss: see `uses_loss`; None if it is False.
        maximized: the names of scalars of a step for which higher is better, if `trainer.monitor` names one.
        metrics: measured beside the loss from `outputs` and `targets` of a step, by name.
        larger_batches: whether evaluation may use larger batches than `data.batch_size`, which is faster: the loss is a
            mean over what `weight` counts, and a sample's share does not depend on the others of its batch. A class
            that overrides `step` says so itself.
        unit: what `weight` counts. For another unit than samples, `throughput/<unit>_per_second` is logged too.
        integers_are_numbers: whether a tensor of integer inputs is converted to floats and normalised; False keeps
            integers, such as tokens.
        dtype: the dtype of the weights.
        autocasts: whether `step` runs under autocast.
        extra: the metrics that the key `metrics` asks for, besides the task's own.
    """

    uses_loss: bool = False
    default_loss: str | None = None
    maximized: Collection[str] = ()
    metrics: Mapping[str, Metric] = {}
    larger_batches: bool = False
    unit: str = "samples"
    integers_are_numbers: bool = False
    dtype: torch.dtype = torch.float32
    autocasts: bool = False
    extra: "MetricSet | None" = None

    loss: Loss | None

    def __init__(self) -> None:
        super().__init__()
        self.loss = None

    def step(self, model: nn.Module, batch: Any) -> Tensor | Mapping[str, Any] | Iterator[tuple[str, Tensor]]:
        """Compute the loss of a batch, in training and in evaluation (`self.training` tells which).

        It runs under autocast if `precision` asks for it.

        Args:
            model: the model, on the device.
            batch: (inputs, targets) where an item of the data set is a pair, else a batch of items: a tensor, or a
                tree of tensors. Floats have the dtype of the weights; images are scaled and normalised.

        Returns:
            The loss, a scalar; or a dict of scalars by name. `loss` is minimised, the others are logged as
            `train/<name>` and `val/<name>`. `weight` is what the loss is a mean over, if it is not the samples.
            `outputs` and `targets` are no scalars: metrics are measured from them.
            With several optimizers (`optimizers`) it is a generator instead, which yields (name, loss) for each
            optimizer: when it resumes, the optimizer has stepped. What it yields under other names is logged only.
        """
        raise NotImplementedError(f"{type(self).__name__} has no method step(self, model, batch)")

    def predict(self, model: nn.Module, inputs: Any) -> Any:
        """Return predictions for inputs: a tensor (N, ...), or several by name."""
        return trees.apply(model, inputs)

    def pictures(self, model: nn.Module, batch: Any) -> Mapping[str, Tensor]:
        """Return pictures of some samples, which are drawn after training: up to two above each other, or side by side.

        Args:
            model: the model with its best weights, in evaluation mode.
            batch: of the validation part, as `step` gets it.

        Returns:
            By title: images (N, C, H, W) or (N, H, W), floats in the units of the model's inputs; or the classes of
            pixels (N, H, W), integers, below 0 for none. Empty: samples are not drawn.
        """
        return {}

    def divide(self, item: Any) -> tuple[Any, Any]:
        """Divide an item of a data set, or a batch of items, into inputs and targets.

        Returns:
            The two of a pair; else the whole item, and None.
        """
        return (item[0], item[1]) if type(item) in (tuple, list) and len(item) == 2 else (item, None)

    def prepare(self, targets: Any, dtype: torch.dtype) -> Any:
        """Convert targets to what `step` takes: floats to `dtype`, the dtype of the weights."""
        return trees.tree_map(lambda leaf: leaf.to(dtype) if leaf.is_floating_point() else leaf, targets)

    def num_outputs(self, targets: Any, classes: Sequence[str] | None) -> int | None:
        """Return how many outputs a model needs for these targets; None if the targets do not tell.

        Raises:
            ConfigError: the task does not accept such targets.
        """
        if classes:
            return len(classes)
        if not isinstance(targets, Tensor):
            return None
        if targets.ndim == 1 and not targets.is_floating_point():
            return int(targets.max()) + 1
        return 1 if targets.ndim == 1 else targets.shape[1]

    def own_parameters(self) -> list[nn.Parameter]:
        """Return the trainable parameters of the task without those of its loss."""
        of_loss = set(self.loss.parameters()) if self.loss is not None else set()
        return [weight for weight in self.parameters() if weight.requires_grad and weight not in of_loss]

    def higher_is_better(self, metric: str) -> bool:
        """Return whether a higher value of a metric, such as `val/f1`, is better."""
        name = metric.partition("/")[2]
        own = self.metrics.get(name)
        declared = name in self.maximized or (own is not None and own.higher_is_better)
        return declared or metric_names.higher_is_better(metric)

    def names(self) -> Sequence[str]:
        """Return the names of all metrics that the task measures besides the loss and the scalars of a step."""
        return list(self.metrics)

    def targets_of(self, splits: DividedData) -> Any:
        """Return all targets that `num_outputs` looks at, of a divided data set; None if items have none."""
        return splits.all_targets

    def derived(self, means: Mapping[str, float]) -> dict[str, float]:
        """Return further metrics that follow from the means over a part, such as a perplexity."""
        return {}

    def turns(self, model: nn.Module, batch: tuple[Any, Any]) -> Generator[tuple[str, Tensor], None, None]:
        """Start the step of several optimizers for a batch of inputs and targets.

        Raises:
            StepError: `step` is no generator.
        """
        inputs, targets = batch
        result = self.step(model, inputs if targets is None else batch)
        if not isinstance(result, Generator):
            raise StepError("with several optimizers, step must yield (name, loss) for each")
        return result

    def measure(self, model: nn.Module, batch: tuple[Any, Any]) -> Step:
        """Compute a step, and read what it returned.

        Args:
            model: the model.
            batch: inputs and targets; targets are None if the task takes whole items.

        Raises:
            StepError: `step` returned something else than a loss or a dict with one.
        """
        inputs, targets = batch
        result = self.step(model, inputs if targets is None else batch)
        samples = count(inputs)
        if type(result) is not dict:  # asked first: checks of abstract types take a microsecond a step
            if isinstance(result, Generator):
                named = {name: scalar(name, value).detach() for name, value in result}
                return Step(named.pop(LOSS, None), samples, samples, scalars=named)
            if isinstance(result, Tensor):
                return Step(scalar(LOSS, result), samples, samples)
            if not isinstance(result, Mapping):
                raise StepError(f"step returns {describe(result)}, not a loss or a dict with one")
        if LOSS not in result:
            raise StepError(f"step returns a dict without {LOSS}: it has {', '.join(map(str, result)) or 'nothing'}")
        loss, weight = scalar(LOSS, result[LOSS]), result.get(WEIGHT)
        scalars = {name: scalar(name, value) for name, value in result.items() if name not in RESERVED}
        return Step(
            loss,
            samples if weight is None else weight if isinstance(weight, Tensor) else number(WEIGHT, weight, loss),
            samples,
            result.get(OUTPUTS),
            result.get(TARGETS),
            scalars,
        )


def count(inputs: Any) -> int:
    """Return the number of samples in a batch of inputs."""
    return len(inputs) if isinstance(inputs, Tensor) else len(trees.leaves(inputs)[0])


def takes_larger_batches(task: Task) -> bool:
    """Return whether evaluation may use larger batches than training: `larger_batches` of the class with its `step`."""
    for kind in type(task).__mro__:
        if "larger_batches" in vars(kind):
            return bool(vars(kind)["larger_batches"])
        if "step" in vars(kind):
            return False
    return False


def higher_is_better(task: Task, metric: str) -> bool:
    """Return whether a higher value of a metric, such as `val/f1`, is better, by the key `metrics` or the task."""
    declared = task.extra.higher_is_better(metric.partition("/")[2]) if task.extra is not None else None
    return task.higher_is_better(metric) if declared is None else declared


def names_on(task: Task, part: str) -> list[str]:
    """Return the names of all metrics measured on a part, besides the loss and the scalars of a step."""
    return [*task.names(), *(task.extra.measured_on(part) if task.extra is not None else ())]


def scalar(name: str, value: Any) -> Tensor:
    """Return a scalar that `step` returned as a tensor of at least 32 bits.

    Raises:
        StepError: it is not a scalar.
    """
    if not isinstance(value, Tensor):
        if isinstance(value, int | float):
            return torch.tensor(float(value))
        raise StepError(f"step returns {name} as {describe(value)}, not as a scalar")
    if value.ndim:
        raise StepError(f"step returns {name} of shape {tuple(value.shape)}, not a scalar")
    return value.float() if value.dtype in HALVES else value


def number(name: str, value: Any, like: Tensor) -> Tensor:
    """Return a plain number that `step` returned as a tensor, on the device of another.

    Raises:
        StepError: it is not a number.
    """
    if not isinstance(value, int | float):
        raise StepError(f"step returns {name} as {describe(value)}, not as a number", f"return {name} as a number")
    return like.new_tensor(value)


def describe(value: object) -> str:
    """Describe a value that is of an unexpected type."""
    return "nothing" if value is None else f"a {type(value).__name__}"
