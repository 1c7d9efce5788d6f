"""Resume a run: its saved config is the base, and only settings that keep it exact may change."""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from hydra.core.config_store import ConfigStore
from omegaconf import DictConfig, OmegaConf, read_write

from runner.assembly.experiment import Experiment
from runner.assembly.record import recorded
from runner.config import schema
from runner.config.augment_list import is_about_augment, with_augment_keys
from runner.config.compose import Composer, config_folder
from runner.config.interpolation import escape_all_references
from runner.config.keys import GROUPS, PRESETS, SHARED_KEYS, flatten
from runner.config.overrides import last_value, typed_store
from runner.config.settings import LARGEST
from runner.errors import ConfigError, Problem
from runner.optimizer import load_state
from runner.rundir import cleaned, layout, stack
from runner.rundir.checkpoint import Checkpoints
from runner.rundir.checkpoint_file import CheckpointError
from runner.rundir.checkpoint_parts import load_task
from runner.rundir.folders import display_path, shell_path
from runner.rundir.manifest import FOLDER, has_manifest, manifest_of
from runner.rundir.manifest import NAME as MANIFEST
from runner.runs import exactness, recovery
from runner.runs.describe import logged_params
from runner.saved import run as saved_runs
from runner.saved.run import SavedRun, lacks_artifacts
from runner.util.buffers import load_module
from runner.util.files import load_json_or_empty
from runner.util.redaction import redact_all

log = logging.getLogger("runner")


@dataclass
class Resumed:
    """A run to resume, or to start from.

    Attributes:
        run: the saved run.
        folder: its folder; None while only MLflow has the run.
        warm_start: whether only its weights are used, by a new run.
        changed: the keys that differ from the saved config, with their new values.
        choices: the chosen member of each group, as far as it was recorded.
    """

    run: SavedRun
    warm_start: bool
    changed: dict[str, str] = field(default_factory=dict)
    choices: dict[str, str] = field(default_factory=dict)
    folder: Path | None = field(init=False)
    _fetched: Path | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        self.folder = self.run.folder

    @property
    def files(self) -> Path:
        """The run's folder, or a temporary folder with its files from MLflow.

        Raises:
            ConfigError: MLflow does not have the files that a resume needs.
        """
        if self.folder is not None:
            return self.folder
        if self._fetched is None:
            self._fetched = recovery.fetch(self.run)
        return self._fetched

    @cached_property
    def checkpoint(self) -> dict[str, Any]:
        """The newest intact checkpoint.

        Raises:
            CheckpointError: there is none.
            ConfigError: MLflow does not have the files that a resume needs.
        """
        if self.folder is not None and (self.folder.parent / layout.STACKS).is_dir() and self.folder.name.isdecimal():
            stack.restore(self.folder.parent, only=int(self.folder.name))  # a job whose process was killed
        return Checkpoints(self.files / layout.CHECKPOINTS).load_last()

    @property
    def preprocessing(self) -> dict[str, Any]:
        """The run's preprocessing; empty if its checkpoint is unreadable, which `load_checkpoint` reports."""
        try:
            return dict(self.checkpoint.get("preprocessing", {}))
        except (CheckpointError, ConfigError):
            return {}

    def recover(self) -> Path:
        """Return the run's folder; it is created again if only MLflow has the run."""
        if self.folder is None:
            self.folder = recovery.recover(self.run, self.files, logged_params(self.run.config, self.choices))
        return self.folder


def compose(
    value: str, overrides: Sequence[str], extra: str | None = None
) -> tuple[DictConfig | None, list[Problem], Resumed]:
    """Compose the saved config of a run with new overrides.

    Args:
        value: the run's folder or MLflow run id.
        overrides: all overrides, `resume=` included.
        extra: a user's folder with more group members, for a warm start.

    Returns:
        The config (None if it does not compose), its problems, and the run.

    Raises:
        ConfigError: the run does not exist.
    """
    run = saved_runs.find(value, "resume", typed_store(overrides))
    saved = run.config
    warm_start = last_value(overrides, "resume_mode") == "warm_start"
    resumed = Resumed(run, warm_start, choices=dict(run.choices))
    problems, values, chosen = _split_choices(overrides, saved, resumed)
    if any(is_about_augment(text) for text in values):
        saved = with_augment_keys(saved)
    _register(saved, chosen, of_parent=run.label if warm_start else None)
    cfg, more = _composer(run, extra).compose(values)
    unknown = {problem.key for problem in more if problem.topic in ("unknown", "choice")}
    problems += [problem for problem in more if problem.topic != "missing" or problem.key not in unknown]
    if cfg is None:
        return None, problems, resumed
    if resumed.warm_start:
        resumed.choices |= {group: last_value(overrides, group) or "" for group in chosen}
        with read_write(cfg):  # names the parent so that it is found from any directory
            cfg.resume = run.run_id or str(run.folder)
        return cfg, problems, resumed
    if OmegaConf.select(cfg, "data.batch_size") == LARGEST:  # found when the run was started
        cfg.data.batch_size = saved["data"]["batch_size"]
    if cfg.resume_mode == "exact":
        with read_write(cfg):  # the record has how the run was started, not how often it was resumed
            cfg.resume, cfg.resume_mode = saved.get("resume"), saved.get("resume_mode", "exact")
    if not problems:
        now = recorded(OmegaConf.masked_copy(cfg, [str(key) for key in cfg if key not in ("hydra", "sweep")]))
        resumed.changed = _changes(flatten(redact_all(saved)), flatten(redact_all(now)))
    return cfg, problems, resumed


