"""Which code is the user's, and which was installed: by where its file lies."""

import functools
import sys
import sysconfig
from pathlib import Path

LIBRARIES = frozenset({
    "hydra", "hydra_plugins", "mlflow", "numpy", "omegaconf", "pandas", "runner", "torch", "torchvision",
})  # fmt: skip
"""Packages that are never the user's, even as a checkout of their sources."""

_PACKAGES = ("site-packages", "dist-packages")


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
    return not _is_installed(Path(file).absolute())


@functools.cache
def _is_installed(file: Path) -> bool:
    of_python = {sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "scripts")}
    if any(file.is_relative_to(folder) for folder in of_python):
        return True
    # Not only in the folders of this environment: a .pth file or PYTHONPATH may name those of another, and
    # `pip install --target` fills any folder.
    return any(
        folder.name in _PACKAGES or file.relative_to(folder).parts[0] in _installed_in(folder)
        for folder in file.parents
    )


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
