"""The pages (README.md and those in the folders): every command on them runs, every link leads somewhere."""

import contextlib
import importlib.util
import io
import json
import re
import shlex
import urllib.parse
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from conftest import REPOSITORY, Called
from helpers import quick
from helpers.delivered import delivered_here
from helpers.own import CASES
from runner.cli import run_command
from runner.sweeps.launchers import forkserver

PAGES = {
    path.relative_to(REPOSITORY).as_posix(): path.read_text(encoding="utf-8")
    for folder in (".", "conf/**", "scripts/**", "src/**")
    for path in sorted(REPOSITORY.glob(f"{folder}/*.md"))
}
TEXT = "\n".join(PAGES.values())
OUTPUTS = dict(re.findall(r"<!-- output: (.*?) -->\n```text\n(.*?)```", TEXT, re.DOTALL))

# Keys that make long trainings short and leave the command's own keys alone.
SMALL = ["data.limit=200", "trainer.epochs=2", "tracking.log_model=false"]
LARGE_MODELS = "model=(gpt|unet|timm|huggingface)"  # which get fewer samples
PACKAGES = {"ray": "ray", "slurm": "submitit"}
EXTRAS = {"model=timm": "timm", "model=huggingface": "transformers", "model.lora": "peft"}


def commands() -> list[str]:
    """The commands in the console blocks of all pages."""
    blocks = re.findall(r"```console\n(.*?)```", TEXT, re.DOTALL)
    return [line[2:].split(" #")[0].strip() for block in blocks for line in block.splitlines() if line.startswith("$ ")]


def files() -> dict[str, str]:
    """The files that the pages show, by name."""
    blocks = re.findall(r"```(?:python|yaml)\n# (\S+)\n(.*?)```", TEXT, re.DOTALL)
    return {name: f"# {name}\n{content}" for name, content in blocks}


def without_code(page: str) -> str:
    """A page without its blocks of code."""
    return re.sub(r"^```.*?^```", "", page, flags=re.DOTALL | re.MULTILINE)


def anchors(page: str) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", without_code(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


def idx(path: Path, values: np.ndarray) -> None:
    header = bytes([0, 0, 8, values.ndim]) + np.array(values.shape, dtype=">i4").tobytes()
    path.write_bytes(header + values.astype("u1").tobytes())


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, empty_store: Path) -> Iterator[Path]:
    """Enter a folder with the files that the pages show, a data set in MNIST's format, two runs and a sweep."""
    here = tmp_path_factory.mktemp("readme")
    for name, content in files().items():
        (here / name).parent.mkdir(parents=True, exist_ok=True)
        (here / name).write_text(content)
    data = here / "data"
    data.mkdir()
    generator = np.random.default_rng(0)
    for part, samples in (("train", 300), ("t10k", 50)):
        idx(data / f"{part}-images-idx3-ubyte", generator.integers(0, 256, (samples, 28, 28)))
        idx(data / f"{part}-labels-idx1-ubyte", np.arange(samples) % 10)
    with pytest.MonkeyPatch.context() as patch, contextlib.chdir(here):
        patch.setenv("RUNNER_DATA", str(data))
        patch.setenv("RUNNER_OUTPUTS", str(here / "outputs"))
        patch.syspath_prepend(str(here))
        np.save(here / "new.npy", generator.random((3, 1, 8, 8), dtype="f4"))
        with delivered_here(empty_store):
            for name in ("first", "other"):
                run = f"python -m runner hydra.run.dir=outputs/runs/{name} trainer.epochs=2 tracking.log_model=false"
                assert call(run).code == 0
            sweep = "python -m runner --multirun hydra.sweep.dir=outputs/sweeps/first trainer.epochs=1 seed=0,1"
            assert call(sweep, "tracking.log_model=false").code == 0
        yield here


def call(line: str, *more: str) -> Called:
    """Run a command of a page in this process, where torch is already imported."""
    python, option, module, *arguments = [*shlex.split(line), *more]
    assert (python, option) == ("python", "-m")
    with contextlib.redirect_stderr(io.StringIO()) as printed, contextlib.redirect_stdout(io.StringIO()):
        code = run_command(arguments) if module == "runner" else importlib.import_module(module).main(arguments)
    return Called(code, printed.getvalue())


def test_there_are_pages_with_commands_and_files() -> None:
    assert {"README.md", "CHANGELOG.md", "conf/README.md", "scripts/README.md", "src/runner/README.md"} < set(PAGES)
    assert len(commands()) >= 30
    own = {name for case in CASES.values() for name in case.files if f"# {name}\n" in TEXT}
    assert set(files()) == {"shapes.py", "worst.py", "my_conf/model/wide.yaml", "my_conf/data/circles.yaml"} | own


def test_the_readme_is_read_in_three_minutes() -> None:
    assert len(PAGES["README.md"].splitlines()) <= 150
    assert len(PAGES["README.md"].split()) <= 900  # of which a quarter is output


def test_each_command_is_on_one_page_and_in_a_block() -> None:
    assert [line for line in commands() if commands().count(line) > 1] == []
    within = re.findall(r"`(python -m runner[^`]*)`", without_code(TEXT))
    assert [line for line in within if " ".join(line.split()) not in commands()] == []


@pytest.mark.parametrize("page", PAGES)
def test_every_link_resolves(page: str) -> None:
    for target in re.findall(r"\]\(([^)]*)\)", without_code(PAGES[page])):
        if re.match(r"\w+:", target):
            address = urllib.parse.urlsplit(target)
            assert address.scheme == "https" and re.fullmatch(r"[\w.-]+\.\w+", address.netloc), target
            continue
        name, _, anchor = target.partition("#")
        file = (REPOSITORY / page).parent / name if name else REPOSITORY / page
        assert file.exists() and file.resolve().is_relative_to(REPOSITORY), target
        if anchor:
            assert anchor in anchors(PAGES[file.resolve().relative_to(REPOSITORY).as_posix()]), target


