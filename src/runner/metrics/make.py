"""From entries to metrics: the class for the kind of targets, and the arguments that follow from loss and data."""

import importlib
import inspect
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, get_args

import torch
from torch import Tensor

from runner.errors import ConfigError, Problem, Topic, did_you_mean, first_line
from runner.metrics.entries import ALIASES, KEY, PREFIXES, Entry, Kind, unknown
from runner.metrics.meaning import Meaning
from runner.metrics.measured import MetricSet
from runner.metrics.one import FromFunction, FromTorchmetrics, One

WORDS = {"binary": "two classes", "multiclass": "classes", "multilabel": "labels", "regression": "values"}
OF_CLASS_1 = ("AUROC", "AveragePrecision")
"""Metrics of the probability of class 1 where there are two: `average` changes nothing, as in scikit-learn."""

TRIED = 32
"""How many made-up samples a metric is tried on before the start."""


def make_metrics(entries: Sequence[Entry], meaning: Meaning, measured: Sequence[str] = ()) -> MetricSet | None:
    """Make the metrics, and try each on made-up samples.

    Args:
        entries: as typed.
        meaning: of outputs and targets.
        measured: the names of metrics that the task measures itself.

    Returns:
        The metrics; None if there are none.

    Raises:
        ConfigError: torchmetrics is missing; or a metric does not exist, or does not fit.
    """
    problems, made = list[Problem](), list[One]()
    for entry in entries:
        if entry.name in measured:
            if entry.what != entry.name or entry.arguments:
                example = f"{{{entry.name}_2:{{_target_:torchmetrics.{_base(entry)},...}}}}"
                text = f"{KEY}: the task measures {entry.name} itself"
                problems.append(Problem(KEY, text, f"give it a name of its own: {example}", topic="conflict"))
            continue  # without arguments, that is the one which is asked for
        try:
            one = _make(entry, meaning)
            _try(one, meaning)
            made.append(one)
        except ConfigError as error:
            problems += error.problems
    if problems:
        raise ConfigError(*problems)
    return MetricSet(made, meaning) if made else None


def _base(entry: Entry) -> str:
    return ALIASES[entry.what].base if entry.what in ALIASES else entry.what.rpartition(".")[2]


def _make(entry: Entry, meaning: Meaning) -> One:
    if entry.is_path and not entry.what.startswith("torchmetrics."):
        found = _import(entry.what)
        if not (inspect.isclass(found) and hasattr(found, "compute") and hasattr(found, "update")):
            return _from_function(entry, found, raw=meaning.of_step)
        return _from_class(entry, found, Meaning() if meaning.of_step else meaning, {}, raw=meaning.of_step)
    _require_torchmetrics(entry)
    alias = ALIASES.get(entry.what)
    base = alias.base if alias is not None else entry.what.rpartition(".")[2]
    if meaning.of_step and entry.is_path and (meaning.kind is None or _class(base, meaning.kind) is None):
        return _as_typed(entry)
    if meaning.kind is None:
        tells = "nor do outputs and targets of its step" if meaning.of_step else "by which to measure them"
        text = f"{KEY}: the task has no loss that says whether its outputs are classes, labels or values, {tells}"
        example = f"{KEY}=[{{{entry.name}:{{_target_:my_package.measure}}}}]"
        shapes = "return outputs (N, K) as floats and targets (N,) as whole numbers, or " if meaning.of_step else ""
        raise _problem(text, f"{shapes}write a function of outputs and targets, {example}")
    if alias is not None and meaning.kind not in alias.kinds:
        raise _unfit(entry, meaning)
    defaults = dict(alias.defaults) if alias is not None else {}
    if meaning.kind == "binary" and base in OF_CLASS_1:
        entry = replace(entry, arguments={name: value for name, value in entry.arguments.items() if name != "average"})
    if meaning.kind == "binary" and _over_classes(entry, base):
        meaning = Meaning("multiclass", 2, meaning.names, meaning.loss)
    assert meaning.kind is not None
    if entry.arguments.get("task") == meaning.kind:  # of the class that has all kinds; it is of one already
        entry = replace(entry, arguments={name: value for name, value in entry.arguments.items() if name != "task"})
    found = _class(base, meaning.kind)
    if found is None:
        raise _unfit(entry, meaning) if alias is not None or _exists(base) else ConfigError(unknown(entry.what))
    rises = alias.higher_is_better if alias is not None else None
    return _from_class(entry, found, meaning, defaults, rises)


