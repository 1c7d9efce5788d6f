"""Make the objects of a config in stages; a stage runs if all that it takes exists."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, TypeVar

import torch
from torch import nn

from runner.assembly import auto_loss, checks, datasets, losses, models, optimization, parts, strategy_checks
from runner.assembly.experiment import Parts
from runner.assembly.mixing import fit_targets
from runner.assembly.problems import ProblemCollector
from runner.assembly.shared import SharedData
from runner.assembly.smallest_batch import check_smallest_batch
from runner.callbacks import Callback
from runner.config import callbacks
from runner.config.settings import TrainerSettings
from runner.data.augment import Augment
from runner.data.splits import Splits
from runner.data.target_scale import TargetScale
from runner.device import Device
from runner.model.freeze import Freeze
from runner.model.probe import Cost
from runner.precision import Precision
from runner.saved.weights import load_into
from runner.scheduler import Schedule
from runner.strategy import Strategy
from runner.task import Task
from runner.util.private import without_compiler
from runner.util.rng import seed_all

T = TypeVar("T")

LOADING_KEYS = ("data.batch_size", "data.in_memory", "data.num_workers")
"""Keys of the data that do not change the data set."""


CONSTANT = {"_target_": "runner.scheduler.constant"}
"""The schedule of a test of learning rates."""


@dataclass(frozen=True)
class Given:
    """What the stages start from.

    Attributes:
        config: resolved, as plain mappings.
        trainer: its settings; None while a value is missing.
        collector: has the problems so far.
        checkpoint: the state whose weights replace those of `model.weights`; None at the start of a run.
        shared: has the data of earlier experiments; None: nothing is shared.
    """

    config: Mapping[str, Any]
    trainer: TrainerSettings | None
    collector: ProblemCollector
    checkpoint: Mapping[str, Any] | None
    shared: SharedData | None = None

    @property
    def seed(self) -> int:
        """The seed; 0 if it is wrong."""
        return self.config["seed"] if self.collector.none_of("seed") else 0

    @property
    def optimizers(self) -> Mapping[str, Any]:
        """Several optimizers by name; none in a config of version 0.1.0."""
        return self.config.get("optimizers") or {}


@dataclass(frozen=True)
class Learned:
    """What is learned: the task and its data. A part is None if its stage has failed.

    Attributes:
        loss_node: see `Parts`.
        counted: the number of outputs that the model needs; None in it if data and task do not tell.
    """

    device: Device | None
    precision: Precision | None
    strategy: Strategy | None
    task: Task | None
    splits: Splits | None
    augment: Augment | None
    loss_node: Mapping[str, Any] | None
    counted: tuple[int | None] | None

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the weights."""
        return self.precision.dtype if self.precision else torch.float32


@dataclass(frozen=True)
class Network:
    """The model, and what follows from its size. A part is None if its stage has failed.

    Attributes:
        measured: see `Parts`, as the others.
        device: with the number of threads that suits the model.
        splits: with the normalisation that suits the scale of the targets.
    """

    model: nn.Module | None
    cost: Cost | None
    measured: Sequence[str] | None
    freeze: Freeze | None
    device: Device | None
    scale: TargetScale | None
    splits: Splits | None
    channels_last: bool | None


@dataclass(frozen=True)
class Optimization:
    """What changes the weights, and who watches. A part is None if its stage has failed."""

    optimizer: torch.optim.Optimizer | None
    schedule: Schedule | None
    callbacks: Mapping[str, Callback] | None


def make_parts(given: Given) -> Parts:
    """Make the objects of a config.

    Raises:
        ConfigError: with all problems.
    """
    without_compiler()
    learned = make_learned(given)
    network = make_network(given, learned)
    optimized = make_optimization(given, learned, network)
    given.collector.raise_if_any()
    return Parts(
        seed=given.seed,
        device=_made(network.device),
        precision=_made(learned.precision),
        strategy=_made(learned.strategy),
        task=_made(learned.task),
        splits=_made(network.splits),
        model=_made(network.model),
        num_outputs=_made(learned.counted)[0],
        target_scale=network.scale,
        optimizer=_made(optimized.optimizer),
        schedule=_made(optimized.schedule),
        trainer=_made(given.trainer),
        augment=learned.augment,
        cost=_made(network.cost),
        measured=_made(network.measured),
        channels_last=_made(network.channels_last),
        loss_node=_made(learned.loss_node),
        freeze=network.freeze or Freeze(),
        callbacks=_made(optimized.callbacks),
    )


def make_learned(given: Given) -> Learned:
    """Make device, task, loss and data, and the metrics that follow from them."""
    config, trainer, collector, stage = given.config, given.trainer, given.collector, given.collector.stage
    device = stage("device", parts.find_device, config["device"])
    precision = stage("precision", parts.make_precision, config["precision"], device)
    strategy = stage("strategy", parts.make_strategy, config["strategy"], device)
    seed_all(given.seed)  # a task may draw weights and buffers of its own
    task = stage("task", losses.make_task, config["task"])
    loss_node: Mapping[str, Any] | None = None
    if not (automatic := auto_loss.is_auto(config["loss"])):
        loss_node = stage("loss", losses.use_loss, task, config["loss"], needs=["task"])
    splits, augment = stage("data", partial(load_data, given, task), but=LOADING_KEYS) or (None, None)
    targets = stage("data", datasets.read_targets, task, splits, but=LOADING_KEYS)
    if automatic:
        loss_node = stage("loss", losses.choose_loss, config["loss"], task, splits, targets)
    stage("trainer", parts.prepare_device, trainer, device)
    stage("trainer", parts.check_graphs, trainer, device, bool(given.optimizers))
    if task and loss_node:
        collector += checks.outputs(config["model"], task)
    counted = stage("loss", datasets.count_outputs, task, splits, targets)
    stage("loss", losses.balance, task, splits, counted)
    made = Learned(device, precision, strategy, task, splits, augment, loss_node, counted)
    fit = partial(fit_targets, dtype=made.dtype)
    augment = stage("data", fit, augment, task, splits, counted) or augment
    stage("metrics", parts.measure, config.get("metrics") or [], task, splits, counted, needs=["loss"])
    return replace(made, augment=augment)


