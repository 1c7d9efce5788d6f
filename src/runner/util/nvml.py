"""NVML, by which NVIDIA's driver says what a GPU does: through the package nvidia-ml-py, if it is installed."""

import importlib
from typing import Any


def connect() -> Any:
    """Return the module `pynvml`, which is ready to use; its errors are its `NVMLError`.

    Raises:
        ImportError: nvidia-ml-py is not installed.
        Exception: an `NVMLError`: there is no driver, or it does not answer.
    """
    nvml = importlib.import_module("pynvml")
    nvml.nvmlInit()
    return nvml


def handle_of(nvml: Any, uuid: str) -> Any:
    """Return the handle of the GPU with this UUID: torch counts only the visible ones, NVML all.

    Raises:
        Exception: an `NVMLError`: NVML does not know it, for example because it is a part of a GPU.
    """
    return nvml.nvmlDeviceGetHandleByUUID(f"GPU-{uuid}")
