"""The part of the check that needs torch: it sets up every job, and throws it away."""

import json
import pickle
from collections.abc import Mapping
from typing import Any

import torch

from runner.assembly import build
from runner.config.hydra_job import group_choices, to_plain, without_hydra
from runner.errors import ConfigError, Problem
from runner.sweeps.check.compose_jobs import refer_to
from runner.sweeps.jobs import JobInfo

CANNOT_BREAK = ("seed", "optimizer.lr", "optimizer.weight_decay")
"""Keys whose range is all that can be wrong about them, for runner's members and torch's: jobs that differ in nothing
else are built once."""


def build_all(
    configs: Mapping[int, bytes], problems: Mapping[int, list[Problem]], elsewhere: bool = False
) -> tuple[dict[int, JobInfo], dict[int, list[Problem]]]:
    """Set up every job; its samples are brought into memory by the job alone.

    Args:
        configs: pickled, by the number of the job.
        problems: what composing has found.
        elsewhere: they will compute on other machines: here they are built on the CPU.

    Returns:
        What is known of each job, and its problems, both by number.
    """
    built: dict[int, JobInfo] = {}
    found = {number: list(of_job) for number, of_job in problems.items()}
    seen: dict[str, tuple[JobInfo | None, list[Problem]]] = {}
    for number, pickled in configs.items():
        cfg = pickle.loads(pickled)
        refer_to(cfg)
        if elsewhere:
            _for_any_machine(cfg)
        config = to_plain(without_hydra(cfg))
        kind = json.dumps([_structure(config), found[number]], sort_keys=True, default=str)
        if build.check(config):  # wrong in what may differ within a kind too
            answer = _build(cfg, found[number])
        elif kind in seen:
            answer = seen[kind]
        else:
            answer = seen[kind] = _build(cfg, found[number])
        made, found[number] = answer
        if made is not None:
            built[number] = made
    return built, found


def _for_any_machine(cfg: Any) -> None:
    """Choose what can be built on any machine."""
    if cfg.device.name != "cpu":
        cfg.device.name = "cpu"
        cfg.precision.name = "fp32" if cfg.precision.name == "tf32" else cfg.precision.name
    cfg.trainer.compile = False  # the compiler that counts is that of their machines


def gpus() -> int:
    """How many GPUs there are that CUDA, or ROCm, can use."""
    return torch.cuda.device_count() if torch.cuda.is_available() else 0


def _build(cfg: Any, problems: list[Problem]) -> tuple[JobInfo | None, list[Problem]]:
    try:
        x, _ = build.prepare(without_hydra(cfg), group_choices(cfg), problems)
    except ConfigError as error:
        return None, error.problems
    except SystemExit as error:  # the user's code may call sys.exit(): the other jobs are checked all the same
        return None, [Problem("", f"the code of this job calls sys.exit({error.code}) while it is built", topic="code")]
    parts = {"train": x.splits.train, "val": x.splits.val, "test": x.splits.test}
    names = ("loss", *x.loss.metrics)
    metrics = [f"{part}/{name}" for part, samples in parts.items() if samples is not None for name in names]
    monitor = x.trainer.monitor
    if monitor not in metrics:  # nothing is validated: the last epoch counts as the best
        monitor = next(name for name in ("test/loss", "train/loss") if name in metrics)
    rising = [name for name in metrics if x.loss.higher_is_better(name)]
    known = [*metrics, "time/epoch_seconds", "throughput/samples_per_second"]
    return JobInfo(x.device.torch.type, known, monitor, rising), []


def _structure(config: Mapping[str, Any]) -> dict[str, Any]:
    """A config without what cannot make building it fail."""
    kept = {key: dict(value) if isinstance(value, Mapping) else value for key, value in config.items()}
    for name in CANNOT_BREAK:
        group, _, leaf = name.partition(".")
        if leaf:
            kept[group].pop(leaf, None)
        else:
            kept.pop(group)
    return kept
