"""Going on with a run: its saved config is the base, and only what keeps the course exact may change."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from hydra.core.config_store import ConfigStore
from omegaconf import DictConfig, OmegaConf

from . import schema
from .build import Experiment
from .checkpoint import CheckpointError, Checkpoints
from .compose import Composer, config_folder
from .errors import ConfigError
from .record import flatten

log = logging.getLogger("runner")

MAY_CHANGE = (
    "trainer.epochs", "trainer.max_steps", "trainer.max_time", "trainer.early_stopping.", "trainer.log_every_",
    "trainer.checkpoint_every_", "trainer.keep_checkpoints", "tracking.", "runner.", "resume",
    "data.root", "data.path", "data.num_workers", "data.in_memory",
)  # fmt: skip
"""Keys, and beginnings of keys, that leave the weights bit for bit what they would have been."""


@dataclass
class Resumed:
    """A run to go on with.

    Attributes:
        folder: its own.
        changed: the keys that are not as they were, with their new values.
    """

    folder: Path
    changed: dict[str, str]
    warm_start: bool


def compose(value: str, overrides: Sequence[str]) -> tuple[DictConfig | None, list[str], Resumed]:
    """Compose the saved config of a run with what was typed now.

    Args:
        value: the run's folder or MLflow run id.
        overrides: everything typed, `resume=` included.

    Returns:
        The config (None if it does not compose), its problems, and what is resumed.

    Raises:
        ConfigError: there is no such run.
    """
    folder = find(value, overrides)
    saved = yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8"))
    hydra = OmegaConf.to_container(OmegaConf.load(config_folder() / "config.yaml").hydra)
    store = ConfigStore.instance()
    node: dict[str, Any] = {
        "defaults": [
            "schema",
            "_self_",
            {"override hydra/job_logging": "none"},
            {"override hydra/hydra_logging": "none"},
        ]
    }
    store.store(name="resumed", node=OmegaConf.create({**node, **saved, "hydra": hydra}))
    problems, values = [], []
    for override in overrides:
        key, _, choice = override.partition("=")
        if key.lstrip("+~") in schema.GROUPS:
            keys = ", ".join(f"{key}.{name}" for name in list(saved.get(key) or {})[:4] if name != "_target_")
            problems.append(
                f"{override}: a resumed run keeps its {key}"
                + (f"; write values, such as {keys}" if keys else "")
            )
        else:
            values.append(override)
    cfg, found = Composer(name="resumed").compose(values)
    if cfg is None:
        return None, problems + found, Resumed(folder, {}, False)
    before = flatten(saved)
    now = (
        flatten(
            OmegaConf.to_container(OmegaConf.masked_copy(cfg, [k for k in cfg if k != "hydra"]), resolve=True)
        )
        if not found
        else before
    )
    changed = {key: value for key, value in now.items() if before.get(key) != value}
    warm_start = now.get("resume_mode") == "warm_start"
    return cfg, problems + found, Resumed(folder, changed, warm_start)


def refuse(resumed: Resumed, horizon: bool) -> list[str]:
    """The changes that make exact resumption impossible, a sentence each."""
    problems = []
    for key, value in resumed.changed.items():
        if not key.startswith(MAY_CHANGE):
            problems.append(
                f"{key}={value}: the resumed run would not be exact; add resume_mode=warm_start for a new run from its weights"
            )
        elif horizon and key in ("trainer.epochs", "trainer.max_steps"):
            problems.append(
                f"{key}={value}: this scheduler's course depends on it; add resume_mode=warm_start for a new run from its weights"
            )
    return problems


def prepare(resumed: Resumed, x: Experiment) -> tuple[Path, dict[str, Any]]:
    """Find the checkpoint, and see that what was changed leaves the run exact.

    Returns:
        The run's folder, and the checkpoint to go on from. For a warm start the checkpoint holds nothing,
        as its weights are in the experiment's model already.

    Raises:
        ConfigError: a change is refused, or there is no usable checkpoint.
    """
    if not resumed.warm_start:
        problems = refuse(resumed, x.schedule.horizon)
        if problems:
            raise ConfigError(*problems)
    try:
        checkpoint, path = Checkpoints(resumed.folder / "checkpoints").load_last()
    except CheckpointError as error:
        raise ConfigError(f"resume={resumed.folder}: {error}") from error
    if path.name != "last.pt":
        log.warning("the last checkpoint is damaged, going on from %s", path)
    if resumed.warm_start:
        try:
            x.model.load_state_dict(checkpoint["model"])
        except RuntimeError as error:
            raise ConfigError(
                f"resume={resumed.folder}: its weights do not fit this model: {str(error).splitlines()[-1].strip()}"
            ) from error
    return resumed.folder, checkpoint


def find(value: str, overrides: Sequence[str]) -> Path:
    """The folder of a run, by its path or its MLflow id.

    Raises:
        ConfigError: there is none.
    """
    folder = Path(value).expanduser()
    if folder.is_dir():
        if not (folder / "config.yaml").exists():
            raise ConfigError(f"resume={value}: there is no config.yaml in that folder, so it is not a run's")
        return folder.resolve()
    if "/" in value or not value.isalnum():
        raise ConfigError(f"resume={value}: there is no such folder")
    from .folders import outputs
    from .tracking.store import find_run_folder, local_uri

    uri = next(
        (o.partition("=")[2].strip("'\"") for o in overrides if o.startswith("tracking.uri=")),
        local_uri(outputs()),
    )
    return find_run_folder(value, uri)
