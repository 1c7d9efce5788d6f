"""Predictions for new samples: `python -m runner.predict run=<run> input=<file or [values]> [output=<file>]`."""

import csv
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from runner.config import schema
from runner.errors import ConfigError, as_unicode
from runner.rundir.folders import named, short
from runner.runs.result_file import check_unneeded, writable
from runner.saved.run import SavedRun, find
from runner.util import program
from runner.util.files import replacing
from runner.util.options import choice, command, is_true, required
from runner.util.streams import Result

if TYPE_CHECKING:
    from torch import Tensor

log = logging.getLogger("runner")

USAGE = (
    "python -m runner.predict run=<run dir or MLflow run id> input=<file or [values]> [key=value ...]:\n"
    "predict new samples by a run's best weights, as a CSV table."
)
OPTIONS = {
    "run": "the run: its folder, or its MLflow run id",
    "input": "the samples: a .csv, .npy, .npz or .pt file, an image, a folder of images, or [4,5], or [[1,2],[3,4]]",
    "output": "the file to write; by default standard output",
    "device": "where to compute: auto (the default), cpu, cuda or mps",
    "tracking.uri": "the MLflow store that knows the run; by default that of the outputs folder",
    "runner.quiet": "true: print warnings only",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; the table alone goes to standard output.

    Returns:
        0, or 2 for a wrong argument.
    """
    return command(argv, USAGE, OPTIONS, _main)


def _main(options: dict[str, str]) -> int:
    from runner.util import terminal

    device = choice(options, "device", schema.CHOICES["device.name"], "auto")
    value = required(options, "input", "file or [values]")
    wanted = options.get("output")
    output = writable(wanted, "predictions.csv") if wanted is not None else None  # None is standard output
    terminal.set_up(is_true(options, "runner.quiet"))
    run = find(required(options, "run", "folder or MLflow run id"), "run", options.get("tracking.uri"))
    if output is not None and wanted is not None:
        check_unneeded(output, wanted, run, None if value.lstrip().startswith("[") else named(value, "input"))
    from runner.data.loading import evaluation_batch_size
    from runner.runs import new_samples

    predictor = Predictor(run, device)
    new = new_samples.read(value, predictor.samples)
    used = predictor.weights
    epoch = f" (epoch {used.epoch})" if used.epoch else ""
    log.info("weights    %s%s%s", used.source, epoch, predictor.arithmetic)
    size = evaluation_batch_size(1, prod(predictor.samples.input_shape), predictor.device)
    with _opened(output) as file:
        table = csv.writer(file, lineterminator="\n")
        for first, (names, raw) in enumerate(new.batches(size)):
            header, rows = predictor.table(predictor(raw))
            if first == 0:
                table.writerow(["sample", *map(as_unicode, header)])
            table.writerows([as_unicode(str(name)), *row] for name, row in zip(names, rows, strict=True))
    if output is not None:
        count = len(new.names)
        log.info("written    %s: %s prediction%s", short(output), f"{count:,}", "" if count == 1 else "s")
    return 0


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
        from runner import device as device_room
        from runner.assembly.target import call
        from runner.data.target_scale import of_checkpoint
        from runner.loss import Loss
        from runner.precision import Precision
        from runner.rundir.checkpoint import load_loss
        from runner.runs.trained_model import trained_model
        from runner.util.cores import usable_cores

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
        self.scale = of_checkpoint(self.weights.preprocessing or {})
        self.loss = call("loss", run.config["loss"], Loss).to(self.device).eval()
        load_loss(self.loss, self.weights.loss)

    def __call__(self, raw: "Tensor") -> "Tensor":
        """Raw inputs (N, ...), uint8 pixels or floats, -> outputs (N, K) on the CPU: logits, or values.

        Values are in the units of the data: float64 where the targets were standardised.
        """
        import torch

        with torch.inference_mode(), self.precision.autocast():
            outputs = self.model(self.samples.normalize(raw.to(self.device), self.precision.dtype))
        outputs = self.precision.upcast(outputs).cpu()
        return outputs if self.scale is None else self.scale.in_units(outputs)

    def table(self, outputs: "Tensor") -> tuple[list[str], Iterator[list[object]]]:
        """Outputs (N, K) as columns: the class and the probabilities of all, or the values.

        Returns:
            The names of the columns, and the rows.
        """
        from runner.loss import answer_names, answers

        header = answer_names(self.loss, outputs.shape[1], self.samples.classes)
        told = answers(self.loss, outputs)
        rows: Iterator[list[object]] = ([*map(str, values)] for values in told.numpy())
        if self.loss.probabilities(outputs) is None:
            return header, rows
        classes = self.samples.classes or [str(number) for number in range(told.shape[1])]
        chosen = told.argmax(dim=1).tolist()
        return ["class", *header], ([classes[c], *row] for c, row in zip(chosen, rows, strict=True))


@contextmanager
def _opened(output: Path | None) -> Iterator[TextIO | Result]:
    """The file, there when it is whole; or standard output."""
    if output is None:
        result = Result()
        yield result
        result.finish()
        return
    try:
        with replacing(output) as fresh, fresh.open("w", encoding="utf-8", newline="") as file:
            yield file
    except OSError as error:
        raise ConfigError(f"output={output} cannot be written: {error.strerror or error}") from error


if __name__ == "__main__":
    program.run(main)
