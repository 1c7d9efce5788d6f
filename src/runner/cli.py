"""`python -m runner`: from what was typed to a run, or to sentences that say what to type instead.

The config is composed once, checked, and everything a run needs is built before its folder is made;
only then Hydra's own machinery (callbacks, `HydraConfig`, environment) runs the job. Neither torch nor
MLflow is imported for `--help`, `--cfg` and completion.
"""

import importlib
import logging
import os
import re
import signal
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Collection, Sequence
from contextlib import ExitStack
from difflib import get_close_matches
from itertools import pairwise
from pathlib import Path
from string import Template
from typing import TYPE_CHECKING, NoReturn

import hydra
from hydra._internal.callbacks import Callbacks
from hydra._internal.utils import get_args_parser
from hydra.core.global_hydra import GlobalHydra
from hydra.core.plugins import Plugins
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from runner import __version__
from runner.assembly.problems import names_and_values
from runner.config.compose import VERSION_BASE, Composer, config_folder
from runner.config.hydra_job import group_choices, without_hydra
from runner.config.invocation import without_credentials
from runner.config.keys import GROUPS
from runner.config.messages import dotted_keys, reason
from runner.config.overrides import key_of, typed_value
from runner.errors import ConfigError, Problem, describe_error, did_you_mean
from runner.rundir import folders
from runner.util import advice, program
from runner.util.options import EXIT_FAILED, EXIT_INTERRUPTED, fail, show_traceback, verbose
from runner.util.stopping import Interrupt
from runner.util.streams import OutputError, ReaderGone, print_result

if TYPE_CHECKING:
    from runner.runs.resume import Resumed
    from runner.tracking.process import DeliveryProcess

log = logging.getLogger("runner")

INTERRUPT = Interrupt()

COMMANDS = ("compare", "evaluate", "export", "predict", "reproduce", "sync", "ui")
"""Modules that are commands of their own."""


def main() -> NoReturn:
    """The console script."""
    program.run(_main)


def _main() -> int:
    here = str(Path.cwd())
    if here not in sys.path and "" not in sys.path:  # the console script, unlike `python -m`, does not look here
        sys.path.insert(0, here)
    signal.signal(signal.SIGINT, INTERRUPT)
    if sys.argv[1:2] and sys.argv[1] in COMMANDS:  # `runner ui` is `python -m runner.ui`
        signal.signal(signal.SIGINT, signal.default_int_handler)
        main_of = importlib.import_module(f"runner.{sys.argv.pop(1)}").main
        return int(main_of())
    try:
        return run_command(sys.argv[1:])
    except KeyboardInterrupt:  # before training, or the second one in it
        return EXIT_INTERRUPTED
    except ReaderGone:  # `--help | head`: the reader has what it wanted
        return 0
    except OutputError as error:
        fail(str(error))
        return EXIT_FAILED


def run_command(argv: Sequence[str]) -> int:
    """Do what was typed.

    Returns:
        The exit code.
    """
    for name in ("RUNNER_OUTPUTS", "RUNNER_DATA"):
        if os.environ.get(name) == "":  # set to nothing is not set
            del os.environ[name]
    try:
        check_no_other_runner(Path.cwd())
        args = parse(argv)
        if args.version:
            print_result(f"runner {__version__}")
            return 0
        if args.help or args.hydra_help or args.cfg or args.info or args.shell_completion:
            return hand_over(argv, args)
        if args.multirun:
            return run_sweep(args)
        return run_one(args)
    except ConfigError as error:
        if verbose(argv):
            show_traceback()
        return fail(*error.problems)
    except OutputError:
        raise
    except Exception as error:  # none that a check of ours has foreseen
        if verbose(argv):
            show_traceback()
        if isinstance(error, HydraException | OmegaConfBaseException | YAMLError):
            return fail(reason(error))
        fail(f"{describe_error(error)}; runner.verbose=true shows where")
        return EXIT_FAILED


def check_no_other_runner(folder: Path) -> None:
    """See that the processes of a run, which look for modules in the current folder first, find this package.

    Raises:
        ConfigError: the folder has a module of the same name.
    """
    for path in (folder / "runner.py", folder / "runner" / "__init__.py"):
        if path.is_file() and not path.samefile(Path(__file__).with_name("__init__.py")):
            text = f"{path.relative_to(folder)} in this folder hides the package runner"
            raise ConfigError(Problem("", text, "rename it", topic="conflict"))