def test_every_test_file_that_a_page_names_is_there() -> None:
    names = set(re.findall(r"`(test_\w+\.py)`", TEXT))
    assert len(names) > 10
    assert names <= {path.name for path in (REPOSITORY / "tests").rglob("test_*.py")}


def form(text: str) -> list[str]:
    """The lines of an output without what depends on the machine: figures, times, dates, ids."""
    text = re.sub(r"sqlite:\S+,", "sqlite:,", text)
    text = re.sub(r"\b[0-9a-f]{32}\b", "0", text)  # the id of a run
    text = re.sub(r"\b(thread|job)s\b", r"\1", text)
    text = re.sub(r"  best$", "", text, flags=re.MULTILINE)
    # Parameters, FLOPs and samples are the same on every machine.
    same = [line for line in text.splitlines() if re.match("(model|data) ", line) and "mean" not in line]
    text = "\n".join(line for line in text.splitlines() if line not in same)
    figures = re.sub(r"\d[\d.,:_-]*\d|\d", "0", text)
    figures = re.sub(r"\b0 (ms|s|min)\b", "0 s", figures)
    return same + [re.sub(r"\s+", " ", line).strip() for line in figures.splitlines() if line != "..."]


def assert_shown(shown: str, printed: str) -> None:
    """Each line of an output on a page is printed, in this order; one that ends in dots may be longer."""
    assert form(shown)
    lines = iter(form(printed))
    for line in form(shown):
        begin = line.removesuffix("...")
        assert any(other == line or (begin != line and other.startswith(begin)) for other in lines), (line, printed)


SINGLE_OUTPUTS = [line for line in OUTPUTS if "--multirun" not in line]
SWEEPS = [line for line in commands() if "--multirun" in line and not re.search(r"resume=|dry_run|launcher", line)]


RUN_ELSEWHERE = {
    "serve": "it is asked for predictions",
    "steer": "a sweep has to run",
    "ui": "it is asked something",
    "watch": "it needs a terminal",
}
"""Commands that go on, or need something that does."""


@pytest.mark.usefixtures("delivery_here")
@pytest.mark.parametrize(
    ("line", "dry"),
    [
        *((line, line in SWEEPS and line not in OUTPUTS) for line in commands() if line not in SINGLE_OUTPUTS),
        *(pytest.param(line, False, marks=pytest.mark.soak) for line in SWEEPS if line not in OUTPUTS),
    ],
)
def test_command(line: str, dry: bool, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It runs; of a sweep without an output on the page, the jobs are checked, and trained in the soak."""
    if line in ("scripts/run", "scripts/test"):
        pytest.skip("makes an environment of its own: it is what runs these tests, from a clean clone")
    if ran := next((name for name in RUN_ELSEWHERE if line.startswith(f"python -m runner.{name}")), None):
        pytest.skip(f"test_{ran}.py runs it: {RUN_ELSEWHERE[ran]}")
    if re.search("nproc.per.node", line) and "--multirun" not in line:
        pytest.skip("test_strategy.py and test_ranked.py start ranks")
    for typed, package in EXTRAS.items():
        if typed in line:
            pytest.importorskip(package)
    # Plots are drawn where the whole output is looked at, below.
    monkeypatch.setattr("runner.runs.report.draw_plots", quick.no_plots)
    monkeypatch.setattr(forkserver, "process", quick.process)
    shown = OUTPUTS.get(line) if "--multirun" in line else None
    whole = re.search(r"--help|--cfg|runner\.|resume=|cnnn|dry_run", line)
    leaves = {override: override.split("=")[0].rpartition(".")[2] for override in SMALL}
    small = [] if whole else [override for override, leaf in leaves.items() if shown or f"{leaf}=" not in line]
    if re.search(LARGE_MODELS, line):
        small = [override.replace("data.limit=200", "data.limit=64") for override in small]
    other = json.loads((place / "outputs" / "runs" / "other" / "result.json").read_text())
    for name, value in (("<run>", "first"), ("<other>", "other"), ("<id>", other["run_id"]), ("<sweep>", "first")):
        line = line.replace(name, value)
    engine = re.search(r"hydra/launcher=(ray|slurm)", line)
    if engine and importlib.util.find_spec(PACKAGES[engine[1]]) is not None:
        pytest.skip("tests/cluster runs it: scripts/test -m cluster")
    called = call(line, *small, *(["sweep.dry_run=true"] if dry else []))
    if "device=cuda" in line and not torch.cuda.is_available():
        assert called.code == 2
        assert called.err.startswith("error: device=cuda is not available: ")
    elif engine:
        assert called.code == 2
        assert f"pip install '{PACKAGES[engine[1]]}" in called.err
    elif "cnnn" in line:
        assert called.code == 2
    else:
        assert called.code == 0, called.err
    assert "Traceback" not in called.err
    if shown:
        assert_shown(shown, called.err)
    if line.startswith("python -m runner resume="):
        result = json.loads((place / "outputs" / "runs" / "first" / "result.json").read_text())
        assert result["epochs"] == 40
    if "reproduce" in line:
        assert "bit-identical" in called.err
    if "predict" in line:
        assert len((place / "new.csv").read_text().splitlines()) == 4


@pytest.mark.parametrize("line", SINGLE_OUTPUTS)
def test_the_output_shown_is_what_it_prints(line: str, place: Path) -> None:
    called = call(line)
    assert called.code == (2 if "cnnn" in line else 0)
    assert_shown(OUTPUTS[line], called.err)