def _over_classes(entry: Entry, base: str) -> bool:
    """Whether two classes are averaged, instead of measuring class 1 against class 0."""
    averaged = entry.what == "balanced_accuracy" or entry.arguments.get("average") in ("macro", "weighted", "micro")
    return averaged or base.startswith("Multiclass") or entry.arguments.get("task") == "multiclass"


def asked_kind(entries: Sequence[Entry]) -> Kind | None:
    """Return the kind of targets that entries name by the argument `task` of torchmetrics' classes; None if none does.

    Raises:
        ConfigError: they name different ones.
    """
    named = {str(entry.arguments["task"]) for entry in entries if "task" in entry.arguments}
    asked = [kind for kind in get_args(Kind) if kind in named]
    if len(asked) > 1:
        raise _problem(f"{KEY}: task is {' and '.join(asked)}", "write the same task for all")
    return asked[0] if asked else None


def _as_typed(entry: Entry) -> One:
    """Make a class of torchmetrics with its arguments as typed, for outputs and targets as they are."""
    found, arguments = _import(entry.what), dict(entry.arguments)
    if not inspect.isclass(found):
        raise ConfigError(unknown(entry.what))
    if found.__new__ is not object.__new__ and "task" in inspect.signature(found.__new__).parameters:
        kind = arguments.pop("task", None)
        if kind not in PREFIXES:
            text = f"{KEY}: {entry.name}: neither a loss nor the shapes of outputs and targets tell what they mean"
            raise _problem(text, f"add task:multiclass, or another, to the arguments of {entry.name}", "missing")
        found = _class(entry.what.rpartition(".")[2], kind)
    return _from_class(replace(entry, arguments=arguments), found, Meaning(), {}, raw=True)


def _require_torchmetrics(entry: Entry) -> None:
    try:
        importlib.import_module("torchmetrics")
    except ImportError as error:
        text = f"{KEY}: {entry.name} needs torchmetrics"
        instead = 'install it: pip install "runner-torch[metrics]"'
        raise ConfigError(Problem(KEY, text, instead, topic="unavailable")) from error


def _class(base: str, kind: str) -> Any:
    """Return torchmetrics' class for a kind of targets; None if it has none."""
    prefix = PREFIXES[kind]
    module = importlib.import_module("torchmetrics.classification" if prefix else "torchmetrics.regression")
    found = getattr(module, base if base.startswith(prefix) else f"{prefix}{base}", None)
    return found if inspect.isclass(found) else None


def _exists(base: str) -> bool:
    return any(hasattr(importlib.import_module(f"torchmetrics{part}"), base) for part in ("", ".classification"))


def _from_class(
    entry: Entry,
    found: Any,
    meaning: Meaning,
    defaults: Mapping[str, Any],
    rises: bool | None = None,
    raw: bool = False,
) -> One:
    named = inspect.signature(found.__init__).parameters
    counts = {"num_classes": "multiclass", "num_labels": "multilabel", "num_outputs": "regression"}
    derived: dict[str, Any] = {name: meaning.count for name, kind in counts.items() if meaning.kind == kind}
    derived |= {} if raw or meaning.of_step else {"validate_args": False}  # nobody has checked the targets
    derived = {name: value for name, value in derived.items() if name in named}
    if derived.get("num_outputs") == 1:
        del derived["num_outputs"]
    arguments = derived | {name: value for name, value in defaults.items() if name in named} | dict(entry.arguments)
    takes = [name for name in named if name not in ("self", "kwargs", "args", "validate_args", *derived)]
    for name in entry.arguments:
        if name in derived and derived[name] != entry.arguments[name]:
            raise _problem(f"{KEY}: {name} of {entry.name} follows from the data: {derived[name]}", f"leave out {name}")
        if name not in (*takes, *derived):
            text = f"{KEY}: {entry.name} takes no {name}"
            hint = f"leave it out for {WORDS[meaning.kind]}" if name == "average" and meaning.kind else None
            raise _problem(text, hint or did_you_mean(name, takes), "unknown")
    if "average" in entry.arguments and entry.arguments["average"] in (None, "none"):
        text = f"{KEY}: {entry.name} without average is one value a class, which result.json has with any average"
        raise _problem(text, "write average:macro")
    for name, value in entry.arguments.items():  # 2 is no float to torchmetrics, which wants 2.0
        kinds = (named[name].annotation, *get_args(named[name].annotation))
        if type(value) is int and float in kinds and int not in kinds:
            arguments[name] = float(value)
    if isinstance(arguments.get("thresholds"), list):
        arguments["thresholds"] = torch.tensor(arguments["thresholds"])
    declared = [entry.higher_is_better, rises, getattr(found, "higher_is_better", None)]
    direction = next((value for value in declared if value is not None), None)
    return FromTorchmetrics(entry.name, direction, found, arguments, meaning, raw)


