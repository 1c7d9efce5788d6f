"""Export the best model of a run to a file, with its normalization included, and compare it with the model."""

import contextlib
import io
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from runner.assembly.target import locate
from runner.data.target_scale import TargetScale, read_target_scale
from runner.errors import ConfigError, Problem, first_line
from runner.loss import BCEWithLogits, CrossEntropy
from runner.runs import plain_weights
from runner.runs.file_description import METADATA, Description, describe_file
from runner.runs.plain_weights import describe_weights
from runner.runs.predictor import build_model, trained_model, trained_task
from runner.runs.result_file import SUFFIXES
from runner.runs.serving import ServingModel
from runner.runs.task_model import INPUTS, by_names, describe, is_plain, random_example, task_model
from runner.saved.input_spec import InputSpec
from runner.saved.run import SavedRun
from runner.saved.weights import Weights
from runner.task.supervised import output_of
from runner.tracking.model import Example, call, export_graph, portable, silence
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
        description: what it takes and gives.
        difference: the largest difference between its outputs and the model's.
        epoch: the epoch of the weights; None if unknown.
    """

    file: Path
    size: int
    description: Description
    difference: float
    epoch: int | None


def export(run: SavedRun, format: str, file: Path) -> Exported:
    """Write a run's best model to a file, and check it.

    Args:
        run: the run, from its folder or from MLflow; its training data need not exist.
        format: torch_export or onnx, or one of the weights alone: safetensors or state_dict.
        file: the file to write; it is written only if its outputs equal the model's.

    Raises:
        ConfigError: the run's weights cannot be loaded, or its model cannot be exported.
    """
    subject, weights = _subject(run)
    file.parent.mkdir(parents=True, exist_ok=True)
    try:
        with replacing(file, SUFFIXES[format]) as part:
            try:
                # torch.export prints the graph of a model that it cannot export.
                with silence(), contextlib.redirect_stderr(io.StringIO()), torch.no_grad():
                    alone = format in plain_weights.FORMATS
                    description = _describe(run, subject, alone)
                    if alone:
                        exported = _write_weights(run, subject, weights, part, format, description)
                    else:
                        exported = _write(subject, part, format, description.metadata())
                    difference = _difference(exported, subject)
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
    return Exported(file, size, description, difference, weights.epoch)


def _reason(error: BaseException) -> str:
    """Return the first line of the exception that was raised first."""
    while error.__cause__ is not None:
        error = error.__cause__
    return first_line(error).partition(" For more information")[0][:300]


@dataclass(frozen=True)
class _Subject:
    """What is exported.

    Attributes:
        model: with the trained weights, without normalisation.
        serving: makes the module whose graph is written.
        expected: a function from raw samples to the outputs that the file must have.
        spec: the inputs.
        dtype: the model's type.
        scale: the scale of a regression's targets.
        plain: whether outputs are those of the model for a single normalised input.
    """

    model: nn.Module
    serving: Callable[[], nn.Module]
    expected: Callable[[Any], Any]
    spec: InputSpec
    dtype: torch.dtype
    scale: TargetScale | None
    plain: bool

    def samples(self, count: int) -> Example:
        """Return random raw samples."""
        return (
            _raw_inputs(self.spec, count) if self.spec.inputs is None else random_example(self.spec, count, self.dtype)
        )


def _subject(run: SavedRun) -> tuple[_Subject, Weights]:
    """Load the best model of a run."""
    spec, model, weights = trained_model(run)
    return _subject_with(run, spec, model, weights), weights


def _subject_with(run: SavedRun, spec: InputSpec, model: nn.Module, weights: Weights) -> _Subject:
    dtype = next(model.parameters()).dtype
    scale = read_target_scale(weights.preprocessing or {})
    task = trained_task(run, weights, dtype)
    if is_plain(task, spec):

        def serving() -> nn.Module:
            return portable(ServingModel(model, spec.normalize, dtype, scale))

        def expected(raw: Any) -> Any:
            outputs = output_of(model(spec.normalize(raw, dtype)))
            return outputs if scale is None else scale.in_units(outputs)

        return _Subject(model, serving, expected, spec, dtype, scale, True)
    made = task_model(model, task, spec, dtype, scale)
    return _Subject(model, partial(portable, made), partial(call, made), spec, dtype, scale, False)


def _raw_inputs(spec: InputSpec, count: int) -> Tensor:
    """Return random samples of the right shape and range, float32 as the file takes them; always the same."""
    generator = torch.Generator().manual_seed(0)
    if spec.dtype == "uint8":
        return torch.rand(count, *spec.input_shape, generator=generator)
    normal = torch.randn(count, *spec.input_shape, generator=generator, dtype=torch.float64)
    return (normal * spec.normalize.std + spec.normalize.mean).float()


def _write(subject: _Subject, file: Path, format: str, metadata: Mapping[str, Any]) -> Callable[[Example], Any]:
    """Write the file, load it again, and return it as a function."""
    serving, example = subject.serving(), subject.samples(2)
    if format == "torch_export":
        graph = export_graph(serving, example, subject.spec.ragged)
        torch.export.save(graph, file, extra_files={METADATA: _json(metadata)})
        return partial(call, torch.export.load(file).module())
    tensors = [*serving.parameters(), *serving.buffers()]
    if sum(tensor.numel() * tensor.element_size() for tensor in tensors) > ONNX_BYTES:
        raise ValueError("it is larger than the 2 GB of an .onnx file; write format=torch_export")
    named = {INPUTS: example} if isinstance(example, Tensor) else dict(example)
    names = list(by_names(call(serving, example), "outputs"))
    program = torch.onnx.export(
        serving,
        tuple(named.values()),
        input_names=list(named),
        output_names=names,
        dynamic_shapes={name: {0: "N"} for name in named},
        dynamo=True,
    )
    assert program is not None
    texts = {name: value if isinstance(value, str) else _json(value) for name, value in metadata.items()}
    program.model.metadata_props.update(texts)
    program.save(file, external_data=False)

    import onnxruntime  # an extra

    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])

    def run_session(example: Example) -> dict[str, Tensor]:
        inputs = {INPUTS: example} if isinstance(example, Tensor) else example
        arrays = session.run(None, {name: leaf.numpy() for name, leaf in inputs.items()})
        return dict(zip(names, map(torch.from_numpy, arrays), strict=True))

    return run_session


def _write_weights(
    run: SavedRun, subject: _Subject, weights: Weights, file: Path, format: str, description: Description
) -> Callable[[Example], Any]:
    """Write the weights alone, load them into a model that is built anew, and return that as a function."""
    scale = (weights.preprocessing or {}).get("targets")
    metadata = describe_weights(description, subject.spec, run.config, scale)
    plain_weights.save_weights(subject.model, file, format, metadata)
    model = build_model(run, subject.spec)
    plain_weights.load_weights(model, file, format)
    return _subject_with(run, subject.spec, model.eval(), weights).expected


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def _difference(exported: Callable[[Example], Any], subject: _Subject) -> float:
    """Return the largest difference between the file's outputs and the model's; relative for values above 1.

    In a regression with scaled targets, 1 is a standard deviation.
    """
    largest, scale = 0.0, subject.scale
    for count in CHECKED:
        raw = subject.samples(count)
        wanted, given = by_names(subject.expected(raw), "outputs"), by_names(exported(raw), "outputs")
        for name, expected in wanted.items():
            outputs = given[name]
            if outputs.shape != expected.shape:
                shapes = f"{tuple(outputs.shape)} instead of {tuple(expected.shape)}"
                raise ValueError(f"for {count} samples it returns {shapes}")
            outputs, expected = outputs.double(), expected.double()
            if scale is not None:
                outputs, expected = outputs / scale.std, expected / scale.std
            differences = (outputs - expected).abs() / expected.abs().clamp(min=1)
            largest = max(largest, float(differences.nan_to_num(nan=torch.inf).max()))
    return largest


def _describe(run: SavedRun, subject: _Subject, alone: bool) -> Description:
    """Describe the file; `alone` says that it has the weights without normalisation."""
    spec, example = subject.spec, subject.samples(2)
    if spec.inputs is not None:
        inputs = describe(by_names(example, INPUTS))
    else:
        kind = str(subject.dtype).removeprefix("torch.") if alone else "float32"
        inputs = f"{kind} ({', '.join(['N', *map(str, spec.input_shape)])})"
    if not subject.plain:
        with torch.no_grad():
            outputs = describe(by_names(subject.expected(example), "outputs"))
        return describe_file(spec, inputs, f"{outputs}, what the task predicts", logits=False)
    is_scaled = subject.scale is not None
    dtype = torch.float64 if is_scaled and not alone else subject.dtype
    loss = locate("loss", run.config["loss"])
    logits = isinstance(loss, type) and issubclass(loss, CrossEntropy | BCEWithLogits)
    values = "standardized values: see target_scale" if alone and is_scaled else "values in the units of the data"
    what = "logits" if logits else values
    shape = f"{str(dtype).removeprefix('torch.')} (N, {spec.num_outputs})"
    return describe_file(spec, inputs, f"{shape}, {what}", logits, is_normalized=alone)
