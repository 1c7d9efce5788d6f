"""The folds of a configuration together: their predictions out of fold, and the ensemble of their models."""

import csv
import multiprocessing
import os
import tempfile
import threading
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor, nn

from runner.errors import ConfigError, describe_error
from runner.rundir import layout
from runner.runs.describe import make_input_spec
from runner.runs.ensemble import make_ensemble, name_of_input
from runner.runs.fold_models import (
    NO_MEAN,
    FoldModel,
    Predicted,
    build_again,
    has_mean,
    joined,
    loss_of,
    mean_of,
    measure,
)
from runner.runs.per_sample import write_samples
from runner.runs.serving import Served, save_served, serving_example, serving_module, table_names
from runner.runs.task_model import INPUTS
from runner.saved.run import SavedRun, find
from runner.task import Task
from runner.tracking.model import TableNames
from runner.training.evaluation import evaluate
from runner.util.files import replacing
from runner.util.options import EXIT_FAILED


class Member(NamedTuple):
    """A job of the configuration.

    Attributes:
        number: of the job.
        fold: that it has validated on.
        seed: as typed; empty if all have the same.
    """

    number: int
    fold: int
    seed: str = ""


@dataclass
class Combined:
    """What the folds have together.

    Attributes:
        out_of_fold: metrics over all training samples, each predicted by the model that was not trained on it.
        test: metrics of the ensemble on the test part; empty without one.
        samples: the number of training samples, and of test samples.
        model: whether the ensemble is saved; None if nobody has asked for it.
        notes: what is left out, and why.
    """

    out_of_fold: dict[str, float] = field(default_factory=dict)
    test: dict[str, float] = field(default_factory=dict)
    samples: tuple[int, int] = (0, 0)
    model: bool | None = None
    notes: list[str] = field(default_factory=list)


class Rows(NamedTuple):
    """The rows of the samples that a member was not trained on.

    Attributes:
        header: the names of the columns.
        cells: of each sample.
        order: the place of each sample in the training part.
    """

    header: list[str]
    cells: list[list[str]]
    order: list[int]


@dataclass
class Evaluated:
    """A member's part in what all have together; None where the task has no mean of predictions."""

    rows: Rows
    task: Task
    digest: str | None
    validated: Predicted | None = None
    tested: Predicted | None = None
    serving: nn.Module | None = None
    served: Served | None = None
    names: TableNames | None = None


def combine_or_say_why(folder: Path, members: Sequence[tuple[int, int, str]], *more: Any) -> dict[str, Any] | str:
    """Return what `combine` returns as a dict, for a process without torch; or why it fails.

    If that process is killed, this one ends too: a resumed sweep writes the same files.
    """
    if (parent := multiprocessing.parent_process()) is not None:
        threading.Thread(target=_end_after, args=(parent,), daemon=True).start()
    try:
        return asdict(combine(folder, [Member(*member) for member in members], *more))
    except ConfigError as error:
        return "; ".join(map(str, error.problems))
    except Exception as error:  # the user's code may raise anything
        return describe_error(error)


def _end_after(parent: BaseProcess) -> None:
    parent.join()
    os._exit(EXIT_FAILED)


def combine(folder: Path, members: Sequence[Member], saves_model: bool, elsewhere: bool = False) -> Combined:
    """Write the predictions out of fold and the ensemble into a sweep's folder, and measure both.

    The test part is read here, and by no fold alone.

    Args:
        folder: of the sweep.
        members: the jobs of one configuration, which have finished.
        saves_model: whether to save the ensemble for MLflow.
        elsewhere: whether the jobs ran on other machines: their device may not be here.

    Raises:
        ConfigError: the weights or the data of a member cannot be loaded.
        OSError: a file cannot be written.
    """
    evaluated = [_evaluate(folder / str(member.number), saves_model, elsewhere) for member in members]
    write_rows(folder / layout.OUT_OF_FOLD, members, [each.rows for each in evaluated])
    task = evaluated[0].task
    combined = Combined(samples=(sum(len(each.rows.cells) for each in evaluated), 0))
    combined.model = False if saves_model else None
    validated = [each.validated for each in evaluated if each.validated is not None]
    tested = [each.tested for each in evaluated if each.tested is not None]
    if not validated:
        combined.notes.append(NO_MEAN)
        return combined
    combined.out_of_fold = measure(task, joined(validated))
    if len({each.digest for each in evaluated}) > 1:
        combined.notes.append("not tested: the test samples of these jobs differ")
    elif tested and (mean := mean_of(loss_of(task), tested)) is not None:
        combined.test = measure(task, mean)
        combined.samples = (combined.samples[0], len(mean.targets))
    if saves_model and all(each.serving is not None for each in evaluated):
        _save_ensemble(folder / layout.MODEL, evaluated)
        combined.model = (folder / layout.MODEL).is_dir()
    return combined


