"""Predict with the best model of a run, from samples in the form of its data set."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from runner import device as devices
from runner.assembly.losses import saved_task
from runner.assembly.target import call
from runner.data.source import names_of
from runner.data.target_scale import read_target_scale
from runner.errors import ConfigError, Problem
from runner.loss import answers
from runner.model.lora import add_adapters, is_adapted, merge
from runner.model.pretrained import weights_unwanted
from runner.precision import Precision
from runner.rundir.checkpoint_parts import load_task
from runner.runs import columns, new_samples
from runner.runs.code_changes import warn_of_changes
from runner.runs.new_samples import NewSamples
from runner.saved import input_spec
from runner.saved.input_spec import InputSpec
from runner.saved.run import SavedRun
from runner.saved.weights import Weights, load_exactly, weights_of_run
from runner.task import Task
from runner.task.supervised import Supervised
from runner.util import trees
from runner.util.cores import usable_cores
from runner.util.trees import Tree

Predictions = dict[str, Tensor]
"""Tensors (N, ...) by name, on the CPU."""


class Predictor:
    """A run's best model, for samples in the form of its data set: `Predictor(find("outputs/runs/..."))(inputs)`.

    It computes with the run's `precision` if the device supports it.

    Args:
        run: the run, from its folder or from MLflow; its training data need not exist.
        device: auto, cpu, cuda, mps or another of `runner.device`.

    Raises:
        ConfigError: the run's weights or input specification cannot be loaded.
    """

    def __init__(self, run: SavedRun, device: str = "cpu") -> None:
        self.samples, self.model, self.weights = trained_model(run)
        threads = min(int(run.config["device"]["threads"]), usable_cores())  # as in training
        self.device = devices.resolve(device, threads=threads).torch
        name = run.config["precision"]["name"]
        here = "fp32" if name == "tf32" and self.device.type != "cuda" else name  # the same weights, computed in fp32
        self.precision = Precision(here, self.device)
        self.arithmetic = "" if name == "fp32" else f" · precision {self.precision}"
        if here != name:
            self.arithmetic += f", the run's was {name}"
        self.model.to(self.device)
        self.scale = read_target_scale(self.weights.preprocessing or {})
        self.task = trained_task(run, self.weights, self.precision.dtype).to(self.device)

    @property
    def classifies(self) -> bool:
        """Whether predictions are classes or values as the loss of `task=supervised` defines them."""
        return columns.answers_classes(self.task)

    @property
    def source(self) -> str:
        """Where the weights are from, and in which precision they compute."""
        epoch = f" (epoch {self.weights.epoch})" if self.weights.epoch else ""
        return f"{self.weights.source}{epoch}{self.arithmetic}"

    def read(self, value: str) -> NewSamples:
        """Read new samples: see `new_samples.read`."""
        return new_samples.read(value, self.samples)

    def __call__(self, raw: Tree) -> Tensor | Predictions:
        """Compute predictions, on the CPU, of raw inputs (N, ...): uint8 pixels or floats, or a tree of tensors.

        Returns:
            For `task=supervised` its outputs (N, K): logits, or values in the units of the data, which are float64 if
            the targets were standardized. For other tasks what `predict` returns, by name.

        Raises:
            ConfigError: `predict` of the task fails, or returns something else.
        """
        try:
            result = self._predict(raw)
        except Exception as error:  # code of the user's may raise anything
            if self.samples.inputs is None and self.classifies:  # the model was checked when it was trained
                raise
            raise columns.failure(error) from error
        if not self.classifies:
            named = columns.named_predictions(result, trees.first_axis(raw))
            return {
                name: self.precision.upcast(values) if values.is_floating_point() else values  # a mask, for example
                for name, values in named.items()
            }
        assert isinstance(result, Tensor)
        outputs = self.precision.upcast(result).cpu()
        return outputs if self.scale is None else self.scale.in_units(outputs)

    def _predict(self, raw: Tree) -> object:
        moved = trees.tree_map(lambda leaf: leaf.to(self.device), raw)
        with torch.inference_mode(), self.precision.autocast():
            return self.task.predict(self.model, self.samples.normalize(moved, self.precision.dtype))

    def arrays(self, outputs: Tensor | Predictions) -> Predictions:
        """Return predictions by name: of `task=supervised`, `probabilities` or `values` (N, K)."""
        if not isinstance(outputs, Tensor):
            return outputs
        assert isinstance(self.task, Supervised)
        name = "values" if self.task.loss.probabilities(outputs) is None else "probabilities"
        return {name: answers(self.task.loss, outputs)}

    def table(self, outputs: Tensor | Predictions) -> tuple[list[str], Iterator[list[object]]]:
        """Convert predictions to columns: the class and all probabilities, or the values.

        Returns:
            The names of the columns, and the rows.

        Raises:
            ConfigError: there would be too many columns.
        """
        if isinstance(outputs, Tensor):
            assert isinstance(self.task, Supervised)
            shown = outputs if self.scale is None else self.scale.rounded(outputs, self.precision.dtype)
            return columns.classes_table(self.task, shown, self.samples.classes, names_of(self.samples.target))
        if (width := columns.width_of(outputs)) > columns.MOST_COLUMNS:
            text = f"a prediction has {width:,} values, more than the {columns.MOST_COLUMNS:,} columns of a table"
            raise ConfigError(Problem("output", text, "write output=predictions.npz", topic="conflict"))
        return columns.header_of(outputs), columns.rows_of(outputs)


def trained_task(run: SavedRun, weights: Weights, dtype: torch.dtype) -> Task:
    """Make the task of a run with its state, on the CPU and in evaluation mode."""
    task = saved_task(run.config)
    task.to(dtype)
    task.dtype = dtype
    load_task(task, weights.task)
    return task.eval()


def build_model(run: SavedRun, spec: InputSpec) -> nn.Module:
    """Build the model of a run with random weights, on the CPU, in the type that it was trained in."""
    supplied: dict[str, Any] = {} if spec.num_outputs is None else {"num_outputs": spec.num_outputs}
    supplied |= {"categories": spec.categories} if spec.categories else {}
    with weights_unwanted():
        model = call("model", run.config["model"], nn.Module, input_shape=spec.shapes, **supplied)
    assert isinstance(model, nn.Module)
    return model.to(torch.float64 if run.config["precision"]["name"] == "fp64" else torch.float32)


def trained_model(run: SavedRun) -> tuple[InputSpec, nn.Module, Weights]:
    """Build the model of a run with its best weights, without its training data.

    Returns:
        The input specification; the model, on the CPU and in evaluation mode; and its weights.

    Raises:
        ConfigError: the run's weights or input specification cannot be loaded.
    """
    spec = input_spec.read_input_spec(run)
    weights = weights_of_run(run)
    model = build_model(run, spec)
    if adapted := is_adapted(weights.tensors):  # those of a logged model are merged
        add_adapters(model, **run.config["model"]["lora"])
    load_exactly(model, weights, run.argument)
    warn_of_changes(run)
    return spec, (merge(model) if adapted else model).eval(), weights