def parse(argv: Sequence[str]) -> Namespace:
    """Tell Hydra's options from overrides.

    Raises:
        ConfigError: an option that there is not.
    """
    parser = get_args_parser()
    parser.error = lambda message: _refuse_option(parser, argv, message)  # type: ignore[method-assign]
    parser.allow_abbrev = False
    for option in ("--version", "--experimental-rerun"):  # Hydra's own version, and a way around what is below
        parser._option_string_actions.pop(option)
    parser.add_argument("--version", "-V", action="store_true")
    args = parser.parse_intermixed_args(list(argv))
    args.typed = without_credentials(argv)
    return args


def _refuse_option(parser: ArgumentParser, argv: Sequence[str], message: str) -> NoReturn:
    """What to write instead of the options that argparse does not take: `--seed=1` is `seed=1` here."""
    _, found, rest = message.partition("unrecognized arguments: ")
    if not found:
        raise ConfigError(_about_value(message))
    problems = []
    known = dotted_keys(without_hydra(Composer().compose([])[0] or OmegaConf.create()))
    for word in (word for word in rest.split() if word.startswith("-")):
        name, equals, value = word.lstrip("-").replace("-", "_").partition("=")
        if not equals:  # `--lr 0.1`: the value is the next word
            value = next((after for before, after in pairwise(argv) if before == word and after[:1] != "-"), "<value>")
        options = [option for option in parser._option_string_actions if option.startswith("--")]
        if near := get_close_matches(word, options, n=1, cutoff=0.75):
            instead = f"did you mean {near[0]}?"
        elif meant := setting(name, known):
            instead = f"write {meant if '=' in meant else f'{meant}={value}'}"
        else:
            instead = "write settings as <key>=<value>"
        problems.append(
            Problem(word.partition("=")[0], f"unknown option {word}", f"{instead}; see --help", topic="unknown")
        )
    raise ConfigError(*problems or [Problem("", message, topic="syntax")])


def _conflict(key: str, text: str, suggestion: str) -> ConfigError:
    return ConfigError(Problem(key, text, suggestion, topic="conflict"))


def _about_value(message: str) -> Problem:
    """Translate what argparse says of the value of an option: `argument --cfg/-c: expected one argument`."""
    option, _, why = message.removeprefix("argument ").partition(": ")
    option = option.partition("/")[0]
    if wrong := re.match(r"invalid choice: '(.*)' \(choose from (.*)\)", why):
        hint = did_you_mean(wrong[1], re.findall(r"[\w-]+", wrong[2]))
        return Problem(option, f"{option} {wrong[1]} is not a choice", hint, topic="choice")
    if why == "expected one argument":
        return Problem(option, f"{option} needs a value", f"write {option} <value>; see --help", topic="missing")
    if why.startswith("ignored explicit argument"):
        return Problem(option, f"{option} takes no value", f"write {option} alone", topic="syntax")
    return Problem(option, f"{option}: {why}", "see --help", topic="syntax")


def setting(name: str, known: Collection[str]) -> str | None:
    """The key that a name without its group stands for: `optimizer.lr` of `lr`; None if there is none, or several."""
    if name in (*known, *GROUPS):
        return name
    having = [key for key in known if key.rpartition(".")[2] == name]
    return having[0] if len(having) == 1 else advice.for_key(name, [*known, *GROUPS])


