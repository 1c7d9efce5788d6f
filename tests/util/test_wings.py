"""The wings of `src/runner`. That none imports upwards is import-linter's affair: `.ci/run` calls it."""

import importlib
import importlib.util
import pkgutil
import re
import subprocess
import sys

import pytest

import runner
from conftest import REPOSITORY

OPTIONAL = {"runner.sweeps.launchers.on_ray": "ray", "runner.sweeps.launchers.on_slurm": "submitit"}
FUNCTIONS = {"run", "sweep", "load"}
"""Names that functions of the package have: a module of the same name would take their place at its first import."""


def test_the_loop_loads_neither_hydra_nor_mlflow() -> None:
    code = (
        "import sys, runner.training.loop\n"
        "loaded = {name.partition('.')[0] for name in sys.modules}\n"
        "print(sorted(loaded & {'hydra', 'omegaconf', 'mlflow', 'matplotlib'}))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "[]\n"


def test_no_module_takes_the_name_of_a_function_of_the_package() -> None:
    assert not FUNCTIONS & {found.name for found in pkgutil.iter_modules(runner.__path__)}


@pytest.mark.soak
def test_no_import_takes_the_name_of_a_function_of_the_package() -> None:
    names = [found.name for found in pkgutil.walk_packages(runner.__path__, "runner.")]
    for name in names:
        if name != "runner.__main__" and importlib.util.find_spec(OPTIONAL.get(name, "runner")):
            importlib.import_module(name)
    assert len(names) > 150 and not FUNCTIONS & vars(runner).keys()


def test_the_map_names_what_is_there() -> None:
    source = REPOSITORY / "src" / "runner"
    text = (source / "README.md").read_text(encoding="utf-8")
    for name in re.findall(r"`([\w/]+(?:/|\.py))`", text):
        assert list(source.rglob(name.rstrip("/"))) or (REPOSITORY / name).exists(), name
    there = {found.name for found in pkgutil.iter_modules(runner.__path__)} - {"__main__"}
    assert not {name for name in there if not re.search(rf"`{name}(/|\.py)`", text)}
