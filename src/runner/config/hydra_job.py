"""Hydra's part of a run: its node in the config, and running a task as Hydra's job."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from hydra._internal.callbacks import Callbacks
from hydra.core.hydra_config import HydraConfig
from hydra.core.utils import run_job, setup_globals
from hydra.types import HydraContext
from omegaconf import DictConfig, OmegaConf, open_dict, read_write

from runner.config.compose import Composer
from runner.config.interpolation import escape_references
from runner.config.settings import MISSING


def run_job_in(folder: Path, cfg: DictConfig, composer: Composer, task: Callable[[], int]) -> int:
    """Run a task as Hydra's job, with its callbacks and environment.

    Args:
        folder: the run's folder; it exists.
        cfg: the config with Hydra's node.
        composer: the composer of the config.
        task: returns the exit code.
    """
    with read_write(cfg.hydra):  # `HydraConfig` has made it read-only
        cfg.hydra.run.dir = escape_references(str(folder))
    callbacks = Callbacks(cfg)
    callbacks.on_run_start(config=cfg, config_name=cfg.hydra.job.config_name)
    result = run_job(
        task_function=lambda _: task(),
        config=cfg,
        job_dir_key="hydra.run.dir",
        job_subdir_key=None,
        hydra_context=HydraContext(config_loader=composer.hydra.config_loader, callbacks=callbacks),
    )
    callbacks.on_run_end(config=cfg, config_name=cfg.hydra.job.config_name, job_return=result)
    code = result.return_value  # raises the task's exception
    assert isinstance(code, int)
    return code


def group_choices(cfg: Any) -> dict[str, str]:
    """Return the chosen member of each of runner's groups."""
    node = cfg.hydra if "hydra" in cfg else cfg
    return {
        str(group).removesuffix("@_global_"): str(choice)
        for group, choice in node.runtime.choices.items()
        if not str(group).startswith("hydra/") and choice is not None
    }


def without_hydra(cfg: DictConfig) -> DictConfig:
    """Return a copy without Hydra's node; it may still refer to that."""
    copied = cfg.copy()
    with open_dict(copied):
        del copied["hydra"]
    return copied


def plain_without_hydra(cfg: DictConfig) -> dict[str, Any]:
    """Resolve a config without Hydra's node to plain containers; copying it first would take eight times as long."""
    plain: dict[str, Any] = {}
    for key in cfg:
        if key != "hydra":
            value = MISSING if OmegaConf.is_missing(cfg, key) else cfg[key]
            plain[str(key)] = OmegaConf.to_container(value, resolve=True) if OmegaConf.is_config(value) else value
    return plain


def to_plain(cfg: DictConfig) -> dict[str, Any]:
    """Resolve a config to plain mappings, lists and values."""
    container = OmegaConf.to_container(cfg, resolve=True)
    assert isinstance(container, dict)
    return {str(key): value for key, value in container.items()}


def refer_to(cfg: DictConfig) -> None:
    """Make references to Hydra's node (`${hydra:...}`) use that of this config, in this process."""
    setup_globals()
    HydraConfig.instance().set_config(cfg)
