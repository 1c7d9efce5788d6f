"""Hidden state: attributes that training changes and no checkpoint holds, reported once, with their paths.

A checkpoint holds the generators of all objects, and what a data set's own `state_dict` returns. It holds no other
attribute of a model, a loss, an optimizer or a data set. `Watch` compares these attributes with their values at the
start. `Rehearsal`, in a process beside the training, finds those that matter: not those that each step computes again.
"""

import logging
from itertools import groupby
from operator import itemgetter
from typing import Any, Literal

from runner.data.source import saves_itself
from runner.data.streaming import StreamPosition
from runner.errors import TrainingError
from runner.rundir.checkpoint import find_unsavable
from runner.training.rehearsal import Rehearsal, Shared, Verdict, unsaved
from runner.training.state import Training
from runner.util.terminal import about

log = logging.getLogger("runner")

UNSAVED = "unsaved state"
"""The topic of the notes on hidden state: their records have `paths`, and `risk`, one of `Risk`."""

Risk = Literal["unexplained", "unknown", "harmless so far", "certain"]

SHOWN = 5
WAIT_SECONDS = 1.0  # for the rehearsal, at the end of a shorter run
LONGER_SECONDS = 5.0  # if an attribute has changed: only the rehearsal can tell whether that matters
_OF_A_MODULE = "make it a buffer (register_buffer), or return it from get_extra_state"
_OF_DATA = "implement state_dict and load_state_dict in the data set"
_IN_WORDS: dict[Risk, str] = {
    "unknown": "a resumed run may not be exact, unless each step computes it again",
    "harmless so far": "two steps after a resume were the same without it, later ones may differ",
    "certain": "a resumed run may not be exact",
}
ADVICE = {
    "model": _OF_A_MODULE,
    "loss": _OF_A_MODULE,
    "task": _OF_A_MODULE,
    "optimizer": "keep it in the optimizer's state or param_groups",
    "scheduler": "return it from the scheduler's state_dict",
    "data": _OF_DATA,
    "val_data": _OF_DATA,
    "test_data": _OF_DATA,
    "callbacks": "return it from the callback's state_dict, and restore it in load_state_dict",
}


class Watch:
    """Compares the attributes of a training with those at its start when a checkpoint is written.

    Args:
        state: the training before its first step, or as restored from a checkpoint; `after_save` is replaced.
        rehearse: whether a process beside the training finds out which changes matter.
        shared: see `Rehearsal`.
    """

    def __init__(self, state: Training, rehearse: bool = True, shared: Shared | None = None) -> None:
        self._state, self._start = state, unsaved(state).attributes
        self._changed: set[str] = set()
        self._reported: set[str] = set()
        self._rehearsal = Rehearsal(state, shared) if rehearse else None
        state.after_save = self.compare
        self._first_step: Any = state.optimizer.register_step_post_hook(lambda *_: self._after_first_step())
        _report_state_of_workers(state)

    def compare(self) -> None:
        """Find the attributes that have changed since the start, and report new ones."""
        now = unsaved(self._state)
        self._changed |= {
            path
            for path, fingerprint in now.attributes.items()
            if fingerprint != self._start.get(path) and path not in now.own_state | now.outcomes
        }
        self._report(self._rehearsal.verdict() if self._rehearsal else None)

    def close(self) -> None:
        """Report the rest: the rehearsal may have had no core until now."""
        self._first_step.remove()
        if self._rehearsal is None:
            return
        verdict = self._rehearsal.verdict(wait=LONGER_SECONDS if self._changed else WAIT_SECONDS)
        self._rehearsal.close()
        self._report(verdict)

    def _after_first_step(self) -> None:
        self._first_step.remove()
        state = self._state
        # For example state that the optimizer created in its first step: checked now, not after hours of an epoch.
        if problem := find_unsavable({"model": state.model.state_dict(), "optimizer": state.optimizer.state_dict()}):
            raise TrainingError(problem)
        self.compare()

    def _report(self, verdict: Verdict | None) -> None:
        if verdict is None and self._rehearsal is not None and self._rehearsal.running():
            return  # the verdict will exclude those that each step computes again
        known = verdict or Verdict()
        missed = {path for path in known.missed if path.partition(".")[0] in ADVICE}
        new = (self._changed | missed) - known.derived - self._reported
        self._reported.update(new)
        by_root = sorted((path.partition(".")[0], _risk(path, verdict), path) for path in new)
        for (root, risk), paths in groupby(by_root, itemgetter(0, 1)):
            _report_missed(root, [path for *_, path in paths], risk)
        if known.unexplained is not None and not self._reported:
            self._reported.add(known.unexplained)
            log.warning(
                "note       a resumed run will not be exact: two steps after a resume lead to another state (%s), and"
                " no attribute explains it; a global variable, a closure or the clock may",
                known.unexplained,
                extra=_record([], "unexplained"),
            )


def _risk(path: str, verdict: Verdict | None) -> Risk:
    """Return the consequence of state that a resumed run misses."""
    if verdict is None:
        return "unknown"
    return "harmless so far" if path in verdict.missed and verdict.unexplained is None else "certain"


def _record(paths: list[str], risk: Risk) -> dict[str, Any]:
    return {**about(UNSAVED), "paths": paths, "risk": risk}


def _report_missed(root: str, paths: list[str], risk: Risk) -> None:
    more = f" and {len(paths) - SHOWN} more" if len(paths) > SHOWN else ""
    log.warning(
        "note       %s%s: changed by training, missing from checkpoints: %s; %s",
        ", ".join(paths[:SHOWN]),
        more,
        _IN_WORDS[risk],
        ADVICE[root],
        extra=_record(paths, risk),
    )


def _report_state_of_workers(state: Training) -> None:
    """Report that a resume cannot restore the state of a data set in worker processes."""
    data_sets = [one for one in state.loaders.data_sets().values() if not isinstance(one, StreamPosition)]
    if not any(map(saves_itself, data_sets)) or not state.loaders.workers:
        return
    log.warning(
        "note       the data set's state changes in %d processes, each with its own, and none is in a checkpoint:"
        " a resumed run may not be exact; write data.num_workers=0",
        state.loaders.workers,
    )
