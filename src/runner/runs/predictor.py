"""The best model of a run, for samples as its data set had them."""

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from runner import device as device_room
from runner.assembly.target import call
from runner.data.target_scale import read_target_scale
from runner.loss import Loss, answer_names, answers
from runner.precision import Precision
from runner.rundir.checkpoint import load_loss
from runner.saved import input_spec
from runner.saved.input_spec import InputSpec
from runner.saved.run import SavedRun
from runner.saved.weights import Weights, load_exactly, weights_of_run
from runner.util.cores import usable_cores


class Predictor:
    """A run's best model, for samples as its data set had them: `Predictor(find("outputs/runs/..."))(inputs)`.

    It computes as the run did: under its `precision`, where the device can.

    Args:
        run: its folder, or what MLflow has of it; the data it was trained on need not be here.
        device: auto, cpu, cuda or mps.

    Raises:
        ConfigError: something of the run is not to be had.
    """

    def __init__(self, run: SavedRun, device: str = "cpu") -> None:
        self.samples, self.model, self.weights = trained_model(run)
        threads = min(int(run.config["device"]["threads"]), usable_cores())  # as many as it was trained with
        self.device = device_room.resolve(device, threads=threads).torch
        name = run.config["precision"]["name"]
        here = "fp32" if name == "tf32" and self.device.type != "cuda" else name  # the same weights, with more digits
        self.precision = Precision(here, self.device)
        self.arithmetic = "" if name == "fp32" else f" · precision {self.precision}"
        if here != name:
            self.arithmetic += f", the run's was {name}"
        self.model.to(self.device)
        self.scale = read_target_scale(self.weights.preprocessing or {})
        self.loss = call("loss", run.config["loss"], Loss).to(self.device).eval()
        load_loss(self.loss, self.weights.loss)

    def __call__(self, raw: Tensor) -> Tensor:
        """Raw inputs (N, ...), uint8 pixels or floats, -> outputs (N, K) on the CPU: logits, or values.

        Values are in the units of the data: float64 where the targets were standardised.
        """
        with torch.inference_mode(), self.precision.autocast():
            outputs = self.model(self.samples.normalize(raw.to(self.device), self.precision.dtype))
        outputs = self.precision.upcast(outputs).cpu()
        return outputs if self.scale is None else self.scale.in_units(outputs)

    def table(self, outputs: Tensor) -> tuple[list[str], Iterator[list[object]]]:
        """Outputs (N, K) as columns: the class and the probabilities of all, or the values.

        Returns:
            The names of the columns, and the rows.
        """
        header = answer_names(self.loss, outputs.shape[1], self.samples.classes)
        told = answers(self.loss, outputs)
        rows: Iterator[list[object]] = ([*map(str, values)] for values in told.numpy())
        if self.loss.probabilities(outputs) is None:
            return header, rows
        classes = self.samples.classes or [str(number) for number in range(told.shape[1])]
        chosen = told.argmax(dim=1).tolist()
        return ["class", *header], ([classes[c], *row] for c, row in zip(chosen, rows, strict=True))


def trained_model(run: SavedRun) -> tuple[InputSpec, nn.Module, Weights]:
    """Make the model of a run with its best weights, without the data it was trained on.

    Returns:
        What it takes; itself, on the CPU and in evaluation mode; and its weights.

    Raises:
        ConfigError: something of it is not to be had.
    """
    taken = input_spec.read_input_spec(run)
    found = weights_of_run(run)
    shape = tuple(taken.input_shape)
    model = call("model", run.config["model"], nn.Module, input_shape=shape, num_outputs=taken.num_outputs)
    model.to(torch.float64 if run.config["precision"]["name"] == "fp64" else torch.float32)
    load_exactly(model, found, run.argument)
    return taken, model.eval(), found
