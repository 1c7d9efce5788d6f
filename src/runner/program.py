"""How a command is a process: it begins, and above all ends, sooner than Python would have it."""

import atexit
import gc
import logging
import os
import sys
from collections.abc import Callable
from typing import NoReturn

from . import streams
from .stopping import outlive_terminal

COLLECT_AFTER = 10_000
"""Objects made, and not freed, after which the garbage collector looks for circles among the young ones.

Importing torch, torchvision and MLflow takes 3.6 s with it, 4.1 s with Python's own 700, 3.4 s without any
collecting.
"""


def run(main: Callable[[], int]) -> NoReturn:
    """Be the process of a command: what `main` gives is its exit code.

    Its end is that of any Python program, threads waited for and what is registered with `atexit` done, but for the
    last part of it: taking apart every module, which takes a second with torch and MLflow among them.
    """
    if sys.platform == "win32":
        print("error: runner needs Linux or macOS, for fork and locks on files: use it in WSL", file=sys.stderr)
        sys.exit(2)
    streams.protect(sys.argv[1:])
    outlive_terminal()
    if not _is_somewhere():
        print("error: the current folder has been deleted: cd to one that is there", file=sys.stderr)
        sys.exit(2)
    gc.set_threshold(COLLECT_AFTER)
    code = 1  # of an exception that nobody catches

    def end() -> None:
        logging.shutdown()
        streams.finish()
        os._exit(code)

    # What is registered first is called last: all that torch and MLflow register comes before it.
    atexit.register(end)
    try:
        code = main()
    except SystemExit as left:
        code = left.code if isinstance(left.code, int) else int(left.code is not None)
        raise
    sys.exit(code)


def _is_somewhere() -> bool:
    """Whether the current folder is there: it may be deleted while a shell is in it."""
    try:
        return bool(os.getcwd())  # noqa: PTH109 - the same, without pathlib
    except FileNotFoundError:
        return False
