"""Composing the jobs of a sweep, which differ in a few values only: their common part is composed once."""

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra.types import HydraContext, RunMode
from omegaconf import DictConfig, ListConfig, OmegaConf, open_dict, read_write

from runner.config.compose import Composer
from runner.config.hydra_job import refer_to
from runner.config.interpolation import escape_references
from runner.config.notify import KEY
from runner.config.overrides import key_of
from runner.errors import Problem
from runner.util.redaction import MASK, redact
from runner.util.uri import strip_credentials


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


def without_credentials(cfg: DictConfig) -> DictConfig:
    """Return a job's config for a file: without its launcher, and without secrets.

    Credentials are removed from the address of the tracking store. Secrets from environment variables stay references,
    which are resolved where the job runs. A secret that was typed stays in a job's own values, as the job needs it.
    """
    copied = copy.deepcopy(cfg)
    refers = OmegaConf.is_interpolation(copied.tracking, "uri")
    uri = "" if refers else copied.tracking.uri or ""
    bare = strip_credentials(uri) if uri else ""

    def clean(texts: Sequence[str]) -> list[str]:
        own = [text for text in texts if not text.lstrip("+~").startswith("hydra.launcher")]
        return [text.replace(uri, bare) if uri else text for text in own]

    with read_write(copied), read_write(copied.hydra), open_dict(copied.hydra):
        copied.hydra.launcher = {}
        if not refers:
            copied.tracking.uri = bare or None
        for name, value in copied.hydra.overrides.items():
            copied.hydra.overrides[name] = clean(value)
        dirname = copied.hydra.job.override_dirname
        copied.hydra.job.override_dirname = dirname.replace(uri, bare) if uri else dirname
        for key in copied:
            _hide_secrets(copied._get_node(key), everything=key == "hydra")
    return copied


def _hide_secrets(node: Any, everything: bool) -> None:
    """Mask the secrets in a node; without `everything`, only replace values of environment variables by references."""
    if isinstance(node, DictConfig | ListConfig):
        if not (node._is_none() or node._is_missing() or node._is_interpolation()):
            for key in list(node) if isinstance(node, DictConfig) else range(len(node)):
                _hide_secrets(node._get_node(key), everything)
    elif isinstance(value := node._value(), str):
        hidden = redact(value)
        if everything or MASK not in hidden:
            node._val = hidden
