import os
import signal
import subprocess
import sys
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from omegaconf import DictConfig

from conftest import REPOSITORY, Called, run_folder
from helpers.advice import follow
from helpers.wrong import CUSTOM, WRONG, Wrong, a_table, a_user_module
from helpers.wrong_data import WRONG_DATA
from runner.assembly import build
from runner.config.compose import Composer
from runner.config.hydra_job import group_choices, without_hydra
from runner.util.stopping import INTERRUPT

QUICK = ("tracking=off", "data.limit=60", "trainer.epochs=1")

Runner = Callable[..., Called]


def listing(folder: Path) -> list[str]:
    return sorted(str(path) for path in folder.rglob("*") if "__pycache__" not in path.parts)


@pytest.fixture
def wrong(request: pytest.FixtureRequest, here: Path, monkeypatch: pytest.MonkeyPatch) -> Wrong:
    """A row of `WRONG`, in a folder with the files that it needs."""
    case: Wrong = request.param
    if case.set_up is not None:
        case.set_up(here)
    monkeypatch.syspath_prepend(here)
    for module in ("mine", "broken", "needy", "script"):
        monkeypatch.delitem(sys.modules, module, raising=False)
    return case


def command(case: Wrong) -> str:
    return " ".join(case.typed)[:60] or "(empty)"


EVERY = [*WRONG, *WRONG_DATA]
FOLLOWED = [case for case in EVERY if case.then and "--info" not in case.then and "resume=x" not in case.then]
"""Left out: `--info`, which sets up Hydra's logging for good (a test below asks in a child process); no run is x."""
SHOWN = list({frozenset(topic for _, topic in case.about): case for case in reversed(FOLLOWED)}.values())
"""One for each kind of problem; the soak has all."""


@pytest.mark.usefixtures("delivery_here")  # a process for it would start, and be ended, where build finds the mistake
@pytest.mark.parametrize("wrong", EVERY, ids=command, indirect=True)
def test_all_problems_are_reported_at_once_and_nothing_is_left_behind(wrong: Wrong, here: Path, runner: Runner) -> None:
    before = listing(here)
    called = runner(*wrong.typed)
    assert called.code == 2, called.err
    assert called.err.splitlines() == called.errors, "something else than one line a problem"
    assert called.about == wrong.about
    assert len(called.errors) == len(set(called.errors)), "reported twice"
    assert all(len(line) <= 2 * 160 for line in called.errors), "longer than two lines of a terminal"
    for jargon in ("Hydra", "OmegaConf", "Traceback", "DictConfig", "object_type", "full_key"):
        assert jargon not in called.err
    assert listing(here) == before
    assert follow(wrong.typed, called.problems) == wrong.then


