"""A sweep that has been checked, and can start."""

from collections.abc import Callable, Mapping, MutableMapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from runner.comparison.objectives import Objective
from runner.config.settings import SweepSettings
from runner.sweeps.jobs import Job
from runner.sweeps.launchers.launcher import Launcher
from runner.sweeps.launchers.slots import Slot
from runner.sweeps.plan.plan import Plan
from runner.sweeps.results.resume import ResumeAction
from runner.tracking.notify import Notifier


@dataclass
class PreparedSweep:
    """A sweep that can start.

    Attributes:
        plan: all its jobs.
        config: of the sweep, with Hydra's node.
        settings: of the sweep.
        objectives: by which the jobs are ranked.
        slots: that the jobs run in.
        actions: what to do with each job, by number.
        configs: of the jobs to run, with Hydra's node, by number.
        options: location of the configs: `config_path` and `config_dir`.
        launcher: runs the jobs.
        check: composes and builds a job that a search has added.
        add: adds a job with these arguments to the plan, like another one or like none, and checks it.
        save_plan: writes the plan into the sweep's folder, with the jobs that a search has added.
        typed: the arguments of the command line, without credentials.
        hint: a line for the end of the sweep; empty if there is none.
        notifier: is told how the sweep ends; None: nobody.
    """

    plan: Plan
    config: DictConfig
    settings: SweepSettings
    objectives: list[Objective]
    slots: list[Slot]
    actions: dict[int, ResumeAction]
    configs: MutableMapping[int, DictConfig]
    options: Mapping[str, Any]
    launcher: Launcher
    check: Callable[[Job], DictConfig]
    add: Callable[[Sequence[str], Job | None], Job]
    save_plan: Callable[[Path], None]
    typed: Sequence[str] = ()
    hint: str = ""
    notifier: Notifier | None = None

    def is_done(self, job: Job) -> bool:
        """Return whether a job has finished before this start of the sweep."""
        return self.actions[job.number] is ResumeAction.SKIP
