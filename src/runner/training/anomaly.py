"""`trainer.detect_anomaly`: which operation gives a gradient that is not a number."""

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
def detected(progress: Progress) -> Iterator[None]:
    """Watch every gradient; torch prints where one was computed, and this says it.

    Args:
        progress: tells when it happened.

    Raises:
        TrainingError: a gradient was not a number.
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
            what, last = str(error).rstrip("."), frames[-1]
            raise TrainingError(
                f"{what} in epoch {progress.epoch}, step {progress.step + 1}:"
                f" {last['file']}:{last['line']}: {last['code'].strip()}"
            ) from error
    for warning in caught:
        if "Anomaly Detection has been enabled" not in str(warning.message):
            warnings.warn_explicit(warning.message, warning.category, warning.filename, warning.lineno)
