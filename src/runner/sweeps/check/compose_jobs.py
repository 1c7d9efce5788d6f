"""Composing the jobs of a sweep, which differ in a few values only: their common part is composed once."""

from dataclasses import dataclass
from pathlib import Path

from hydra.types import HydraContext, RunMode
from omegaconf import DictConfig, OmegaConf, open_dict, read_write

from runner.config.compose import Composer
from runner.config.hydra_job import refer_to
from runner.config.interpolation import escape_references
from runner.config.notify import KEY
from runner.config.overrides import key_of
from runner.errors import Problem


@dataclass
class Context(HydraContext):
    """Hydra's context of a sweeper, extended by the composer of its jobs and the problems that all of them share."""

    composer: Composer
    problems: list[Problem]


def as_job(cfg: DictConfig, number: int, folder: Path) -> None:
    """Mark a config as that of a job in Hydra's node, and make references to the node use it.

    The sweep registers the model of its best job and sends the notifications, so that no job does.

    Args:
        cfg: composed, with Hydra's node.
        number: of the job.
        folder: of the sweep.
    """
    typed = OmegaConf.to_container(cfg.hydra.overrides.task)  # not resolved: it may refer to the number
    assert isinstance(typed, list)
    with read_write(cfg.hydra), open_dict(cfg.hydra):
        cfg.hydra.mode = RunMode.MULTIRUN
        cfg.hydra.job.num, cfg.hydra.job.id = number, str(number)
        cfg.hydra.sweep.dir = escape_references(str(folder))
        cfg.hydra.overrides.task = [text for text in typed if key_of(text) not in ("tracking.register", KEY)]
    with read_write(cfg):
        cfg.tracking.register, cfg.tracking.notify = None, []
    refer_to(cfg)
