"""Save the model as an MLflow model folder; pyfunc loads it anywhere, without the model's code."""

import contextlib
import copy
import io
import logging
import platform
import shutil
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import torch
import yaml

from runner.device import give_back_memory
from runner.errors import first_line
from runner.tracking.model_memory import ModelMemory
from runner.tracking.store import quiet_mlflow
from runner.util.files import write_json
from runner.util.private import uncompiled, without_package_scan
from runner.util.trees import at, first_axis, leaves, tree_map

log = logging.getLogger("runner")

SERVED_TABLE = Path(__file__).with_name("served_table.py")
"""The code that loads a table's model; it is copied into the model's folder."""


SERVED_ROWS = Path(__file__).with_name("served_rows.py")
"""The same for `data=table`; `runner_tabular` is copied beside it."""


SERVED_INPUTS = Path(__file__).with_name("served_inputs.py")
"""The same for several inputs or outputs."""

Example = torch.Tensor | Mapping[str, torch.Tensor]
"""A few samples: of a single input, or of several by name."""


class TableNames(NamedTuple):
    """The columns of a table model: its input features, in order, and its output columns.

    Attributes:
        inputs: the names of the features.
        outputs: the names of the answers.
        encoder: columns and transformers of `data=table`, or those of each member of an ensemble; None if the features
            are numbers.
        example: two rows of such a table, by column.
        code: the folder of the modules that read it.
    """

    inputs: list[str]
    outputs: list[str]
    encoder: Mapping[str, Any] | Sequence[Any] | None = None
    example: Mapping[str, list[Any]] | None = None
    code: Path | None = None


