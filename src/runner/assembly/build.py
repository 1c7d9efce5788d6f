"""From a config to an `Experiment` of plain typed objects, in stages; the modules beside it make each object.

All problems are found here, before a folder or an MLflow run exists, and reported together.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, TypeVar

import torch
from omegaconf import DictConfig, OmegaConf

from runner.assembly import auto_loss, checks, datasets, losses, models, optimization, parts
from runner.assembly.experiment import Experiment, Parts, Setup
from runner.assembly.mixing import fit_targets
from runner.assembly.problems import ProblemCollector
from runner.assembly.record import computed_with, recorded
from runner.assembly.target import call, check_target
from runner.config import callbacks, schema
from runner.config.hydra_job import to_plain
from runner.config.keys import SHARED_KEYS, TARGET_GROUPS
from runner.config.settings import ConsoleSettings, TrackingSettings, TrainerSettings
from runner.data.loading import Loaders, make_loaders
from runner.data.memory import decide_in_memory, memory_for_data
from runner.data.preprocess import Preprocess
from runner.data.source import saves_itself
from runner.device import give_back_memory
from runner.errors import Problem
from runner.model.freeze import Freeze
from runner.optimizer.several import Several
from runner.saved.weights import load_into
from runner.task import Task
from runner.util.redaction import register_secrets

T = TypeVar("T")

LOADING_KEYS = ("data.batch_size", "data.in_memory", "data.num_workers")
"""Keys of the data that do not change the data set."""


def build(
    cfg: DictConfig,
    choices: Mapping[str, str] | None = None,
    problems: Sequence[Problem] = (),
    checkpoint: Mapping[str, Any] | None = None,
) -> Experiment:
    """Check a composed config and make everything that a run needs.

    The arguments are those of `prepare`.

    Raises:
        ConfigError: with all problems; or the samples do not fit into memory.
    """
    setup, load = prepare(cfg, choices, problems, checkpoint)
    with memory_for_data():
        loaders = load()
    data_sets = loaders.data_sets().items()
    checks.state({"data": {name: data_set.state_dict() for name, data_set in data_sets if saves_itself(data_set)}})
    give_back_memory()  # of the whole data set, before it was divided
    return Experiment(**vars(setup), loaders=loaders)


def prepare(
    cfg: DictConfig,
    choices: Mapping[str, str] | None = None,
    problems: Sequence[Problem] = (),
    checkpoint: Mapping[str, Any] | None = None,
) -> tuple[Setup, Callable[[], Loaders]]:
    """Check a composed config and make everything but the batches, which may take time and memory.

    Args:
        cfg: without Hydra's own node.
        choices: which member of each group was chosen.
        problems: those of composing; the config is checked all the same, to report everything at once.
        checkpoint: the state whose weights replace those of `model.weights`; None at the start of a run.

    Returns:
        The parts of the run, and a function that makes the batches.

    Raises:
        ConfigError: with all problems.
    """
    register_secrets(OmegaConf.to_container(cfg, resolve=False))
    config = to_plain(cfg)
    collector = ProblemCollector(problems)
    collector += check(config)
    made = make_parts(config, to_settings(cfg.trainer, TrainerSettings), collector, checkpoint)
    tracking, console = to_settings(cfg.tracking, TrackingSettings), to_settings(cfg.runner, ConsoleSettings)
    assert tracking and console
    with memory_for_data():
        in_memory = decide_in_memory(config["data"]["in_memory"], made.splits, made.precision.dtype, made.device)
    record, choices = computed_with(recorded(cfg), made.device, made.splits), dict(choices or {})
    if auto_loss.is_auto(config["loss"]):  # recorded by its own name, as if it had been typed
        record["loss"] = made.loss_node
        if name := auto_loss.name_of(made.loss_node):
            choices["loss"] = name
    if config.get("optimizers"):
        several = {key: value for key, value in record["optimizer"].items() if key in SHARED_KEYS["optimizer"]}
        record["optimizer"] = {"_target_": f"{Several.__module__}.{Several.__name__}", **several}
        choices["optimizer"] = "several"
    setup = Setup(
        **vars(made),
        config=record,
        choices=choices,
        in_memory=in_memory,
        tracking=tracking,
        console=console,
    )
    return setup, partial(load, setup, config["data"])


def make_parts(
    config: Mapping[str, Any],
    trainer: TrainerSettings | None,
    collector: ProblemCollector,
    checkpoint: Mapping[str, Any] | None,
) -> Parts:
    """Make the objects of a config in stages; a stage runs if all that it takes exists.

    Args:
        config: resolved, as plain mappings.
        trainer: its settings; None while a value is missing.
        collector: has the problems so far.
        checkpoint: see `prepare`.

    Raises:
        ConfigError: with all problems.
    """
    stage, data = collector.stage, config["data"]
    seed, batch_size = config["seed"] if collector.none_of("seed") else 0, data["batch_size"]
    device = stage("device", parts.find_device, config["device"])
    precision = stage("precision", parts.make_precision, config["precision"], device)
    task = stage("task", call, "task", config["task"], Task)
    loss_node: Mapping[str, Any] | None = None
    if not (automatic := auto_loss.is_auto(config["loss"])):
        loss_node = stage("loss", losses.use_loss, task, config["loss"], needs=["task"])
    # Nothing is downloaded for a run that cannot start.
    forbidden, steps = bool(collector.problems), trainer.steps_per_epoch if trainer else None
    samples = steps * trainer.grad_accumulation * batch_size if trainer and steps and not forbidden else None
    load_data = partial(
        datasets.make_data, data, seed, task, forbidden, model=config["model"], samples_per_epoch=samples
    )
    load_data = partial(load_data, fitted=(checkpoint or {}).get("table"))
    splits, augment = stage("data", load_data, but=LOADING_KEYS) or (None, None)
    targets = stage("data", datasets.read_targets, task, splits, but=LOADING_KEYS)
    if automatic:
        loss_node = stage("loss", losses.choose_loss, config["loss"], task, splits, targets)
    stage("trainer", parts.prepare_device, trainer, device)
    if task and loss_node:
        collector += checks.outputs(config["model"], task)
    counted = stage("loss", datasets.count_outputs, task, splits, targets)
    stage("loss", losses.balance, task, splits, counted)
    dtype = precision.dtype if precision else torch.float32
    augment = stage("data", partial(fit_targets, dtype=dtype), augment, task, splits, counted) or augment
    stage("metrics", parts.measure, config.get("metrics") or [], task, splits, counted, needs=["loss"])
    make_model = partial(models.make_model, pretrained=checkpoint is None and not collector.problems)
    model, cost, measured = stage(
        "model", make_model, config["model"], task, splits, counted, seed, dtype, needs=["task"]
    ) or (None, None, None)
    if trainer and task and loss_node and collector.none_of("metrics"):
        collector += checks.monitor(trainer, task, splits, measured)
    optimizers = config.get("optimizers") or {}  # a config of version 0.1.0 has none
    if task and measured is not None:
        collector += checks.turns(task, measured, optimizers)
    stage("model", models.check_last_batch, task, model, splits, batch_size, dtype, needs=["data"])
    if checkpoint is None:
        load_weights = partial(load_into, uri=config["tracking"]["uri"])
        checkpoint = stage("model", load_weights, model, config["model"]["weights"])
    frozen = stage("model", models.tune, model, config["model"], seed)
    choose_threads = partial(parts.choose_threads, node=config["device"])
    device = stage("device", choose_threads, device, model, cost, splits, batch_size, needs=["data"]) or device
    make_scale = partial(datasets.make_target_scale, checkpoint=checkpoint)
    scale, splits = stage("data", make_scale, data, splits, task, cost) or (None, splits)
    channels_last = stage("optimizer", models.move, model, task, device)
    optimizer: torch.optim.Optimizer | None
    if optimizers:
        optimizer = stage("optimizers", optimization.make_optimizers, optimizers, model, task, device)
    else:
        optimizer = stage("optimizer", optimization.make_optimizer, config["optimizer"], model, task, device)
    make_schedule = partial(optimization.make_schedule, batch_size=batch_size)
    schedule = stage(
        "scheduler", make_schedule, config["scheduler"], optimizer, trainer, task, splits, needs=["trainer", "data"]
    )
    stage("model", parts.check_state, model, task, optimizer, schedule)
    made_callbacks = stage("trainer", parts.make_callbacks, callbacks.by_name(config))
    collector.raise_if_any()
    return Parts(
        seed, _made(device), _made(precision), _made(task), _made(splits), _made(model), *_made(counted), scale,
        _made(optimizer), _made(schedule), _made(trainer), augment, _made(cost), _made(measured), _made(channels_last),
        _made(loss_node),
        frozen or Freeze(), _made(made_callbacks),
    )  # fmt: skip


def _made(part: T | None) -> T:
    """A part that no stage has failed to make."""
    assert part is not None
    return part


def load(setup: Setup, data: Mapping[str, Any]) -> Loaders:
    """Make the batches of a run.

    Args:
        setup: has the samples, and how they are stored and augmented.
        data: the group, of a resolved config.
    """
    task, scale, device = setup.task, setup.target_scale, setup.device.torch
    prepare = task.prepare if scale is None else scale.wrap_prepare(task.prepare, device)
    return make_loaders(
        setup.splits,
        Preprocess(setup.splits.normalize, prepare, device, setup.precision.dtype, setup.channels_last),
        batch_size=data["batch_size"],
        seed=setup.seed,
        in_memory=setup.in_memory,
        num_workers=data["num_workers"],
        augment=setup.augment,
        values=setup.cost.values,
    )


def check(config: Mapping[str, Any]) -> list[Problem]:
    """Find what is wrong in a config without its device or data.

    Args:
        config: resolved, as plain mappings.
    """
    collector = ProblemCollector([*schema.check_config(config), *checks.metrics(config)])
    optimizers = config.get("optimizers") or {}
    for group in TARGET_GROUPS:
        if group == "optimizer" and optimizers:
            continue
        collector += (auto_loss.check(config[group]) if group == "loss" else []) or check_target(group, config[group])
    for name, node in optimizers.items():
        collector += check_target(f"optimizers.{name}", node)
    for name, node in callbacks.by_name(config).items():
        if isinstance(node, Mapping):
            collector += check_target(f"{callbacks.KEY}.{name}", node)
    return collector.problems


def to_settings(node: DictConfig, kind: type[T]) -> T | None:
    """Convert a typed group to its dataclass; None while a value is missing."""
    if OmegaConf.missing_keys(node):
        return None
    settings = OmegaConf.to_object(node)
    assert isinstance(settings, kind)
    return settings
