"""Compose a config from YAML and overrides, and report all wrong overrides at once.

Hydra stops at the first problem. Here each override that it rejects is explained and left out, and the rest is
composed. Neither torch nor MLflow is imported.
"""

from collections.abc import Sequence
from pathlib import Path

from hydra import version
from hydra._internal.config_loader_impl import get_overrides_dirname
from hydra._internal.hydra import Hydra
from hydra._internal.utils import create_config_search_path
from hydra.core.config_search_path import SearchPathQuery
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.types import Override
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, read_write

from runner.config import check_override, schema, store_variable
from runner.config.check_override import ParsedOverride
from runner.config.expansion import check_references
from runner.config.group_files import GroupFiles
from runner.config.hydra_node import check_folder, check_node
from runner.config.interpolation import escape_references
from runner.config.keys import ADDRESSES, CHOSEN_LATER, may_be_new
from runner.config.messages import REFUSED, dotted_keys, explain_error, explain_refusal, find_unset
from runner.config.notify import check_notify
from runner.config.override_reader import OverrideReader, adds_or_deletes
from runner.config.repository import CheckedRepository
from runner.config.zipped import is_zip, outside_a_sweep, with_members
from runner.errors import ConfigError, Problem, did_you_mean
from runner.util.redaction import register_secrets
from runner.util.uri import absolute_uri, expand_home

VERSION_BASE = "1.3"

INTERNAL = ("schema", "resumed")
"""Configs that are not files, and that a user cannot choose."""


def config_folder() -> Path:
    """Find the folder of the YAML files: in the installed package, or at the top of the repository."""
    here = Path(__file__).resolve().parents[1]  # src/runner, or runner in site-packages
    return next(folder for folder in (here / "conf", here.parents[1] / "conf") if folder.is_dir())


