"""A file to deploy: the best model of a run with its normalisation inside, checked against the model."""

import contextlib
import io
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from runner.assembly.target import locate
from runner.data.target_scale import TargetScale, read_target_scale
from runner.errors import ConfigError, first_line
from runner.loss import BCEWithLogits, CrossEntropy
from runner.runs.predictor import trained_model
from runner.runs.result_file import SUFFIXES
from runner.runs.serving import ServingModel
from runner.saved.input_spec import InputSpec
from runner.saved.run import SavedRun
from runner.tracking.model import portable, silence
from runner.util.files import replacing

ONNX_BYTES = 1.9e9  # what one file can hold, a little less than 2 GB

TOLERANCE = 1e-5
"""By how much outputs may differ from the model's: absolutely, or of a value above 1 relatively."""

CHECKED = (1, 2, 7)
"""Numbers of samples that are checked: export may freeze the batch axis without a word."""


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
    taken, model, found = trained_model(run)
    dtype = next(model.parameters()).dtype
    scale = read_target_scale(found.preprocessing or {})
    served = portable(ServingModel(model, taken.normalize, dtype, scale))
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


def _raw(taken: InputSpec, count: int) -> Tensor:
    """Samples of the right shape and range, float32 as the file takes them; the same ones each time."""
    made = torch.Generator().manual_seed(0)
    if taken.dtype == "uint8":
        return torch.rand(count, *taken.input_shape, generator=made)
    normal = torch.randn(count, *taken.input_shape, generator=made, dtype=torch.float64)
    return (normal * taken.normalize.std + taken.normalize.mean).float()


def _write(served: nn.Module, example: Tensor, file: Path, format: str) -> Callable[[Tensor], Tensor]:
    """Write the file; what it gives when it is loaded again."""
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

    import onnxruntime  # of an extra

    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    return lambda inputs: torch.from_numpy(session.run(None, {"inputs": inputs.numpy()})[0])


def _difference(
    deployed: Callable[[Tensor], Tensor],
    model: nn.Module,
    taken: InputSpec,
    dtype: torch.dtype,
    scale: TargetScale | None,
) -> float:
    """The largest difference between the file's outputs and the model's own, relative to what is above 1.

    Of a regression with scaled targets 1 is a standard deviation.
    """
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


def _takes(taken: InputSpec) -> str:
    shape = ", ".join(["N", *map(str, taken.input_shape)])
    what = "pixels from 0 to 1" if taken.dtype == "uint8" else f"as data={taken.data} has them"
    return f"inputs: float32 ({shape}), {what}, not normalised"


def _gives(run: SavedRun, taken: InputSpec, dtype: torch.dtype) -> str:
    loss = locate("loss", run.config["loss"])
    logits = isinstance(loss, type) and issubclass(loss, CrossEntropy | BCEWithLogits)
    what = "logits" if logits else "values in the units of the data"
    return f"outputs: {str(dtype).removeprefix('torch.')} (N, {taken.num_outputs}), {what}"