def _save_ensemble(folder: Path, evaluated: Sequence[Evaluated]) -> None:
    """Save the mean of models for MLflow serving."""
    first, served = evaluated[0], [each.served for each in evaluated if each.served is not None]
    loss, names, whole = first.task.loss, first.names, served[0]
    encoders = [each.names.encoder for each in evaluated if each.names is not None]
    apart = names is not None and names.encoder is not None  # each fold reads the table by transformers of its own
    if names is not None and apart:
        names, example = names._replace(encoder=encoders), dict[str, Tensor]()
        for number, each in enumerate(served):
            inputs = {INPUTS: each.example} if isinstance(each.example, Tensor) else each.example
            example |= {name_of_input(name, number): values for name, values in inputs.items()}
        whole = replace(whole, example=example)
    assert loss is not None
    members = [each.serving for each in evaluated if each.serving is not None]
    save_served(make_ensemble(members, loss, names is not None, apart), whole, folder, names)


def _evaluate(folder: Path, saves_model: bool, elsewhere: bool) -> Evaluated:
    run = find(str(folder), "run")
    fold = build_again(run, _on_cpu(run) if elsewhere else ())
    experiment = fold.experiment
    validated = fold.predict("val") if has_mean(fold.task) else None
    digest = experiment.splits.test_digest
    evaluated = Evaluated(rows_of(fold, validated), fold.task, digest, validated)
    if validated is not None:
        evaluated.tested = fold.predict("test")
        if saves_model:
            evaluated.names = table_names(experiment)
            evaluated.served = serving_example(experiment, make_input_spec(experiment))
            if evaluated.served is not None:
                evaluated.serving = serving_module(experiment, evaluated.served, False, fold.state.eval_model)
    fold.close()
    return evaluated


def _on_cpu(run: SavedRun) -> list[str]:
    """Return the overrides with which any machine can evaluate a run."""
    precision = run.config["precision"]["name"]
    here = "fp32" if precision == "tf32" else precision  # the same weights
    return ["device.name=cpu", f"precision.name={here}", "trainer.compile=false"]


def rows_of(fold: FoldModel, validated: Predicted | None) -> Rows:
    """Return the rows of a fold's samples.

    Args:
        fold: the model that was not trained on them.
        validated: what it predicts; None where the task has predictions of its own.
    """
    splits, loader = fold.experiment.splits, fold.experiment.loaders.val
    assert splits.val is not None and loader is not None
    with tempfile.TemporaryDirectory() as temporary:
        path = Path(temporary) / "samples.csv"
        if validated is not None:
            fold.write(path, "val", validated)
        else:
            loss = evaluate(fold.state, loader).get("loss")
            write_samples(path, fold.state, loader, splits.val, splits.classes, loss)
        with path.open(encoding="utf-8", newline="") as file:
            header, *cells = csv.reader(file)
    places = fold.members.tolist()
    if splits.val.row_numbers() is None:  # the numbers are those of the fold's own part
        cells = [[str(place), *row[1:]] for place, row in zip(places, cells, strict=True)]
    return Rows(header, cells, places)


def write_rows(path: Path, members: Sequence[Member], each: Sequence[Rows]) -> None:
    """Write the samples of all members, by seed, in the order of the data."""
    shared = [name for name in each[0].header if all(name in rows.header for rows in each)]
    with_seed = any(member.seed for member in members)
    seeds = {seed: place for place, seed in enumerate(dict.fromkeys(member.seed for member in members))}
    table = []
    for member, rows in zip(members, each, strict=True):
        columns = [rows.header.index(name) for name in shared]
        for place, row in zip(rows.order, rows.cells, strict=True):
            first, *others = [row[column] for column in columns]
            seed = [member.seed] if with_seed else []
            table.append(((seeds[member.seed], place), [*seed, first, str(member.fold), *others]))
    table.sort(key=lambda pair: pair[0])
    with replacing(path) as fresh, fresh.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow([*(["seed"] if with_seed else []), shared[0], "fold", *shared[1:]])
        writer.writerows(row for _, row in table)
