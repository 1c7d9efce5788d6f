"""Export the best model of a run to a file, with its normalization included, and compare it with the model."""

import contextlib
import io
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from runner.assembly.target import locate
from runner.data.target_scale import TargetScale, read_target_scale
from runner.errors import ConfigError, Problem, first_line
from runner.loss import BCEWithLogits, CrossEntropy
from runner.runs.predictor import trained_model
from runner.runs.result_file import SUFFIXES
from runner.runs.serving import ServingModel
from runner.saved.input_spec import InputSpec
from runner.saved.run import SavedRun
from runner.task.supervised import output_of
from runner.tracking.model import portable, silence
from runner.util.files import replacing

ONNX_BYTES = 1.9e9  # the limit of one file, a little less than 2 GB

TOLERANCE = 1e-5
"""The largest difference of outputs from the model's: absolute, and relative for values above 1."""

CHECKED = (1, 2, 7)
"""Batch sizes to check: export may freeze the batch axis silently."""


@dataclass(frozen=True)
class Exported:
    """An exported file.

    Attributes:
        file: its path.
        size: its size in bytes.
        inputs: a description of its inputs.
        outputs: a description of its outputs.
        difference: the largest difference between its outputs and the model's.
        epoch: the epoch of the weights; None if unknown.
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
        run: the run, from its folder or from MLflow; its training data need not exist.
        format: torch_export or onnx.
        file: the file to write; it is written only if its outputs equal the model's.

    Raises:
        ConfigError: the run's weights cannot be loaded, or its model cannot be exported.
    """
    spec, model, weights = trained_model(run)
    dtype = next(model.parameters()).dtype
    scale = read_target_scale(weights.preprocessing or {})
    serving = portable(ServingModel(model, spec.normalize, dtype, scale))
    file.parent.mkdir(parents=True, exist_ok=True)
    try:
        with replacing(file, SUFFIXES[format]) as part:
            try:
                # torch.export prints the graph of a model that it cannot export.
                with silence(), contextlib.redirect_stderr(io.StringIO()), torch.no_grad():
                    exported = _write(serving, _raw_inputs(spec, 2), part, format)
                    difference = _difference(exported, model, spec, dtype, scale)
            except Exception as error:  # torch.export raises many types, and passes on the model's own
                text = f"format={format}: this model cannot be exported: {_reason(error)}"
                raise ConfigError(Problem("format", text, topic="code")) from error
            if not difference <= TOLERANCE:
                text = (
                    f"format={format}: not written, the file's outputs differ from the model's by {difference:.1e},"
                    f" more than {TOLERANCE:g}"
                )
                raise ConfigError(Problem("format", text, topic="code"))
            size = part.stat().st_size
    except OSError as error:
        text = f"output={file} cannot be written: {error.strerror or error}"
        raise ConfigError(Problem("output", text, "write another file", topic="file")) from error
    finally:
        if not any(file.parent.iterdir()):  # created above, and not used
            file.parent.rmdir()
    outputs = _describe_outputs(run, spec, dtype if scale is None else torch.float64)
    return Exported(file, size, _describe_inputs(spec), outputs, difference, weights.epoch)


def _reason(error: BaseException) -> str:
    """Return the first line of the exception that was raised first."""
    while error.__cause__ is not None:
        error = error.__cause__
    return first_line(error).partition(" For more information")[0][:300]


def _raw_inputs(spec: InputSpec, count: int) -> Tensor:
    """Return random samples of the right shape and range, float32 as the file takes them; always the same."""
    generator = torch.Generator().manual_seed(0)
    if spec.dtype == "uint8":
        return torch.rand(count, *spec.input_shape, generator=generator)
    normal = torch.randn(count, *spec.input_shape, generator=generator, dtype=torch.float64)
    return (normal * spec.normalize.std + spec.normalize.mean).float()


def _write(serving: nn.Module, example: Tensor, file: Path, format: str) -> Callable[[Tensor], Tensor]:
    """Write the file, load it again, and return it as a function."""
    if format == "torch_export":
        graph = torch.export.export(serving, (example,), dynamic_shapes=({0: torch.export.Dim.DYNAMIC},))
        torch.export.save(graph, file)
        return torch.export.load(file).module()
    tensors = [*serving.parameters(), *serving.buffers()]
    if sum(tensor.numel() * tensor.element_size() for tensor in tensors) > ONNX_BYTES:
        raise ValueError("it is larger than the 2 GB of an .onnx file; write format=torch_export")
    program = torch.onnx.export(
        serving,
        (example,),
        input_names=["inputs"],
        output_names=["outputs"],
        dynamic_shapes=({0: "N"},),
        dynamo=True,
    )
    assert program is not None
    program.save(file, external_data=False)

    import onnxruntime  # an extra

    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    return lambda inputs: torch.from_numpy(session.run(None, {"inputs": inputs.numpy()})[0])


def _difference(
    exported: Callable[[Tensor], Tensor],
    model: nn.Module,
    spec: InputSpec,
    dtype: torch.dtype,
    scale: TargetScale | None,
) -> float:
    """Return the largest difference between the file's outputs and the model's; relative for values above 1.

    In a regression with scaled targets, 1 is a standard deviation.
    """
    largest = 0.0
    for count in CHECKED:
        raw = _raw_inputs(spec, count)
        expected = output_of(model(spec.normalize(raw, dtype)))
        outputs = exported(raw)
        if outputs.shape != expected.shape:
            shapes = f"{tuple(outputs.shape)} instead of {tuple(expected.shape)}"
            raise ValueError(f"for {count} samples it returns {shapes}")
        if scale is not None:
            outputs, expected = outputs / scale.std, scale.in_units(expected) / scale.std
        differences = (outputs - expected).abs() / expected.abs().clamp(min=1)
        largest = max(largest, float(differences.nan_to_num(nan=torch.inf).max()))
    return largest


def _describe_inputs(spec: InputSpec) -> str:
    shape = ", ".join(["N", *map(str, spec.input_shape)])
    what = "pixels from 0 to 1" if spec.dtype == "uint8" else f"the raw values of data={spec.data}"
    return f"float32 ({shape}), {what}, not normalized"


def _describe_outputs(run: SavedRun, spec: InputSpec, dtype: torch.dtype) -> str:
    loss = locate("loss", run.config["loss"])
    logits = isinstance(loss, type) and issubclass(loss, CrossEntropy | BCEWithLogits)
    what = "logits" if logits else "values in the units of the data"
    return f"{str(dtype).removeprefix('torch.')} (N, {spec.num_outputs}), {what}"
