"""How a command is a process: it begins, and above all ends, sooner than Python would have it."""

import atexit
import contextlib
import gc
import getpass
import logging
import os
import sys
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from runner.errors import ConfigError, Problem
from runner.util import streams
from runner.util.stopping import outlive_terminal

COLLECT_AFTER = 10_000
"""Objects made, and not freed, after which the garbage collector looks for circles among the young ones.

Importing torch, torchvision and MLflow takes 3.6 s with it, 4.1 s with Python's own 700, 3.4 s without any
collecting.
"""

CACHES = ("TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR", "MPLCONFIGDIR")
"""Variables with a folder that a library writes what it has computed into; without them it has its own place."""


def prepare_environment() -> None:
    """Leave out of the environment what a parent has set for itself, and put in what it lacks; for children too.

    The kernel of a notebook sets a backend of matplotlib that only its own environment has, a tqdm switch that is not
    of its type raises when tqdm is imported, as torch does where its cache cannot be made, a warning that is an error
    ends whatever library warns first, and torch, Hydra and `~` need a user with a home, which a container's may not
    have.

    Raises:
        ConfigError: there is no folder for temporary files.
    """
    try:
        tempfile.gettempdir()
    except FileNotFoundError as error:
        raise ConfigError(
            Problem(
                "TMPDIR", "TMPDIR: no folder for temporary files is writable", "set it to one that is", topic="file"
            )
        ) from error
    os.environ.pop("OTEL_PROPAGATORS", None)  # MLflow cannot be imported where the one of a platform is not installed
    os.environ.pop("PYTHONINSPECT", None)  # or a child ends at a prompt
    for name in CACHES:
        if name in os.environ and not _is_usable(Path(os.environ[name])):
            del os.environ[name]
    os.environ["MPLBACKEND"] = "agg"
    for name in [name for name in os.environ if name.startswith("TQDM_") and name != "TQDM_DISABLE"]:
        del os.environ[name]
    if said := ",".join(filter(_is_mild, os.environ.pop("PYTHONWARNINGS", "").split(","))):
        os.environ["PYTHONWARNINGS"] = said
    sys.warnoptions[:] = filter(_is_mild, sys.warnoptions)  # which multiprocessing gives to its servers
    warnings.filters[:] = [each for each in warnings.filters if each[0] != "error"]  # type: ignore[index]
    if os.path.expanduser("~") == "~":  # noqa: PTH111 - which does not raise
        os.environ["HOME"] = str(_temporary_home())
    elif "MPLCONFIGDIR" not in os.environ and not os.access(os.path.expanduser("~"), os.W_OK):  # noqa: PTH111
        os.environ["MPLCONFIGDIR"] = str(_temporary_home())  # or matplotlib makes another one in each process
    try:
        getpass.getuser()
    except (KeyError, OSError):
        os.environ["USER"] = f"uid{os.getuid()}"


def _is_mild(option: str) -> bool:
    """Whether an option of `-W` is given, and makes no error of a warning; Python takes the beginning of a word."""
    action = option.partition(":")[0].strip()
    return bool(action) and not "error".startswith(action)


def _is_usable(folder: Path) -> bool:
    """Whether a folder can be written into; it is made where it is not there."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return False
    return os.access(folder, os.W_OK | os.X_OK)


def _temporary_home() -> Path:
    """A folder that no other user can write to; the next process of this one finds it again."""
    home = Path(tempfile.gettempdir(), f"runner-home-{os.getuid()}")
    with contextlib.suppress(OSError):
        home.mkdir(mode=0o700, exist_ok=True)
        if home.lstat().st_uid == os.getuid() and not home.is_symlink():
            return home
    return Path(tempfile.mkdtemp(prefix="runner-home-"))


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
    try:
        prepare_environment()
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    activate = os.environ.pop("RUNNER_ACTIVATE", None)  # of scripts/run
    gc.set_threshold(COLLECT_AFTER)
    code = 1  # of an exception that nobody catches

    def end() -> None:
        if activate:
            with contextlib.suppress(OSError, ValueError):
                print(f"shell      {activate}    # then type what is printed above", file=sys.stderr)
        logging.shutdown()
        streams.finish_all()
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
