"""The part of the check that needs torch: it builds every job, and discards it."""

import json
import pickle
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any

import torch

from runner.assembly import build
from runner.assembly.checks import measured_by
from runner.assembly.experiment import Setup
from runner.assembly.models import example
from runner.config.hydra_job import group_choices, plain_without_hydra, refer_to, without_hydra
from runner.device import Device
from runner.errors import ConfigError, Problem
from runner.optimizer.several import Several
from runner.rundir import energy
from runner.sweeps.jobs import JobInfo
from runner.task import higher_is_better
from runner.training.stackable import why_not
from runner.util.energy import UnreadableError

CANNOT_BREAK = ("seed", "optimizer.lr", "optimizer.weight_decay")
"""Keys with which only a value out of range can be wrong, for runner's and torch's classes: of jobs that differ only
in them, one is built."""

IN_STACK = ("seed", "optimizer.lr", "optimizer.momentum", "optimizer.weight_decay", "loss.label_smoothing", "tracking")
"""Keys in which the models of a stack may differ."""

TRIED = 4
"""Samples of the trial of a stack."""


def build_all(
    configs: Mapping[int, bytes],
    problems: Mapping[int, list[Problem]],
    is_remote: bool = False,
    stacks: bool = False,
) -> tuple[dict[int, JobInfo], dict[int, list[Problem]]]:
    """Build every job; its samples are not loaded into memory.

    Args:
        configs: pickled, by the number of the job.
        problems: found by composing, by the number of the job.
        is_remote: the jobs will run on other machines; here they are built on the CPU.
        stacks: try which jobs can be trained as one program; without it, only what is known of them counts.

    Returns:
        Facts about each job, and its problems, both by number.
    """
    infos: dict[int, JobInfo] = {}
    all_problems = {number: list(of_job) for number, of_job in problems.items()}
    seen: dict[str, tuple[JobInfo | None, list[Problem]]] = {}
    for number, pickled in configs.items():
        cfg = pickle.loads(pickled)
        refer_to(cfg)
        if is_remote:
            _for_any_machine(cfg)
        config = plain_without_hydra(cfg)
        kind = json.dumps([_structure(config), all_problems[number]], sort_keys=True, default=str)
        if build.check(config):  # a problem that other jobs of the same kind may not have
            result = _build(cfg, all_problems[number], is_remote, stacks)
        elif kind in seen:
            result = seen[kind]
        else:
            result = seen[kind] = _build(cfg, all_problems[number], is_remote, stacks)
        info, all_problems[number] = result
        if info is not None:
            infos[number] = info
            if not is_remote:
                infos[number] = replace(info, kind=_structure_in_stack(config), seed=config["seed"])
    return infos, all_problems


def _for_any_machine(cfg: Any) -> None:
    """Change a config so that it can be built on any machine."""
    if cfg.device.name != "cpu":
        cfg.device.name = "cpu"
        cfg.precision.name = "fp32" if cfg.precision.name == "tf32" else cfg.precision.name
    cfg.trainer.compile = False  # only the compilers of their machines matter


def gpus() -> int:
    """Count the GPUs that CUDA or ROCm can use."""
    return torch.cuda.device_count() if torch.cuda.is_available() else 0


def _build(cfg: Any, problems: list[Problem], is_remote: bool, stacks: bool) -> tuple[JobInfo | None, list[Problem]]:
    try:
        experiment, _ = build.prepare(without_hydra(cfg), group_choices(cfg), problems)
    except ConfigError as error:
        return None, error.problems
    strategy = cfg.strategy
    if strategy.name != "single" and strategy.nproc_per_node is None:
        text = f"strategy={strategy.name}: the jobs of a sweep start their ranks themselves"
        return None, [Problem("strategy", text, "add strategy.nproc_per_node=2", topic="missing")]
    if strategy.name == "single" and strategy.nproc_per_node is not None:
        key = "strategy.nproc_per_node"
        text = f"{key}={strategy.nproc_per_node}: strategy=single is one process"
        return None, [Problem(key, text, "add strategy=ddp", topic="conflict")]
    splits, task = experiment.splits, experiment.task
    parts = {"train": splits.train, "val": splits.val, "test": splits.test}
    metrics = measured_by(task, experiment.measured, [part for part, samples in parts.items() if samples is not None])
    chosen, shown = experiment.trainer.monitor, list[str]()
    same = chosen.partition("/")[2]
    candidates = (chosen, "test/loss", "train/loss", f"test/{same}", f"train/{same}")
    if (monitor := next((name for name in candidates if name in metrics), None)) is None:
        shown = _not_minimised(experiment, next(part for part in ("val", "test", "train") if parts[part] is not None))
    rising = [name for name in metrics if higher_is_better(task, name)]
    measured = [*metrics, "time/epoch_seconds", "throughput/samples_per_second", energy.METRIC]
    unreadable = dict[str, tuple[str, str]]()
    if not is_remote and (refusal := _why_no_energy(experiment.device)):  # other machines may have counters
        measured.remove(energy.METRIC)
        unreadable[energy.METRIC] = refusal
    info = JobInfo(experiment.device.torch.type, measured, monitor, rising, shown, unreadable)
    return (info if is_remote else _with_stacking(info, experiment, cfg, stacks)), []


def _with_stacking(info: JobInfo, experiment: Setup, cfg: Any, tries: bool) -> JobInfo:
    """Add whether a job can be trained in a stack, with a trial if it will be, and the bytes of its weights."""
    why = "hydra.callbacks" if cfg.hydra.callbacks else "hydra.job.env_set" if cfg.hydra.job.env_set else None
    if why is None:
        why = why_not(experiment)
    if why is None and tries:
        why = why_not(experiment, example(experiment.task, experiment.splits, TRIED, experiment.precision.dtype))
    trained = [weight for weight in experiment.model.parameters() if weight.requires_grad]
    return replace(info, why_alone=why, bytes=sum(weight.numel() * weight.element_size() for weight in trained))


def _structure_in_stack(config: Mapping[str, Any]) -> str:
    """Return what must be the same for all models of a stack, as text."""
    return json.dumps(_without(config, IN_STACK), sort_keys=True, default=str)


@lru_cache
def _why_no_energy(device: Device) -> tuple[str, str] | None:
    """Return why the energy of a run on a device cannot be measured, and what to do; None if it can."""
    try:
        device.energy_counters()
    except UnreadableError as error:
        return error.why, error.instead
    return None


def _not_minimised(experiment: Setup, part: str) -> list[str]:
    """Return what a step measures for no optimizer, on a part; all if there is an optimizer for each name."""
    optimizer, names = experiment.optimizer, list(experiment.measured)
    of_optimizers = optimizer.by_name if isinstance(optimizer, Several) else {}
    return [f"{part}/{name}" for name in [name for name in names if name not in of_optimizers] or names]


def _structure(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return a config without the keys that cannot make building it fail."""
    return _without(config, CANNOT_BREAK)


def _without(config: Mapping[str, Any], names: Sequence[str]) -> dict[str, Any]:
    structure = {key: dict(value) if isinstance(value, Mapping) else value for key, value in config.items()}
    for name in names:
        group, _, leaf = name.partition(".")
        if leaf:
            structure[group].pop(leaf, None)
        else:
            structure.pop(group, None)
    return structure
