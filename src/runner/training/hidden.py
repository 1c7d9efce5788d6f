"""State that a resumed run would miss: found, and said once, with its path.

A checkpoint has the generators that objects hold, and what a data set's own `state_dict` gives. What training changes
in any other attribute of a model, a loss, an optimizer or a data set is in none. `Watch` compares these attributes with
what they were at the start; `Rehearsal`, in a process beside the training, tells those that matter from values that are
computed again in each step.
"""

import logging
from itertools import groupby
from operator import itemgetter
from typing import Any

from runner.data.source import saves_itself
from runner.errors import TrainingError
from runner.rundir.checkpoint import not_held
from runner.training.rehearsal import Rehearsal, Verdict, unsaved
from runner.training.state import Training

log = logging.getLogger("runner")

SHOWN = 5
WAIT_SECONDS = 1.0  # for the rehearsal, at the end of a run that was shorter
LONGER_SECONDS = 5.0  # where something has changed, of which it alone can tell whether that matters
_OF_A_MODULE = "make it a buffer (register_buffer), or return it from get_extra_state"
_OF_DATA = "give the data set state_dict and load_state_dict"
ADVICE = {
    "model": _OF_A_MODULE,
    "loss": _OF_A_MODULE,
    "optimizer": "keep it in the optimizer's state or param_groups",
    "scheduler": "return it from the scheduler's state_dict",
    "data": _OF_DATA,
    "val_data": _OF_DATA,
    "test_data": _OF_DATA,
}


class Watch:
    """Looks at the attributes of a training when a checkpoint is written.

    Args:
        state: at its first step, or as a checkpoint has restored it. Its `after_save` is this object's from now on.
        rehearse: whether a process beside the training tells what matters of what changes.
    """

    def __init__(self, state: Training, rehearse: bool = True) -> None:
        self._state, self._start = state, unsaved(state).attributes
        self._changed: set[str] = set()
        self._said: set[str] = set()
        self._rehearsal = Rehearsal(state) if rehearse else None
        state.after_save = self.look
        self._first_step: Any = state.optimizer.register_step_post_hook(lambda *_: self._after_first_step())
        _say_what_workers_have(state)

    def look(self) -> None:
        """Find what has changed since the start, and say what is new of it."""
        now = unsaved(self._state)
        self._changed |= {
            path
            for path, seen in now.attributes.items()
            if seen != self._start.get(path) and path not in now.own_state | now.outcomes
        }
        self._say(self._rehearsal.verdict() if self._rehearsal else None)

    def close(self) -> None:
        """Say what is left to be said: the rehearsal may have had no core until now."""
        self._first_step.remove()
        if self._rehearsal is None:
            return
        verdict = self._rehearsal.verdict(wait=LONGER_SECONDS if self._changed else WAIT_SECONDS)
        self._rehearsal.close()
        self._say(verdict)

    def _after_first_step(self) -> None:
        self._first_step.remove()
        state = self._state
        # What the optimizer has made in its step, say: no hours of an epoch are lost.
        if problem := not_held({"model": state.model.state_dict(), "optimizer": state.optimizer.state_dict()}):
            raise TrainingError(problem)
        self.look()

    def _say(self, verdict: Verdict | None) -> None:
        if verdict is None and self._rehearsal is not None and self._rehearsal.running():
            return  # it will tell which of them are computed again in each step
        known = verdict or Verdict()
        new = (self._changed | known.missed) - known.derived - self._said
        self._said.update(new)
        of_each = sorted((path.partition(".")[0], _risk(path, verdict), path) for path in new)
        for (root, risk), paths in groupby(of_each, itemgetter(0, 1)):
            _say_missed(root, [path for *_, path in paths], risk)
        if known.elsewhere is not None and not self._said:
            self._said.add(known.elsewhere)
            log.warning(
                "note       a resumed run will not be exact: two steps after a resume lead to another state (%s), and"
                " no attribute explains it; a global variable, a closure or the clock may",
                known.elsewhere,
            )


def _risk(path: str, verdict: Verdict | None) -> str:
    """What may come of state that is missed."""
    if verdict is None:
        return ": a resumed run may not be exact, unless each step computes it again;"
    if path in verdict.missed and verdict.elsewhere is None:
        return ", and two steps after a resume were the same without it; if later ones may depend on it,"
    return ": a resumed run may not be exact;"


def _say_missed(root: str, paths: list[str], risk: str) -> None:
    more = f" and {len(paths) - SHOWN} more" if len(paths) > SHOWN else ""
    log.warning(
        "note       %s%s changes in training and is in no checkpoint%s %s",
        ", ".join(paths[:SHOWN]),
        more,
        risk,
        ADVICE[root],
    )


def _say_what_workers_have(state: Training) -> None:
    """Say that what a data set draws from, or counts, in processes of its own does not come back."""
    held = state.loaders.data_sets()
    with_state = [name for name, data_set in held.items() if saves_itself(data_set)]
    if not with_state or not state.loaders.workers:
        return
    log.warning(
        "note       the data set's state changes in %d processes, each with its own, and none is in a checkpoint:"
        " a resumed run may not be exact; write data.num_workers=0",
        state.loaders.workers,
    )
