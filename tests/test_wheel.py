"""The wheel alone, in another environment and an empty folder, with a model and data of the user's."""

import json
import os
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

from conftest import REPOSITORY, run_folder
from test_readme import commands, files


def test_a_wheel_works_anywhere_with_a_user_s_own_model_and_config_folder(tmp_path: Path) -> None:
    built = tmp_path / "wheels"
    subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(built), str(REPOSITORY)],
        check=True, capture_output=True,
    )  # fmt: skip
    (wheel,) = built.glob("runner_torch-*.whl")
    environment = tmp_path / "environment"
    venv.create(environment, with_pip=False)
    python = environment / "bin" / "python"
    install = [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet", "--no-deps", "--no-index"]
    subprocess.run([*install, str(wheel)], check=True)
    # torch and the like come from this environment (installing them again would take minutes), runner does not.
    (packages,) = (environment / "lib").glob("python*/site-packages")
    (packages / "dependencies.pth").write_text(sysconfig.get_paths()["purelib"])

    here = tmp_path / "empty"
    here.mkdir()
    for name, content in files().items():
        (here / name).parent.mkdir(parents=True, exist_ok=True)
        (here / name).write_text(content)
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("RUNNER_", "PYTHON"))}

    def call(*words: str) -> str:
        return subprocess.run(words, cwd=here, env=clean, check=True, capture_output=True, text=True).stdout

    where = call(str(python), "-c", "import runner; print(runner.__file__)")
    assert str(environment) in where
    (command,) = [c for c in commands() if "--config-dir" in c and "circles" in c]
    words = command.split()
    call(str(python), *words[1:], "tracking=off", "trainer.epochs=1")
    folder = run_folder(here)
    assert json.loads((folder / "result.json").read_text())["parameters"] == 2 * 32 + 32 + 32 * 2 + 2
    # The console script finds the user's module in the current folder too.
    call(str(environment / "bin" / "runner"), *words[3:], "tracking=off", "hydra.run.dir=second")
    assert json.loads((here / "second" / "result.json").read_text())["test/accuracy"] > 0.8
    # torch lies in another environment than this one: it is no code of the user's, whose state would be looked for.
    assert "missing from checkpoints" not in (here / "second" / "run.log").read_text()
