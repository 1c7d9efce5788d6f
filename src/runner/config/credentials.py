"""A config without its credentials."""

import copy
from collections.abc import Sequence
from typing import Any

from omegaconf import DictConfig, ListConfig, OmegaConf, open_dict, read_write

from runner.util.redaction import MASK, redact
from runner.util.uri import strip_credentials


def without_credentials(cfg: DictConfig) -> DictConfig:
    """Return a copy of a config for a file, or for other processes: without its launcher, and without secrets.

    Credentials are removed from the address of the tracking store. Secrets from environment variables stay references,
    which are resolved where the run is. A secret that was typed stays in the values outside of Hydra's node, as the run
    needs it.
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
