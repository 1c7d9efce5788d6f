"""`python -m runner`: from the arguments to a run or a sweep, or to errors that say what to write instead.

The config is composed once and checked, and everything a run needs is built before its folder is made. Then Hydra
(callbacks, `HydraConfig`, environment) runs the job.
"""

import importlib
import logging
import os
import sys
from argparse import Namespace
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from hydra._internal.callbacks import Callbacks
from hydra.core.plugins import Plugins
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from runner import __version__
from runner.assembly.problems import names_and_values
from runner.config import questions
from runner.config.command_line import conflict_error, make_composer, parse_arguments
from runner.config.compose import Composer
from runner.config.hydra_job import group_choices
from runner.config.invocation import name_customs, named_choices
from runner.config.messages import explain_error
from runner.config.notify import names_of
from runner.config.overrides import key_of, last_value, typed_store
from runner.errors import ConfigError, Problem, describe_error, path_problem
from runner.rundir import folders
from runner.util import events, program
from runner.util.options import EXIT_FAILED, is_verbose, print_errors, show_traceback
from runner.util.ranks import Ranks
from runner.util.stopping import INTERRUPT
from runner.util.streams import OutputError, ReaderGone, print_result

if TYPE_CHECKING:
    from runner.runs.resume import Resumed
    from runner.tracking.notify import Notifier
    from runner.tracking.process import DeliveryProcess

log = logging.getLogger("runner")

COMMANDS = (
    "clean", "compare", "evaluate", "export", "predict", "reproduce", "serve", "steer", "sync", "ui", "watch",
)  # fmt: skip
"""Modules with a command each."""

DRY_RUN = "runner.dry_run"


def main() -> NoReturn:
    """Run the console script."""
    program.run(_main)


def _main() -> int:
    here = str(Path.cwd())
    if here not in sys.path and "" not in sys.path:  # the console script, unlike `python -m`, does not look here
        sys.path.insert(0, here)
    if sys.argv[1:2] and sys.argv[1] in COMMANDS:  # `runner ui` is `python -m runner.ui`
        main_of = importlib.import_module(f"runner.{sys.argv.pop(1)}").main
        return int(main_of())
    events.connect(rank=group.rank if (group := Ranks.here()) is not None else 0)
    try:
        return run_command(sys.argv[1:])
    except ReaderGone:  # `--help | head`: the reader has what it wanted
        return 0
    except OutputError as error:
        print_errors(str(error))
        return EXIT_FAILED


def run_command(argv: Sequence[str]) -> int:
    """Run a command line, and report what is wrong with it.

    Returns:
        The exit code.
    """
    for name in ("RUNNER_OUTPUTS", "RUNNER_DATA"):
        if os.environ.get(name) == "":  # set to nothing is not set
            del os.environ[name]
    try:
        check_no_other_runner(Path.cwd())
        if (group := Ranks.here()) is not None:
            from runner.runs import ranked

            return ranked.follow(group) if group.rank else ranked.lead(group, partial(_answer, argv))
        return _answer(argv)
    except ConfigError as error:
        INTERRUPT.check()
        if is_verbose(argv):
            show_traceback()
        return print_errors(*error.problems)
    except OutputError:
        raise
    except Exception as error:  # no check has foreseen it
        INTERRUPT.check()
        if is_verbose(argv):
            show_traceback()
        if problem := path_problem(error):
            return print_errors(problem)
        if isinstance(error, HydraException | OmegaConfBaseException | YAMLError | RecursionError):
            return print_errors(explain_error(error))
        expected = isinstance(error, OSError) and error.filename  # a full disk
        print_errors(describe_error(error) + ("" if expected else "; runner.verbose=true shows where"))
        return EXIT_FAILED


def _answer(argv: Sequence[str], begun: Path | None = None) -> int:
    """Do what a command line asks for; return the exit code.

    Args:
        argv: the arguments.
        begun: the folder of the run that it has begun before it was started again, with a checkpoint.
    """
    args = parse_arguments(argv)
    if begun is not None:
        args.overrides = [f"resume={begun}"]
    if args.version:
        print_result(f"runner {__version__}")
        return 0
    if args.help or args.hydra_help or args.cfg or args.info or args.shell_completion:
        return questions.answer(argv, args)
    if args.multirun:
        return run_sweep(args)
    return run_one(args)


def check_no_other_runner(folder: Path) -> None:
    """Check that no module of the current folder hides this package: the processes of a run look there first.

    Raises:
        ConfigError: the folder has a module of the same name.
    """
    for path in (folder / "runner.py", folder / "runner" / "__init__.py"):
        if path.is_file() and not path.samefile(Path(__file__).with_name("__init__.py")):
            text = f"{path.relative_to(folder)} in this folder hides the package runner"
            raise ConfigError(Problem("", text, "rename it", topic="conflict"))


