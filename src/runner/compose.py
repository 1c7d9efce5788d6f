"""Composing a config out of YAML and overrides, with every mistake of the overrides named at once.

Hydra stops at the first mistake; here each override that it refuses is explained, left out, and the rest
is composed. Imports neither torch nor MLflow.
"""

from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path

from hydra import version
from hydra._internal.hydra import Hydra
from hydra._internal.utils import create_config_search_path
from hydra.core.config_search_path import SearchPathQuery
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.object_type import ObjectType
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, Quote, QuotedString
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from . import schema
from .errors import ConfigError, did_you_mean

VERSION_BASE = "1.3"

REFUSED = (HydraException, OmegaConfBaseException, ValueError)
"""What composing raises for a config that is wrong."""

IN_WORDS = {
    "could not be converted to Integer": "write a whole number",
    "could not be converted to Float": "write a number",
    "is not a valid bool": "write true or false",
    "is not Optional": "null is not allowed here",
}
"""What to write instead, for OmegaConf's own words."""


def config_folder() -> Path:
    """Where the YAML files are: in the installed package, or at the top of the repository."""
    here = Path(__file__).resolve().parent
    return next(folder for folder in (here / "conf", here.parents[1] / "conf") if folder.is_dir())


def quote(argument: str, sweeping: bool = False) -> str:
    """Quote the value of a path-like key where Hydra's grammar cannot read it: `data.root=/a b (c)`."""
    key, equals, value = argument.partition("=")
    if not equals or key.lstrip("+~") not in schema.PATH_KEYS or value == "":
        return argument
    try:
        parsed = OverridesParser.create().parse_override(argument)
        if not parsed.is_sweep_override() or sweeping:
            return argument
    except HydraException:
        pass
    return f"{key}={QuotedString(text=value, quote=Quote.single).with_quotes()}"