def load_data(given: Given, task: Task | None) -> tuple[Splits, Augment | None]:
    """Load and divide the data set; nothing is downloaded for a run that cannot start."""
    config, trainer, data = given.config, given.trainer, given.config["data"]
    forbidden, samples = bool(given.collector.problems), None
    if trainer and trainer.steps_per_epoch and not forbidden:
        samples = trainer.steps_per_epoch * trainer.grad_accumulation * data["batch_size"]
    make = partial(
        datasets.make_data,
        data,
        given.seed,
        task,
        forbidden,
        model=config["model"],
        fitted=(given.checkpoint or {}).get("table"),
        samples_per_epoch=samples,
    )
    return make() if given.shared is None else given.shared.get(given.seed, "data", make)


def make_network(given: Given, learned: Learned) -> Network:
    """Make the model with its weights, check it on the task, and choose what depends on its size."""
    config, collector, stage, checkpoint = given.config, given.collector, given.collector.stage, given.checkpoint
    task, splits, batch_size = learned.task, learned.splits, config["data"]["batch_size"]
    wanted = checkpoint is None and not collector.problems
    make_model = partial(models.make_model, pretrained=wanted)
    sized = (config["model"], task, splits, learned.counted, given.seed, learned.dtype)
    made = stage("model", make_model, *sized, needs=["task"]) or (None, None, None, None)
    model, cost, measured, step = made
    if step is not None:
        stage("metrics", parts.measure_step, config.get("metrics") or [], task, splits, step)
    if given.trainer and task and learned.loss_node and collector.none_of("metrics"):
        kind = stage("trainer", partial(parts.kind_of, step=step), task, splits, learned.counted)
        collector += checks.monitor(given.trainer, task, splits, measured, kind)
    if task:
        collector += checks.registration(config["tracking"].get("register"), task, splits, measured)
    if task and measured is not None:
        collector += checks.turns(task, measured, given.optimizers)
    trained_on = (splits, batch_size, learned.dtype, learned.strategy, learned.device)
    stage("model", check_smallest_batch, task, model, *trained_on, needs=["data"])
    stage(
        "strategy", models.observe_step, learned.strategy, task, model, splits, learned.dtype, needs=["model", "data"]
    )
    if checkpoint is None:
        load_weights = partial(load_into, uri=config["tracking"]["uri"])
        checkpoint = stage("model", load_weights, model, config["model"]["weights"])
    freeze = stage("model", models.tune, model, config["model"], given.seed)
    stage("trainer", parts.check_recomputation, given.trainer, model)
    choose_threads = partial(parts.choose_threads, node=config["device"])
    device = stage("device", choose_threads, learned.device, task, model, cost, splits, batch_size, needs=["data"])
    make_scale = partial(datasets.make_target_scale, checkpoint=checkpoint)
    scale, splits = stage("data", make_scale, config["data"], splits, task, cost) or (None, splits)
    device = device or learned.device
    channels_last = stage("optimizer", models.move, model, task, device)
    stage("strategy", strategy_checks.shares, learned.strategy, splits, batch_size, needs=["data"])
    model = stage("strategy", models.prepare, learned.strategy, model) or model
    return Network(model, cost, measured, freeze, device, scale, splits, channels_last)


def make_optimization(given: Given, learned: Learned, network: Network) -> Optimization:
    """Make optimizer, schedule and callbacks."""
    config, stage, task, model = given.config, given.collector.stage, learned.task, network.model
    optimizer: torch.optim.Optimizer | None
    if given.optimizers:
        make = optimization.make_optimizers
        optimizer = stage("optimizers", make, given.optimizers, model, task, network.device)
    else:
        optimizer = stage("optimizer", optimization.make_optimizer, config["optimizer"], model, task, network.device)
    scaled = learned.precision is not None and learned.precision.scaler is not None
    stage("strategy", strategy_checks.engine, learned.strategy, given.trainer, scaled, task, optimizer)
    stage("trainer", strategy_checks.parts, learned.strategy, given.trainer, task, optimizer)
    stage("trainer", strategy_checks.range_test, learned.strategy, given.trainer, network.measured, optimizer)
    make_schedule = partial(optimization.make_schedule, batch_size=config["data"]["batch_size"])
    scheduler = CONSTANT if given.trainer and given.trainer.lr_range.steps else config["scheduler"]
    paced = (scheduler, optimizer, given.trainer, task, network.splits)
    schedule = stage("scheduler", make_schedule, *paced, needs=["trainer", "data"])
    stage("model", parts.check_state, model, task, optimizer, schedule)
    return Optimization(optimizer, schedule, stage("trainer", parts.make_callbacks, callbacks.by_name(config)))


def _made(part: T | None) -> T:
    """A part that no stage has failed to make."""
    assert part is not None
    return part
