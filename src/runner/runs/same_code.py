"""Runs that differ in numbers alone, and so run the same code: one of them rehearses a resume for all."""

import contextlib
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from runner.assembly.experiment import Experiment
from runner.rundir import layout
from runner.rundir.folders import outputs
from runner.rundir.ownership import is_own_folder
from runner.util.code_state import code_state
from runner.util.files import keep_newest

GROUPS = (
    "model", "data", "task", "loss", "metrics", "optimizer", "optimizers", "scheduler", "precision", "device",
    "trainer", "callbacks",
)  # fmt: skip
"""What a training is made of."""

NUMBERS = {"optimizer": ("lr", "weight_decay"), "data": ("batch_size",), "trainer": ("epochs", "max_steps")}
"""Values that change no line of code that is run, in their groups."""


MOST = 200
"""Verdicts that are remembered; the oldest are forgotten, and rehearsed again."""


MOST_BATCHES = 5
"""With as many batches or more no epoch ends in the steps of a rehearsal."""


def shared_verdict(experiment: Experiment) -> Path | None:
    """Return the file for what a rehearsal finds out about all runs by the same code.

    None without a folder of outputs that is this user's own.
    """
    shared = outputs() / layout.REHEARSALS
    with contextlib.suppress(OSError):
        shared.mkdir(mode=0o700, exist_ok=True)
        keep_newest(shared, "*.json", MOST)
    batches = min(len(experiment.loaders.train), MOST_BATCHES)
    return shared / f"{code_of(experiment.config, experiment.model)}-{batches}.json" if is_own_folder(shared) else None


def code_of(config: Mapping[str, Any], model: nn.Module) -> str:
    """Return the same text for trainings that run the same code."""
    kept = {name: _without(config[name], NUMBERS.get(name, ())) for name in GROUPS if name in config}
    parts = [kept, code_state(model)]  # the user's files may change while a sweep runs
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()[:32]


def _without(group: Any, names: tuple[str, ...]) -> Any:
    return {key: value for key, value in group.items() if key not in names} if isinstance(group, Mapping) else group
