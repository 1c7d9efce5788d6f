"""Going on with a run: its saved config is the base, and only what keeps the course exact may change."""

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
from runner.config.compose import Composer, config_folder
from runner.config.interpolation import escape_all_references
from runner.config.keys import GROUPS, PRESETS, SHARED_KEYS, flatten
from runner.config.overrides import last_value
from runner.errors import ConfigError, Problem
from runner.optimizer import load_state
from runner.rundir import layout
from runner.rundir.checkpoint import CheckpointError, Checkpoints, load_loss
from runner.rundir.folders import display_path, shell_path
from runner.rundir.manifest import FOLDER, has_manifest, manifest_of
from runner.rundir.manifest import NAME as MANIFEST
from runner.runs import exactness, recovery
from runner.runs.describe import logged_params
from runner.saved import run as saved_runs
from runner.saved.run import SavedRun
from runner.util.buffers import load_module
from runner.util.files import load_json_or_empty
from runner.util.redaction import redact_all

log = logging.getLogger("runner")


@dataclass
class Resumed:
    """A run to go on with.

    Attributes:
        run: as it was found.
        folder: its own; None while only MLflow has it.
        warm_start: only its weights are used, by a new run.
        changed: the keys that are not as they were, with their new values.
        choices: which member of each group was chosen, as far as is recorded.
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
        """Its folder, or all that MLflow has of it, in a temporary one.

        Raises:
            ConfigError: MLflow has not what it takes to go on.
        """
        if self.folder is not None:
            return self.folder
        if self._fetched is None:
            self._fetched = recovery.fetch(self.run)
        return self._fetched

    @cached_property
    def checkpoint(self) -> dict[str, Any]:
        """The newest one that is whole.

        Raises:
            CheckpointError: there is none.
            ConfigError: MLflow has not what it takes to go on.
        """
        return Checkpoints(self.files / layout.CHECKPOINTS).load_last()

    @property
    def preprocessing(self) -> dict[str, Any]:
        """How the run prepares its samples; nothing where its checkpoint cannot be read, which `prepare` tells."""
        try:
            return dict(self.checkpoint.get("preprocessing", {}))
        except (CheckpointError, ConfigError):
            return {}

    def recover(self) -> Path:
        """The folder to go on in, which is made anew where only MLflow has the run."""
        if self.folder is None:
            self.folder = recovery.recover(self.run, self.files, logged_params(self.run.config, self.choices))
        return self.folder


def compose(
    value: str, overrides: Sequence[str], extra: str | None = None
) -> tuple[DictConfig | None, list[Problem], Resumed]:
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
    run = saved_runs.find(value, "resume", last_value(overrides, "tracking.uri"))
    saved = run.config
    warm_start = last_value(overrides, "resume_mode") == "warm_start"
    resumed = Resumed(run, warm_start, choices=dict(run.choices))
    problems, values, chosen = _split_choices(overrides, saved, resumed)
    _register(saved, chosen, of_parent=run.label if warm_start else None)
    cfg, found = Composer(extra=extra, name="resumed").compose(values)
    problems += found
    if cfg is None:
        return None, problems, resumed
    if resumed.warm_start:
        resumed.choices |= {group: last_value(overrides, group) or "" for group in chosen}
        with read_write(cfg):  # the new run names its parent so that it is found from anywhere
            cfg.resume = run.run_id or str(run.folder)
        return cfg, problems, resumed
    if cfg.resume_mode == "exact":
        with read_write(cfg):  # how a run was begun stays in its record; how often it was resumed does not
            cfg.resume, cfg.resume_mode = saved.get("resume"), saved.get("resume_mode", "exact")
    if not problems:
        now = recorded(OmegaConf.masked_copy(cfg, [str(key) for key in cfg if key not in ("hydra", "sweep")]))
        resumed.changed = _changes(flatten(redact_all(saved)), flatten(redact_all(now)))
    return cfg, problems, resumed


def compose_saved(saved: Mapping[str, Any], overrides: Sequence[str] = ()) -> tuple[DictConfig | None, list[Problem]]:
    """Compose a saved config for a run that is looked at and not gone on with.

    Args:
        saved: as the run has left it.
        overrides: values typed now; no choices of groups.

    Returns:
        The config with Hydra's own node (None if it does not compose), and its problems.
    """
    if "${" in str(saved["tracking"].get("uri")):  # to look at it no store is needed, and the variable may be gone
        saved = {**saved, "tracking": {**saved["tracking"], "name": "off", "uri": None}}
    _register(saved, ())
    return Composer(name="resumed").compose(overrides)


def _split_choices(
    overrides: Sequence[str], saved: Mapping[str, Any], resumed: Resumed
) -> tuple[list[Problem], list[str], list[str]]:
    """Take out what a resumed run cannot be told.

    Returns:
        Problems, the overrides to compose with, and the groups that a warm start chooses anew.
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
        elif choice != resumed.choices.get(group):
            node = saved.get(group) or {}
            own = {name: kept for name, kept in node.items() if name[0] != "_" and name != "weights"}
            keys = [f"{group}.{name}" for name, kept in own.items() if not isinstance(kept, dict)]
            hint = f"write values, such as {', '.join(keys[:4])}" if keys else "write values, as <group>.<key>=<value>"
            text = f"{override}: the {group} of a resumed run is fixed"
            problems.append(Problem(group, text, hint, topic="conflict"))
    return problems, values, chosen


