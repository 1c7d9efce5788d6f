"""Predict with the best model of a run, from samples in the form of its data set."""

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from runner import device as devices
from runner.assembly.parts import saved_task
from runner.assembly.target import call
from runner.data.target_scale import read_target_scale
from runner.loss import answer_names, answers
from runner.model.lora import add_adapters, is_adapted, merge
from runner.model.pretrained import weights_unwanted
from runner.precision import Precision
from runner.rundir.checkpoint import load_task
from runner.saved import input_spec
from runner.saved.input_spec import InputSpec
from runner.saved.run import SavedRun
from runner.saved.weights import Weights, load_exactly, weights_of_run
from runner.util.cores import usable_cores


class Predictor:
    """A run's best model, for samples in the form of its data set: `Predictor(find("outputs/runs/..."))(inputs)`.

    It computes with the run's `precision` if the device supports it.

    Args:
        run: the run, from its folder or from MLflow; its training data need not exist.
        device: auto, cpu, cuda or mps.

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
        self.task = saved_task(run.config).to(self.device).eval()
        load_task(self.task, self.weights.task)

    def __call__(self, raw: Tensor) -> Tensor:
        """Compute the outputs (N, K), on the CPU, of raw inputs (N, ...), uint8 pixels or floats.

        Outputs are logits, or values in the units of the data: float64 if the targets were standardized.
        """
        with torch.inference_mode(), self.precision.autocast():
            outputs = self.task.predict(self.model, self.samples.normalize(raw.to(self.device), self.precision.dtype))
        outputs = self.precision.upcast(outputs).cpu()
        return outputs if self.scale is None else self.scale.in_units(outputs)

    def table(self, outputs: Tensor) -> tuple[list[str], Iterator[list[object]]]:
        """Convert outputs (N, K) to columns: the class and all probabilities, or the values.

        Returns:
            The names of the columns, and the rows.
        """
        assert self.task.loss is not None
        loss = self.task.loss
        header = answer_names(loss, outputs.shape[1], self.samples.classes)
        columns = answers(loss, outputs)
        rows: Iterator[list[object]] = ([*map(str, values)] for values in columns.numpy())
        if loss.probabilities(outputs) is None:
            return header, rows
        classes = self.samples.classes or [str(number) for number in range(columns.shape[1])]
        best = columns.argmax(dim=1).tolist()
        return ["class", *header], ([classes[number], *row] for number, row in zip(best, rows, strict=True))


def trained_model(run: SavedRun) -> tuple[InputSpec, nn.Module, Weights]:
    """Build the model of a run with its best weights, without its training data.

    Returns:
        The input specification; the model, on the CPU and in evaluation mode; and its weights.

    Raises:
        ConfigError: the run's weights or input specification cannot be loaded.
    """
    spec = input_spec.read_input_spec(run)
    weights = weights_of_run(run)
    shape = tuple(spec.input_shape)
    outputs = {} if spec.num_outputs is None else {"num_outputs": spec.num_outputs}
    with weights_unwanted():
        model = call("model", run.config["model"], nn.Module, input_shape=shape, **outputs)
    model.to(torch.float64 if run.config["precision"]["name"] == "fp64" else torch.float32)
    if adapted := is_adapted(weights.tensors):  # those of a logged model are merged
        add_adapters(model, **run.config["model"]["lora"])
    load_exactly(model, weights, run.argument)
    return spec, (merge(model) if adapted else model).eval(), weights
