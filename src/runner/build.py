"""The only place that instantiates: a config becomes an `Experiment` of plain typed objects.

Whatever can be wrong is found in here, before a folder or an MLflow run exists, and reported together.
"""

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, Self, TypeVar

import torch
from hydra.errors import InstantiationException
from hydra.utils import get_object, instantiate
from omegaconf import DictConfig, OmegaConf
from torch import nn
from torch.optim.lr_scheduler import LRScheduler

from . import device as device_room
from . import schema, signature
from .data import fetch, loading
from .data.source import Source
from .device import Device
from .errors import ConfigError
from .loss import Loss
from .model import probe
from .optimizer import supports_fused, trainable
from .precision import Precision
from .scheduler import Schedule
from .settings import ConsoleSettings, TrackingSettings, TrainerSettings

LOADING_KEYS = ("batch_size", "val_fraction", "limit", "in_memory", "num_workers")
"""The keys of `data` that say how samples are loaded; the others belong to the data set's function."""

SUPPLIED = {
    "model": ("input_shape", "num_outputs"),
    "data": (),
    "loss": (),
    "optimizer": ("params",),
    "scheduler": ("optimizer", "total_steps", "steps_per_epoch", "epochs"),
}
"""What runner passes to a group's `_target_`, if it takes it."""

T = TypeVar("T")


@dataclass
class Experiment:
    """One run, ready to start: plain objects, no config.

    Attributes:
        config: resolved, as plain mappings and lists: for the record only.
        choices: which member of each group was chosen: for the record only.
        flops: floating-point operations of one sample's forward pass; None if they cannot be told.
    """

    config: dict[str, Any]
    choices: dict[str, str]
    seed: int
    device: Device
    precision: Precision
    splits: loading.Splits
    loaders: loading.Loaders
    in_memory: bool
    model: nn.Module
    flops: int | None
    loss: Loss
    optimizer: torch.optim.Optimizer
    schedule: Schedule
    trainer: TrainerSettings
    tracking: TrackingSettings
    console: ConsoleSettings


