"""Clean: find the losers with what they hold, and remove it, run by run, each under its lock."""

import logging
from collections.abc import Sequence
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass, field
from pathlib import Path

from runner.cleaning.caches import find_caches
from runner.cleaning.files import IN_STORE, STACKS, Item, large_items, remove
from runner.cleaning.needs import find_referred, is_running, why_kept
from runner.cleaning.runs import Run, Sweep, find_runs
from runner.cleaning.store import AWAY, Artifacts, Stores
from runner.errors import ConfigError, describe_error
from runner.rundir import cleaned, layout
from runner.rundir.folders import display_path, outputs
from runner.rundir.lock import lock
from runner.rundir.manifest import PAUSE
from runner.rundir.ownership import is_own_file
from runner.tracking.trouble import explain

log = logging.getLogger("runner")

OWNER = "cleaning process"


@dataclass
class Loser:
    """A run that nothing needs.

    Attributes:
        run: the run.
        items: its large folders.
        models: its logged models in a store on this machine, by id.
        others: other artifacts there.
    """

    run: Run
    items: list[Item]
    models: dict[str, Artifacts] = field(default_factory=dict)
    others: list[Artifacts] = field(default_factory=list)

    @property
    def artifacts(self) -> list[Artifacts]:
        """All that a store on this machine has of it."""
        return [*self.models.values(), *self.others]

    @property
    def all_items(self) -> list[Item]:
        """Everything that is removed."""
        return [*self.items, *(Item(IN_STORE, artifacts.path) for artifacts in self.artifacts)]


@dataclass
class Findings:
    """What can be removed, and what stays.

    Attributes:
        losers: runs that nothing needs.
        caches: files that later runs make again, and checkpoints of stacks.
        kept: the runs that keep what they have, by the reason.
    """

    losers: list[Loser] = field(default_factory=list)
    caches: list[Item] = field(default_factory=list)
    kept: dict[str, list[Run]] = field(default_factory=dict)

    @property
    def items(self) -> list[Item]:
        """Everything that can be removed."""
        return [*(item for loser in self.losers for item in loser.all_items), *self.caches]


class Cleaner:
    """Finds what nothing needs, and removes it.

    Args:
        folder: of runs; that of a run or a sweep, or the outputs folder.
        before: seconds since the epoch; what ended later, or was used later, stays.
    """

    def __init__(self, folder: Path, before: float) -> None:
        self._folder, self._before = folder, before
        self._stores = Stores()
        self._runs = list(find_runs(folder))
        everywhere = self._runs if folder == outputs() else [*self._runs, *find_runs(outputs())]
        self._referred = find_referred(everywhere)

    def find(self) -> Findings:
        """Find what can be removed; nothing is changed."""
        found = Findings()
        folders = dict.fromkeys(run.sweep for run in self._runs if run.sweep is not None)
        sweeps = {folder: Sweep(folder) for folder in folders}
        for run in self._runs:
            items = large_items(run.folder)
            if not items and not cleaned.pending(run.folder):
                continue
            sweep = sweeps[run.sweep] if run.sweep is not None else None
            reason = "running" if is_running(run) else self._why_kept(run, sweep)
            loser = self._loser(run, items) if reason is None else None
            if loser is None:
                found.kept.setdefault(reason or AWAY, []).append(run)
            else:
                found.losers.append(loser)
        if not any(run.is_named for run in self._runs):
            found.caches += [item for sweep in sweeps.values() for item in self._stacks(sweep)]
        if self._folder == outputs():
            found.caches += find_caches(self._folder, self._runs, self._before)
        return found

    def _why_kept(self, run: Run, sweep: Sweep | None) -> str | None:
        return why_kept(run, sweep, self._before, self._referred) or self._stores.why_kept(run.folder)

    def _loser(self, run: Run, items: Sequence[Item]) -> Loser | None:
        """Return the run with what a store on this machine has of it; None if the store does not answer."""
        try:
            loser = Loser(run, list(items), self._stores.models(run.folder), self._stores.copies(run.folder))
        except Exception:  # each kind of store raises its own exceptions
            return None
        known = set(loser.artifacts)
        left = [Artifacts(*pair) for pair in cleaned.pending(run.folder)]
        loser.others += [artifacts for artifacts in left if artifacts not in known and artifacts.path.exists()]
        return loser

    def _stacks(self, sweep: Sweep) -> list[Item]:
        """Return the checkpoints of a sweep's stacks, which are of use until all of their jobs have ended."""
        if not (sweep.folder / layout.STACKS).is_dir() or not sweep.is_complete:
            return []
        if any(job.status == PAUSE or job.ended_at > self._before for job in sweep.jobs):
            return []
        files = sorted((sweep.folder / layout.STACKS).glob("*.pt"))
        return [Item(STACKS, path) for path in files if is_own_file(path)]

    def remove(self, found: Findings) -> list[str]:
        """Remove what was found, unless something needs it by now.

        Returns:
            A line for each run, file or folder that stays; empty if all is removed.
        """
        problems = []
        losers: dict[Path | None, list[Loser]] = {}
        for loser in found.losers:
            losers.setdefault(loser.run.sweep, []).append(loser)
        for folder, group in losers.items():
            try:
                with lock(folder, OWNER, patient=False) if folder is not None else nullcontext():
                    problems += self._remove_all(group, Sweep(folder) if folder is not None else None)
            except ConfigError as error:
                problems.append(f"{display_path(folder or self._folder)}: {describe_error(error)}")
        for item in found.caches:
            try:
                with ExitStack() as locks:
                    if item.kind == STACKS:
                        locks.enter_context(lock(item.path.parents[1], OWNER, patient=False))
                    remove(item.path)
            except (ConfigError, OSError) as error:
                problems.append(f"{display_path(item.path)}: {describe_error(error)}")
        return problems

    def _remove_all(self, losers: Sequence[Loser], sweep: Sweep | None) -> list[str]:
        """Remove single runs, or those of a locked sweep; return a line for each that stays."""
        problems = []
        for loser in losers:
            try:
                with lock(loser.run.folder, OWNER, patient=False):
                    reason = self._why_kept(loser.run, sweep)
                    if reason is None:
                        self._remove(loser)
            except (ConfigError, OSError) as error:
                reason = describe_error(error)
            except Exception as error:  # of MLflow, or its store
                reason = explain(error)
            if reason is not None:
                problems.append(f"{display_path(loser.run.folder)}: {reason}")
        return problems

    def _remove(self, loser: Loser) -> None:
        """Remove a loser's large folders; a kill at any moment leaves each whole, or under a name that nobody reads."""
        folder = loser.run.folder
        names = [item.path.name for item in loser.items if not item.path.name.startswith(".")]
        pending = [(artifacts.location, artifacts.name) for artifacts in loser.artifacts]
        cleaned.note(folder, names, pending)
        for model_id in loser.models:
            self._stores.delete_model(folder, model_id)
        for artifacts in loser.artifacts:
            artifacts.remove()
        for item in loser.items:
            remove(item.path)
        cleaned.note(folder, names)
