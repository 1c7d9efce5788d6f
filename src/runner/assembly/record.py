"""The config of a run as its record has it."""

import re
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from runner.data.splits import Splits
from runner.device import Device


def computed_with(config: dict[str, Any], device: Device, splits: Splits) -> dict[str, Any]:
    """Put the values into a recorded config that `auto` stands for here: the next machine may have others."""
    del config["sweep"]  # not about a single run
    config["device"] |= {
        "name": device.torch.type,
        "threads": device.threads,
        "evaluation_threads": device.evaluation_threads,
    }
    config["data"]["val_fraction"] = splits.val_fraction
    make_absolute(config)
    return config


def recorded(cfg: DictConfig) -> dict[str, Any]:
    """Resolve a config, except for what comes from the environment.

    That may be a secret, and a resumed run takes it from there again. Runner's own variables are not secrets.
    """
    resolved, written = (OmegaConf.to_container(cfg, resolve=resolve) for resolve in (True, False))
    merged = _with_environment(resolved, written)
    assert isinstance(merged, dict)
    return merged


def _with_environment(resolved: Any, written: Any) -> Any:
    if isinstance(resolved, dict) and isinstance(written, dict):
        return {str(key): _with_environment(value, written.get(key)) for key, value in resolved.items()}
    if isinstance(resolved, list) and isinstance(written, list) and len(resolved) == len(written):
        return [_with_environment(*both) for both in zip(resolved, written, strict=True)]
    from_environment = isinstance(written, str) and re.search(r"\$\{oc\.env:(?!RUNNER_)", written)
    return written if from_environment else resolved


def make_absolute(config: dict[str, Any]) -> None:
    """Make the paths in a config absolute, so that they are found from any folder."""
    data = ("root", "path", "val_path", "test_path")
    for group, key in (*(("data", key) for key in data), ("model", "weights"), ("model", "pretrained")):
        value = config[group].get(key)
        if isinstance(value, str) and (path := Path(value).expanduser()).exists():
            config[group][key] = str(path.absolute())
    name = config["model"].get("name")
    if isinstance(name, str) and (Path(name).expanduser() / "config.json").is_file():  # a model of Transformers
        config["model"]["name"] = str(Path(name).expanduser().absolute())