class Composer:
    """Hydra's composition over one or two config folders.

    Args:
        folder: the primary config folder; runner's own by default.
        extra: a folder of the user's with more group members.
        name: of the primary config.

    Raises:
        ConfigError: the user's folder is not there.
    """

    def __init__(self, folder: Path | None = None, extra: str | None = None, name: str = "config") -> None:
        schema.register()
        version.setbase(VERSION_BASE)
        search_path = create_config_search_path(str((folder or config_folder()).resolve()))
        if extra is not None:
            if not Path(extra).is_dir():
                raise ConfigError(f"--config-dir {extra}: there is no such folder")
            search_path.prepend(
                provider="command-line",
                path=f"file://{Path(extra).resolve()}",
                anchor=SearchPathQuery(provider="schema"),
            )
        GlobalHydra.instance().clear()
        self.hydra = Hydra.create_main_hydra2(task_name="runner", config_search_path=search_path)
        self.name = name
        self._parser = OverridesParser.create(self.hydra.config_loader)

    def compose(
        self, overrides: Sequence[str], mode: RunMode = RunMode.RUN
    ) -> tuple[DictConfig | None, list[str]]:
        """Compose, with Hydra's own node.

        Returns:
            The config without the overrides that are wrong (None if it does not even compose so), and a
            sentence for each of them.
        """
        problems: list[str] = []
        usable = []
        for text in overrides:
            try:
                override = self._parser.parse_override(text)
            except HydraException as error:
                problems.append(f"{text}: not of the form key=value: {_first_line(error)}")
                continue
            found = self._check(override, text, mode)
            if found:
                problems.append(found)
            else:
                usable.append((text, override))
        try:
            cfg = self._compose([text for text, _ in usable], mode)
        except REFUSED as error:
            cfg, found_problems = self._compose_rest(usable, mode, error)
            problems += found_problems
        if cfg is not None:
            HydraConfig.instance().set_config(cfg)  # for references to ${hydra:...}
            problems += _unset(cfg)
        return cfg, problems

    def _compose(self, overrides: Sequence[str], mode: RunMode) -> DictConfig:
        return self.hydra.compose_config(
            config_name=self.name, overrides=list(overrides), run_mode=mode, with_log_configuration=False
        )

    def _check(self, override: Override, text: str, mode: RunMode) -> str | None:
        """What is wrong with one override, as far as it can be told without composing."""
        if override.is_sweep_override():
            return (
                None
                if mode is RunMode.MULTIRUN
                else f"{text} names several values: add --multirun, or quote the value"
            )
        value, group = override.value(), override.key_or_group
        if self._is_group(group) and value is not None and not override.is_delete():
            options = self.hydra.config_loader.get_group_options(group)
            wrong = [
                choice for choice in (value if isinstance(value, list) else [value]) if choice not in options
            ]
            if wrong:
                return f"{text}: there is no such {group.removeprefix('hydra/')}; {did_you_mean(str(wrong[0]), options)}"
        return None

    def _is_group(self, key: str) -> bool:
        return bool(self.hydra.config_loader.get_group_options(key, ObjectType.CONFIG))

    def _compose_rest(
        self, usable: list[tuple[str, Override]], mode: RunMode, error: Exception
    ) -> tuple[DictConfig | None, list[str]]:
        """Find the overrides that cannot be composed by trying each with the choices of groups alone."""
        good = [text for text, override in usable if self._is_group(override.key_or_group)]
        try:
            base = self._compose(good, mode)
        except REFUSED as broken:
            return None, [f"the config does not compose: {_reason(broken)}"]
        problems = []
        for text, override in usable:
            if text in good:
                continue
            try:
                base = self._compose([*good, text], mode)
                good.append(text)
            except REFUSED as refused:
                problems.append(self._why(text, override, base, refused))
        return base, problems or [f"the config does not compose: {_reason(error)}"]

    def _why(self, text: str, override: Override, base: DictConfig, error: Exception) -> str:
        key = override.key_or_group
        known = _keys(base)
        if key not in known and not override.is_add() and not key.startswith("hydra."):
            parent, _, leaf = key.rpartition(".")
            siblings = [k for k in known if k.rpartition(".")[0] == parent]
            groups = [g for g in schema.GROUPS if "." not in key]
            close = get_close_matches(leaf, [k.rpartition(".")[2] for k in siblings], n=1, cutoff=0.6)
            elsewhere = [k for k in known if k.rpartition(".")[2] == leaf]
            if close:
                hint = f"did you mean {parent + '.' if parent else ''}{close[0]}?"
            elif elsewhere:
                hint = f"did you mean {' or '.join(elsewhere)}?"
            elif parent and siblings:
                hint = f"{parent} has {', '.join(sorted(k.rpartition('.')[2] for k in siblings))}"
            else:
                hint = did_you_mean(key, {*known, *groups} if get_close_matches(key, known) else groups)
            return f"{text}: there is no key {key}; {hint}"
        return f"{text}: {_reason(error)}"


def _unset(cfg: DictConfig) -> list[str]:
    """Keys without a value, and references that lead nowhere."""
    expected = _keys(OmegaConf.structured(schema.Config))
    present = set(_keys(cfg))
    problems = [f"{key} is missing: write {key}=..." for key in expected if key not in present]
    for key in _keys(cfg):
        parent, _, leaf = key.rpartition(".")
        if key not in expected and not parent:
            problems.append(
                f"{key}: there is no such key; {did_you_mean(key, [k for k in expected if '.' not in k])}"
            )
        try:
            node = OmegaConf.select(cfg, parent) if parent else cfg
            if OmegaConf.is_missing(node, leaf):
                problems.append(f"{key} is missing: write {key}=...")
            OmegaConf.select(cfg, key, throw_on_missing=False)
        except OmegaConfBaseException as error:
            problems.append(f"{key}: {_first_line(error)}")
    return problems


def _keys(node: DictConfig, prefix: str = "") -> list[str]:
    """The dotted keys of a config, of its nodes too, without resolving any."""
    keys = []
    for name in node:
        key = f"{prefix}{name}"
        if key == "hydra":
            continue
        keys.append(key)
        child = node._get_node(name)
        if (
            isinstance(child, DictConfig)
            and not child._is_missing()
            and not child._is_none()
            and not child._is_interpolation()
        ):
            keys += _keys(child, f"{key}.")
    return keys


def _reason(error: BaseException) -> str:
    """The innermost reason, in one line."""
    while error.__cause__ is not None:
        error = error.__cause__
    line = _first_line(error)
    return next((words for part, words in IN_WORDS.items() if part in line), line)


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines or [type(error).__name__])[0]