def compose_saved(
    run: SavedRun, overrides: Sequence[str] = (), replaced: Mapping[str, Any] | None = None
) -> tuple[DictConfig | None, list[Problem]]:
    """Compose a saved config to evaluate or repeat the run, not to resume it.

    Args:
        run: the run.
        overrides: new values; no choices of groups.
        replaced: groups that replace those of the saved config.

    Returns:
        The config with Hydra's own node (None if it does not compose), and its problems.
    """
    saved = run.config | dict(replaced or {})
    saved["tracking"] = {**saved["tracking"], "register": None, "notify": []}
    if "${" in str(saved["tracking"].get("uri")):  # no store is needed here, and the variable may be unset
        saved = {**saved, "tracking": {**saved["tracking"], "name": "off", "uri": None}}
    _register(saved, ())
    return _composer(run).compose(overrides)


def _composer(run: SavedRun, extra: str | None = None) -> Composer:
    """Make the composer of the registered config of a run, whose problems name the file."""
    return Composer(extra=extra, name="resumed", described=f"{run.argument}: its {layout.CONFIG}")


def _split_choices(
    overrides: Sequence[str], saved: Mapping[str, Any], resumed: Resumed
) -> tuple[list[Problem], list[str], list[str]]:
    """Separate the overrides that choose a member of a group.

    Returns:
        The problems, the overrides to compose with, and the groups that a warm start chooses again.
    """
    problems, values, chosen = list[Problem](), list[str](), list[str]()
    for override in overrides:
        key, _, choice = override.partition("=")
        group = key.lstrip("+~").partition("@")[0]
        if group == "hydra.run.dir" and not resumed.warm_start:
            text = f"{override}: a resumed run stays in its folder"
            problems.append(Problem("hydra.run.dir", text, "leave it out", topic="conflict"))
        elif group not in GROUPS:
            values.append(override)
        elif resumed.warm_start and group not in PRESETS:
            values.append(override)
            chosen.append(group)
        elif choice != resumed.choices.get(group, (saved.get(group) or {}).get("name")):  # untracked: no choices
            node = saved.get(group) or {}
            own = {name: old for name, old in node.items() if name[0] != "_" and name != "weights"}
            keys = [f"{group}.{name}" for name, old in own.items() if not isinstance(old, dict)]
            hint = f"write values, such as {', '.join(keys[:4])}" if keys else "write values, as <group>.<key>=<value>"
            text = f"{override}: the {group} of a resumed run is fixed"
            problems.append(Problem(group, text, hint, topic="conflict"))
    return problems, values, chosen


def _register(saved: Mapping[str, Any], chosen: Sequence[str], of_parent: str | None = None) -> None:
    """Register the saved config with Hydra, without the keys of groups that are chosen again.

    Args:
        saved: the saved config.
        chosen: the groups that are chosen again.
        of_parent: the label of the parent run of a warm start.
    """
    shared = OmegaConf.to_container(OmegaConf.load(config_folder() / layout.CONFIG))
    assert isinstance(shared, dict)
    hydra = shared["hydra"]
    if of_parent is not None:
        # No choices to name the folder after: it gets the label of the parent.
        hydra["run"]["dir"] = "${oc.env:RUNNER_OUTPUTS,outputs}/runs/${now:%Y-%m-%d}_${now:%H-%M-%S}_" + of_parent
    base = {key: value for key, value in saved.items() if key not in chosen}
    base = escape_all_references(base, keep="oc.env:")  # the saved config is resolved; what remains are secrets
    # A warm start's run is not started that way again, and a run does not save `sweep`.
    base |= {"resume": None, "resume_mode": "exact", "sweep": shared["sweep"]}
    for group in set(chosen) & set(SHARED_KEYS):
        base[group] = {key: saved[group].get(key, shared[group].get(key)) for key in SHARED_KEYS[group]}
    defaults: list[Any] = ["schema", "_self_", *({group: None} for group in chosen)]
    defaults += [{"override hydra/job_logging": "none"}, {"override hydra/hydra_logging": "none"}]
    ConfigStore.instance().store(
        name="resumed", node=OmegaConf.create({"defaults": defaults, **base, "hydra": hydra}), provider="runner"
    )


def _changes(before: Mapping[str, str], now: Mapping[str, str]) -> dict[str, str]:
    """Return the keys that differ between two flattened configs, without those about the resume itself."""
    before = {key: value for key, value in schema.NEW_KEYS.items() if key in now} | dict(before)
    keys = [key for key in dict.fromkeys([*before, *now]) if key not in ("resume", "resume_mode")]
    return {key: now.get(key, "(left out)") for key in keys if before.get(key) != now.get(key)}


