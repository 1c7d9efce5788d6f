"""Compare a logged run with the same run now: config, data, machine, and every value of every metric."""

import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from runner.config.keys import flatten
from runner.errors import to_one_line
from runner.rundir import journal
from runner.tracking.environment import environment, git_tags, read_facts
from runner.util.tags import RESUMED_CODE_TAG, SUCCESSOR_PARAM, legal_name

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

    from runner.device import Device
    from runner.saved.code import StoredCode

INEXACT = ("time/", "throughput/", "system/", "energy/")
"""Prefixes of metrics that differ in every run."""

LEFT_OUT = (*INEXACT, "best/")
"""Prefixes of metrics that are not compared. Those of the best epoch are compared by their plain names, and a run that
was resumed for more epochs has them of an earlier epoch too."""

NOT_LOGGED = ("resume", "resume_mode", "runner")
"""Keys of config.yaml that are not parameters in MLflow."""

ENVIRONMENT = ("python", "cpu", "runner", "torch", "torchvision", "numpy", "gpu", "cuda", "cudnn")
"""Lines of environment.txt that may change the last bits."""

STACK = "stack"
"""The line of environment.txt of a run that was trained as one program with others."""

CHANGES = 5
"""Changed files that are named."""

PARAMETER_LENGTH = 6000
"""The longest parameter that MLflow stores, in characters."""

Key = tuple[str, int]
"""A metric's name in MLflow, and the step."""


class Difference(NamedTuple):
    """A value that differs; without values on one side it is missing there."""

    name: str
    step: int
    then: tuple[float, ...]
    now: tuple[float, ...]

    def __str__(self) -> str:
        """Format it: `val/loss at epoch 2: 0.31 in the store, 0.32 now`."""
        unit = "step" if self.name.endswith("_step") else "epoch"
        then, now = (" and ".join(map(repr, values)) or "nothing" for values in (self.then, self.now))
        return f"{self.name} at {unit} {self.step}: {then} in the store, {now} now"


@dataclass
class Verdict:
    """The result of a comparison.

    Attributes:
        metrics: the number of metrics that were compared.
        values: the number of their values.
        differences: the differences, in the order of the measurements.
        alone: the number of values without a counterpart, if that does not count as a difference.
    """

    metrics: int
    values: int
    differences: list[Difference] = field(default_factory=list)
    alone: int = 0

    @property
    def identical(self) -> bool:
        """Whether values were compared and all are the same."""
        return self.values > 0 and not self.differences

    def lines(self) -> list[str]:
        """Return the verdict as lines to print."""
        if not self.values and not self.differences:
            return ["nothing to compare: the store has only times and rates of this run"]
        alone = f"; {self.alone} values have no counterpart" if self.alone else ""
        if self.identical:
            return [f"bit-identical: {self.metrics} metrics, {self.values} values{alone}"]
        names = {difference.name for difference in self.differences}
        counts = f"{len(self.differences)} values in {len(names)} metrics differ, {self.values} were compared{alone}"
        return [f"differs: first {self.differences[0]}", f"         {counts}"]


def logged_values(client: "MlflowClient", run: "Run") -> dict[Key, tuple[float, ...]]:
    """Return all values that MLflow has of a run, except times, rates and energy; several if a step has several.

    Raises:
        MlflowException: the store is unreachable.
    """
    values: dict[Key, tuple[float, ...]] = {}
    for name in run.data.metrics:
        if name.startswith(LEFT_OUT):
            continue
        for point in client.get_metric_history(run.info.run_id, name):
            known = values.get((name, point.step), ())
            if not any(same(value, point.value) for value in known):
                values[name, point.step] = (*known, point.value)
    return values


def measured_values(path: Path) -> dict[Key, float]:
    """Return all values of a journal, except times, rates and energy, by their names in MLflow, in the same order."""
    names: dict[str, str] = {}
    values: dict[Key, float] = {}
    for point in journal.read(path)[0]:
        if point.name not in names:
            names[point.name] = legal_name(point.name, names.values())
        if not point.name.startswith(LEFT_OUT):
            values[names[point.name], point.step] = point.value
    return values


def same(one: float, other: float) -> bool:
    """Whether two values have the same bits, as far as a store saves them (no sign of zero, no infinity)."""
    if math.isnan(one) or math.isnan(other):
        return math.isnan(one) and math.isnan(other)
    limit = sys.float_info.max
    return max(-limit, min(limit, one)) == max(-limit, min(limit, other))


def compare(then: Mapping[Key, tuple[float, ...]], now: Mapping[Key, float], whole: bool) -> Verdict:
    """Compare all values.

    Args:
        then: the values of the store.
        now: the new values, in the measured order.
        whole: whether both must have the same steps. They need not if the run was not finished, or its settings
            were changed by a resume.
    """
    both = [key for key in now if key in then]
    verdict = Verdict(len({name for name, _ in both}), len(both))
    for key, value in now.items():
        values = then.get(key, ())
        if (values or whole) and not (len(values) == 1 and same(values[0], value)):
            verdict.differences.append(Difference(*key, values, (value,)))
    missing = sorted((key for key in then if key not in now), key=lambda key: key[1])
    if whole:
        verdict.differences += [Difference(*key, then[key], ()) for key in missing]
    else:
        verdict.alone = len(missing) + sum(key not in then for key in now)
    return verdict