@pytest.mark.usefixtures("delivery_here")
@pytest.mark.parametrize(
    "wrong",
    [case if case in SHOWN else pytest.param(case, marks=pytest.mark.soak) for case in FOLLOWED],
    ids=command,
    indirect=True,
)
def test_what_the_suggestions_say_works(wrong: Wrong, runner: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    """Type what they say: the resulting command has none of these problems; it is built, as far as they need that."""

    def build_only(args: Namespace, composer: Composer, cfg: DictConfig, *_: object) -> tuple[int, None]:
        if not {topic for _, topic in wrong.about} <= {"syntax", "unknown", "missing", "type", "range", "choice"}:
            build.prepare(without_hydra(cfg), group_choices(cfg))
        return 0, None

    monkeypatch.setattr("runner.cli.build_and_run", build_only)
    monkeypatch.setattr("runner.cli.start_delivery", lambda _: None)
    monkeypatch.setattr("runner.cli.run_sweep", lambda _: 0)
    assert wrong.then is not None
    called = runner(*wrong.then)
    assert called.code == 0 or called.about, called.err
    assert not {key for key, _ in called.about} & {key for key, _ in wrong.about}, called.err


@pytest.mark.usefixtures("delivery_here")
@pytest.mark.skipif(torch.cuda.is_available(), reason="there is CUDA here")
def test_cuda_where_there_is_none_is_an_error_that_says_why(here: Path, runner: Runner) -> None:
    called = runner("device=cuda", "precision=fp16", "data=csv", "data.path=no.csv")
    assert called.code == 2
    assert "device=cuda is not available: " in called.err and "device=auto or device=cpu" in called.err
    assert "no.csv" in called.err and listing(here) == []


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="nothing is read-only to root")
def test_an_outputs_folder_that_is_read_only(here: Path, runner: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    (here / "locked").mkdir(mode=0o500)
    monkeypatch.setenv("RUNNER_OUTPUTS", str(here / "locked"))
    called = runner()
    assert called.code == 2 and "may not be written: set RUNNER_OUTPUTS" in called.err


def test_a_problem_that_only_shows_when_the_folder_is_made(
    here: Path, runner: Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RUNNER_OUTPUTS", "/proc/nowhere")
    called = runner(*QUICK)
    assert called.code == 2 and called.errors and "RUNNER_OUTPUTS" in called.err
    assert listing(here) == []


@pytest.mark.usefixtures("delivery_here")
@pytest.mark.parametrize("how", ["runner.verbose=true", "environment"])
def test_tracebacks_are_shown_when_asked_for(
    how: str, here: Path, runner: Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    a_user_module(here)
    monkeypatch.syspath_prepend(here)
    monkeypatch.delitem(sys.modules, "mine", raising=False)
    arguments = [CUSTOM, "model._target_=mine.raises"]
    if how == "environment":
        monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
    else:
        arguments.append(how)
    called = runner(*arguments)
    assert called.code == 2
    assert "Traceback" in called.err and "in raises" in called.err, "the traceback leads to the user's line"
    assert called.errors


@pytest.mark.usefixtures("delivery_here")
def test_an_interrupt_that_a_model_raises_itself_is_its_error(
    here: Path, runner: Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    a_user_module(here)
    monkeypatch.syspath_prepend(here)
    monkeypatch.delitem(sys.modules, "mine", raising=False)
    former = signal.signal(signal.SIGINT, INTERRUPT)  # as in a command; there was no signal
    try:
        called = runner(CUSTOM, "model._target_=mine.Interrupts")
    finally:
        signal.signal(signal.SIGINT, former)
    assert called.code == 2 and called.about == [("model", "code")] and "KeyboardInterrupt" in called.err


def test_an_option_may_stand_among_the_overrides(here: Path, runner: Runner) -> None:
    assert "seed=x" in runner("model=cnn", "--multirun", "seed=x").err


def test_null_takes_a_preset_back_and_a_preset_changes_other_groups(
    here: Path, runner: Runner, capsys: pytest.CaptureFixture[str]
) -> None:
    assert runner("debug=fast", "debug=null", *QUICK).code == 0
    assert runner("debug=fast", "tracking=off").code == 0
    folders = sorted((here / "outputs" / "runs").iterdir())
    assert ["epochs: 2" in (folder / "config.yaml").read_text() for folder in folders] == [False, True]


def python(*arguments: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    environment = {k: v for k, v in os.environ.items() if k != "RUNNER_OUTPUTS"} | environment
    return subprocess.run(
        [sys.executable, *arguments], cwd=cwd, env=environment, capture_output=True, text=True, timeout=300
    )


ASKS_WITHOUT_TORCH = """
import sys
from runner.cli import run_command
code = run_command(sys.argv[1:])
heavy = [name for name in ("torch", "mlflow", "pandas", "matplotlib", "sklearn") if name in sys.modules]
print("imported:", heavy, file=sys.stderr)
sys.exit(code)
"""


@pytest.mark.parametrize(
    ("arguments", "printed"),
    [
        (["--help"], ["python -m runner model=cnn", "precision: amp, bf16, fp16, fp32, fp64", "hidden:", "resume="]),
        (["--cfg", "job"], ["seed: 0", "_target_: torch.optim.SGD", "patience: null"]),
        (["--cfg", "job", "-p", "trainer"], ["# @package trainer", "epochs: 20"]),
        (["--cfg", "job", "experiment=mnist_mlp", "debug=fast"], ["momentum: 0.5", "limit: 256"]),
        (["--hydra-help"], ["--multirun"]),
        (["--info", "defaults"], ["model/mlp", "trainer/default"]),
        (["--version"], ["runner 0"]),
        (["-sc", "install=bash"], ["complete", "runner"]),
    ],
    ids=lambda value: " ".join(value)[:40],
)
def test_questions_are_answered_without_torch_and_mlflow(arguments: list[str], printed: list[str], here: Path) -> None:
    done = python("-c", ASKS_WITHOUT_TORCH, *arguments, cwd=here)
    assert done.returncode == 0, done.stderr
    for words in printed:
        assert words in done.stdout
    assert "imported: []" in done.stderr
    assert listing(here) == []


def test_a_reader_may_stop_reading_the_help(here: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "runner", "--help"], cwd=here, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdout is not None
    process.stdout.close()
    err = process.stderr.read() if process.stderr else b""
    assert process.wait(60) == 0 and err == b""


@pytest.mark.parametrize("asked", [["--cfg", "job"], [], ["--multirun", "seed=0,1"]], ids=" ".join)
def test_names_types_and_ranges_are_judged_without_torch(asked: list[str], here: Path) -> None:
    done = python("-c", ASKS_WITHOUT_TORCH, *asked, "modle=cnn", "trainer.epochs=x", cwd=here)
    assert done.returncode == 2 and "did you mean model?" in done.stderr and "trainer.epochs=x" in done.stderr
    assert "imported: []" in done.stderr and listing(here) == []


def test_the_shell_completes_groups_choices_and_keys(here: Path) -> None:
    for typed, offered in {"model=": "model=cnn", "optimi": "optimizer", "trainer.ep": "trainer.epochs="}.items():
        done = python(
            "-m", "runner", "-sc", "query=bash", cwd=here, COMP_LINE=f"runner {typed}", COMP_POINT=str(7 + len(typed))
        )
        assert offered in done.stdout, (typed, done.stdout, done.stderr)


@pytest.mark.parametrize(  # test_wheel.py has the console script
    "way", ["python -m runner", pytest.param("runner", marks=pytest.mark.soak)]
)
def test_a_class_and_a_data_set_of_the_users_own_are_found_in_the_current_folder(way: str, here: Path) -> None:
    a_user_module(here)
    (here / "conf" / "data").mkdir(parents=True)
    (here / "conf" / "data" / "dots.yaml").write_text("_target_: mine.dots\ncount: 50\n")
    (here / "conf" / "model").mkdir()
    (here / "conf" / "model" / "narrow.yaml").write_text("_target_: mine.Narrow\nwidth: 5\n")
    start = ["-m", "runner"] if way != "runner" else [str(Path(sys.executable).parent / "runner")]
    done = python(
        *start, "--config-dir=conf", "model=narrow", "data=dots", "data.count=60", "tracking=off", "trainer.epochs=1",
        cwd=here,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    text = (run_folder(here) / "config.yaml").read_text()
    assert "_target_: mine.Narrow" in text and "count: 60" in text
    assert "Narrow: 337 parameters" in done.stderr and "48 train, 12 validation" in done.stderr


@pytest.mark.parametrize(
    "name",
    [
        "a b (c), d=e",
        'it\'s "quoted"',
        "[x], {y}",
        *(
            pytest.param(name, marks=pytest.mark.soak)
            for name in ("a~b~", "ünïcödé 数", "1.10", "1e5", "back\\slash", "a: b")
        ),
    ],
)
def test_a_path_needs_no_quoting(name: str, here: Path, runner: Runner) -> None:
    (here / name).mkdir()
    a_table(here / name)
    called = runner("data=csv", f"data.path={name}/table.csv", f"tracking.run_name={name}", *QUICK)
    assert called.code == 0, called.err
    folder = run_folder(here)
    kept = here / f"run {name}"
    folder.rename(kept)
    called = runner(f"resume={kept.name}", "trainer.epochs=2")
    assert called.code == 0, called.err
    assert '"epochs": 2' in (kept / "result.json").read_text()


@pytest.mark.usefixtures("delivery_here")
def test_a_home_folder_is_expanded_and_a_store_may_lie_anywhere(
    here: Path, runner: Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(here))
    a_table(here)
    stored = "tracking.uri=sqlite:///~/a (b), c=d.db"
    assert runner("data=csv", "data.path=~/table.csv", stored, *QUICK[1:], "tracking.log_model=false").code == 0
    assert (here / "a (b), c=d.db").is_file()


def test_a_sweep_runs_every_combination(here: Path, runner: Runner) -> None:
    called = runner("-m", "seed=1,2", "model.hidden=[8],[9]", *QUICK)
    assert called.code == 0, called.err
    (sweep,) = (here / "outputs" / "sweeps").iterdir()
    assert sorted(job.name for job in sweep.iterdir() if job.is_dir()) == ["0", "1", "2", "3", "plots"]


def test_the_repository_is_where_the_configs_are() -> None:
    from runner.config.compose import config_folder

    assert config_folder() == REPOSITORY / "conf"


@pytest.mark.usefixtures("delivery_here")
@pytest.mark.parametrize(
    ("typed", "about"),
    [
        (["debug=fast", "debug=profile"], ("debug", "conflict")),
        (["model.output_activation=sigmoid"], ("model.output_activation", "conflict")),
        (["data=tensors", "data.inputs=[[1],[2]]", "data.targets=[0,0]", "data.val_fraction=0"], ("data", "data")),
    ],
)
def test_what_would_pass_silently(runner: Runner, typed: list[str], about: tuple[str, str]) -> None:
    called = runner(*typed)
    assert called.code == 2 and called.about == [about]


def test_a_relative_path_is_found_from_anywhere_later(
    runner: Callable[..., Called], here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (here / "table.csv").write_text("a,b\n" + "".join(f"{i},{i % 2}\n" for i in range(40)))
    assert runner("data=csv", "data.path=table.csv", "tracking=off", "trainer.epochs=1").code == 0
    folder = run_folder(here)
    (here / "elsewhere").mkdir()
    monkeypatch.chdir(here / "elsewhere")
    assert runner(f"resume={folder}", "trainer.epochs=2").code == 0


def test_a_preset_that_is_meant_for_a_sweep_says_so_in_one_run(runner: Runner) -> None:
    small = ("data=digits", "data.limit=50", "trainer.epochs=1", "tracking=off")
    called = runner("experiment=device_comparison", *small)
    assert called.code == 0
    note = "note       one run, in which model, device, precision do not vary: add --multirun for the sweep"
    assert note in called.err.splitlines()
    assert "add --multirun" not in runner(*small).err


TABLE = "data.inputs=[[1],[2],[3],[4],[5],[6]]"
FLOATS = ("data=tensors", TABLE, "data.targets=[0.0,1.0,0.0,1.0,0.0,1.0]")

ADVICE = [
    (["model.hidden=128,64"], ["model.hidden=[128,64]"]),
    (["--lr", "0.1"], ["optimizer.lr=0.1"]),
    (["--batch-size=8"], ["data.batch_size=8"]),
    (["scheduler=none"], ["scheduler=constant"]),
    (["scheduler=CosineAnnealingLR"], ["scheduler=cosine"]),
    (["precision=float64"], ["precision=fp64"]),
    (["tracking.experiment=a,b"], ['tracking.experiment="a,b"']),
    (["optimizer=Adam_W"], ["optimizer=adamw"]),
    (["model.hidden=64"], ["model.hidden=[64]"]),
    (FLOATS, [*FLOATS, "loss=bce_with_logits"]),
]
"""What is typed, and what the error says to type instead."""


@pytest.mark.parametrize(
    ("typed", "advised"),
    [*ADVICE[:2], *(pytest.param(*pair, marks=pytest.mark.soak) for pair in ADVICE[2:])],
    ids=lambda words: " ".join(words)[:40],
)
def test_advice_that_is_followed_works(typed: list[str], advised: list[str], here: Path, runner: Runner) -> None:
    small = ["tracking=off", "data.limit=60", "trainer.max_steps=1"]
    called = runner(*typed, *small)
    assert called.code == 2 and advised[-1] in called.errors[0]
    followed = runner(*advised, *small)
    assert followed.code == 0, followed.err


@pytest.mark.parametrize(
    ("typed", "advised"),
    [
        (["model=resnet18"], ["model=torchvision", "model.name=resnet18"]),
        (["model=vit_b_16"], ["model=torchvision", "model.name=vit_b_16"]),
        (["device=gpu"], ["device=cuda"]),
        (["tracking=none"], ["tracking=off"]),
        (["data=images"], ["data=image_folder"]),
    ],
    ids=lambda words: words[0],
)
def test_advice_names_choices_that_there_are(typed: list[str], advised: list[str], here: Path, runner: Runner) -> None:
    assert f"write {' '.join(advised)}" in runner(*typed).errors[0]
    assert runner("--cfg", "job", *advised).code == 0


def test_a_device_that_runner_does_not_know_is_not_taken_for_another(here: Path, runner: Runner) -> None:
    assert "choose from auto, cpu, cuda, hpu, mps, npu, tpu, xpu" in runner("device=ipu").errors[0]
    assert "write device=cuda" in runner("device.name=gpu").errors[0]
    assert "install the package torch_tpu, " in runner("device=tpu").errors[0]


def test_advice_on_keys_of_hydra_leads_to_them(here: Path, runner: Runner) -> None:
    launcher = "hydra/launcher=slurm"
    assert "python -m runner --cfg hydra -p hydra.launcher" in runner(launcher, "hydra.launcher.foo=1").errors[0]
    assert runner(launcher, "--cfg", "hydra", "-p", "hydra.launcher").code == 0


def test_no_suggestion_of_another_tools_names_leads_nowhere(here: Path) -> None:
    from runner.config.compose import Composer
    from runner.config.hydra_job import without_hydra
    from runner.config.messages import dotted_keys
    from runner.util import advice

    composer = Composer()
    cfg, _ = composer.compose([])
    known = {*dotted_keys(without_hydra(cfg)), *composer.files.choices()}
    for group, names in advice.CHOICES.items():
        assert set(names.values()) <= {*composer.files.options(group), "null"}, group
    for meant in advice.KEYS.values():
        key, _, value = meant.partition("=")
        assert key in known and (not value or value in composer.files.options(key)), meant


@pytest.mark.parametrize("name", ["runner.py", "runner/__init__.py"])
def test_a_module_of_the_same_name_in_the_current_folder_is_refused(here: Path, runner: Runner, name: str) -> None:
    (here / name).parent.mkdir(exist_ok=True)
    (here / name).write_text("print('mine')")
    called = runner("trainer.epochs=1")
    assert (called.code, called.about) == (2, [("", "conflict")]) and name in called.err
    assert not (here / "outputs").exists()


def test_a_command_is_a_word_of_the_console_script_too(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from runner import cli

    folder = Path(cli.__file__).parent
    assert {file.stem for file in folder.glob("*.py") if "\nUSAGE = " in file.read_text()} == set(cli.COMMANDS)
    for name in cli.COMMANDS:
        monkeypatch.setattr(sys, "argv", ["runner", name, "--help"])
        with pytest.raises(SystemExit) as left:
            cli._main()
        assert left.value.code == 0
        assert f"python -m runner.{name}" in capsys.readouterr().out