def _register(saved: Mapping[str, Any], chosen: Sequence[str], of_parent: str | None = None) -> None:
    """Make the saved config one that Hydra can compose with; a group chosen anew starts without its old keys.

    Args:
        saved: the config.
        chosen: the groups that are chosen anew.
        of_parent: the label of the run that a warm start is from.
    """
    shared = OmegaConf.to_container(OmegaConf.load(config_folder() / layout.CONFIG))
    assert isinstance(shared, dict)
    hydra = shared["hydra"]
    if of_parent is not None:
        # There are no choices to name the folder by: `<date>_<time>_<what>` of the parent tells.
        hydra["run"]["dir"] = "${oc.env:RUNNER_OUTPUTS,outputs}/runs/${now:%Y-%m-%d}_${now:%H-%M-%S}_" + of_parent
    # A run that was itself begun by a warm start is not warmly started again.
    base = {key: value for key, value in saved.items() if key not in chosen}
    base = escape_all_references(base, keep="oc.env:")  # it is resolved; what is left stands for secrets
    base |= {"resume": None, "resume_mode": "exact", "sweep": shared["sweep"]}  # of which a run keeps nothing
    for group in set(chosen) & set(SHARED_KEYS):
        base[group] = {key: saved[group].get(key, shared[group].get(key)) for key in SHARED_KEYS[group]}
    defaults: list[Any] = ["schema", "_self_", *({group: None} for group in chosen)]
    defaults += [{"override hydra/job_logging": "none"}, {"override hydra/hydra_logging": "none"}]
    ConfigStore.instance().store(
        name="resumed", node=OmegaConf.create({"defaults": defaults, **base, "hydra": hydra}), provider="runner"
    )


def _changes(before: Mapping[str, str], now: Mapping[str, str]) -> dict[str, str]:
    """What differs between two flattened configs, but for what says how to resume."""
    before = {key: value for key, value in schema.NEW_KEYS.items() if key in now} | dict(before)
    keys = [key for key in dict.fromkeys([*before, *now]) if key not in ("resume", "resume_mode")]
    return {key: now.get(key, "(left out)") for key in keys if before.get(key) != now.get(key)}


def is_finished(resumed: Resumed) -> bool:
    """Whether the run has come to its end and nothing is asked of it but that; says so, with its result."""
    path = resumed.run.file(layout.RESULT)
    result = load_json_or_empty(path) if path is not None else {}
    if result.get("status") != "FINISHED" or any(not key.startswith("runner.") for key in resumed.changed):
        return False
    numbers = {name: value for name, value in result.items() if isinstance(value, int | float)}
    measured = {k: v for k, v in numbers.items() if k.startswith(("val/", "test/"))}
    measured = measured or {k: v for k, v in numbers.items() if k.startswith("train/")}
    place, epochs = resumed.run.place, result.get("epochs")
    log.info("finished   %s has come to its end, after %s epochs: nothing is left to do", place, epochs)
    log.info("result     %s", "   ".join(f"{name} {number:.4f}" for name, number in measured.items()) or "none")
    named = shell_path(resumed.folder) if resumed.folder is not None else resumed.run.run_id
    log.info("go on      python -m runner resume=%s trainer.epochs=<more>", named)
    return True


def load_checkpoint(resumed: Resumed, experiment: Experiment) -> dict[str, Any] | None:
    """Find the checkpoint, and see that what was changed leaves the run exact.

    Returns:
        The checkpoint to go on from. For a warm start None, as its weights are in the experiment's model
        already.

    Raises:
        ConfigError: a change is refused, there is no usable checkpoint, or it does not fit.
    """
    problems = [] if resumed.warm_start else exactness.check_keys(resumed.changed, experiment.schedule.horizon)
    if resumed.folder is not None and has_manifest(resumed.folder) and manifest_of(resumed.folder) is None:
        damaged = display_path(resumed.folder / FOLDER / MANIFEST)
        problems.append(f"{damaged} is damaged: move it away, and the run goes on as another MLflow run")
    try:
        checkpoint = resumed.checkpoint
    except CheckpointError as error:
        raise ConfigError(*problems, f"{resumed.run.argument}: {error}; start anew without resume=") from error
    progress = checkpoint["progress"]
    if not resumed.warm_start and not problems and progress["data"] != experiment.splits.fingerprint:
        problems.append(
            f"data: these are not the samples that the run was trained on; bring them back, or {exactness.WARM}"
        )
    if not resumed.warm_start and not problems:
        problems += exactness.check_progress(progress, resumed.run.config, resumed.changed, experiment.trainer)
        problems += exactness.check_reading(
            resumed.run.config, resumed.changed, experiment.splits.train, experiment.in_memory
        )
    done = len(progress["epoch_seconds"])
    if "trainer.epochs" in resumed.changed and not resumed.warm_start and experiment.trainer.epochs < done:
        problems.append(
            f"trainer.epochs={experiment.trainer.epochs}: {done} epochs are done already; write {done} or more"
        )
    if problems:
        raise ConfigError(*problems)
    # What does not fit is found before the run's folder is touched: the code may have changed.
    unsaved = checkpoint.get("buffers", {}).get("model")
    _load(
        resumed,
        lambda: load_module(experiment.model, checkpoint["model"], unsaved),
        "its weights do not fit this model",
    )
    if resumed.warm_start:
        log.info("weights    from %s, epoch %d", resumed.run.place, done)
        del resumed.checkpoint  # it has given what it is needed for
        return None
    _load(
        resumed,
        lambda: load_state(experiment.optimizer, checkpoint["optimizer"]),
        "the state of its optimizer does not fit this one",
    )
    _load(resumed, lambda: load_loss(experiment.loss, checkpoint), "the state of its loss does not fit this one")
    return checkpoint


def _load(resumed: Resumed, load: Callable[[], object], misfit: str) -> None:
    try:
        load()
    except Exception as error:  # a model or an optimizer of the user's may do anything
        why = str(error).splitlines()[-1:] or [type(error).__name__]
        raise ConfigError(f"{resumed.run.argument}: {misfit}: {why[0].strip().rstrip('.')}") from error
