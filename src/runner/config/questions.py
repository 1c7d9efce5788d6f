"""Answer `--help`, `--cfg`, `--info` and shell completion with Hydra. Neither torch nor MLflow is imported."""

import sys
from argparse import Namespace
from collections.abc import Sequence
from string import Template

import hydra
from hydra.core.global_hydra import GlobalHydra
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from runner.config.command_line import conflict_error, make_composer
from runner.config.compose import VERSION_BASE, Composer, config_folder
from runner.config.hydra_job import without_hydra
from runner.config.messages import dotted_keys
from runner.config.overrides import last_value
from runner.errors import ConfigError, Problem, close_match
from runner.util.streams import print_result


def answer(argv: Sequence[str], args: Namespace) -> int:
    """Print help, the config or completions.

    Returns:
        The exit code.

    Raises:
        ConfigError: the options exclude each other, or the config is wrong.
    """
    if args.cfg and last_value(args.overrides, "resume") is not None:
        raise conflict_error("--cfg", "resume= and --cfg exclude each other", "see config.yaml in the run's folder")
    asked = [f"--{name}" for name in ("cfg", "info", "shell_completion") if getattr(args, name)]
    if args.multirun and asked and not args.help:
        raise conflict_error(asked[0], f"{asked[0]} and --multirun exclude each other", "leave out --multirun")
    composer = make_composer(args)
    if args.help or (args.overrides and not args.shell_completion):
        cfg, problems = composer.compose(args.overrides, RunMode.MULTIRUN if args.multirun else RunMode.RUN)
        if problems or cfg is None:
            raise ConfigError(*problems)
        if args.help:
            print_result(help_text(composer, cfg))
            return 0
    if args.cfg and args.package and (problem := check_package(composer, args)):
        raise ConfigError(problem)
    options = [text for text in argv if text not in args.overrides]
    argv_before = sys.argv
    sys.argv = ["runner", *options, *composer.reader.given(args.overrides, args.multirun)]
    GlobalHydra.instance().clear()  # `hydra.main` creates its own
    try:
        hydra.main(version_base=VERSION_BASE, config_path=str(config_folder()), config_name="config")(lambda _: None)()
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else 0
    finally:
        sys.argv = argv_before
    print_result()
    return 0


def check_package(composer: Composer, args: Namespace) -> Problem | None:
    """Check that the config has the part that `-p` names: `--cfg job` prints no key of Hydra's, and `hydra` only those.

    Returns:
        The problem; None if there is none.
    """
    cfg, _ = composer.compose(args.overrides)
    if cfg is None:
        return None
    of = "hydra" if args.package.partition(".")[0] == "hydra" else "job"
    whole = cfg if of == "hydra" else without_hydra(cfg)
    exists = OmegaConf.select(whole, args.package, throw_on_missing=False) is not None
    if exists and args.cfg in (of, "all"):
        return None
    if exists:
        text = f"-p {args.package}: --cfg {args.cfg} does not print this part"
        return Problem("--cfg", text, f"write --cfg {of} -p {args.package}", topic="conflict")
    known = [f"hydra.{key}" for key in cfg.hydra] if of == "hydra" else dotted_keys(without_hydra(cfg))
    close = close_match(args.package, known)
    instead = f"did you mean {close}?" if close else "write a group, such as -p trainer"
    return Problem("-p", f"-p {args.package}: the config has no such part", instead, topic="choice")


def help_text(composer: Composer, cfg: DictConfig) -> str:
    """Fill in `hydra.help.template`; Hydra's own function takes over a second."""
    groups = "\n".join(f"{group}: {', '.join(options)}" for group, options in composer.files.choices().items())
    config = OmegaConf.to_yaml(without_hydra(cfg))
    return Template(cfg.hydra.help.template).safe_substitute(APP_CONFIG_GROUPS=groups, CONFIG=config)
