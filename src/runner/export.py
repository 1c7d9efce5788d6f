"""A file to deploy: `python -m runner.export run=<run> format=torch_export|onnx [output=<file>]`.

It holds a run's best model with the normalisation inside, takes any number of samples, and is written only if its
outputs are the model's.
"""

import contextlib
import importlib.util
import io
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from runner.errors import ConfigError, first_line
from runner.rundir.folders import short
from runner.runs.result_file import check_unneeded, writable
from runner.saved.run import SavedRun, find
from runner.util import program
from runner.util.files import replacing
from runner.util.options import choice, command, is_true, required

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from runner.data.target_scale import TargetScale
    from runner.saved.input_spec import Samples

log = logging.getLogger("runner")

USAGE = (
    "python -m runner.export run=<run dir or MLflow run id> format=torch_export|onnx [key=value ...]:\n"
    "write a run's best model to a file to deploy, its normalisation inside, for any number of samples."
)
OPTIONS = {
    "run": "the run: its folder, or its MLflow run id",
    "format": "torch_export (.pt2, for torch.export.load, the default) or onnx (.onnx, for onnxruntime)",
    "output": "the file to write; by default export/model.pt2 or export/model.onnx in the run's folder",
    "tracking.uri": "the MLflow store that knows the run; by default that of the outputs folder",
    "runner.quiet": "true: print warnings only",
}
SUFFIXES = {"torch_export": ".pt2", "onnx": ".onnx"}
ONNX_PACKAGES = ("onnx", "onnxscript", "onnxruntime")
ONNX_BYTES = 1.9e9  # what one file can hold, a little less than 2 GB

TOLERANCE = 1e-5
"""By how much outputs may differ from the model's: absolutely, or of a value above 1 relatively."""

CHECKED = (1, 2, 7)
"""Numbers of samples that are checked: export may freeze the batch axis without a word."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command.

    Returns:
        0, or 2 for a wrong argument or a model that cannot be exported.
    """
    return command(argv, USAGE, OPTIONS, _main)


def _main(options: dict[str, str]) -> int:
    from runner.util import terminal

    format = choice(options, "format", list(SUFFIXES), "torch_export")
    _check_packages(format)
    terminal.set_up(is_true(options, "runner.quiet"))
    run = find(required(options, "run", "folder or MLflow run id"), "run", options.get("tracking.uri"))
    done = export(run, format, _output(run, format, options.get("output")))
    size = done.size
    log.info("weights    %s%s%s", run.place, f" (epoch {done.epoch})" if done.epoch else "", _arithmetic(run))
    log.info("written    %s (%s)", short(done.file), f"{size / 1e6:.1f} MB" if size >= 1e6 else f"{size / 1e3:.1f} kB")
    log.info("takes      %s", done.inputs)
    log.info("gives      %s", done.outputs)
    counts = ", ".join(map(str, CHECKED[:-1]))
    log.info(
        "checked    with %s and %d samples: at most %.1e off the model's own outputs",
        counts,
        CHECKED[-1],
        done.difference,
    )
    return 0


@dataclass(frozen=True)
class Exported:
    """A file that was written.

    Attributes:
        size: in bytes.
        inputs: what it takes, in words.
        outputs: what it gives, in words.
        difference: the largest one between its outputs and the model's.
        epoch: of the weights; None if that is not known.
    """

    file: Path
    size: int
    inputs: str
    outputs: str
    difference: float
    epoch: int | None


def export(run: SavedRun, format: str, file: Path) -> Exported:
    """Write a run's best model to a file, and check it.

    Args:
        run: its folder, or what MLflow has of it; the data it was trained on need not be here.
        format: torch_export or onnx.
        file: is there afterwards only if it gives what the model gives.

    Raises:
        ConfigError: something of the run is not to be had, or its model cannot be exported.
    """
    import torch

    from runner.data.target_scale import of_checkpoint
    from runner.runs.describe import Served
    from runner.runs.trained_model import trained_model
    from runner.tracking.model import portable, silence

    taken, model, found = trained_model(run)
    dtype = next(model.parameters()).dtype
    scale = of_checkpoint(found.preprocessing or {})
    served = portable(Served(model, taken.normalize, dtype, scale))
    file.parent.mkdir(parents=True, exist_ok=True)
    try:
        with replacing(file, SUFFIXES[format]) as part:
            try:
                # torch.export prints the graph of a model that it cannot take.
                with silence(), contextlib.redirect_stderr(io.StringIO()), torch.no_grad():
                    deployed = _write(served, _raw(taken, 2), part, format)
                    difference = _difference(deployed, model, taken, dtype, scale)
            except Exception as error:  # torch.export raises anything, from its own errors to the model's
                raise ConfigError(f"format={format}: this model cannot be exported: {_reason(error)}") from error
            if not difference <= TOLERANCE:
                raise ConfigError(
                    f"format={format}: the file's outputs differ from the model's by {difference:.1e}, more than"
                    f" {TOLERANCE:g}: it is not written"
                )
            size = part.stat().st_size
    except OSError as error:
        raise ConfigError(f"output={file} cannot be written: {error.strerror or error}") from error
    finally:
        if not any(file.parent.iterdir()):  # made above, for nothing
            file.parent.rmdir()
    gives = _gives(run, taken, dtype if scale is None else torch.float64)
    return Exported(file, size, _takes(taken), gives, difference, found.epoch)


