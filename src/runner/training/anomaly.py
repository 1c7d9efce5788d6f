"""`trainer.detect_anomaly`: find the operation whose gradient is NaN."""

import logging
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from runner.errors import TrainingError
from runner.training.progress import Progress

log = logging.getLogger("runner")

TORCH = str(Path(torch.__file__).parent)
FRAME = re.compile(r'  File "(?P<file>[^"]+)", line (?P<line>\d+), in .*\n    (?P<code>.+)')


@contextmanager
def detect_anomaly(progress: Progress) -> Iterator[None]:
    """Check every gradient with torch's anomaly mode, and report the line of the forward pass.

    Args:
        progress: the epoch and step for the error.

    Raises:
        TrainingError: a gradient is NaN.
    """
    with warnings.catch_warnings(record=True) as caught, torch.autograd.set_detect_anomaly(True):
        try:
            yield
        except RuntimeError as error:
            traces = [text for warning in caught if "forward call" in (text := str(warning.message))]
            frames = [frame for frame in FRAME.finditer("".join(traces)) if not frame["file"].startswith(TORCH)]
            if not frames:
                raise
            log.debug("%s", traces[-1])
            reason, last = str(error).rstrip("."), frames[-1]
            raise TrainingError(
                f"{reason} in epoch {progress.epoch}, step {progress.step + 1}:"
                f" {last['file']}:{last['line']}: {last['code'].strip()}"
            ) from error
    for warning in caught:
        if "Anomaly Detection has been enabled" not in str(warning.message):
            warnings.warn_explicit(warning.message, warning.category, warning.filename, warning.lineno)
