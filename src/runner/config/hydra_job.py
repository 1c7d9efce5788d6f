"""Hydra's own part of a run: its node in the config, and its machinery around the job."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from hydra._internal.callbacks import Callbacks
from hydra.core.utils import run_job
from hydra.types import HydraContext
from omegaconf import DictConfig, OmegaConf, open_dict, read_write

from runner.config.compose import Composer
from runner.config.interpolation import escape_references


def run_job_in(folder: Path, cfg: DictConfig, made: Composer, task: Callable[[], int]) -> int:
    """Let Hydra run the task, with its callbacks and environment, in a folder that is there and ours."""
    with read_write(cfg.hydra):  # which `HydraConfig` has made read-only
        cfg.hydra.run.dir = escape_references(str(folder))
    callbacks = Callbacks(cfg)
    callbacks.on_run_start(config=cfg, config_name=cfg.hydra.job.config_name)
    done = run_job(
        task_function=lambda _: task(),
        config=cfg,
        job_dir_key="hydra.run.dir",
        job_subdir_key=None,
        hydra_context=HydraContext(config_loader=made.hydra.config_loader, callbacks=callbacks),
    )
    callbacks.on_run_end(config=cfg, config_name=cfg.hydra.job.config_name, job_return=done)
    code = done.return_value  # raises what the task raised
    assert isinstance(code, int)
    return code


def group_choices(cfg: Any) -> dict[str, str]:
    """Which member of each of our groups was chosen."""
    node = cfg.hydra if "hydra" in cfg else cfg
    return {
        str(group).removesuffix("@_global_"): str(choice)
        for group, choice in node.runtime.choices.items()
        if not str(group).startswith("hydra/") and choice is not None
    }


def without_hydra(cfg: DictConfig) -> DictConfig:
    """The run's own config, which may still refer to Hydra's."""
    task = cfg.copy()
    with open_dict(task):
        del task["hydra"]
    return task


def to_plain(cfg: DictConfig) -> dict[str, Any]:
    """The resolved config as plain mappings, lists and values."""
    container = OmegaConf.to_container(cfg, resolve=True)
    assert isinstance(container, dict)
    return {str(key): value for key, value in container.items()}