def comparable_with_0_1_0(
    then: Mapping[Key, tuple[float, ...]], now: Mapping[Key, float]
) -> tuple[dict[Key, tuple[float, ...]], dict[Key, float]]:
    """Select the values that a run of version 0.1.0 can be compared by.

    It logged the `lr` of an epoch's first step instead of the mean over its steps, and fewer metrics.
    """
    names = {name for name, _ in then} - {"lr"}
    return (
        {key: v for key, v in then.items() if key[0] in names},
        {key: v for key, v in now.items() if key[0] in names},
    )


def find_contradictions(config: Mapping[str, Any], run: "Run") -> list[str]:
    """Describe where config.yaml among a run's artifacts contradicts its logged parameters.

    Parameters that are too long are truncated. Changes by a resume are in tags.
    """
    params, tags = run.data.params, run.data.tags
    flat = flatten({key: value for key, value in config.items() if key not in NOT_LOGGED})
    if "task._target_" not in params:  # of version 0.1.0, which logged none
        flat = {key: value for key, value in flat.items() if not key.startswith("task.")}
    contradictions = []
    names: list[str] = []
    for key, value in flat.items():
        names.append(legal_name(key, names))
        tag = legal_name(f"resumed.{key}")
        logged = [held[name] for held, name in ((params, names[-1]), (tags, tag)) if name in held]
        if not any(value == one or (len(one) >= PARAMETER_LENGTH and value.startswith(one)) for one in logged):
            parameter = f"the logged parameter is {_cut(logged[-1])}" if logged else "it was not logged as a parameter"
            contradictions.append(f"{key}: {_cut(value)} in config.yaml, {parameter}")
    # A parameter without a dot is the choice of a group.
    of_config = (key for key in params if not key.startswith(SUCCESSOR_PARAM))
    others = [key for key in of_config if key not in names and ("." in key or key == "seed")]
    return contradictions + [
        f"{key}: missing in config.yaml, the logged parameter is {_cut(params[key])}" for key in others
    ]


def _cut(text: str) -> str:
    return text if len(text) <= 60 else f"{text[:57]}..."


def was_in_stack(path: Path | None) -> bool:
    """Return whether a run was trained as one program with others, by its environment.txt."""
    return STACK in _facts_of(path)


def _facts_of(path: Path | None) -> Mapping[str, str]:
    """Return the facts in an environment.txt; none if there is no such file."""
    if path is None or not path.is_file():
        return {}
    return read_facts(path.read_text(encoding="utf-8", errors="replace"))


def environment_changes(then: Path | None, device: "Device", deterministic: bool, in_stack: bool = False) -> list[str]:
    """Describe the changes of the environment that may change the last bits of results.

    Args:
        then: the path of the run's environment.txt, or None.
        device: the current device.
        deterministic: whether nondeterministic operations are forbidden.
        in_stack: whether the run is trained as one program with others now.
    """
    before = _facts_of(then)
    now = read_facts(environment(device.gpu()))
    changed = [(name, before[name], now.get(name, "none")) for name in ENVIRONMENT if name in before]
    notes = [f"{name} was {was}, is {is_now}" for name, was, is_now in changed if was != is_now]
    if before and (STACK in before) != in_stack:
        together, alone = "as one program with other models", "alone"
        then_how, now_how = (alone, together) if in_stack else (together, alone)
        notes.append(f"it was trained {then_how}, and is trained {now_how}")
    if device.torch.type != "cpu" and not deterministic:
        notes.append(f"without trainer.deterministic=true, results on {device.torch} differ in the last bits each time")
    return notes


def code_notes(stored: "StoredCode", changes: Sequence[str], tags: Mapping[str, str]) -> list[str]:
    """Describe how the present code differs from that of a run, a line each.

    Args:
        stored: the run's code.
        changes: the files that differ.
        tags: of the run.
    """
    commit = "mlflow.source.git.commit"
    then, now = tags.get(commit, "none")[:12], git_tags(Path.cwd())
    notes = []
    if RESUMED_CODE_TAG in tags:
        notes.append(f"the run was resumed with other code: {to_one_line(tags[RESUMED_CODE_TAG])}")
    if stored.record is not None:
        notes += [*changes[:CHANGES], *([f"and {len(changes) - CHANGES} more"] * (len(changes) > CHANGES))]
        return notes + ["this repeats the run with the present code; code=stored takes its own"] * bool(changes)
    notes.append(stored.problem or "no code is stored with the run")
    if then != (is_now := now.get(commit, "none")[:12]):
        notes.append(f"git commit was {then}, is {is_now}")
    elif "true" in (tags.get("git.dirty"), now.get("git.dirty")):
        notes.append("the code had, or has, uncommitted changes")
    return notes