def build(
    cfg: DictConfig, choices: Mapping[str, str] | None = None, problems: Sequence[str] = ()
) -> Experiment:
    """Check a composed config and make everything that a run needs.

    Args:
        cfg: without Hydra's own node.
        choices: which member of each group was chosen.
        problems: what composing has already found; the config is checked all the same, to report all at once.

    Raises:
        ConfigError: with every problem that could be found.
    """
    config = plain(cfg)
    found = Problems([*problems, *schema.check(config)])
    for group in SUPPLIED:
        found += check_target(group, config[group])
    device = precision = splits = loss = model = flops = optimizer = loaders = schedule = None
    data, trainer = config["data"], to_settings(cfg.trainer, TrainerSettings)
    if found.none_of("device"):
        with found.collect():
            device = device_room.resolve(cfg.device.name, cfg.device.index, config["device"]["threads"])
    if device and found.none_of("precision"):
        with found.collect():
            precision = Precision(cfg.precision.name, device.torch)
    if found.none_of("loss"):
        with found.collect():
            loss = call("loss", config["loss"], Loss)
    if found.none_of("data", "seed"):
        # Nothing is fetched for a run that cannot start.
        with found.collect(), nullcontext() if not found.sentences else fetch.forbidden():
            source = call("data", {k: v for k, v in data.items() if k not in LOADING_KEYS}, Source)
            splits = loading.split(
                source, val_fraction=data["val_fraction"], limit=data["limit"], seed=cfg.seed
            )
    if splits and loss:
        with found.collect():
            check_monitor(trainer, loss, splits)
        if found.none_of("model"):
            with found.collect():
                dtype = precision.dtype if precision else torch.float32
                model, flops = make_model(config["model"], splits, loss, cfg.seed, dtype)
    if model and device and found.none_of("optimizer"):
        with found.collect():
            channels_last = probe.has_convolutions(model)
            model.to(
                device.torch, memory_format=torch.channels_last if channels_last else torch.preserve_format
            )
            optimizer = make_optimizer(config["optimizer"], model, device)
    if optimizer and splits and found.none_of("scheduler", "trainer"):
        batches = -(-loading.size(splits.train) // data["batch_size"])
        with found.collect():
            schedule = make_schedule(config["scheduler"], optimizer, trainer, batches)
    if found.sentences:
        raise ConfigError(*found.sentences)

    assert device and precision and splits and loss and model and optimizer and schedule
    in_memory = data["in_memory"]
    if in_memory == "auto":
        in_memory = splits.nbytes(precision.dtype) < loading.MEMORY_SHARE * device.free_memory()
    loaders = loading.loaders(
        splits,
        prepare=loss.prepare,
        batch_size=data["batch_size"],
        seed=cfg.seed,
        device=device.torch,
        dtype=precision.dtype,
        in_memory=in_memory,
        num_workers=data["num_workers"],
        channels_last=channels_last,
    )
    return Experiment(
        config=config,
        choices=dict(choices or {}),
        seed=cfg.seed,
        device=device,
        precision=precision,
        splits=splits,
        loaders=loaders,
        in_memory=in_memory,
        model=model,
        flops=flops,
        loss=loss.to(device.torch),
        optimizer=optimizer,
        schedule=schedule,
        trainer=trainer,
        tracking=to_settings(cfg.tracking, TrackingSettings),
        console=to_settings(cfg.runner, ConsoleSettings),
    )


class Problems:
    """The sentences found so far, each beginning with the key or group it is about."""

    def __init__(self, sentences: Sequence[str]) -> None:
        self.sentences = list(sentences)

    def __iadd__(self, sentences: Sequence[str]) -> Self:
        self.sentences += [s for s in sentences if s not in self.sentences]
        return self

    def none_of(self, *groups: str) -> bool:
        """Whether nothing is known to be wrong with these groups."""
        return not any(
            s.lstrip("+~").startswith((f"{g}.", f"{g}=", f"{g}:")) for s in self.sentences for g in groups
        )

    @contextmanager
    def collect(self) -> Iterator[None]:
        """Add the problems of a `ConfigError`, and go on."""
        try:
            yield
        except fetch.Forbidden:
            pass
        except ConfigError as error:
            self += error.problems


def plain(cfg: DictConfig) -> dict[str, Any]:
    """The resolved config as plain mappings, lists and values."""
    container = OmegaConf.to_container(cfg, resolve=True)
    assert isinstance(container, dict)
    return {str(key): value for key, value in container.items()}


def to_settings(node: DictConfig, kind: type[T]) -> T:
    """A typed group as the dataclass it was checked against."""
    settings = OmegaConf.to_object(node)
    assert isinstance(settings, kind)
    return settings


def locate(group: str, node: Mapping[str, Any]) -> Callable[..., Any]:
    """What the group's `_target_` names.

    Raises:
        ConfigError: it cannot be imported.
    """
    path = node.get("_target_")
    if not isinstance(path, str) or path == signature.MISSING:
        raise ConfigError(f"{group}._target_ is missing: write {group}._target_=package.module.Name")
    try:
        target = get_object(path)
    except Exception as error:
        reason = str(error.__cause__ or error).strip().split("\n")[0]
        raise ConfigError(f"{group}._target_={path} cannot be imported: {reason}") from error
    if not callable(target):
        raise ConfigError(f"{group}._target_={path} is a {type(target).__name__}, not a class or function")
    return target


def check_target(group: str, node: Any) -> list[str]:
    """Hold a group's keys against the signature of its `_target_`."""
    if not isinstance(node, Mapping):
        return [f"{group}={schema.show(node)}: {group} needs a choice of conf/{group}"]
    arguments = {k: v for k, v in node.items() if not (group == "data" and k in LOADING_KEYS)}
    try:
        return signature.check(group, locate(group, node), arguments, SUPPLIED[group])
    except ConfigError as error:
        return error.problems


def call(group: str, node: Mapping[str, Any], kind: type[T], **supplied: Any) -> T:
    """Instantiate a group's `_target_` with its keys and those of `supplied` that it takes.

    Raises:
        ConfigError: the target refuses its arguments, or gives something else than `kind`.
    """
    taken = inspect.signature(locate(group, node)).parameters
    open_ended = any(p.kind is p.VAR_KEYWORD for p in taken.values())
    passed = {
        k: v
        for k, v in supplied.items()
        if k not in node and (k in taken or (open_ended and group == "model"))
    }
    try:
        made = instantiate(dict(node), **passed, _convert_="all")
    except InstantiationException as error:
        cause = error.__cause__ or error
        if isinstance(cause, ConfigError | fetch.Forbidden):
            raise cause from error
        first_line = str(cause).strip().split("\n")[0]
        raise ConfigError(f"{group}: {node['_target_']} refuses its arguments: {first_line}") from error
    if not isinstance(made, kind):
        raise ConfigError(
            f"{group}._target_={node['_target_']} gives a {type(made).__name__}, a {kind.__module__}.{kind.__name__} is needed"
        )
    return made


def check_monitor(trainer: TrainerSettings, loss: Loss, splits: loading.Splits) -> None:
    """See that what the trainer watches will be measured.

    Raises:
        ConfigError: it will not.
    """
    problems = []
    part, _, metric = trainer.monitor.partition("/")
    measured = ["loss", *loss.metrics]
    if metric not in measured:
        offered = " or ".join(f"{part}/{name}" for name in measured)
        problems.append(
            f"trainer.monitor={trainer.monitor}: loss={type(loss).__name__} measures no {metric}; write {offered}"
        )
    if splits.val is None and part == "val" and trainer.early_stopping.patience is not None:
        problems.append(
            "trainer.early_stopping.patience needs validation: write data.val_fraction=0.2, or trainer.monitor=train/loss"
        )
    if splits.val is None and trainer.validate_every_steps is not None:
        problems.append("trainer.validate_every_steps needs validation samples: write data.val_fraction=0.2")
    if problems:
        raise ConfigError(*problems)


def make_model(
    node: Mapping[str, Any], splits: loading.Splits, loss: Loss, seed: int, dtype: torch.dtype
) -> tuple[nn.Module, int | None]:
    """The model, with weights drawn by the seed, on the CPU; and its floating-point operations a sample."""
    num_outputs = loss.num_outputs(splits.targets(), splits.classes)
    torch.manual_seed(seed)
    model = call("model", node, nn.Module, input_shape=splits.input_shape, num_outputs=num_outputs)
    model.to(dtype)
    return model, probe.check_shapes(model, splits.input_shape, num_outputs, dtype)


def make_optimizer(node: Mapping[str, Any], model: nn.Module, device: Device) -> torch.optim.Optimizer:
    """The optimizer over the model's trainable parameters."""
    parameters = trainable(model)
    if not parameters:
        raise ConfigError("model: it has no parameter to train")
    extra = {"fused": True} if supports_fused(locate("optimizer", node), device.torch, set(node)) else {}
    return call("optimizer", {**node, **extra}, torch.optim.Optimizer, params=parameters)


def make_schedule(
    node: Mapping[str, Any], optimizer: torch.optim.Optimizer, trainer: TrainerSettings, batches: int
) -> Schedule:
    """The schedule, told how long training is planned to be."""
    steps_per_epoch = -(-batches // trainer.grad_accumulation)
    total_steps = min(trainer.epochs * steps_per_epoch, trainer.max_steps or trainer.epochs * steps_per_epoch)
    made = call(
        "scheduler",
        node,
        object,
        optimizer=optimizer,
        total_steps=total_steps,
        steps_per_epoch=steps_per_epoch,
        epochs=trainer.epochs,
    )
    if isinstance(made, LRScheduler):
        return Schedule(made)
    if not isinstance(made, Schedule):
        raise ConfigError(
            f"scheduler._target_={node['_target_']} gives a {type(made).__name__}, no learning-rate schedule"
        )
    return made
