"""What MLflow holds of a run against what the same run gives now: config, data, machine, every value measured."""

import math
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from runner.config.keys import flatten
from runner.rundir import journal
from runner.tracking.environment import environment, git_tags
from runner.util.tags import legal_name

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

    from runner.device import Device

INEXACT = ("time/", "throughput/", "system/")
"""Beginnings of the metrics that no two runs have in common."""

LEFT_OUT = (*INEXACT, "best/")
"""Beginnings of the metrics that are not compared: those of the best epoch are compared under their own names, and a
run that was prolonged has them of an earlier epoch too."""

NOT_LOGGED = ("resume", "resume_mode", "runner")
"""What a run's config.yaml has and its parameters in MLflow have not."""

ENVIRONMENT = ("python", "cpu", "runner", "torch", "torchvision", "numpy", "gpu", "cuda", "cudnn")
"""What of environment.txt may change the last bits."""

PARAMETER_LENGTH = 6000
"""Characters of a parameter that MLflow keeps."""

Key = tuple[str, int]
"""A metric's name in MLflow, and the step."""


class Difference(NamedTuple):
    """A value that is not the same; no values: it is on one side only."""

    name: str
    step: int
    then: tuple[float, ...]
    now: tuple[float, ...]

    def __str__(self) -> str:
        """`val/loss at epoch 2: 0.31 in the store, 0.32 now`."""
        unit = "step" if self.name.endswith("_step") else "epoch"
        then, now = (" and ".join(map(repr, values)) or "nothing" for values in (self.then, self.now))
        return f"{self.name} at {unit} {self.step}: {then} in the store, {now} now"


@dataclass
class Verdict:
    """What came out.

    Attributes:
        metrics: how many metrics were compared, and `values` how many values of them.
        differences: in the order in which the values were measured.
        alone: values without a counterpart, where that is no difference.
    """

    metrics: int
    values: int
    differences: list[Difference] = field(default_factory=list)
    alone: int = 0

    @property
    def identical(self) -> bool:
        """Whether something was compared, and all of it is the same."""
        return self.values > 0 and not self.differences

    def lines(self) -> list[str]:
        """In words."""
        if not self.values and not self.differences:
            return ["nothing to compare: the store has no metric of this run but times and rates"]
        kept = f"; {self.alone} values have no counterpart" if self.alone else ""
        if self.identical:
            return [f"bit-identical: {self.metrics} metrics, {self.values} values{kept}"]
        names = {difference.name for difference in self.differences}
        of = f"{len(self.differences)} values in {len(names)} metrics differ, {self.values} were compared{kept}"
        return [f"differs: first {self.differences[0]}", f"         {of}"]


def logged_values(client: "MlflowClient", run: "Run") -> dict[Key, tuple[float, ...]]:
    """Every value that MLflow has of a run, but for times and rates; several if it has several at one step.

    Raises:
        MlflowException: the store is away.
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
    """Every value of a journal, but for times and rates, by the names MLflow gives them, as they were measured."""
    names: dict[str, str] = {}
    values: dict[Key, float] = {}
    for point in journal.read(path)[0]:
        if point.name not in names:
            names[point.name] = legal_name(point.name, names.values())
        if not point.name.startswith(LEFT_OUT):
            values[names[point.name], point.step] = point.value
    return values


def same(one: float, other: float) -> bool:
    """Whether two values are the same bits, as far as a store keeps them (not the sign of zero, no infinity)."""
    if math.isnan(one) or math.isnan(other):
        return math.isnan(one) and math.isnan(other)
    limit = sys.float_info.max
    return max(-limit, min(limit, one)) == max(-limit, min(limit, other))


def compare(then: Mapping[Key, tuple[float, ...]], now: Mapping[Key, float], whole: bool) -> Verdict:
    """Compare all values.

    Args:
        then: those of the store.
        now: those measured again, in their order.
        whole: whether both must have measured at the same steps: not so for a run that did not come to its end,
            or whose settings were changed on the way.
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
    """What a run of version 0.1.0 can be compared by.

    It logged the `lr` of an epoch's first step, not the mean over its steps, and had fewer metrics.
    """
    names = {name for name, _ in then} - {"lr"}
    return (
        {key: v for key, v in then.items() if key[0] in names},
        {key: v for key, v in now.items() if key[0] in names},
    )


def find_contradictions(config: Mapping[str, Any], run: "Run") -> list[str]:
    """Where the config.yaml among a run's artifacts and the parameters it logged contradict each other.

    A parameter is cut off where it is too long; what a resume has changed stands in a tag.
    """
    params, tags = run.data.params, run.data.tags
    flat = flatten({key: value for key, value in config.items() if key not in NOT_LOGGED})
    found = []
    names: list[str] = []
    for key, value in flat.items():
        names.append(legal_name(key, names))
        tag = legal_name(f"resumed.{key}")
        logged = [held[name] for held, name in ((params, names[-1]), (tags, tag)) if name in held]
        if not any(value == one or (len(one) >= PARAMETER_LENGTH and value.startswith(one)) for one in logged):
            said = f"the logged parameter {_cut(logged[-1])}" if logged else "no parameter of that name was logged"
            found.append(f"{key}: config.yaml says {_cut(value)}, {said}")
    # What has no dot is the choice of a group.
    left = [key for key in params if key not in names and ("." in key or key == "seed")]
    return found + [f"{key}: config.yaml has no such key, the logged parameter is {_cut(params[key])}" for key in left]


def _cut(text: str) -> str:
    return text if len(text) <= 60 else f"{text[:57]}..."


def environment_changes(then: Path | None, device: "Device", deterministic: bool) -> list[str]:
    """What may give other last bits than the run had, or would have had.

    Args:
        then: its environment.txt, if there is one.
        device: what it computes on now.
        deterministic: whether operations are refused that give another result each time.
    """
    before = _facts(then.read_text(encoding="utf-8", errors="replace")) if then is not None and then.is_file() else {}
    now = _facts(environment(device.gpu()))
    changed = [(name, before[name], now.get(name, "none")) for name in ENVIRONMENT if name in before]
    notes = [f"{name} was {was}, is {is_now}" for name, was, is_now in changed if was != is_now]
    if device.torch.type != "cpu" and not deterministic:
        notes.append(f"{device.torch} without trainer.deterministic=true computes other last bits each time")
    return notes


def code_changes(tags: Mapping[str, str]) -> list[str]:
    """Where the code is not what the tags of a run say."""
    commit = "mlflow.source.git.commit"
    here = git_tags(Path.cwd())
    if tags.get(commit) != here.get(commit):
        return [f"git commit was {tags.get(commit, 'none')[:12]}, is {here.get(commit, 'none')[:12]}"]
    if "true" in (tags.get("git.dirty"), here.get("git.dirty")):
        return ["the code had, or has, changes that are not committed"]
    return []


def _facts(text: str) -> dict[str, str]:
    """The `name: value` lines of an environment.txt, without the list of packages."""
    lines = text.partition("# every")[0].splitlines()
    return {name: value for name, colon, value in (line.partition(": ") for line in lines) if colon}
