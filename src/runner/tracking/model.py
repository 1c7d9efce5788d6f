"""The model as an MLflow model folder: loads with pyfunc anywhere, without the code that made it."""

import contextlib
import copy
import io
import logging
import platform
import shutil
import warnings
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

import torch

from runner.errors import first_line
from runner.tracking.store import quiet_mlflow

log = logging.getLogger("runner")


def save_model(model: torch.nn.Module, example: torch.Tensor, folder: Path) -> None:
    """Write the model in MLflow's PyTorch flavour (`pt2`: a graph, no pickled code).

    The saved copy is on the CPU, in evaluation mode, and takes any number of samples. The folder is
    replaced only when the new one is whole. A model that `torch.export` can't take (control flow that
    depends on values, say) costs one warning and leaves no folder: MLflow is then given the best checkpoint.

    Args:
        model: left as it is.
        example: a few samples, shape (samples, ...); at least two, or the batch size is frozen at one.
        folder: the model folder to write.
    """
    example = example.detach().cpu().contiguous()
    if len(example) < 2:
        example = torch.cat([example, example])
    part = folder.with_name(f".{folder.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    try:
        with silence():
            _save(portable(model), example, part)
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
            # Given: MLflow would import everything again in another process to find out (7-10 s).
            pip_requirements=[f"{name}=={_public(version(name))}" for name in ("mlflow", "torch", "numpy")],
            metadata={"python": platform.python_version()},
        )
    _check(folder, model, example)


def _check(folder: Path, model: torch.nn.Module, example: torch.Tensor) -> None:
    """Load what was saved and compare: export may freeze the batch size without a word."""
    from runner.tracking.flavor import pytorch

    exported = pytorch.load_model(str(folder))
    for samples in (example[:1], torch.cat([example, example, example[:1]])):
        with torch.no_grad():
            torch.testing.assert_close(exported(samples), model(samples))


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
