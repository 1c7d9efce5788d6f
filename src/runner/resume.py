"""Going on with a run: its saved config is the base, and only what keeps the course exact may change."""

import json
import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from hydra.core.config_store import ConfigStore
from omegaconf import DictConfig, OmegaConf, read_write

from . import schema
from .arguments import typed_value
from .build import Experiment
from .checkpoint import CheckpointError, Checkpoints
from .compose import Composer, config_folder
from .errors import ConfigError, did_you_mean
from .folders import outputs, short
from .record import flatten
from .tracking.manifest import Manifest
from .tracking.uri import sqlite_file

log = logging.getLogger("runner")

MAY_CHANGE = (
    "trainer.epochs", "trainer.max_steps", "trainer.max_time", "trainer.early_stopping.", "trainer.log_every_",
    "trainer.checkpoint_every_", "trainer.keep_checkpoints", "tracking.", "runner.",
    "data.root", "data.path", "data.test_path", "data.num_workers", "data.in_memory",
)  # fmt: skip
"""Keys, and beginnings of keys, that leave the weights bit for bit what they would have been."""

WARM = "add resume_mode=warm_start for a new run from its weights"


@dataclass
class Resumed:
    """A run to go on with.

    Attributes:
        folder: its own.
        warm_start: only its weights are used, by a new run.
        changed: the keys that are not as they were, with their new values.
        choices: which member of each group was chosen, as far as is recorded.
    """

    folder: Path
    warm_start: bool
    changed: dict[str, str] = field(default_factory=dict)
    choices: dict[str, str] = field(default_factory=dict)


def compose(
    value: str, overrides: Sequence[str], extra: str | None = None
) -> tuple[DictConfig | None, list[str], Resumed]:
    """Compose the saved config of a run with what was typed now.

    Args:
        value: the run's folder or MLflow run id.
        overrides: everything typed, `resume=` included.
        extra: a folder of the user's with more group members, for a warm start.

    Returns:
        The config (None if it does not compose), its problems, and what is resumed.

    Raises:
        ConfigError: there is no such run.
    """
    folder = find(value, overrides)
    saved = read_config(folder, value)
    resumed = Resumed(folder, warm_start=typed_value(overrides, "resume_mode") == "warm_start")
    manifest = _manifest(folder)
    if manifest is not None:
        resumed.choices = {group: manifest.params[group] for group in schema.GROUPS if group in manifest.params}
    problems, values, chosen = _split_choices(overrides, saved, resumed)
    _register(saved, resumed, chosen)
    cfg, found = Composer(extra=extra, name="resumed").compose(values)
    problems += found
    if cfg is None:
        return None, problems, resumed
    if resumed.warm_start:
        resumed.choices |= {group: typed_value(overrides, group) or "" for group in chosen}
        with read_write(cfg):  # the new run names its parent so that it is found from anywhere
            cfg.resume = _run_id(folder) or str(folder)
        return cfg, problems, resumed
    if cfg.resume_mode == "exact":
        with read_write(cfg):  # how a run was begun stays in its record; how often it was resumed does not
            cfg.resume, cfg.resume_mode = saved.get("resume"), saved.get("resume_mode", "exact")
    if not problems:
        now = OmegaConf.to_container(
            OmegaConf.masked_copy(cfg, [str(key) for key in cfg if key != "hydra"]), resolve=True
        )
        resumed.changed = _changes(flatten(saved), flatten(now))
    return cfg, problems, resumed


def _split_choices(
    overrides: Sequence[str], saved: Mapping[str, Any], resumed: Resumed
) -> tuple[list[str], list[str], list[str]]:
    """Take out what a resumed run cannot be told.

    Returns:
        Problems, the overrides to compose with, and the groups that a warm start chooses anew.
    """
    problems, values, chosen = [], [], []
    for override in overrides:
        key, _, choice = override.partition("=")
        group = key.lstrip("+~").partition("@")[0]
        if group == "hydra.run.dir" and not resumed.warm_start:
            problems.append(f"{override}: a resumed run keeps its folder; leave it out")
        elif group not in schema.GROUPS:
            values.append(override)
        elif resumed.warm_start and group not in schema.PRESETS:
            values.append(override)
            chosen.append(group)
        elif choice != resumed.choices.get(group):
            node = saved.get(group) or {}
            keys = [f"{group}.{name}" for name, kept in node.items() if name[0] != "_" and not isinstance(kept, dict)]
            hint = f"write values, such as {', '.join(keys[:4])}" if keys else "write values, as <group>.<key>=<value>"
            problems.append(f"{override}: a resumed run keeps its {group}; {hint}")
    return problems, values, chosen


