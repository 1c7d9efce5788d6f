"""Which code is the user's, and which was installed: by where its file lies."""

import functools
import sys
import sysconfig
from pathlib import Path

LIBRARIES = frozenset({
    "hydra", "hydra_plugins", "mlflow", "numpy", "omegaconf", "pandas", "runner", "torch", "torchvision",
})  # fmt: skip
"""Packages that are never the user's, even as a checkout of their sources."""

_PACKAGES = ("/site-packages/", "/dist-packages/")


def is_users(module: str, file: str) -> bool:
    """Return whether a module is the user's: neither of Python or runner, nor an installed package.

    A package that is installed from the user's own folder (`pip install -e`) is the user's.

    Args:
        module: its name.
        file: its path; none, or `<string>`, is nobody's.
    """
    name = module.partition(".")[0]
    if not file or file.startswith("<") or name in LIBRARIES or name in sys.stdlib_module_names:
        return False
    return not is_installed(file)


def is_runners(module: str) -> bool:
    """Return whether a module is runner's by its name."""
    return module.partition(".")[0] == "runner" or module.startswith("hydra_plugins.runner_")


def imported_files() -> dict[str, Path]:
    """Return the files of all imported modules that are the user's, or of runner if it was not installed, by module.

    A script that was started as a program is no module that can be imported again.
    """
    files = {}
    for name, module in list(sys.modules.items()):
        file = getattr(module, "__dict__", {}).get("__file__")  # getattr would import some lazy modules
        if not isinstance(file, str) or name in ("__main__", "__mp_main__"):
            continue
        if _is_code(name, file):
            files[name] = Path(file).absolute()
    return files


@functools.lru_cache(maxsize=1 << 14)
def _is_code(name: str, file: str) -> bool:
    # Remembered, as a run asks three times about thousands of modules, and each job of a sweep about the same ones.
    return is_users(name, file) or (is_runners(name) and not is_installed(file))


def is_installed(file: str) -> bool:
    """Return whether a file was installed, and is no file of a project."""
    # Not only in the folders of this environment: a .pth file or PYTHONPATH may name those of another. First, as most
    # of thousands of modules are there.
    return any(part in file for part in _PACKAGES) or _is_installed_elsewhere(Path(file).absolute())


@functools.cache
def _is_installed_elsewhere(path: Path) -> bool:
    if path in _folders_of_python():
        return True
    folder = path.parent  # `pip install --target` fills any folder
    return folder != path and (path.name in _installed_in(folder) or _is_installed_elsewhere(folder))


@functools.cache
def _folders_of_python() -> frozenset[Path]:
    return frozenset(Path(sysconfig.get_path(name)) for name in ("stdlib", "platstdlib", "scripts"))


@functools.cache
def _installed_in(folder: Path) -> frozenset[str]:
    """Return the names in a folder that pip has written there, as its records say."""
    names = set()
    for record in folder.glob("*.dist-info/RECORD"):
        try:
            lines = record.read_text().splitlines()
        except (OSError, UnicodeDecodeError):
            continue
        names |= {line.partition(",")[0].partition("/")[0] for line in lines}
    return frozenset(names)
