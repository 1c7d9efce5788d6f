"""From a config to an `Experiment` of plain typed objects; `stages.py` makes the objects.

All problems are found here, before a folder or an MLflow run exists, and reported together.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, TypeVar

from omegaconf import DictConfig, OmegaConf

from runner.assembly import auto_loss, checks
from runner.assembly.experiment import Experiment, Setup
from runner.assembly.problems import ProblemCollector
from runner.assembly.record import computed_with, recorded
from runner.assembly.shared import SharedData
from runner.assembly.stages import Given, make_parts
from runner.assembly.target import check_target
from runner.config import callbacks, schema
from runner.config.hydra_job import to_plain
from runner.config.keys import SHARED_KEYS, TARGET_GROUPS
from runner.config.settings import LARGEST, ConsoleSettings, TrackingSettings, TrainerSettings
from runner.data.loading import Loaders, make_loaders
from runner.data.memory import decide_in_memory, memory_for_data
from runner.data.preprocess import Preprocess
from runner.data.source import saves_itself
from runner.device import give_back_memory
from runner.errors import ConfigError, Problem
from runner.optimizer.several import Several
from runner.task import takes_larger_batches
from runner.util.redaction import register_secrets

T = TypeVar("T")

ANY_SIZE = 2**31 - 1
"""A batch size in place of one that is not known yet: all samples are a batch."""


def build(
    cfg: DictConfig,
    choices: Mapping[str, str] | None = None,
    problems: Sequence[Problem] = (),
    checkpoint: Mapping[str, Any] | None = None,
    shared: SharedData | None = None,
) -> Experiment:
    """Check a composed config and make everything that a run needs.

    The arguments are those of `prepare`.

    Raises:
        ConfigError: with all problems; or the samples do not fit into memory.
    """
    setup, load = prepare(cfg, choices, problems, checkpoint, shared)
    give_back_memory()  # of the whole data set, before it was divided
    with memory_for_data():
        loaders = load() if shared is None else shared.get(setup.seed, "batches", load).copied()
    data_sets = loaders.data_sets().items()
    checks.state({"data": {name: data_set.state_dict() for name, data_set in data_sets if saves_itself(data_set)}})
    return Experiment(**vars(setup), loaders=loaders)


def prepare(
    cfg: DictConfig,
    choices: Mapping[str, str] | None = None,
    problems: Sequence[Problem] = (),
    checkpoint: Mapping[str, Any] | None = None,
    shared: SharedData | None = None,
) -> tuple[Setup, Callable[[], Loaders]]:
    """Check a composed config and make everything but the batches, which may take time and memory.

    With `data.batch_size=max` all else is checked; `runs.largest_batch` finds the number.

    Args:
        cfg: without Hydra's own node.
        choices: which member of each group was chosen.
        problems: those of composing; the config is checked all the same, to report everything at once.
        checkpoint: the state whose weights replace those of `model.weights`; None at the start of a run.
        shared: has the data of earlier experiments that differ in seed and numbers only; None: nothing is shared.

    Returns:
        The parts of the run, and a function that makes the batches.

    Raises:
        ConfigError: with all problems.
    """
    largest = OmegaConf.select(cfg, "data.batch_size") == LARGEST
    if largest:
        cfg = cfg.copy()
        cfg.data.batch_size = ANY_SIZE
    register_secrets(OmegaConf.to_container(cfg, resolve=False))
    config = to_plain(cfg)
    collector = ProblemCollector(problems)
    collector += check(config)
    made = make_parts(Given(config, to_settings(cfg.trainer, TrainerSettings), collector, checkpoint, shared))
    if largest and made.splits.train.streams:
        text = f"data.batch_size={LARGEST}: data={made.splits.name} is a stream, which cannot be read again"
        raise ConfigError(Problem("data.batch_size", text, "write a number", topic="conflict"))
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
    if largest:
        record["data"]["batch_size"] = LARGEST
    setup = Setup(
        **vars(made),
        config=record,
        choices=choices,
        in_memory=in_memory,
        tracking=tracking,
        console=console,
    )
    return setup, partial(load, setup, config["data"])


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
        larger_batches=takes_larger_batches(task),
        share=setup.strategy.share,
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