def _register(saved: Mapping[str, Any], resumed: Resumed, chosen: Sequence[str]) -> None:
    """Make the saved config one that Hydra can compose with; a group chosen anew starts without its old keys."""
    hydra = OmegaConf.to_container(OmegaConf.load(config_folder() / "config.yaml").hydra)
    assert isinstance(hydra, dict)
    if resumed.warm_start:
        # There are no choices to name the folder by: `<date>_<time>_<what>` of the parent tells.
        what = re.sub(r"^\d{4}-\d\d-\d\d_\d\d-\d\d-\d\d_|[^A-Za-z0-9._-]", "", resumed.folder.name)
        hydra["run"]["dir"] = "${oc.env:RUNNER_OUTPUTS,outputs}/runs/${now:%Y-%m-%d}_${now:%H-%M-%S}_" + what
    # A run that was itself begun by a warm start is not warmly started again.
    base = {key: value for key, value in saved.items() if key not in chosen} | {"resume": None, "resume_mode": "exact"}
    if "data" in chosen:
        common = ("batch_size", "val_fraction", "limit", "in_memory", "num_workers")
        base["data"] = {key: saved["data"][key] for key in common if key in saved["data"]}
    defaults: list[Any] = ["schema", "_self_", *({group: None} for group in chosen)]
    defaults += [{"override hydra/job_logging": "none"}, {"override hydra/hydra_logging": "none"}]
    ConfigStore.instance().store(
        name="resumed", node=OmegaConf.create({"defaults": defaults, **base, "hydra": hydra}), provider="runner"
    )


def _changes(before: Mapping[str, str], now: Mapping[str, str]) -> dict[str, str]:
    """What differs between two flattened configs, but for what says how to resume."""
    keys = [key for key in dict.fromkeys([*before, *now]) if key not in ("resume", "resume_mode")]
    return {key: now.get(key, "(left out)") for key in keys if before.get(key) != now.get(key)}


def finished(resumed: Resumed) -> bool:
    """Whether the run has come to its end and nothing is asked of it but that; says so, with its result."""
    result = _result(resumed.folder)
    if result.get("status") != "FINISHED" or any(not key.startswith("runner.") for key in resumed.changed):
        return False
    measured = {k: v for k, v in result.items() if k.startswith(("val/", "test/")) and isinstance(v, int | float)}
    folder = short(resumed.folder)
    log.info("finished   %s has come to its end, after %s epochs: nothing is left to do", folder, result.get("epochs"))
    log.info("result     %s", "   ".join(f"{name} {number:.4f}" for name, number in measured.items()) or "none")
    log.info("go on      python -m runner resume=%s trainer.epochs=<more>", folder)
    return True


def refuse(resumed: Resumed, horizon: bool) -> list[str]:
    """The changes that make exact resumption impossible, a sentence each."""
    problems = []
    for key, value in resumed.changed.items():
        if not key.startswith(MAY_CHANGE):
            problems.append(f"{key}={value}: the resumed run would not be exact; {WARM}")
        elif horizon and key in ("trainer.epochs", "trainer.max_steps"):
            problems.append(f"{key}={value}: this scheduler's course depends on it; {WARM}")
    return problems


def prepare(resumed: Resumed, x: Experiment) -> dict[str, Any] | None:
    """Find the checkpoint, and see that what was changed leaves the run exact.

    Returns:
        The checkpoint to go on from. For a warm start None, as its weights are in the experiment's model
        already.

    Raises:
        ConfigError: a change is refused, or there is no usable checkpoint.
    """
    problems = [] if resumed.warm_start else refuse(resumed, x.schedule.horizon)
    checkpoints = Checkpoints(resumed.folder / "checkpoints")
    try:
        checkpoint, path = checkpoints.load_last()
    except CheckpointError as error:
        raise ConfigError(*problems, f"resume={short(resumed.folder)}: {error}; start anew without resume=") from error
    if path.name != "last.pt":
        log.warning("the last checkpoint is damaged, going on from %s", path)
    progress = checkpoint["progress"]
    if not resumed.warm_start and not problems and progress["data"] != x.splits.fingerprint:
        problems.append(f"data: these are not the samples that the run was trained on; bring them back, or {WARM}")
    if not resumed.warm_start and not problems:
        problems += _refuse_after(progress, resumed.changed)
    done = len(progress["epoch_seconds"])
    if "trainer.epochs" in resumed.changed and not resumed.warm_start and x.trainer.epochs < done:
        problems.append(f"trainer.epochs={x.trainer.epochs}: {done} epochs are done already; write {done} or more")
    if problems:
        raise ConfigError(*problems)
    if not resumed.warm_start:
        return checkpoint
    try:
        x.model.load_state_dict(checkpoint["model"])
    except RuntimeError as error:
        misfit = str(error).splitlines()[-1].strip().rstrip(".")
        raise ConfigError(f"resume={short(resumed.folder)}: its weights do not fit this model: {misfit}") from error
    return None