def _from_function(entry: Entry, found: Any, raw: bool) -> One:
    if not callable(found):
        raise _problem(f"{KEY}: {entry.what} is of type {type(found).__name__}", "name a function", "code")
    direction = entry.higher_is_better
    if direction is None:
        direction = getattr(found, "higher_is_better", None)
    return FromFunction(entry.name, direction, found, entry.arguments, raw)


def _import(path: str) -> Any:
    module, _, name = path.rpartition(".")
    try:
        parent = importlib.import_module(module)
    except Exception as error:  # the user's module may raise anything
        text = f"{KEY}: {path} cannot be imported: {first_line(error)}"
        raise _problem(text, "write the path of a function, such as my_package.measure", "code") from error
    if not hasattr(parent, name):
        public = [other for other in dir(parent) if not other.startswith("_")]
        raise _problem(f"{KEY}: {module} has no {name}", did_you_mean(name, public[:12]), "unknown")
    return getattr(parent, name)


def _unfit(entry: Entry, meaning: Meaning) -> ConfigError:
    assert meaning.kind is not None
    fitting = [name for name, alias in ALIASES.items() if meaning.kind in alias.kinds]
    who = "step returns" if meaning.of_step else "loss predicts"
    text = f"{KEY}: {entry.name} is not a metric of {WORDS[meaning.kind]}, which the {who}"
    return _problem(text, f"choose from {', '.join(sorted(fitting))}")


def _problem(text: str, suggestion: str, topic: Topic = "conflict") -> ConfigError:
    return ConfigError(Problem(KEY, text, suggestion, topic=topic))


def _try(one: One, meaning: Meaning) -> None:
    """Measure made-up samples.

    Raises:
        ConfigError: the metric fails, or is not one number, or one a class.
    """
    if meaning.kind is None or one.raw:  # what outputs and targets look like is known only once there are some
        return
    outputs, targets = _samples(meaning)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            one.start(torch.device("cpu"))
            one.update(outputs, targets)
            one.compute()
        except ConfigError:
            raise
        except Exception as error:  # of torchmetrics, or of the user's code
            text = f"{KEY}: {one.name} fails for {WORDS[meaning.kind]}: {first_line(error)}"
            raise _problem(text, "change its arguments", "code") from error
    one.start(torch.device("cpu"))


def _samples(meaning: Meaning) -> tuple[Tensor, Tensor]:
    made = torch.Generator().manual_seed(0)
    count = max(TRIED, 2 * meaning.count) if meaning.count < 10_000 else TRIED
    if meaning.kind == "regression":
        shape = (count,) if meaning.count == 1 else (count, meaning.count)
        targets = torch.rand(shape, generator=made, dtype=torch.float64) + 1
        return targets + torch.rand(shape, generator=made, dtype=torch.float64), targets
    if meaning.kind == "multilabel":
        probabilities = torch.rand(count, meaning.count, generator=made, dtype=torch.float64)
        return probabilities, torch.arange(count).unsqueeze(1).expand(-1, meaning.count) % 2
    outputs = torch.randn(count, meaning.count, generator=made, dtype=torch.float64)
    return outputs.softmax(1), torch.arange(count) % meaning.count
