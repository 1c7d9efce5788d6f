"""The model as an MLflow model folder: loads with pyfunc anywhere, without the code that made it."""

import contextlib
import copy
import io
import logging
import platform
import shutil
import warnings
from collections.abc import Iterator
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

import torch
import yaml

from runner.errors import first_line
from runner.tracking.store import quiet_mlflow
from runner.util.files import write_json

log = logging.getLogger("runner")

SERVED_TABLE = Path(__file__).with_name("served_table.py")
"""The code that a table's model is loaded by, which goes along with it."""


class TableNames(NamedTuple):
    """The columns of a table model: the features that it takes, in their order, and the answers that it gives."""

    inputs: list[str]
    outputs: list[str]


def save_model(model: torch.nn.Module, example: torch.Tensor, folder: Path, table: TableNames | None = None) -> None:
    """Write the model in MLflow's PyTorch flavour (`pt2`: a graph, no pickled code).

    The saved copy is on the CPU, in evaluation mode, and takes any number of samples. The folder is
    replaced only when the new one is whole. A model that `torch.export` can't take (control flow that
    depends on values, say) costs one warning and leaves no folder: MLflow is then given the best checkpoint.

    Args:
        model: left as it is.
        example: a few samples, shape (samples, ...); at least two, or the batch size is frozen at one.
        folder: the model folder to write.
        table: the names, if samples are rows of a table: pyfunc then takes data frames, by name.
    """
    example = example.detach().cpu().contiguous()
    if len(example) < 2:
        example = torch.cat([example, example])
    part = folder.with_name(f".{folder.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    try:
        with silence():
            save = partial(_save_table, table=table) if table is not None else _save
            save(portable(model), example, part)
            _check(part, portable(model), example)
        shutil.rmtree(folder, ignore_errors=True)
        part.rename(folder)
    except Exception as error:  # torch.export raises anything, from its own errors to the model's
        shutil.rmtree(part, ignore_errors=True)
        shutil.rmtree(folder, ignore_errors=True)  # one of an earlier, other best would be taken for this one
        reason = first_line(error)
        log.warning(
            "the model is not logged to MLflow, its weights are, as checkpoints/best.pt: torch.export can't take it:"
            " %.200s",
            reason,
        )


def portable(model: torch.nn.Module) -> torch.nn.Module:
    """Copy the model to the CPU as it evaluates, without the wrapper of `torch.compile`."""
    model = copy.deepcopy(getattr(model, "_orig_mod", model)).cpu().eval()
    # Weights in channels_last would make the graph expect that layout of its input.
    return model.to(memory_format=torch.contiguous_format)


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

    with _requirements_believed():
        pytorch.save_model(
            model,
            folder,
            signature=ModelSignature(spec(example), spec(output)),
            input_example=example.numpy(),
            serialization_format="pt2",
            pip_requirements=_requirements("numpy"),
            metadata={"python": platform.python_version()},
        )


def _save_table(model: torch.nn.Module, example: torch.Tensor, folder: Path, table: TableNames) -> None:
    """Write a model that pyfunc gives data frames; MLflow's PyTorch flavour loads its graph all the same.

    MLflow's own wrapper of graphs would round columns to float32 and give columns without names.
    """
    quiet_mlflow()
    import pandas as pd
    from mlflow import pyfunc
    from mlflow.models import Model, ModelSignature
    from mlflow.types import ColSpec, DataType, Schema
    from mlflow.types.schema import AnyType

    with torch.no_grad():
        dtype = DataType.double if model(example).dtype == torch.float64 else DataType.float
    # Of "any" type: a column of doubles would refuse integers, as they come in an integer column of a data frame.
    inputs = Schema([ColSpec(AnyType(), name) for name in table.inputs])
    outputs = Schema([ColSpec(dtype, name) for name in table.outputs])
    with _requirements_believed():
        pyfunc.save_model(
            folder,
            loader_module=SERVED_TABLE.stem,
            code_paths=[str(SERVED_TABLE)],
            signature=ModelSignature(inputs, outputs),
            input_example=pd.DataFrame(example.numpy(), columns=table.inputs),
            pip_requirements=_requirements("numpy", "pandas"),
            metadata={"python": platform.python_version()},
        )
    data = folder / "data"
    data.mkdir()
    with torch.no_grad():
        graph = torch.export.export(model, (example,), dynamic_shapes=({0: torch.export.Dim.DYNAMIC},))
    torch.export.save(graph, data / "model.pt2")
    write_json(data / "table.json", table._asdict())
    # Not by `Model.load`, which takes a `%41` in the path for an A.
    saved = Model.from_dict(yaml.safe_load((folder / "MLmodel").read_text(encoding="utf-8")))
    saved.flavors["python_function"]["data"] = data.name
    saved.add_flavor("pytorch", model_data=data.name, pytorch_version=str(torch.__version__), code=None)
    saved.model_size_bytes = sum(file.stat().st_size for file in folder.rglob("*"))
    saved.save(folder / "MLmodel")


def _requirements(*others: str) -> list[str]:
    """What loading takes. Given: MLflow would import everything again in another process to find out (7-10 s)."""
    return [f"{name}=={_public(version(name))}" for name in ("mlflow", "torch", *others)]


def _check(folder: Path, model: torch.nn.Module, example: torch.Tensor) -> None:
    """Load the graph that was saved and compare: export may freeze the batch size without a word.

    MLflow's own loaders would look for it elsewhere where the path holds `%41`, which they take for an A.
    """
    exported = torch.export.load(folder / "data" / "model.pt2").module()
    rtol, atol = None, None  # torch's own, by the type of the outputs
    std = getattr(model, "target_std", None)
    if std is not None and getattr(model, "dtype", None) != torch.float64:
        # Computed in 32 bits, given in 64: torch's tolerance for float32, of one standard deviation.
        rtol, atol = 1.3e-6, 1e-5 * float(std.max())
    for samples in (example[:1], torch.cat([example, example, example[:1]])):
        with torch.no_grad():
            torch.testing.assert_close(exported(samples), model(samples), rtol=rtol, atol=atol)


@contextlib.contextmanager
def _requirements_believed() -> Iterator[None]:
    """Keep MLflow from reading the file lists of all packages (1.7 s), to see that what is installed is installed.

    It keeps them in a variable of its own, empty until they are first needed; without that variable nothing changes.
    """
    from mlflow.utils import requirements_utils

    unread = getattr(requirements_utils, "_MODULES_TO_PACKAGES", {}) is None
    if unread:
        requirements_utils._MODULES_TO_PACKAGES = {}
    try:
        yield
    finally:
        if unread:
            requirements_utils._MODULES_TO_PACKAGES = None


def _public(number: str) -> str:
    """Drop the local part of a version (`+cpu`, `+cu130`), which no package index knows."""
    return number.partition("+")[0]


@contextlib.contextmanager
def silence() -> Iterator[None]:
    """Keep what torch.export and MLflow have to say about their own insides off the terminal."""
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