def is_finished(resumed: Resumed) -> bool:
    """Whether the run is finished and no setting has changed; if so, log its result."""
    path = resumed.run.file(layout.RESULT)
    result = load_json_or_empty(path) if path is not None else {}
    if result.get("status") != "FINISHED" or any(not key.startswith("runner.") for key in resumed.changed):
        return False
    if lacks_artifacts(result):
        log.info("finished   %s has no plots and no saved model: they are made now", resumed.run.place)
        return False
    numbers = {name: value for name, value in result.items() if isinstance(value, int | float)}
    measured = {k: v for k, v in numbers.items() if k.startswith(("val/", "test/"))}
    measured = measured or {k: v for k, v in numbers.items() if k.startswith("train/")}
    place, epochs = resumed.run.place, result.get("epochs")
    if epochs == 0:
        log.info("finished   %s, a test of learning rates, is finished: nothing to do", place)
        return True
    log.info("finished   %s is finished, after %s epochs: nothing to do", place, epochs)
    log.info("result     %s", "   ".join(f"{name} {number:.4f}" for name, number in measured.items()) or "none")
    named = shell_path(resumed.folder) if resumed.folder is not None else resumed.run.run_id
    log.info("resume     python -m runner resume=%s trainer.epochs=<more>", named)
    return True


def load_checkpoint(resumed: Resumed, experiment: Experiment) -> dict[str, Any] | None:
    """Load the checkpoint into the experiment, after checking that the changes keep the run exact.

    Returns:
        The checkpoint to resume from. None for a warm start, as the model has its weights already.

    Raises:
        ConfigError: a change is not allowed, or there is no usable checkpoint, or it does not fit.
    """
    problems = [] if resumed.warm_start else exactness.check_keys(resumed.changed, experiment.schedule.horizon)
    if resumed.folder is not None and has_manifest(resumed.folder) and manifest_of(resumed.folder) is None:
        damaged = resumed.folder / FOLDER / MANIFEST
        suggestion = f"move it away, to resume as another MLflow run: mv {shell_path(damaged)} {damaged.name}.damaged"
        problems.append(Problem("resume", f"{display_path(damaged)} is damaged", suggestion, topic="file"))
    try:
        checkpoint = resumed.checkpoint
    except CheckpointError as error:
        reason = cleaned.describe(resumed.folder) or str(error)
        problem = resumed.run.problem(reason, "leave it out to start a new run")
        raise ConfigError(*problems, problem) from error
    if not resumed.warm_start:
        problems = problems or _check_exact(resumed, checkpoint["progress"], experiment)
    done = checkpoint["progress"]["epoch"] - 1
    if "trainer.epochs" in resumed.changed and not resumed.warm_start and experiment.trainer.epochs < done:
        text = f"trainer.epochs={experiment.trainer.epochs} is less than the {done} epochs that are done"
        suggestion = f"write trainer.epochs={done}, or more"
        problems.append(Problem("trainer.epochs", text, suggestion, topic="range"))
    if problems:
        raise ConfigError(*problems)
    # The code may have changed. This finds a misfit before the run's folder is changed.
    unsaved = checkpoint.get("buffers", {}).get("model")
    _load(resumed, lambda: load_module(experiment.model, checkpoint["model"], unsaved), "weights", "model")
    if resumed.warm_start:
        log.info("weights    from %s, epoch %d", resumed.run.place, done)
        del resumed.checkpoint  # frees its memory
        return None
    _load(resumed, lambda: load_state(experiment.optimizer, checkpoint["optimizer"]), "optimizer state", "optimizer")
    _load(resumed, lambda: load_task(experiment.task, checkpoint), "task state", "task")
    return checkpoint


def _check_exact(resumed: Resumed, progress: Mapping[str, Any], experiment: Experiment) -> list[Problem]:
    """Find out whether the data and the changes keep the run exact."""
    if progress["data"] != experiment.splits.fingerprint:
        text = "data: these are not the samples that the run was trained on"
        return [Problem("data", text, f"restore them, or {exactness.WARM}", topic="data")]
    config, changed = resumed.run.config, resumed.changed
    problems = exactness.check_progress(progress, config, changed, experiment.trainer)
    return problems + exactness.check_reading(config, changed, experiment.splits.train, experiment.in_memory)


def _load(resumed: Resumed, load: Callable[[], object], part: str, target: str) -> None:
    try:
        load()
    except Exception as error:  # a user's model or optimizer may raise anything
        reason = str(error).splitlines()[-1:] or [type(error).__name__]
        text = f"its {part} does not fit the {target}" if part != "weights" else f"its weights do not fit the {target}"
        problem = resumed.run.problem(f"{text}: {reason[0].strip().rstrip('.')}", topic="shape")
        raise ConfigError(problem) from error