def run_one(args: Namespace) -> int:
    """Compose and check the config of a single run; then build and run it."""
    composer = make_composer(args)
    resumed: Resumed | None = None
    value = last_value(args.overrides, "resume")
    if value is None:
        cfg, problems = composer.compose(args.overrides)
    else:
        from runner.runs import resume

        cfg, problems, resumed = resume.compose(value, args.overrides, args.config_dir)
    if cfg is not None and not problems and resumed is None and asks_for_folds(cfg):
        return run_folds(args)
    if cfg is not None and resumed is not None and cfg.runner.dry_run:
        text = f"{DRY_RUN}=true is for a run that is to be started"
        problems.append(Problem(DRY_RUN, text, "leave out resume, or the dry run", topic="conflict"))
    problems += [
        Problem(key_of(text), f"{text} is for a sweep", "add --multirun", topic="conflict")
        for text in args.overrides
        if _of_sweeps(text)
    ]
    if cfg is not None:
        problems = [*names_and_values(cfg, problems), *check_register(cfg)]
    exact_folder = last_value(args.overrides, "hydra.run.dir") is not None
    if cfg is not None and (resumed is None or resumed.warm_start):
        from runner.tracking.location import check_new_store

        problems += [*folders.check_folder(str(cfg.hydra.run.dir), exact_folder), *check_new_store(cfg.tracking)]
    if cfg is None or problems:  # before torch is imported, which the other checks need
        raise ConfigError(*problems)
    ranks = ranks_to_start(cfg)
    if cfg.runner.dry_run:
        return dry_run(cfg, ranks)
    if ranks is not None:
        from runner.runs import ranked

        return ranked.launch(args.argv, ranks)
    notifier = start_notifier(cfg)
    delivery = start_delivery(cfg)
    try:
        code, folder = build_and_run(args, composer, cfg, resumed, delivery, notifier)
    finally:
        if delivery is not None:
            delivery.leave()
        if notifier is not None:
            notifier.close()
    if folder is not None and cfg.tracking.register is not None:
        from runner.runs.champion import register_due

        register_due(folder, cfg.tracking.uri)
    return code


def dry_run(cfg: DictConfig, ranks: int | None) -> int:
    """Print what a run would train, and start nothing."""
    from runner.runs import dry_run
    from runner.util import terminal

    terminal.configure_logging(bool(cfg.runner.quiet))
    return dry_run.dry_run(cfg, group_choices(cfg), ranks)


def ranks_to_start(cfg: DictConfig) -> int | None:
    """Return how many ranks this process has to start for a config; None if it trains itself."""
    if cfg.strategy.name == "single" and cfg.strategy.nproc_per_node is None and Ranks.here() is None:
        return None
    from runner.runs import ranked

    return ranked.check(cfg)


def asks_for_folds(cfg: DictConfig) -> bool:
    """Whether a config asks for a run for each fold: a sweep."""
    from runner.sweeps.plan.folds import folds_of

    return folds_of(cfg) is not None


def check_register(cfg: DictConfig) -> list[Problem]:
    """Check that a run to be registered is not that of a single fold, which leaves the test part to all together."""
    name, fold = (OmegaConf.select(cfg, key) for key in ("tracking.register", "data.fold"))
    if name is None or fold is None:
        return []
    text = f"tracking.register={name}: with data.fold={fold} the run has no test samples"
    instead = "leave out data.fold: the ensemble of all folds is registered"
    return [Problem("tracking.register", text, instead, topic="conflict")]


def run_folds(args: Namespace) -> int:
    """Run a sweep over the folds of a single run."""
    if (folder := last_value(args.overrides, "hydra.run.dir")) is not None:
        text = f"hydra.run.dir={folder}: data.folds makes a sweep of a run"
        raise conflict_error("hydra.run.dir", text, f"write hydra.sweep.dir={folder}")
    return run_sweep(args)


def _of_sweeps(override: str) -> bool:
    return key_of(override).startswith(
        ("sweep.", "hydra.sweep.", "hydra.sweeper.", "hydra/sweeper", "hydra.launcher.", "hydra/launcher")
    )


def start_delivery(cfg: DictConfig) -> "DeliveryProcess | None":
    """Start the process that uploads to MLflow; it starts while this one imports torch, which takes as long.

    Raises:
        ConfigError: the store cannot take the run's files.
    """
    if cfg.tracking.name == "off":
        return None
    from runner.tracking.location import refuse_database_of_server
    from runner.tracking.process import DeliveryProcess

    refuse_database_of_server(cfg.tracking.uri, cfg.tracking.experiment)
    return DeliveryProcess(cfg.tracking.uri)


def start_notifier(cfg: DictConfig) -> "Notifier | None":
    """Start the process that notifies of the end of a run; None without `tracking.notify`."""
    names = names_of(cfg)
    if not names:
        return None
    from runner.tracking.notify import Notifier

    return Notifier(names)


