"""`python -m runner`: from what was typed to a run, or to sentences that say what to type instead.

The config is composed once, checked, and everything a run needs is built before its folder is made;
only then Hydra's own machinery (callbacks, `HydraConfig`, environment) runs the job. Neither torch nor
MLflow is imported for `--help`, `--cfg` and completion.
"""

import os
import sys
import traceback
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import hydra
from hydra._internal.callbacks import Callbacks
from hydra._internal.utils import get_args_parser
from hydra.core.hydra_config import HydraConfig
from hydra.core.utils import run_job
from hydra.types import HydraContext, RunMode
from omegaconf import DictConfig, open_dict, read_write

from . import folders
from .compose import VERSION_BASE, Composer, config_folder, quote
from .errors import ConfigError

if TYPE_CHECKING:
    from .resume import Resumed

EXIT_CONFIG = 2


def main() -> None:
    """The console script."""
    if os.getcwd() not in sys.path:  # the console script, unlike `python -m`, does not look here
        sys.path.insert(0, os.getcwd())
    sys.exit(command(sys.argv[1:]))


def command(argv: Sequence[str]) -> int:
    """Do what was typed.

    Returns:
        The exit code.
    """
    sweeping = "--multirun" in argv or "-m" in argv
    argv = [quote(argument, sweeping) for argument in argv]
    parser = get_args_parser()
    args = parser.parse_args(argv)
    verbose = "runner.verbose=true" in argv or os.environ.get("HYDRA_FULL_ERROR") == "1"
    try:
        if args.help or args.hydra_help or args.cfg or args.info or args.shell_completion:
            return hand_over(argv, args)
        if args.multirun:
            return sweep(args)
        return run_one(args)
    except ConfigError as error:
        if verbose:
            traceback.print_exc()
        for problem in error.problems:
            print(f"error: {problem}", file=sys.stderr)
        return EXIT_CONFIG


def hand_over(argv: Sequence[str], args: Any) -> int:
    """Let Hydra answer: help, the config, completion."""
    if args.cfg and not args.multirun:
        _, problems = composer(args).compose(args.overrides)
        if problems:
            raise ConfigError(*problems)
    else:
        composer(args)
    sys.argv = ["runner", *argv]
    hydra.main(version_base=VERSION_BASE, config_path=str(config_folder()), config_name="config")(
        lambda _: None
    )()
    return 0


def composer(args: Any) -> Composer:
    """The composer for the folders that the command line names."""
    from pathlib import Path

    folder = Path(args.config_path).resolve() if args.config_path else None
    return Composer(folder, args.config_dir, args.config_name or "config")


def run_one(args: Any) -> int:
    """Compose, check, build, claim a folder, run."""
    value = next(
        (o.partition("=")[2].strip("'\"") for o in args.overrides if o.startswith("resume=")), "null"
    )
    resumed: Resumed | None = None
    if value != "null":
        from . import resume

        hydra_of = composer(args).hydra
        cfg, problems, resumed = resume.compose(value, args.overrides)
    else:
        made = composer(args)
        hydra_of = made.hydra
        cfg, problems = made.compose(args.overrides)
    if cfg is None:
        raise ConfigError(*problems)
    choices = {} if resumed else group_choices(cfg)
    from . import build, console, run
    from .tracking.folder import claim

    console.set_up(bool(cfg.runner.quiet))
    experiment = build.build(without_hydra(cfg), choices, problems)
    checkpoint: dict[str, Any] | None = None
    if resumed is not None:
        folder, checkpoint = resume.prepare(resumed, experiment)
        if resumed.warm_start:
            checkpoint = None
    if resumed is None or resumed.warm_start:
        exact = any(o.startswith("hydra.run.dir=") for o in args.overrides)
        folder = folders.make_run_folder(str(cfg.hydra.run.dir), exact)
    outcome: list[run.Outcome] = []
    with claim(folder):
        with read_write(cfg.hydra):  # which `HydraConfig` has made read-only
            cfg.hydra.run.dir = str(folder)
        callbacks = Callbacks(cfg)
        callbacks.on_run_start(config=cfg, config_name=cfg.hydra.job.config_name)
        done = run_job(
            task_function=lambda _: outcome.append(run.run(experiment, folder, checkpoint)),
            config=cfg,
            job_dir_key="hydra.run.dir",
            job_subdir_key=None,
            hydra_context=HydraContext(config_loader=hydra_of.config_loader, callbacks=callbacks),
        )
        callbacks.on_run_end(config=cfg, config_name=cfg.hydra.job.config_name, job_return=done)
        _ = done.return_value  # raises what the task raised
    return outcome[0].exit_code


def sweep(args: Any) -> int:
    """Run every combination, one after the other, by Hydra's own sweeper and launcher."""
    made = composer(args)
    cfg, problems = made.compose(args.overrides, RunMode.MULTIRUN)
    if problems or cfg is None:
        raise ConfigError(*problems)
    codes: list[int] = []

    def task(job: DictConfig) -> None:
        from pathlib import Path

        from . import build, console, run
        from .tracking.folder import claim

        console.set_up(bool(job.runner.quiet))
        experiment = build.build(job, group_choices(HydraConfig.get()))
        folder = Path(HydraConfig.get().runtime.output_dir)
        with claim(folder):
            codes.append(run.run(experiment, folder).exit_code)

    made.hydra.multirun(
        config_name=made.name, task_function=task, overrides=args.overrides, with_log_configuration=True
    )
    return max(codes, default=0)


def group_choices(cfg: DictConfig) -> dict[str, str]:
    """Which member of each of our groups was chosen."""
    node = cfg.hydra if "hydra" in cfg else cfg
    return {
        str(k): str(v)
        for k, v in node.runtime.choices.items()
        if not str(k).startswith("hydra/") and v is not None
    }


def without_hydra(cfg: DictConfig) -> DictConfig:
    """The run's own config, which may still refer to Hydra's."""
    task = cfg.copy()
    with open_dict(task):
        del task["hydra"]
    return task