def _refuse_after(progress: Mapping[str, Any], changed: Mapping[str, str]) -> list[str]:
    """Why training cannot be prolonged exactly after the way it ended."""
    longer = [key for key in ("trainer.epochs", "trainer.max_steps", "trainer.max_time") if key in changed]
    if not longer:
        return []
    key = longer[0]
    if progress["cut_short"]:
        return [f"{key}={changed[key]}: epoch {progress['cut_short']} was cut short, its rest is not trained; {WARM}"]
    if progress["out_of_turn"]:
        return [
            f"{key}={changed[key]}: epoch {progress['out_of_turn']}, the last, was validated out of turn"
            f" (trainer.validate_every_epochs); {WARM}"
        ]
    return []


def find(value: str, overrides: Sequence[str]) -> Path:
    """The folder of a run, by its path or its MLflow id.

    Raises:
        ConfigError: there is none.
    """
    if not value.strip():
        raise ConfigError("resume= is empty: write a run's folder or MLflow run id")
    folder = Path(value).expanduser()
    try:
        there, is_folder = folder.exists(), folder.is_dir()
    except OSError as error:
        raise ConfigError(f"resume={value[:60]}...: {error.strerror}; write a run's folder or MLflow run id") from error
    if is_folder:
        if (folder / "config.yaml").is_file():
            return folder.resolve()
        raise ConfigError(f"resume={value} is no run's folder: there is no config.yaml in it; {_nearest(folder)}")
    if there:
        raise ConfigError(f"resume={value} is a file: name the run's folder; {_nearest(folder)}")
    if not re.fullmatch("[0-9a-f]{32}", value):
        raise ConfigError(f"resume={value}: there is no such folder; {_nearest(folder)}")
    # Late: imports MLflow.
    from .tracking.store import find_run_folder, local_uri

    uri = typed_value(overrides, "tracking.uri") or local_uri(outputs())
    file = sqlite_file(uri)
    if file is not None and not file.exists():
        raise ConfigError(
            f"resume={value}: there is no MLflow store {file}; write the run's folder, or tracking.uri=..."
        )
    return find_run_folder(value, uri)


def _nearest(folder: Path) -> str:
    """Which run may have been meant."""
    for parent in list(folder.absolute().parents)[:2]:
        if (parent / "config.yaml").is_file() and (parent / "checkpoints").is_dir():
            return f"did you mean {short(parent)}?"
    runs = outputs() / "runs"
    names = sorted(run.name for run in runs.iterdir()) if runs.is_dir() else []
    if not names:
        return "write a run's folder or MLflow run id"
    hint = did_you_mean(folder.name, names[-3:])
    return f"{hint} (in {short(runs)})"


def read_config(folder: Path, value: str) -> dict[str, Any]:
    """The config that a run has saved.

    Raises:
        ConfigError: the file is not a run's.
    """
    try:
        saved = yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"resume={value}: its config.yaml cannot be read: {str(error).splitlines()[0]}") from error
    if not isinstance(saved, dict) or "defaults" in saved or not {"seed", "model", "trainer"} <= saved.keys():
        raise ConfigError(
            f"resume={value} is no run's folder: its config.yaml is another program's; {_nearest(folder)}"
        )
    return saved


def _result(folder: Path) -> dict[str, Any]:
    try:
        result = json.loads((folder / "result.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):  # killed before there was one
        return {}
    return result if isinstance(result, dict) else {}


def _run_id(folder: Path) -> str | None:
    return _result(folder).get("run_id")


def _manifest(folder: Path) -> Manifest | None:
    """What the run told MLflow of itself; None if nothing."""
    try:
        return Manifest.load(folder)
    except (OSError, ValueError, TypeError):
        return None