def _reason(error: BaseException) -> str:
    """The first line of what was raised first."""
    while error.__cause__ is not None:
        error = error.__cause__
    return first_line(error).partition(" For more information")[0][:300]


def _check_packages(format: str) -> None:
    missing = [name for name in ONNX_PACKAGES if format == "onnx" and importlib.util.find_spec(name) is None]
    if missing:
        raise ConfigError(f"format=onnx needs {', '.join(missing)}: pip install {' '.join(missing)}")


def _output(run: SavedRun, format: str, value: str | None) -> Path:
    """The file to write.

    Raises:
        ConfigError: it cannot be.
    """
    suffix = SUFFIXES[format]
    if value is None:
        if run.folder is None:
            raise ConfigError(f"{run.given}: its folder is not here to write into: add output=model{suffix}")
        return run.folder / "export" / f"model{suffix}"
    path = writable(value, f"model{suffix}")
    if path.suffix != suffix and (path.is_file() or not path.exists()):  # a FIFO has the name that it has
        raise ConfigError(f"output={value} must end in {suffix} for format={format}: write another name")
    check_unneeded(path, value, run)
    return path


def _raw(taken: "Samples", count: int) -> "Tensor":
    """Samples of the right shape and range, float32 as the file takes them; the same ones each time."""
    import torch

    made = torch.Generator().manual_seed(0)
    if taken.dtype == "uint8":
        return torch.rand(count, *taken.input_shape, generator=made)
    normal = torch.randn(count, *taken.input_shape, generator=made, dtype=torch.float64)
    return (normal * taken.normalize.std + taken.normalize.mean).float()


def _write(served: "nn.Module", example: "Tensor", file: Path, format: str) -> "Callable[[Tensor], Tensor]":
    """Write the file; what it gives when it is loaded again."""
    import torch

    if format == "torch_export":
        graph = torch.export.export(served, (example,), dynamic_shapes=({0: torch.export.Dim.DYNAMIC},))
        torch.export.save(graph, file)
        return torch.export.load(file).module()
    tensors = [*served.parameters(), *served.buffers()]
    if sum(tensor.numel() * tensor.element_size() for tensor in tensors) > ONNX_BYTES:
        raise ValueError("it is larger than the 2 GB of an .onnx file; write format=torch_export")
    program = torch.onnx.export(
        served,
        (example,),
        input_names=["inputs"],
        output_names=["outputs"],
        dynamic_shapes=({0: "N"},),
        dynamo=True,
    )
    assert program is not None
    program.save(file, external_data=False)
    import onnxruntime

    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    return lambda inputs: torch.from_numpy(session.run(None, {"inputs": inputs.numpy()})[0])


def _difference(
    deployed: "Callable[[Tensor], Tensor]",
    model: "nn.Module",
    taken: "Samples",
    dtype: "torch.dtype",
    scale: "TargetScale | None",
) -> float:
    """The largest difference between the file's outputs and the model's own, relative to what is above 1.

    Of a regression with scaled targets 1 is a standard deviation.
    """
    import torch

    largest = 0.0
    for count in CHECKED:
        raw = _raw(taken, count)
        wanted = model(taken.normalize(raw, dtype))
        given = deployed(raw)
        if given.shape != wanted.shape:
            raise ValueError(f"for {count} samples it gives {tuple(given.shape)} instead of {tuple(wanted.shape)}")
        if scale is not None:
            given, wanted = given / scale.std, scale.in_units(wanted) / scale.std
        differences = (given - wanted).abs() / wanted.abs().clamp(min=1)
        largest = max(largest, float(differences.nan_to_num(nan=torch.inf).max()))
    return largest


def _arithmetic(run: SavedRun) -> str:
    """What to say of a file that computes in the format of the weights where the run did not."""
    name = run.config["precision"]["name"]
    return "" if name in ("fp32", "fp64") else f" · computed in float32, the run's precision was {name}"


def _takes(taken: "Samples") -> str:
    shape = ", ".join(["N", *map(str, taken.input_shape)])
    what = "pixels from 0 to 1" if taken.dtype == "uint8" else f"as data={taken.data} has them"
    return f"inputs: float32 ({shape}), {what}, not normalised"


def _gives(run: SavedRun, taken: "Samples", dtype: "torch.dtype") -> str:
    from runner.assembly.target import locate
    from runner.loss import BCEWithLogits, CrossEntropy

    loss = locate("loss", run.config["loss"])
    logits = isinstance(loss, type) and issubclass(loss, CrossEntropy | BCEWithLogits)
    what = "logits" if logits else "values in the units of the data"
    return f"outputs: {str(dtype).removeprefix('torch.')} (N, {taken.num_outputs}), {what}"


if __name__ == "__main__":
    program.run(main)
