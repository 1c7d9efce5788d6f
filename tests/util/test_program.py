import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from runner.tracking.store import connect, local_uri


def ended(
    main: str, more: str = "", environment: dict[str, str | None] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a program whose `main` has a body; None in the environment removes a variable."""
    wanted = {key: value for key, value in (os.environ | (environment or {})).items() if value is not None}
    body = "\n    ".join(main.splitlines())
    begin = f"import atexit, sys, threading, time\nfrom runner.util import program\n{more}\n"
    code = f"{begin}def main():\n    {body}\nprogram.run(main)"
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, env=wanted)


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


def test_windows_is_refused_in_one_line() -> None:
    done = ended("print('begun')", "sys.platform = 'win32'")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "error: runner needs Linux or macOS, for fork and locks on files: use it in WSL\n"


def test_threads_are_joined_and_atexit_functions_run() -> None:
    done = ended(
        "atexit.register(lambda: sys.stdout.write('registered'))\n"
        "threading.Thread(target=lambda: (time.sleep(0.3), print('thread'))).start()\n"
        "return 4"
    )
    assert (done.returncode, done.stdout.split()) == (4, ["thread", "registered"])


def test_modules_are_not_torn_down_at_the_end() -> None:
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


def test_mlflow_is_imported_without_skippable_packages_which_can_be_imported_afterwards() -> None:
    code = (
        "import sys, types; sys.modules['scipy'] = here = types.ModuleType('scipy');"
        "from runner.tracking.slim_import import OPTIONAL, skippable_packages, without_packages\n"
        "with without_packages(*skippable_packages()): import mlflow.tracking, mlflow.store.tracking.sqlalchemy_store\n"
        "print(sorted(set(OPTIONAL) & set(sys.modules)), sys.modules['scipy'] is here);"
        "import numpy, pandas; print(pandas.__name__)"
    )
    done = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, check=True)
    assert done.stdout.split("\n")[:2] == ["['scipy'] True", "pandas"]


def test_a_plugin_of_mlflow_s_finds_all_packages(tmp_path: Path) -> None:
    """MLflow imports plugins when it is imported, and only warns if one fails."""
    (tmp_path / "store_of_theirs.py").write_text("import pandas\ndef store(*_, **__): ...\n")
    (described := tmp_path / "theirs-1.0.dist-info").mkdir()
    (described / "METADATA").write_text("Metadata-Version: 2.1\nName: theirs\nVersion: 1.0\n")
    (described / "entry_points.txt").write_text("[mlflow.tracking_store]\ntheirs = store_of_theirs:store\n")
    code = (
        "import sys; from runner.tracking.slim_import import skippable_packages, without_packages\n"
        "with without_packages(*skippable_packages()): import mlflow.tracking\n"
        "print('store_of_theirs' in sys.modules, 'pandas' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error::UserWarning", "-c", code], stdout=subprocess.PIPE, text=True, cwd=tmp_path,
        check=True,
    )  # fmt: skip
    assert done.stdout.split() == ["True", "True"]


FOREIGN: dict[str, str | None] = {
    "MPLBACKEND": "module://matplotlib_inline.backend_inline",
    "TQDM_MININTERVAL": "soon",
    "TQDM_ASCII": "x",
    "TQDM_DISABLE": "1",
    "PYTHONWARNINGS": "error,ignore::DeprecationWarning,e::FutureWarning",
    "TORCHINDUCTOR_CACHE_DIR": "/dev/null/cache",
    "MPLCONFIGDIR": "/etc/passwd",
    "OTEL_PROPAGATORS": "b3,xray",
}


def test_harmful_variables_are_removed_for_the_process_and_its_children() -> None:
    done = ended(
        "import subprocess, warnings\n"
        "from matplotlib import pyplot\n"
        "from tqdm import tqdm\n"
        "warnings.warn('only a warning')\n"
        "subprocess.run(['env'], check=True)\n"
        "print('OPTIONS', *sys.warnoptions)\n"
        "return 0",
        environment=FOREIGN,
    )
    assert done.returncode == 0, done.stderr
    assert "UserWarning: only a warning" in done.stderr
    names = ("MPL", "TQDM", "PYTHONW", "TORCHI", "OTEL", "OPTIONS")
    found = {line for line in done.stdout.splitlines() if line.startswith(names)}
    mild = {"PYTHONWARNINGS=ignore::DeprecationWarning", "OPTIONS ignore::DeprecationWarning"}
    assert found == {"MPLBACKEND=agg", "TQDM_DISABLE=1", *mild}


def test_a_missing_folder_for_temporary_files_is_reported_in_one_line() -> None:
    done = ended("print('begun')", "import tempfile; tempfile._candidate_tempdir_list = lambda: ['/dev/null/tmp']")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "error: TMPDIR: no folder for temporary files is writable; set it to one that is\n"


@pytest.mark.skipif(os.name != "posix" or os.geteuid() != 0, reason="only root becomes another user")
def test_a_user_without_an_entry_gets_a_name_and_a_home(tmp_path: Path) -> None:
    place = Path("/tmp") / f"{tmp_path.parent.name}-{tmp_path.name}"  # pytest's folder is not readable for other users
    place.mkdir(mode=0o777)
    place.chmod(0o777)
    main = (
        "home = pathlib.Path.home()\n"
        "(home / 'written').write_text('x')\n"
        "print(getpass.getuser(), home, oct(home.stat().st_mode)[-3:])\n"
        "return 0"
    )
    homeless: dict[str, str | None] = {"HOME": None, "USER": None, "LOGNAME": None, "TMPDIR": str(place)}
    nobody = (
        "import getpass, os, pathlib\nos.setuid(54321)"  # Python's own files may be closed to it: imports come first
    )
    try:
        first, second = (ended(main, nobody, homeless) for _ in range(2))
        home = place / "runner-home-54321"
        assert first.stdout.split() == ["uid54321", str(home), "700"], first.stderr
        assert second.stdout == first.stdout, "the next process finds it again"
        shutil.rmtree(home)
        home.symlink_to(place)  # another user could have created it
        third = ended(main, nobody, homeless).stdout.split()
        assert third[1] != str(home) and third[2] == "700"
    finally:
        shutil.rmtree(place)


ODD: dict[str, dict[str, str | None]] = {
    "python": {
        "PYTHONOPTIMIZE": "2", "PYTHONHASHSEED": "7", "PYTHONIOENCODING": "ascii:strict", "PYTHONWARNINGS": "error",
        "PYTHONDONTWRITEBYTECODE": "1", "PYTHONUNBUFFERED": "1", "PYTHONINTMAXSTRDIGITS": "640",
    },
    "plain text": {
        "PYTHONUTF8": "0", "LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "TERM": "dumb", "NO_COLOR": "1", "COLUMNS": "abc",
    },
    "no home": {"HOME": None, "XDG_CACHE_HOME": "/dev/null/x", "MPLCONFIGDIR": "/dev/null/x", "PATH": ""},
    "home a file": {"HOME": "/etc/passwd", "TMPDIR": "/nonexistent", "TZ": "Nowhere/Bad", "TERM": None},
    "threads": {
        "OMP_NUM_THREADS": "abc", "MKL_NUM_THREADS": "abc", "OMP_PLACES": "x", "OMP_WAIT_POLICY": "abc",
        "CUDA_VISIBLE_DEVICES": "abc", "TORCH_LOGS": "+dynamo", "TORCHINDUCTOR_CACHE_DIR": "/dev/null/x",
    },
    "libraries": {
        "MLFLOW_RUN_ID": "abc", "MLFLOW_EXPERIMENT_ID": "99", "MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING": "true",
        "MLFLOW_REGISTRY_URI": "http://127.0.0.1:1", "MLFLOW_TRACKING_USERNAME": "ada", "MPLBACKEND": "abc",
        "MATPLOTLIBRC": "/nonexistent", "TQDM_MININTERVAL": "abc", "TQDM_DISABLE": "abc", "HYDRA_FULL_ERROR": "abc",
        "OTEL_PROPAGATORS": "b3", "GIT_DIR": "/nonexistent",
    },
    "a job's": {
        "SLURM_JOB_ID": "1", "SLURM_NTASKS": "4", "SLURM_PROCID": "0", "SLURM_CPUS_PER_TASK": "abc", "RANK": "1",
        "WORLD_SIZE": "4", "MASTER_ADDR": "x", "RAY_ADDRESS": "1.2.3.4:5", "DISPLAY": ":99",
    },
}  # fmt: skip


@pytest.mark.soak
@pytest.mark.parametrize("name", ODD)
@pytest.mark.parametrize("sweep", [False, True])
def test_an_odd_environment_loses_nothing(name: str, sweep: bool, here: Path) -> None:
    small = ("trainer.epochs=1", "data.limit=64", "model.hidden=[4]")
    more = ("--multirun", "seed=1,2", "sweep.jobs=2", "hydra.sweep.dir=mine") if sweep else ("hydra.run.dir=mine/0",)
    environment = {key: value for key, value in (os.environ | ODD[name]).items() if value is not None}
    command = [sys.executable, "-m", "runner", *small, *more]
    limited = ["/bin/bash", "-c", 'ulimit -n 64; exec "$@"', "bash", *command]
    done = subprocess.run(limited, env=environment, capture_output=True, text=True, errors="replace", timeout=300)
    assert done.returncode == 0 and "Traceback" not in done.stderr, done.stderr
    for number in ("0", "1") if sweep else ("0",):
        assert json.loads((here / "mine" / number / "result.json").read_text())["status"] == "FINISHED"
        assert (here / "mine" / number / "plots" / "loss.png").is_file()
    client = connect(local_uri(here / "outputs"))
    runs = client.search_runs([client.get_experiment_by_name("runner").experiment_id])
    assert [run.info.status for run in runs] == ["FINISHED"] * (3 if sweep else 1)