def build_and_run(
    args: Namespace,
    composer: Composer,
    cfg: DictConfig,
    resumed: "Resumed | None",
    delivery: "DeliveryProcess | None",
    notifier: "Notifier | None" = None,
) -> tuple[int, Path | None]:
    """Build everything that the run needs, lock its folder, run.

    Returns:
        The exit code, and the folder; None if there was nothing to do.
    """
    from runner.rundir.lock import lock
    from runner.runs import resume, start
    from runner.util import terminal

    terminal.configure_logging(bool(cfg.runner.quiet))
    if axes := OmegaConf.select(cfg, "hydra.sweeper.params"):  # a preset for a sweep
        log.warning("note       one run, in which %s do not vary: add --multirun for the sweep", ", ".join(axes))
    exact_folder = last_value(args.overrides, "hydra.run.dir") is not None
    in_place = resumed if resumed is not None and not resumed.warm_start else None
    if in_place is not None and resume.is_finished(in_place):
        return 0, None
    choices = resumed.choices if resumed else group_choices(cfg)
    with ExitStack() as open_:
        folder = in_place.folder if in_place is not None else None
        if folder is not None:  # before its checkpoint is read: no other process may resume it
            open_.enter_context(lock(folder))
        experiment, checkpoint = start.build_run(cfg, choices, resumed=resumed, typed=composer.typed)
        if notifier is not None:
            notifier.check()
        INTERRUPT.check()
        recovered = in_place.recover() if in_place is not None and folder is None else None
        open_.enter_context(INTERRUPT.deferred())  # what is in the folder then ends as a run that was stopped
        if folder is None:
            folder = recovered or _make_folder(cfg, choices, exact_folder)
            open_.enter_context(lock(folder))
        if notifier is not None:
            experiment.notifier = notifier
            open_.enter_context(notifier.watching(folder))
        outcome = start.start(folder, experiment, cfg, composer, checkpoint, delivery)
        if notifier is not None:  # if it has not come as far as to say it itself
            notifier.end(outcome.status, outcome.describe())
        return outcome.exit_code, folder


def _make_folder(cfg: DictConfig, choices: Mapping[str, str], is_exact: bool) -> Path:
    requested = str(cfg.hydra.run.dir)
    return folders.make_run_folder(
        requested if is_exact else name_customs(requested, choices, named_choices(choices, cfg)), is_exact
    )


def run_sweep(args: Namespace) -> int:
    """Compose what the jobs have in common, and let the sweeper run them, with Hydra's callbacks around it.

    Returns:
        The exit code.

    Raises:
        ConfigError: with the problems of all jobs.
    """
    if (group := Ranks.here()) is not None:
        text = f"torchrun has started {group.count} ranks, and a sweep starts those of its jobs itself"
        instead = "write python -m runner --multirun strategy=ddp strategy.nproc_per_node=2 ..."
        raise conflict_error("strategy", text, instead)
    if last_value(args.overrides, "resume") is not None:
        instead = "leave out --multirun, or resume a sweep by sweep.resume="
        raise conflict_error("resume", "resume= resumes one run", instead)
    subdir = last_value(args.overrides, "hydra.sweep.subdir")
    if subdir is not None:
        text = f"hydra.sweep.subdir={subdir}: the folder of a job is its number"
        raise conflict_error("hydra.sweep.subdir", text, "leave it out")
    from runner.sweeps.check.compose_jobs import Context
    from runner.sweeps.plan.job_configs import numbered

    value = last_value(args.overrides, "sweep.resume")
    arguments = _resumed_arguments(args, value) if value is not None else list(args.overrides)
    composer = make_composer(args)
    composer.reads_variable = value is None
    cfg, problems = composer.compose([*arguments, numbered(0)], RunMode.MULTIRUN)
    arguments += composer.added
    if cfg is None or any(problem.key in ("hydra.launcher", "hydra.sweeper") for problem in problems):
        raise ConfigError(*problems)
    if cfg.runner.dry_run:
        text = f"{DRY_RUN}=true is for a single run"
        raise conflict_error(DRY_RUN, text, "write sweep.dry_run=true, or leave out --multirun")
    if not str(cfg.hydra.sweeper["_target_"]).startswith("hydra_plugins.runner_sweep."):
        chosen = cfg.hydra.runtime.choices["hydra/sweeper"]
        text, instead = f"hydra/sweeper={chosen} does not work with runner", "choose from grid, halving, optuna, random"
        raise ConfigError(Problem("hydra/sweeper", text, instead, topic="choice"))
    INTERRUPT.check()
    callbacks = Callbacks(cfg)
    context = Context(composer.hydra.config_loader, callbacks, composer, problems)
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


def _resumed_arguments(args: Namespace, value: str) -> list[str]:
    """Put the arguments that a sweep was started with before those typed now, which win.

    Args:
        args: the command line; gets the options of the sweep's start.
        value: of `sweep.resume`.
    """
    from runner.sweeps.plan import plan
    from runner.sweeps.results import resume

    if last_value(args.overrides, "hydra.sweep.dir") is not None:
        raise conflict_error("hydra.sweep.dir", "hydra.sweep.dir: a resumed sweep stays in its folder", "leave it out")
    _, first, options = plan.load(resume.find(value, typed_store(args.overrides)))
    for name, option in options.items():
        setattr(args, name, getattr(args, name) or option)
    typed = {key_of(text) for text in args.overrides}
    if last_value(args.overrides, "hydra/launcher") not in (None, last_value(first, "hydra/launcher")):
        first = [text for text in first if not key_of(text).startswith("hydra.launcher.")]
    return [*(text for text in first if key_of(text) not in typed), *args.overrides]