def hand_over(argv: Sequence[str], args: Namespace) -> int:
    """Let Hydra answer: help, the config, completion."""
    if args.cfg and typed_value(args.overrides, "resume") is not None:
        raise _conflict("--cfg", "resume= and --cfg exclude each other", "see config.yaml in the run's folder")
    asked = [f"--{name}" for name in ("cfg", "info", "shell_completion") if getattr(args, name)]
    if args.multirun and asked and not args.help:
        raise _conflict(asked[0], f"{asked[0]} and --multirun exclude each other", "leave out --multirun")
    made = composer(args)
    if args.help or (args.overrides and not args.shell_completion):
        cfg, problems = made.compose(args.overrides, RunMode.MULTIRUN if args.multirun else RunMode.RUN)
        if problems or cfg is None:
            raise ConfigError(*problems)
        if args.help:
            print_result(help_text(made, cfg))
            return 0
    if args.cfg and args.package and not has_package(made, args):
        text, instead = f"-p {args.package}: the config has no such part", "write a group, such as -p trainer"
        raise ConfigError(Problem("-p", text, instead, topic="unknown"))
    options = [text for text in argv if text not in args.overrides]
    former = sys.argv
    sys.argv = ["runner", *options, *made.given(args.overrides, args.multirun)]
    GlobalHydra.instance().clear()  # Hydra makes its own
    try:
        hydra.main(version_base=VERSION_BASE, config_path=str(config_folder()), config_name="config")(lambda _: None)()
    except SystemExit as answered:
        return answered.code if isinstance(answered.code, int) else 0
    finally:
        sys.argv = former
    print_result()
    return 0


def has_package(made: Composer, args: Namespace) -> bool:
    """Whether the config that is asked for has the part that is asked for."""
    cfg, _ = made.compose(args.overrides)
    whole = cfg if args.cfg in ("hydra", "all") or cfg is None else without_hydra(cfg)
    return whole is not None and OmegaConf.select(whole, args.package, throw_on_missing=False) is not None


def help_text(made: Composer, cfg: DictConfig) -> str:
    """What `--help` prints: as Hydra makes it of `hydra.help.template`, which takes it over a second."""
    groups = "\n".join(f"{group}: {', '.join(options)}" for group, options in made.files.choices().items())
    config = OmegaConf.to_yaml(without_hydra(cfg))
    return Template(cfg.hydra.help.template).safe_substitute(APP_CONFIG_GROUPS=groups, CONFIG=config)


def composer(args: Namespace) -> Composer:
    """The composer for the folders that the command line names."""
    folder = Path(args.config_path).expanduser().absolute() if args.config_path else None
    made = Composer(folder, args.config_dir, args.config_name or "config")
    made.typed = args.typed
    return made


def run_one(args: Namespace) -> int:
    """Compose, check, build, claim a folder, run."""
    made = composer(args)
    resumed: Resumed | None = None
    value = typed_value(args.overrides, "resume")
    if value is None:
        cfg, problems = made.compose(args.overrides)
    else:
        from runner.runs import resume

        cfg, problems, resumed = resume.compose(value, args.overrides, args.config_dir)
    problems += [
        Problem(key_of(text), f"{text} is for a sweep", "add --multirun", topic="conflict")
        for text in args.overrides
        if _of_sweeps(text)
    ]
    if cfg is not None:
        problems = names_and_values(cfg, problems)
    exact_folder = typed_value(args.overrides, "hydra.run.dir") is not None
    if cfg is not None and (resumed is None or resumed.warm_start):
        problems += folders.check(str(cfg.hydra.run.dir), exact_folder)
    if cfg is None or problems:  # before torch is imported, which the other checks need
        raise ConfigError(*problems)
    delivery = start_delivery(cfg)
    try:
        return build_and_run(args, made, cfg, resumed, delivery)
    finally:
        if delivery is not None:
            delivery.leave()


def _of_sweeps(override: str) -> bool:
    return key_of(override).startswith(
        ("sweep.", "hydra.sweep.", "hydra.sweeper.", "hydra/sweeper", "hydra.launcher.", "hydra/launcher")
    )


def start_delivery(cfg: DictConfig) -> "DeliveryProcess | None":
    """Start what tells MLflow of the run, if it is to be told: it takes as long as importing torch does.

    Raises:
        ConfigError: the store cannot take the run's files.
    """
    if cfg.tracking.name == "off":
        return None
    from runner.tracking.location import refuse_database_of_server
    from runner.tracking.process import DeliveryProcess

    refuse_database_of_server(cfg.tracking.uri, cfg.tracking.experiment)
    return DeliveryProcess(cfg.tracking.uri)


