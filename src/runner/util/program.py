"""The start and the end of a command's process; both are faster than Python's defaults."""

import atexit
import contextlib
import gc
import getpass
import logging
import os
import signal
import sys
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from runner.errors import ConfigError, Problem
from runner.util import streams
from runner.util.stopping import INTERRUPT, SIGNALS

COLLECT_AFTER = 10_000
"""The threshold of the garbage collector's youngest generation, in objects allocated and not freed.

Importing torch, torchvision and MLflow takes 3.6 s with it, 4.1 s with Python's default of 700, 3.4 s without garbage
collection.
"""

CACHES = ("TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR", "MPLCONFIGDIR")
"""Variables that name the cache folder of a library; without them it uses its default."""


def prepare_environment() -> None:
    """Repair the environment of this process and its children.

    Removed are variables with which an import fails: a notebook kernel sets a matplotlib backend that only its own
    environment has, tqdm raises for a variable of the wrong type, torch raises if its cache folder cannot be created,
    and warnings that are errors end the process at the first warning of any library. Added are a home folder and a
    user name, which torch, Hydra and `~` need, and which a container may lack.

    Raises:
        ConfigError: no folder for temporary files is writable.
    """
    try:
        tempfile.gettempdir()
    except FileNotFoundError as error:
        raise ConfigError(
            Problem(
                "TMPDIR", "TMPDIR: no folder for temporary files is writable", "set it to one that is", topic="file"
            )
        ) from error
    os.environ.pop("OTEL_PROPAGATORS", None)  # importing MLflow fails if the named propagator is not installed
    os.environ.pop("PYTHONINSPECT", None)  # with it, a child ends at a prompt
    for name in CACHES:
        if name in os.environ and not _is_usable(Path(os.environ[name])):
            del os.environ[name]
    os.environ["MPLBACKEND"] = "agg"
    for name in [name for name in os.environ if name.startswith("TQDM_") and name != "TQDM_DISABLE"]:
        del os.environ[name]
    if options := ",".join(filter(_is_harmless, os.environ.pop("PYTHONWARNINGS", "").split(","))):
        os.environ["PYTHONWARNINGS"] = options
    sys.warnoptions[:] = filter(_is_harmless, sys.warnoptions)  # multiprocessing passes them to its servers
    warnings.filters[:] = [each for each in warnings.filters if each[0] != "error"]  # type: ignore[index]
    if os.path.expanduser("~") == "~":  # noqa: PTH111 - pathlib would raise
        os.environ["HOME"] = str(_temporary_home())
    elif "MPLCONFIGDIR" not in os.environ and not os.access(os.path.expanduser("~"), os.W_OK):  # noqa: PTH111
        os.environ["MPLCONFIGDIR"] = str(_temporary_home())  # otherwise matplotlib creates one in each process
    try:
        getpass.getuser()
    except (KeyError, OSError):
        os.environ["USER"] = f"uid{os.getuid()}"


def _is_harmless(option: str) -> bool:
    """Return whether a `-W` option is not empty and does not turn warnings into errors; `-W e` means `error` too."""
    action = option.partition(":")[0].strip()
    return bool(action) and not "error".startswith(action)


def _is_usable(folder: Path) -> bool:
    """Return whether a folder is writable; create it if it does not exist."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return False
    return os.access(folder, os.W_OK | os.X_OK)


def _temporary_home() -> Path:
    """Create a home folder that no other user can write to; later processes of the same user reuse it."""
    home = Path(tempfile.gettempdir(), f"runner-home-{os.getuid()}")
    with contextlib.suppress(OSError):
        home.mkdir(mode=0o700, exist_ok=True)
        if home.lstat().st_uid == os.getuid() and not home.is_symlink():
            return home
    return Path(tempfile.mkdtemp(prefix="runner-home-"))


def run(main: Callable[[], int]) -> NoReturn:
    """Run a command's main function, and exit with the code that it returns.

    The process ends like any Python program: threads are joined and `atexit` functions run. Only the last part is
    skipped: tearing down all modules takes a second if torch and MLflow are among them.
    """
    if sys.platform == "win32":
        print("error: runner needs Linux or macOS, for fork and locks on files: use it in WSL", file=sys.stderr)
        sys.exit(2)
    streams.protect(sys.argv[1:])
    INTERRUPT.install()
    if not _has_current_folder():
        print("error: the current folder has been deleted; cd to an existing one", file=sys.stderr)
        sys.exit(2)
    try:
        prepare_environment()
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    activate = os.environ.pop("RUNNER_ACTIVATE", None)  # set by scripts/run
    gc.set_threshold(COLLECT_AFTER)
    code = 1  # for an uncaught exception

    def end() -> None:
        if activate:
            with contextlib.suppress(OSError, ValueError):
                print(f"shell      {activate}    # then run the commands printed above", file=sys.stderr)
        logging.shutdown()
        streams.finish_all()
        os._exit(code)

    # Registered first, it runs last: after all functions that torch and MLflow register.
    atexit.register(end)
    try:
        INTERRUPT.begin()
        code = main()
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else int(error.code is not None)
        raise
    except BaseException as error:
        if not isinstance(error, KeyboardInterrupt) and INTERRUPT.signal is None:
            raise
        print(INTERRUPT.message, file=sys.stderr)
        code = INTERRUPT.exit_code
    finally:
        for number in SIGNALS:  # the work is done; only threads of others may still run
            if signal.getsignal(number) is INTERRUPT:
                signal.signal(number, lambda *_: end())
    sys.exit(code)


def _has_current_folder() -> bool:
    """Return whether the current folder exists: it may have been deleted while a shell was in it."""
    try:
        return bool(os.getcwd())  # noqa: PTH109 - the same, without pathlib
    except FileNotFoundError:
        return False
