"""The root key `metrics`: its entries, and the names that stand for torchmetrics' classes."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from runner.config.keys import format_value
from runner.errors import ConfigError, Problem, did_you_mean
from runner.util.tags import legal_name

KEY = "metrics"

Kind = Literal["binary", "multiclass", "multilabel", "regression"]
PREFIXES = {"binary": "Binary", "multiclass": "Multiclass", "multilabel": "Multilabel", "regression": ""}
"""How the names of torchmetrics' classes begin, by the kind of targets."""

CLASSES: tuple[Kind, ...] = ("binary", "multiclass", "multilabel")
TWO: tuple[Kind, ...] = ("binary", "multiclass")
VALUES: tuple[Kind, ...] = ("regression",)


@dataclass(frozen=True)
class Alias:
    """What a name stands for.

    Attributes:
        base: the name of torchmetrics' class; for classes and labels without `Binary`, `Multiclass`, `Multilabel`.
        kinds: of targets that it measures.
        defaults: arguments that differ from those of the class.
        higher_is_better: where the class does not declare it.
    """

    base: str
    kinds: tuple[Kind, ...] = CLASSES
    defaults: Mapping[str, Any] = field(default_factory=dict)
    higher_is_better: bool | None = None


ALIASES: dict[str, Alias] = {
    "accuracy": Alias("Accuracy", defaults={"average": "micro"}),  # the class averages over classes
    "auroc": Alias("AUROC"),
    "average_precision": Alias("AveragePrecision"),
    "balanced_accuracy": Alias("Accuracy", TWO, {"average": "macro"}),
    "calibration_error": Alias("CalibrationError", TWO),
    "cohen_kappa": Alias("CohenKappa", TWO),
    "exact_match": Alias("ExactMatch", ("multilabel",)),
    "f1": Alias("F1Score"),
    "hamming_distance": Alias("HammingDistance", defaults={"average": "micro"}),
    "iou": Alias("JaccardIndex"),
    "jaccard": Alias("JaccardIndex"),
    "matthews": Alias("MatthewsCorrCoef"),
    "precision": Alias("Precision"),
    "recall": Alias("Recall"),
    "specificity": Alias("Specificity", higher_is_better=True),
    "top5_accuracy": Alias("Accuracy", ("multiclass",), {"average": "micro", "top_k": 5}),
    "explained_variance": Alias("ExplainedVariance", VALUES),
    "mae": Alias("MeanAbsoluteError", VALUES),
    "mape": Alias("MeanAbsolutePercentageError", VALUES),
    "mse": Alias("MeanSquaredError", VALUES),
    "pearson": Alias("PearsonCorrCoef", VALUES, higher_is_better=True),
    "r2": Alias("R2Score", VALUES),
    "rmse": Alias("MeanSquaredError", VALUES, {"squared": False}),
    "smape": Alias("SymmetricMeanAbsolutePercentageError", VALUES),
    "spearman": Alias("SpearmanCorrCoef", VALUES),
}
"""The names of metrics; any other class of torchmetrics goes by its own name."""

RESERVED = ("loss", "loss_step", "epoch_seconds")


@dataclass(frozen=True)
class Entry:
    """A metric that was asked for.

    Attributes:
        name: in the results: `val/<name>`.
        what: a name in `ALIASES`, the name of a class of torchmetrics, or the path of a class or function.
        arguments: for the class or function.
        higher_is_better: as typed; None: the class or function declares it.
    """

    name: str
    what: str
    arguments: Mapping[str, Any]
    higher_is_better: bool | None = None

    @property
    def is_path(self) -> bool:
        """Whether it is the path of a class or function."""
        return "." in self.what


def read_entries(value: Any) -> list[Entry]:
    """Read the value of the key.

    Args:
        value: a list of names, paths, and mappings from a name to arguments; `_target_` among these is what the name
            stands for.

    Raises:
        ConfigError: it is something else; or two metrics have one name.
    """
    if not isinstance(value, list):
        typed = value if isinstance(value, str) else "f1"
        text = f"{KEY}={format_value(value)} is not a list"
        raise ConfigError(Problem(KEY, text, f"write {KEY}=[{typed}]", topic="type"))
    problems, entries = list[Problem](), dict[str, Entry]()
    for item in value:
        try:
            for entry in _read(item):
                problems += _check(entry, entries)
                entries[entry.name] = entry
        except ConfigError as error:
            problems += error.problems
    if problems:
        raise ConfigError(*problems)
    return list(entries.values())


def _read(item: Any) -> Iterator[Entry]:
    if isinstance(item, str):
        yield Entry(metric_name(item), item, {})
    elif isinstance(item, Mapping) and isinstance(item.get("_target_"), str):
        yield _entry(metric_name(item["_target_"]), item)
    elif isinstance(item, Mapping) and item:
        for name, arguments in item.items():
            if arguments is not None and not isinstance(arguments, Mapping):
                text = f"{KEY}: the arguments of {name} are {format_value(arguments)}, not names and values"
                suggestion = f"write {KEY}=[{{{name}:{{average:macro}}}}]"
                raise ConfigError(Problem(KEY, text, suggestion, topic="type"))
            yield _entry(str(name), arguments or {})
    else:
        text = f"{KEY}: {format_value(item)} is neither a name nor a name with arguments"
        raise ConfigError(Problem(KEY, text, f"write {KEY}=[f1,{{auroc:{{average:macro}}}}]", topic="type"))


def _entry(name: str, arguments: Mapping[str, Any]) -> Entry:
    own = {str(key): value for key, value in arguments.items() if key not in ("_target_", "higher_is_better")}
    rises = arguments.get("higher_is_better")
    if rises is not None and not isinstance(rises, bool):
        text = f"{KEY}: higher_is_better={format_value(rises)} of {name} is neither true nor false"
        raise ConfigError(Problem(KEY, text, "write higher_is_better:true, or false", topic="type"))
    return Entry(metric_name(name), str(arguments.get("_target_", name)), own, rises)


def _check(entry: Entry, before: Mapping[str, Entry]) -> Iterator[Problem]:
    name = entry.name
    if name in before or name in RESERVED:
        why = "is asked for twice" if name in before else "is the name of something else"
        other = f"{{{name}_2:{{_target_:{_example(entry)},...}}}}"
        yield Problem(KEY, f"{KEY}: {name} {why}", f"give it a name of its own: {other}", topic="conflict")
    elif not name or legal_name(name) != name or "/" in name or "." in name:
        yield Problem(KEY, f"{KEY}: {name} is not a name for a metric", "write letters, digits and _", topic="syntax")
    elif not entry.is_path and entry.what not in ALIASES and entry.what == entry.what.lower():
        yield unknown(entry.what)


def _example(entry: Entry) -> str:
    return f"torchmetrics.{ALIASES[entry.what].base}" if entry.what in ALIASES else entry.what


def unknown(name: str) -> Problem:
    """A problem of a name that is neither one of ours nor a class of torchmetrics."""
    return Problem(KEY, f"{KEY}: there is no metric {name}", did_you_mean(name, ALIASES), topic="unknown")


def metric_name(what: str) -> str:
    """Return the name of a class or function in the results: `f1_score` for `torchmetrics.F1Score`."""
    last = what.rpartition(".")[2]
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", last).lower()