def save_model(
    model: torch.nn.Module,
    example: Example,
    folder: Path,
    table: TableNames | None = None,
    ragged: bool = False,
    outputs: Path | None = None,
) -> None:
    """Write the model in MLflow's PyTorch flavor (`pt2`: a graph, no pickled code).

    The saved copy is on the CPU, in evaluation mode, and takes any number of samples. The folder is replaced once
    the new one is complete. If `torch.export` fails, for example because control flow depends on values, one warning
    is logged and no folder is left. MLflow then gets the best checkpoint.

    Args:
        model: it is not changed.
        example: a few samples, shape (samples, ...), or such inputs by name; with one sample the batch size would be
            frozen at one.
        folder: the model folder to write.
        table: the names if samples are rows of a table: pyfunc then takes data frames, by name.
        ragged: whether samples may have other shapes than the example.
        outputs: the folder where exported graphs are remembered; None remembers none.
    """
    example = tree_map(lambda leaf: leaf.detach().cpu().contiguous(), example)
    if first_axis(example) < 2:
        example = tree_map(lambda leaf: torch.cat([leaf, leaf]), example)
    part = folder.with_name(f".{folder.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    try:
        with silence():
            memory = ModelMemory(outputs)
            key = memory.key(portable(model, shared=True), example, [table, ragged])
            with memory.one_at_a_time(key):
                if not memory.write(key, saved := portable(model, shared=True), example, part):
                    shutil.rmtree(part, ignore_errors=True)
                    _save_any(saved, example, part, table, ragged)
                    give_back_memory()
                    _check(part, portable(model, shared=True), example)
                    memory.remember(key, portable(model, shared=True), example, part)
        shutil.rmtree(folder, ignore_errors=True)
        part.rename(folder)
    except Exception as error:  # torch.export raises many types, and passes on the model's own
        shutil.rmtree(part, ignore_errors=True)
        shutil.rmtree(folder, ignore_errors=True)  # it would be the model of an earlier best epoch
        log_failure(error)


def log_failure(error: Exception) -> None:
    """Log that there is no model to serve."""
    log.warning(
        "the model is not logged to MLflow, only its weights (checkpoints/best.pt): torch.export failed: %.200s",
        first_line(error),
    )


def _save_any(model: torch.nn.Module, example: Example, folder: Path, table: TableNames | None, ragged: bool) -> None:
    if table is not None:
        _save_table(model, example, folder, table)
        return
    with torch.no_grad():
        several = not isinstance(call(model, example), torch.Tensor)
    if several or ragged or not isinstance(example, torch.Tensor):
        _save_named(model, example, folder, ragged)
    else:
        _save(model, example, folder)


def call(function: Callable[..., Any], example: Example) -> Any:
    """Call a model or a graph with a single input, or with inputs by name."""
    return function(example) if isinstance(example, torch.Tensor) else function(**example)


def export_graph(model: torch.nn.Module, example: Example, ragged: bool = False) -> torch.export.ExportedProgram:
    """Export a model with a free batch axis; with free other axes too where the model allows it.

    Args:
        model: its `forward` has a parameter for each input.
        example: at least two samples.
        ragged: whether samples may have other shapes.
    """

    def free(leaf: torch.Tensor) -> dict[int, Any]:
        others = range(1, leaf.ndim) if ragged else ()
        return {0: torch.export.Dim.DYNAMIC, **dict.fromkeys(others, torch.export.Dim.AUTO)}

    with torch.no_grad():
        if isinstance(example, torch.Tensor):
            graph = torch.export.export(model, (example,), dynamic_shapes=(free(example),))
        else:
            shapes = {name: free(leaf) for name, leaf in example.items()}
            graph = torch.export.export(model, (), dict(example), dynamic_shapes=shapes)
    for leaf in leaves(example):  # torch's note on the example, which would be saved with it
        vars(leaf).pop("_specialize_on", None)
    return graph


def portable(model: torch.nn.Module, shared: bool = False) -> torch.nn.Module:
    """Copy the model to the CPU in evaluation mode, without the wrapper of `torch.compile`.

    Args:
        model: it is not changed.
        shared: whether the copy refers to the model's parameters that are on the CPU already, as they may be most of
            the memory. Buffers are always copied: a model may write to them in its `forward`.
    """
    kept = {id(weight): weight for weight in model.parameters() if shared and _is_portable(weight)}
    model = copy.deepcopy(uncompiled(model), kept).cpu().eval()
    # With weights in channels_last the graph would expect inputs in that layout.
    return model.to(memory_format=torch.contiguous_format)


def _is_portable(weight: torch.Tensor) -> bool:
    return weight.device.type == "cpu" and weight.layout is torch.strided and weight.is_contiguous()


def _save(model: torch.nn.Module, example: torch.Tensor, folder: Path) -> None:
    quiet_mlflow()
    import numpy as np
    from mlflow.models import ModelSignature
    from mlflow.types import Schema, TensorSpec

    from runner.tracking.flavor import pytorch

    with torch.no_grad():
        output = model(example)

    def spec(tensor: torch.Tensor) -> Schema:
        array = tensor.numpy()
        return Schema([TensorSpec(np.dtype(array.dtype), (-1, *array.shape[1:]))])

    with without_package_scan():
        pytorch.save_model(
            model,
            folder,
            signature=ModelSignature(spec(example), spec(output)),
            input_example=example.numpy(),
            serialization_format="pt2",
            pip_requirements=_requirements("numpy"),
            metadata={"python": platform.python_version()},
        )


def _save_named(model: torch.nn.Module, example: Example, folder: Path, ragged: bool) -> None:
    """Write a model that takes or returns several arrays by name, which MLflow's own wrapper of graphs refuses."""
    quiet_mlflow()
    import numpy as np
    from mlflow import pyfunc
    from mlflow.models import ModelSignature
    from mlflow.types import Schema, TensorSpec

    graph = export_graph(model, example, ragged)
    with torch.no_grad():
        outputs = call(model, example)

    def schema(named: Example) -> Schema:
        single = isinstance(named, torch.Tensor)
        arrays = {None: named} if isinstance(named, torch.Tensor) else named
        return Schema(
            [
                TensorSpec(
                    np.dtype(str(leaf.dtype).removeprefix("torch.")),
                    (-1, *([-1] * (leaf.ndim - 1) if ragged else leaf.shape[1:])),
                    None if single else name,
                )
                for name, leaf in arrays.items()
            ]
        )

    with without_package_scan():
        pyfunc.save_model(
            folder,
            loader_module=SERVED_INPUTS.stem,
            code_paths=[str(SERVED_INPUTS)],
            signature=ModelSignature(schema(example), schema(outputs)),
            input_example=tree_map(lambda leaf: leaf.numpy(), example),
            pip_requirements=_requirements("numpy", "pandas"),
            metadata={"python": platform.python_version()},
        )
    data = folder / "data"
    data.mkdir()
    torch.export.save(graph, data / "model.pt2")
    named = {"inputs": example} if isinstance(example, torch.Tensor) else example
    kinds = {name: str(leaf.dtype).removeprefix("torch.") for name, leaf in named.items()}
    write_json(data / "inputs.json", kinds)
    _add_graph(folder, data)


def _save_table(model: torch.nn.Module, example: Example, folder: Path, table: TableNames) -> None:
    """Write a model that takes data frames in pyfunc; MLflow's PyTorch flavor can load its graph too.

    MLflow's own wrapper of graphs would round columns to float32 and return columns without names.
    """
    quiet_mlflow()
    import pandas as pd
    from mlflow import pyfunc
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, DataType, Schema
    from mlflow.types.schema import AnyType

    with torch.no_grad():
        dtype = DataType.double if call(model, example).dtype == torch.float64 else DataType.float
    # "any" type: a column of doubles would not accept an integer column of a data frame.
    inputs = Schema([ColSpec(AnyType(), name) for name in table.inputs])
    outputs = Schema([ColSpec(dtype, name) for name in table.outputs])
    rows = table.code is not None
    if isinstance(example, torch.Tensor) and not rows:
        shown = pd.DataFrame(example.numpy(), columns=table.inputs)
    else:
        shown = pd.DataFrame(table.example)
    with without_package_scan(), TemporaryDirectory() as code:
        if table.code is not None:
            shutil.copytree(table.code, Path(code) / "runner_tabular", ignore=shutil.ignore_patterns("__pycache__"))
        pyfunc.save_model(
            folder,
            loader_module=SERVED_ROWS.stem if rows else SERVED_TABLE.stem,
            code_paths=[str(SERVED_ROWS), f"{code}/runner_tabular"] if rows else [str(SERVED_TABLE)],
            signature=ModelSignature(inputs, outputs),
            input_example=shown,
            pip_requirements=_requirements("numpy", "pandas", *(["scikit-learn"] if rows else [])),
            metadata={"python": platform.python_version()},
        )
    data = folder / "data"
    data.mkdir()
    torch.export.save(export_graph(model, example), data / "model.pt2")
    kept = {"inputs": table.inputs, "outputs": table.outputs, "encoder": table.encoder}
    write_json(data / "table.json", {name: value for name, value in kept.items() if value is not None})
    _add_graph(folder, data)


def _add_graph(folder: Path, data: Path) -> None:
    """Name the graph in a model's folder, for pyfunc and for MLflow's PyTorch flavor."""
    from mlflow.models import Model

    # Not `Model.load`: it decodes a `%41` in the path as an A.
    saved = Model.from_dict(yaml.safe_load((folder / "MLmodel").read_text(encoding="utf-8")))
    saved.flavors["python_function"]["data"] = data.name
    saved.add_flavor("pytorch", model_data=data.name, pytorch_version=str(torch.__version__), code=None)
    saved.model_size_bytes = sum(file.stat().st_size for file in folder.rglob("*"))
    saved.save(folder / "MLmodel")


def _requirements(*others: str) -> list[str]:
    """Return the packages that loading needs. Without them MLflow would run another process to infer them (7-10 s)."""
    return [f"{name}=={_public(version(name))}" for name in ("mlflow", "torch", *others)]


def _check(folder: Path, model: torch.nn.Module, example: Example) -> None:
    """Load the saved graph and compare its outputs: export may freeze the batch size silently.

    MLflow's loaders are not used, as they decode a `%41` in the path as an A.
    """
    exported = torch.export.load(folder / "data" / "model.pt2").module()
    rtol, atol = None, None  # torch's defaults for the type of the outputs
    std = getattr(model, "target_std", None)
    if std is not None and getattr(model, "dtype", None) != torch.float64:
        # Computed in float32, returned as float64: torch's tolerances for float32, relative to one standard deviation.
        rtol, atol = 1.3e-6, 1e-5 * float(std.max())
    for index in ([0], [0, 1, 0, 1, 0]):
        samples = at(example, index)
        with torch.no_grad():
            torch.testing.assert_close(call(exported, samples), call(model, samples), rtol=rtol, atol=atol)


def _public(number: str) -> str:
    """Remove the local part of a version (`+cpu`, `+cu130`), as package indexes do not have it."""
    return number.partition("+")[0]


@contextlib.contextmanager
def silence() -> Iterator[None]:
    """Suppress the output and warnings of torch.export and MLflow."""
    loggers = [logging.getLogger(name) for name in ("torch", "mlflow")]
    levels = [logger.level for logger in loggers]
    with (
        warnings.catch_warnings(),
        contextlib.redirect_stdout(io.StringIO()),
        contextlib.redirect_stderr(io.StringIO()),
    ):
        warnings.simplefilter("ignore")
        for logger in loggers:
            logger.setLevel(logging.CRITICAL)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)