class Composer:
    """Hydra's composition over one or two config folders.

    Args:
        folder: the primary config folder; runner's own by default.
        extra: a folder with more group members.
        name: the name of the primary config.
        described: what messages call the primary config.

    Attributes:
        options: the arguments of the constructor, with absolute paths, to make the composer in another process.
        typed: the arguments of the command line, without credentials, for the record.
        reads_variable: use the store of MLFLOW_TRACKING_URI if the config names none; False for a resumed run.
        added: the overrides that were added for that store.
        files: of the groups.
        reader: reads overrides.

    Raises:
        ConfigError: a folder or the primary config does not exist.
    """

    def __init__(
        self, folder: Path | None = None, extra: str | None = None, name: str = "config", described: str = "the config"
    ) -> None:
        schema.register()
        version.setbase(VERSION_BASE)
        self.typed: list[str] | None = None
        self._recorded: dict[str, Override] = {}
        self.reads_variable, self.added = name != "resumed", list[str]()
        self.options = {
            "config_path": str(folder.absolute()) if folder else None,
            "config_name": name,
            "config_dir": str(Path(expand_home(extra)).absolute()) if extra else None,
        }
        folder = folder or config_folder()
        check_folder("--config-path", folder, "leave it out for runner's own")
        search_path = create_config_search_path(str(folder.resolve()))
        if extra is not None:
            _check_extra(extra, folder)
            search_path.prepend(
                provider="command-line",
                path=f"file://{Path(expand_home(extra)).resolve()}",
                anchor=SearchPathQuery(provider="schema"),
            )
        GlobalHydra.instance().clear()
        self.hydra = Hydra.create_main_hydra2(task_name="runner", config_search_path=search_path)
        self.name, self.described = name.removesuffix(".yaml"), described
        self._loader = self.hydra.config_loader
        repository = CheckedRepository(search_path, config_folder())
        self._loader.repository = repository  # type: ignore[attr-defined]
        self.files = GroupFiles(self._loader, repository, self.name)
        self.reader = OverrideReader(self._loader, self.files, self.name)
        if not repository.config_exists(self.name):
            names = [
                option for option in self._loader.get_group_options("") if option[0] != "_" and option not in INTERNAL
            ]
            text = f"--config-name {name}: no such config"
            raise ConfigError(Problem("--config-name", text, did_you_mean(name, names), topic="choice"))

    def compose(self, overrides: Sequence[str], mode: RunMode = RunMode.RUN) -> tuple[DictConfig | None, list[Problem]]:
        """Compose a config, including Hydra's node.

        Returns:
            The config without the wrong overrides (None if it still does not compose), and the problems. Keys without
            a value are missing (`???`).

        Raises:
            ConfigError: the references of the config stand for too many values.
            RecursionError: the config includes itself.
        """
        if mode is RunMode.MULTIRUN:
            overrides, of_zips = with_members(overrides)
        else:
            of_zips = [outside_a_sweep(text) for text in overrides if is_zip(text)]
            overrides = [text for text in overrides if not is_zip(text)]
        cfg, problems = self._compose_usable(overrides, mode)
        if cfg is not None and self.reader.learn_texts(cfg, overrides):
            cfg, problems = self._compose_usable(overrides, mode)
        problems += of_zips
        if cfg is not None:
            check_references(cfg)
            HydraConfig.instance().set_config(cfg)  # for references to ${hydra:...}
            register_secrets(OmegaConf.to_container(cfg, resolve=False))
            problems += check_notify(cfg)
            problems += find_unset(cfg)
            problems += check_override.check_optimizers(cfg, overrides)
            problems += check_node(cfg.hydra)
            _make_absolute(cfg)
        return cfg, problems

    def _compose_usable(self, overrides: Sequence[str], mode: RunMode) -> tuple[DictConfig | None, list[Problem]]:
        """Compose the valid overrides, and explain the others."""
        usable, several, problems = self.reader.sort(overrides, mode)
        # Hydra sets values last. To find one that it rejects, everything would be composed again, so values are set on
        # the config that is composed without them. This is not possible if a key is added or deleted: order matters.
        values = [typed for typed in usable if self.reader.is_value(typed.override)]
        if any(adds_or_deletes(typed.override) for typed in usable):
            values = []
        rest = [typed for typed in usable if typed not in values]
        cfg: DictConfig | None
        try:
            cfg = self._compose(rest, mode)
        except REFUSED as error:
            cfg, refusals = self._compose_rest(rest, mode, error)
            problems += refusals
        if cfg is not None and values:
            problems += self._set(cfg, values)
            self.record(cfg, [typed.translated for typed in usable if not typed.override.is_hydra_override()])
        if cfg is not None and self.reads_variable and not problems:
            cfg, problems = self._with_variable(cfg, usable, mode)
        problems += [check_override.explain_several(self.files, typed, cfg) for typed in several]
        return cfg, problems

    def _compose(self, usable: Sequence[ParsedOverride], mode: RunMode) -> DictConfig:
        overrides = [typed.translated for typed in usable]
        return self.hydra.compose_config(
            config_name=self.name, overrides=overrides, run_mode=mode, with_log_configuration=False
        )

    def _compose_rest(
        self, usable: list[ParsedOverride], mode: RunMode, error: Exception
    ) -> tuple[DictConfig | None, list[Problem]]:
        """Find the overrides that do not compose, choices of groups first. It halves them: composing takes 0.1 s."""
        good: list[ParsedOverride] = []
        try:
            base = self._compose(good, mode)
        except REFUSED as broken:
            return None, [explain_error(broken, f"{self.described} does not compose")]
        problems = []
        left = sorted(usable, key=lambda typed: not self.files.options(typed.override.key_or_group))
        while left:
            composed, tried = 0, len(left)  # of those left: how many compose, and how many are tried together
            failed, refusal = tried + 1, error
            while composed + 1 < failed:
                try:
                    base, composed = self._compose([*good, *left[:tried]], mode), tried
                except REFUSED as refused:
                    failed, refusal = tried, refused
                tried = (composed + failed) // 2
            good += left[:composed]
            if failed <= len(left):
                problems.append(self._explain(left[composed], base, refusal))
            left = left[failed:]
        return base, problems or [explain_error(error, f"{self.described} does not compose")]

    def _with_variable(
        self, cfg: DictConfig, usable: Sequence[ParsedOverride], mode: RunMode
    ) -> tuple[DictConfig, list[Problem]]:
        """Set the store of MLFLOW_TRACKING_URI in a config that names none; see `store_variable`."""
        named = not OmegaConf.is_missing(cfg.tracking, "uri") and cfg.tracking._get_node("uri")._value() is not None
        named = named or any(typed.override.key_or_group == "tracking.uri" for typed in usable)
        if store_variable.read_value() is None or named or cfg.tracking.name == "off":
            return cfg, []
        try:
            self.added = store_variable.overrides(cfg.tracking.name, cfg.hydra.runtime.choices["tracking"])
        except ConfigError as error:
            cfg.tracking.uri = None  # so that it is not reported as missing too
            return cfg, error.problems
        more = [ParsedOverride(text, text, self.reader.parser.parse_override(text)) for text in self.added]
        replaced = {typed.override.key_or_group for typed in more}
        return self._compose([*(t for t in usable if t.override.key_or_group not in replaced), *more], mode), []

    def _set(self, cfg: DictConfig, values: Sequence[ParsedOverride]) -> list[Problem]:
        """Set the values of keys, and return a problem for each that is rejected."""
        problems = []
        for typed in values:
            try:
                key, value = typed.override.key_or_group, typed.override.value()
                OmegaConf.update(cfg, key, value, merge=True, force_add=may_be_new(key))
            except REFUSED as error:
                problems.append(self._explain(typed, cfg, error))
        return problems

    def record(self, cfg: DictConfig, tasks: Sequence[str]) -> None:
        """Record the overrides of a config in Hydra's node, as Hydra does.

        Args:
            cfg: the config, with Hydra's node.
            tasks: the overrides of other keys than Hydra's, as they are passed to Hydra.
        """
        job = cfg.hydra.job
        for task in tasks:
            if task not in self._recorded:
                self._recorded[task] = self.reader.parser.parse_overrides([task])[0]
        parsed = [self._recorded[task] for task in tasks]
        with read_write(cfg.hydra):
            cfg.hydra.overrides.task = list(tasks)
            job.override_dirname = get_overrides_dirname(overrides=parsed, **job.config.override_dirname)

    def _explain(self, typed: ParsedOverride, base: DictConfig, error: Exception) -> Problem:
        text, override = typed.text, typed.override
        if self.files.options(override.key_or_group):
            return explain_error(error, text)
        if override.key_or_group.startswith("hydra."):
            known = dotted_keys(base.hydra, "hydra.")
            problem = explain_refusal(text, override, known, base, {})
        else:
            problem = explain_refusal(
                text,
                override,
                [*dotted_keys(base), *CHOSEN_LATER],
                base,
                self.files.keys_of_members(override.key_or_group),
            )
        return problem or explain_error(error, text)


