import subprocess
import sys
from pathlib import Path

import pytest


def ended(main: str, more: str = "") -> subprocess.CompletedProcess[str]:
    """A program whose `main` has that body."""
    body = "\n    ".join(main.splitlines())
    begin = f"import atexit, sys, threading, time\nfrom runner import program\n{more}\n"
    code = f"{begin}def main():\n    {body}\nprogram.run(main)"
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize(
    ("main", "code"),
    [
        ("return 0", 0),
        ("return 130", 130),
        ("sys.exit()", 0),
        ("sys.exit(3)", 3),
        ("sys.exit('a reason')", 1),
        ("raise KeyError('gone')", 1),
    ],
)
def test_the_exit_code_is_python_s(main: str, code: int) -> None:
    done = ended(main)
    assert done.returncode == code
    assert ("a reason" in done.stderr, "KeyError: 'gone'" in done.stderr) == ("a reason" in main, "gone" in main)


def test_windows_is_told_of_in_a_line() -> None:
    done = ended("print('begun')", "sys.platform = 'win32'")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "error: runner needs Linux or macOS, for fork and locks on files: use it in WSL\n"


def test_threads_are_waited_for_and_what_is_registered_is_done() -> None:
    done = ended(
        "atexit.register(lambda: sys.stdout.write('registered'))\n"
        "threading.Thread(target=lambda: (time.sleep(0.3), print('thread'))).start()\n"
        "return 4"
    )
    assert (done.returncode, done.stdout.split()) == (4, ["thread", "registered"])


def test_nothing_is_taken_apart_at_the_end() -> None:
    dies = "class Told:\n    def __del__(self): print('taken apart')\n"
    assert ended("return 0", f"{dies}told = Told()").stdout == ""
    assert ended("global told\ndel told\nreturn 0", f"{dies}told = Told()").stdout == "taken apart\n"


def test_lightning_is_not_imported_with_mlflow_and_can_be_afterwards(tmp_path: Path) -> None:
    (tmp_path / "pytorch_lightning.py").write_text("print('imported')")
    code = (
        "from runner.tracking.flavor import pytorch; print(pytorch.save_model.__name__);"
        "import mlflow.pytorch, pytorch_lightning; print(pytorch is mlflow.pytorch)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, check=True)
    assert done.stdout.split() == ["save_model", "imported", "True"]


def test_the_delivery_s_mlflow_is_imported_without_what_it_does_not_need_and_others_find_it_afterwards() -> None:
    code = (
        "import sys, types; sys.modules['scipy'] = here = types.ModuleType('scipy');"
        "from runner.tracking.lean import DATA_SCIENCE, unneeded, without\n"
        "with without(*unneeded()): import mlflow.tracking, mlflow.store.tracking.sqlalchemy_store\n"
        "print(sorted(set(DATA_SCIENCE) & set(sys.modules)), sys.modules['scipy'] is here);"
        "import numpy, pandas; print(pandas.__name__)"
    )
    done = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, check=True)
    assert done.stdout.split("\n")[:2] == ["['scipy'] True", "pandas"]


def test_a_plugin_of_mlflow_s_finds_all_packages(tmp_path: Path) -> None:
    """MLflow imports plugins with itself, and only warns of those that cannot be."""
    (tmp_path / "store_of_theirs.py").write_text("import pandas\ndef store(*_, **__): ...\n")
    (described := tmp_path / "theirs-1.0.dist-info").mkdir()
    (described / "METADATA").write_text("Metadata-Version: 2.1\nName: theirs\nVersion: 1.0\n")
    (described / "entry_points.txt").write_text("[mlflow.tracking_store]\ntheirs = store_of_theirs:store\n")
    code = (
        "import sys; from runner.tracking.lean import unneeded, without\n"
        "with without(*unneeded()): import mlflow.tracking\n"
        "print('store_of_theirs' in sys.modules, 'pandas' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error::UserWarning", "-c", code], stdout=subprocess.PIPE, text=True, cwd=tmp_path,
        check=True,
    )  # fmt: skip
    assert done.stdout.split() == ["True", "True"]
