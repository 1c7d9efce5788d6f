"""Waiting threads sleep soon, unless the environment says otherwise."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

from runner.util.openmp import BLOCK_MILLISECONDS, SPINS

NAMES = ("GOMP_SPINCOUNT", "KMP_BLOCKTIME", "OMP_WAIT_POLICY")


def library() -> Path:
    """Find the OpenMP library in torch's wheel."""
    found = importlib.util.find_spec("torch")
    assert found is not None and found.origin is not None
    return Path(found.origin).parent / "lib" / "libgomp.so.1"


@pytest.mark.skipif(not library().is_file(), reason="torch has another OpenMP here")
@pytest.mark.parametrize(
    ("said", "spins", "blocks"),
    [
        ({}, str(SPINS), str(BLOCK_MILLISECONDS)),
        ({"GOMP_SPINCOUNT": "77"}, "77", str(BLOCK_MILLISECONDS)),
        ({"KMP_BLOCKTIME": "5"}, str(SPINS), "5"),
        ({"OMP_WAIT_POLICY": "ACTIVE"}, "30000000000", None),  # the default of that policy
    ],
)
def test_openmp_reads_the_variables_when_it_is_loaded(said: dict[str, str], spins: str, blocks: str | None) -> None:
    clean = {key: value for key, value in os.environ.items() if key not in NAMES}
    code = f"import runner, os, ctypes; print(os.environ.get('KMP_BLOCKTIME')); ctypes.CDLL({str(library())!r})"
    done = subprocess.run(
        [sys.executable, "-c", code], env=clean | said | {"OMP_DISPLAY_ENV": "VERBOSE"}, capture_output=True, text=True
    )
    assert done.returncode == 0 and done.stdout.split() == [str(blocks)]
    assert f"GOMP_SPINCOUNT = '{spins}'" in done.stderr.replace("[host] ", "")