def build_and_run(
    args: Namespace,
    made: Composer,
    cfg: DictConfig,
    resumed: "Resumed | None",
    delivery: "DeliveryProcess | None",
) -> int:
    """Build everything the run needs, claim a folder, run."""
    from runner.rundir.lock import lock
    from runner.runs import resume, start
    from runner.util import terminal

    terminal.set_up(bool(cfg.runner.quiet))
    if axes := OmegaConf.select(cfg, "hydra.sweeper.params"):  # of a preset that is meant for a sweep
        log.warning("note       one run, in which %s do not vary: add --multirun for the sweep", ", ".join(axes))
    exact_folder = typed_value(args.overrides, "hydra.run.dir") is not None
    in_place = resumed if resumed is not None and not resumed.warm_start else None
    if in_place is not None and resume.finished(in_place):
        return 0
    choices = resumed.choices if resumed else group_choices(cfg)
    with ExitStack() as claimed:
        folder = in_place.folder if in_place is not None else None
        if folder is not None:  # before its checkpoint is read: nobody else may go on with it
            claimed.enter_context(lock(folder))
        x, checkpoint = start.prepare(cfg, choices, resumed=resumed, typed=made.typed)
        INTERRUPT.check()
        if folder is None:
            if in_place is not None:
                folder = in_place.recover()
            else:
                folder = folders.make_run_folder(str(cfg.hydra.run.dir), exact_folder)
            claimed.enter_context(lock(folder))
        return start.start(folder, x, cfg, made, checkpoint, delivery).exit_code


def run_sweep(args: Namespace) -> int:
    """Compose what the jobs have in common, and let the sweeper run them, with Hydra's callbacks around it."""
    if typed_value(args.overrides, "resume") is not None:
        instead = "leave out --multirun, or resume a sweep by sweep.resume="
        raise _conflict("resume", "resume= resumes one run", instead)
    subdir = typed_value(args.overrides, "hydra.sweep.subdir")
    if subdir is not None:
        text = f"hydra.sweep.subdir={subdir}: the folder of a job is its number"
        raise _conflict("hydra.sweep.subdir", text, "leave it out")
    from runner.sweeps.check.compose_jobs import Context, numbered

    arguments = list(args.overrides)
    if value := typed_value(args.overrides, "sweep.resume"):
        from runner.sweeps.plan import plan
        from runner.sweeps.results import resume

        if typed_value(args.overrides, "hydra.sweep.dir") is not None:
            raise _conflict("hydra.sweep.dir", "hydra.sweep.dir: a resumed sweep stays in its folder", "leave it out")
        _, begun_with, options = plan.load(resume.find(value, typed_value(args.overrides, "tracking.uri")))
        typed = {key_of(text) for text in args.overrides}
        if typed_value(args.overrides, "hydra/launcher") not in (None, typed_value(begun_with, "hydra/launcher")):
            begun_with = [text for text in begun_with if not key_of(text).startswith("hydra.launcher.")]
        arguments = [*(text for text in begun_with if key_of(text) not in typed), *args.overrides]
        for name, option in options.items():
            setattr(args, name, getattr(args, name) or option)
    made = composer(args)
    made.reads_variable = value is None
    cfg, problems = made.compose([*arguments, numbered(0)], RunMode.MULTIRUN)
    arguments += made.added
    if cfg is None:
        raise ConfigError(*problems)
    if not str(cfg.hydra.sweeper["_target_"]).startswith("hydra_plugins.runner_sweep."):
        chosen = cfg.hydra.runtime.choices["hydra/sweeper"]
        text, instead = f"hydra/sweeper={chosen} does not work with runner", "choose from grid, optuna, random"
        raise ConfigError(Problem("hydra/sweeper", text, instead, topic="choice"))
    INTERRUPT.check()
    callbacks = Callbacks(cfg)
    context = Context(made.hydra.config_loader, callbacks, made, problems)
    callbacks.on_multirun_start(config=cfg, config_name=cfg.hydra.job.config_name)
    try:
        sweeper = Plugins.instance().instantiate_sweeper(
            hydra_context=context, task_function=lambda _: None, config=cfg
        )
        code = sweeper.sweep(arguments)
    finally:
        callbacks.on_multirun_end(config=cfg, config_name=cfg.hydra.job.config_name)
    assert isinstance(code, int)
    return code