def _make_absolute(cfg: DictConfig) -> None:
    """Make the addresses of databases absolute, so that resuming from another folder finds the same databases."""
    with read_write(cfg.hydra):
        for key in ADDRESSES:
            parent = OmegaConf.select(cfg, key.rpartition(".")[0])
            if key == "tracking.uri" and OmegaConf.is_interpolation(parent, "uri"):
                continue  # a reference is recorded unchanged
            if isinstance(address := OmegaConf.select(cfg, key), str):
                OmegaConf.update(cfg, key, escape_references(absolute_uri(address)))


def _check_extra(extra: str, folder: Path) -> None:
    """Check that the user's config folder exists, and that none of its files would be ignored.

    Raises:
        ConfigError: the folder does not exist, or a file has the same name as one of the primary folder, which takes
            precedence.
    """
    key, own = "--config-dir", Path(expand_home(extra))
    check_folder(key, own, "name a folder with your group files")
    if own.resolve() == folder.resolve():
        return
    files = [path.relative_to(own).as_posix() for path in sorted(own.glob("**/*.yaml"))]
    if same := [name for name in files if (folder / name).is_file()]:
        names = ", ".join(same[:3]) + (", ..." if len(same) > 3 else "")
        text = f"{key} {extra}: runner has {names} too, which takes precedence"
        raise ConfigError(Problem(key, text, "give yours another name", topic="conflict"))
