"""A run in this process, for a debugger; and what else computes here. The process stays as it is."""

import logging
import os
import signal
import threading
import warnings
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

from runner.util.events import Listening, Receiver
from runner.util.stopping import SIGNALS


def call(arguments: Sequence[str], receive: Receiver) -> tuple[int, bool]:
    """Run `python -m runner` with these arguments in this process; see `runner.api.process.call`."""
    from runner.cli import run_command

    with unchanged(), Listening(receive):
        code = run_command(list(arguments))
    return code, code == 128 + signal.SIGINT


@contextmanager
def unchanged() -> Iterator[None]:
    """Restore, after a block that computes, what it may change in this process.

    These are the random generators, torch's settings and number of threads, runner's logger, signal handlers, filters
    of warnings and the working directory.
    """
    import torch

    from runner.device import set_deterministic
    from runner.util.rng import rng_state, set_rng_state

    devices = [torch.device("cpu")]
    if torch.accelerator.is_available() and (current := torch.accelerator.current_accelerator()) is not None:
        devices.append(torch.device(current.type, torch.accelerator.current_device_index()))
    generators = [(device, rng_state(device)) for device in devices]
    log, here, environment = logging.getLogger("runner"), os.getcwd(), dict(os.environ)  # noqa: PTH109 - nothing else
    handlers, level, propagate = list(log.handlers), log.level, log.propagate
    cudnn: Any = torch.backends.cudnn
    backends = [(each, each.fp32_precision) for each in (torch.backends.cuda.matmul, cudnn.conv, cudnn.rnn)]
    deterministic, fast = torch.are_deterministic_algorithms_enabled(), torch.backends.mha.get_fastpath_enabled()
    threads, dtype = torch.get_num_threads(), torch.get_default_dtype()
    with ExitStack() as restored:
        restored.enter_context(warnings.catch_warnings())
        if threading.current_thread() is threading.main_thread():
            for number in SIGNALS:
                restored.callback(signal.signal, number, signal.getsignal(number))
        try:
            yield
        finally:
            for device, state in generators:
                set_rng_state(state, device)
            log.handlers[:], log.propagate = handlers, propagate
            log.setLevel(level)
            for backend, precision in backends:
                backend.fp32_precision = precision
            set_deterministic(deterministic)
            torch.backends.mha.set_fastpath_enabled(fast)
            torch.set_default_dtype(dtype)
            if torch.get_num_threads() != threads:
                torch.set_num_threads(threads)
            os.environ.clear()
            os.environ.update(environment)
            os.chdir(here)
