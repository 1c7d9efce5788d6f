import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from conftest import REPOSITORY, Called, run_folder

QUICK = ("tracking=off", "data.limit=60", "trainer.epochs=1")

Runner = Callable[..., Called]


def listing(folder: Path) -> list[str]:
    return sorted(str(path) for path in folder.rglob("*") if "__pycache__" not in path.parts)


def a_user_module(here: Path) -> None:
    (here / "mine.py").write_text(
        "import torch\n"
        "from torch import nn\n"
        "from runner.data.source import Source\n"
        "NUMBER = 3\n"
        "class Narrow(nn.Module):\n"
        "    def __init__(self, num_outputs: int, width: int = 8):\n"
        "        super().__init__()\n"
        "        layers = nn.Linear(64, width), nn.ReLU(), nn.Linear(width, num_outputs)\n"
        "        self.net = nn.Sequential(nn.Flatten(), *layers)\n"
        "    def forward(self, inputs):\n"
        "        return self.net(inputs)\n"
        "class TwoOutputs(Narrow):\n"
        "    def __init__(self):\n"
        "        super().__init__(num_outputs=2)\n"
        "class Takes100(nn.Sequential):\n"
        "    def __init__(self, num_outputs: int):\n"
        "        super().__init__(nn.Flatten(), nn.Linear(100, num_outputs))\n"
        "class Odd(Narrow):\n"
        "    def get_extra_state(self):\n"
        "        return {'source': Source}\n"
        "def no_model():\n"
        "    return 3\n"
        "def raises(depth: int = 1):\n"
        "    raise ValueError('depth is too small')\n"
        "def dots(count: int = 40):\n"
        "    inputs = torch.randn(count, 1, 8, 8, generator=torch.Generator().manual_seed(0))\n"
        "    return Source('dots', (inputs, torch.arange(count) % 2))\n"
        "def unequal():\n"
        "    return Source('unequal', (torch.zeros(9, 4), torch.zeros(7).long()))\n"
    )
    (here / "broken.py").write_text("def f(:\n")
    (here / "needy.py").write_text("import no_such_library\n")


def user_configs(here: Path) -> None:
    for name, text in {
        "model/typo.yaml": "_target_: runner.model.mlp.MLP\nhidden: [8\n",
        "trainer/mine.yaml": "defaults: [default]\nepoch: 3\nkeep_checkpoints: many\nmax_steps: null\n",
        "optimizer/lookahead.yaml": "_target_: torch.optim.SGD\nlearning_rate: 0.1\nlr: fast\n",
        "model/number.yaml": "5\n",
        "model/sequence.yaml": "[1, 2]\n",
    }.items():
        (here / "conf" / name).parent.mkdir(parents=True, exist_ok=True)
        (here / "conf" / name).write_text(text)


def a_table(here: Path) -> None:
    (here / "table.csv").write_text("a,b,kind\n" + "".join(f"{i},{i % 3},{'xy'[i % 2]}\n" for i in range(20)))


def a_run(here: Path) -> None:
    (here / "held").mkdir()
    (here / "held" / "config.yaml").write_text("seed: 0\n")
    (here / "file").write_text("")


def outputs_is_a_file(here: Path) -> None:
    (here / "outputs").write_text("")


CUSTOM = "model=custom"
WRONG = [
    # What is there, and what is not.
    (["model=cn"], ["there is no such model; did you mean cnn?"]),
    (["modle=cnn"], ["no key modle; did you mean model?"]),
    (["sed=1"], ["did you mean seed?"]),
    (["trainer.epoch=3"], ["did you mean trainer.epochs?"]),
    (["batch_size=3"], ["did you mean data.batch_size?"]),
    (["trainer.early_stopping.patiense=3"], ["did you mean trainer.early_stopping.patience?"]),
    (
        ["data.root=/somewhere"],
        ["no key data.root; see python -m runner --cfg job -p data for those", "data=mnist: also root"],
    ),
    (["scheduler=constant", "scheduler.min_lr=1"], ["also min_lr"]),
    (["+optimizer.lrr=1"], ["optimizer.lrr: SGD takes no lrr; did you mean lr?"]),
    (["++optimizer.lrr=1", "+optimizer.foo=2"], ["optimizer.lrr and optimizer.foo: SGD takes no such keys"]),
    (["+trainer.foo=1", "++device.fast=true"], ["trainer.foo: there is no such key", "device.fast: there is no such"]),
    (["+foo=1"], ["foo: there is no such key"]),
    (["+seed=1"], ["seed is there already; write seed=1"]),
    (["+model=cnn"], ["there is a model already; write model=cnn"]),
    (["model@net=cnn"], ["write model=cnn"]),
    (["~seed", "~optimizer"], ["~seed: a run needs seed", "~optimizer: a run needs one; choose from adam, adamw"]),
    (["~nothing"], ["there is no key nothing"]),
    (["~data.batch_size"], ["~data.batch_size: a run needs data.batch_size; write a whole number at least 1"]),
    (["hydra.foo=1", "hydra/launcher=slurmm"], ["no key hydra.foo", "no such launcher"]),
    (["experiment=nothing", "debug=slow"], ["no such experiment; choose from", "debug=slow: there is no such debug"]),
    # Types and ranges.
    (["seed=abc"], ["seed=abc: write a whole number at least 0"]),
    (["seed=1.5", "seed=-1"], ["seed=1.5: write a whole number", "seed=-1 is out of range"]),
    (
        ["seed=null", "trainer.epochs=null"],
        ["seed=null: null is not allowed here; write a whole", "trainer.epochs=null: null is not allowed here"],
    ),
    (["optimizer.lr=null"], ["optimizer.lr=null is not a number"]),
    (["model=null"], ["model=null: a run needs one; choose from cnn"]),
    (["data.batch_size=null", "data.in_memory=null"], ["data.batch_size=null is", "data.in_memory=null is"]),
    (["trainer.epochs=0", "data.batch_size=2.0"], ["trainer.epochs=0 is out of range", "=2.0 is not a whole number"]),
    (["optimizer.lr=nan"], ["optimizer.lr=nan is out of range: write a number above 0"]),
    (["optimizer.lr=inf", "trainer.max_time=inf"], ["optimizer.lr=inf is out of", "trainer.max_time=inf is out of"]),
    (
        ["optimizer.lr=", "optimizer.momentum=1"],
        ["optimizer.lr= is not a number", "optimizer.momentum=1 is out of range"],
    ),
    (["trainer.early_stopping=5", "runner=3"], ["write trainer.early_stopping.patience=", "write runner.quiet="]),
    (["trainer={epochs:3}"], ["single keys are written trainer.<key>=<value>"]),
    (["tracking.log_model=perhaps"], ["write true or false"]),
    (["device.threads=0", "precision.name=int8"], ["write auto or a whole number", "choose from amp, bf16"]),
    (["device.threads=100000000", "data.num_workers=100000000"], ["device.threads=1000", "data.num_workers=1000"]),
    (["device.threads=1.5"], ["write auto or a whole number at least 1"]),
    (["model.hidden=64"], ["model.hidden=64 is not a list", "write model.hidden=[64]"]),
    (["model.dropout=abc"], ["model.dropout=abc is not a number"]),
    (
        ["-m", "seed=0,1", "sweep.jobs=" + 50 * "9"],
        ["sweep.jobs=999", "is out of range: whole numbers have at most 64 bits"],
    ),
    (["model.hidden=[" + 50 * "9" + "]", "+data.x=" + 50 * "9"], ["model.hidden=999", "data.x=999", "64 bits"]),
    (["seed=" + 4500 * "9", "trainer.max_time=" + 400 * "9"], ["seed=999", "(4505 characters)", "trainer.max_time=99"]),
    (["model.hidden=[-1]"], ["model.hidden=[-1] is out of range: each must be a whole number at least 1"]),
    (["model.activation=rleu"], ["did you mean relu?"]),
    (["optimizer=adamw", "optimizer.betas=[0.9]"], ["optimizer.betas=[0.9] is not a list of 2"]),
    (["optimizer.nesterov=true", "optimizer.momentum=0"], ["optimizer: torch.optim.SGD fails", "Nesterov momentum"]),
    (["resume_mode=warm"], ["choose from exact, warm_start"]),
    (["resume_mode=warm_start"], ["resume_mode=warm_start needs a run to start from: write resume="]),
    # Grammar.
    (["seed"], ["seed: there is no value; write seed=<value>"]),
    ([""], ["an empty argument; leave it out"]),
    (["=3"], ["no key before the ="]),
    (["seed =1"], ["a key has no spaces; write seed=1"]),
    (["seed==", "optimizer.lr=a (b"], ["seed==: ", "write 'optimizer.lr=\"a (b\"'"]),
    (["optimizer.lr=0.1,0.01"], ["names several values: add --multirun for a run of each, or write one"]),
    (["model=mlp,cnn"], ["names several choices: add --multirun for a run of each, or choose one"]),
    (["model.hidden=128,64"], ["a list is written model.hidden=[128,64]"]),
    (["tracking.experiment=a,b"], ["write one text as 'tracking.experiment=\"a,b\"'"]),
    (["--epochs=3"], ["--epochs=3 is not an option: write trainer.epochs=3"]),
    (["--lr", "0.1", "--batch-size=8"], ["--lr is not an option: write optimizer.lr=0.1", "write data.batch_size=8"]),
    (["--gpu", "--foo"], ["--gpu is not an option: write device=cuda", "a setting is written <key>=<value>"]),
    (["--multirun", "--cfg", "job"], ["--cfg and --multirun do not go together"]),
    (["--cfg", "job", "-p", "nothing"], ["-p nothing: the config has no such part"]),
    (["hydra.searchpath=&a", "scheduler=😀"], ["write hydra.searchpath=[file:///", "there is no such scheduler"]),
    (["hydra.searchpath=5"], ["hydra.searchpath=5 is not a list of folders"]),
    (["hydra.searchpath=[nowhere]"], ["there is no folder nowhere"]),
    (["--multi", "seed=1"], ["did you mean --multirun?"]),
    (["--cfg", "everything"], ["--cfg everything: there is no such choice; choose from all, hydra, job"]),
    (["--info", "plugin"], ["--info plugin: there is no such choice; did you mean plugins?"]),
    (["--package"], ["--package needs a value: write --package <value>"]),
    (["--hydra-help=3"], ["--hydra-help takes no value: write --hydra-help alone"]),
    (["--cfg", "job", "modle=1", "seed=x"], ["no key modle", "seed=x: write"]),
    (["--help", "seed=x"], ["seed=x: write"]),
    (["optimizer.lr=${rate}"], ["optimizer.lr: it refers to rate, which is no key"]),
    (["optimizer.lr=${oc.env:NO_SUCH_VARIABLE}"], ["environment variable NO_SUCH_VARIABLE is not set"]),
    # Data, shapes, devices.
    (["data=csv"], ["data.path"]),
    (
        ["data=csv", "data.index=null", "data.header=null", "data.target_type=null", "data.scale_targets=null"],
        [
            "write data.index=auto",
            "write data.header=auto",
            "write data.target_type=auto",
            "write data.scale_targets=a",
        ],
    ),
    (["data=csv", "data.path=tabel.csv"], ["did you mean table.csv?"], a_table),
    (["data=csv", "data.path=table.csv", "model=cnn"], ["model=cnn needs images", "write model=mlp"], a_table),
    (["data=tensors", "data.inputs=[[1,2],[3]]", "data.targets=[0,1]"], ["data.inputs is ragged"]),
    (["data.val_fraction=0.0001"], ["write data.val_fraction=0, or a larger fraction"]),
    (["data.val_fraction=0.9999"], ["leaves none of 1437 training samples"]),
    (["data.mean=[1,2]"], ["data.mean has 2 values"]),
    (["loss=mse", "trainer.monitor=val/accuracy"], ["write loss=cross_entropy", "choose from train/loss, train/mae"]),
    (["trainer.monitor=val/acc"], ["is not measured with loss=cross_entropy: did you mean val/accuracy?"]),
    (["data.val_fraction=0", "trainer.early_stopping.patience=2"], ["trainer.early_stopping.patience needs"]),
    (["data.val_fraction=0", "trainer.validate_every_steps=2"], ["trainer.validate_every_steps needs"]),
    (["device=mps"], ["device=mps is not available", "write device=auto"]),
    # Classes and functions of the user's.
    ([CUSTOM], ["model._target_ is missing: write model._target_=package.module.Name"]),
    ([CUSTOM, "model._target_=no_such.Net"], ["there is no module no_such"]),
    ([CUSTOM, "model._target_=mine.Narow"], ["mine has no Narow; did you mean Narrow?"], a_user_module),
    ([CUSTOM, "model._target_=mine.NUMBER"], ["is a int; name a class or function"], a_user_module),
    ([CUSTOM, "model._target_=broken.f"], ["broken fails with SyntaxError"], a_user_module),
    ([CUSTOM, "model._target_=needy.f"], ["needy needs the module no_such_library"], a_user_module),
    ([CUSTOM, "model._target_=torch.optim.SGD"], ["is not a torch.nn.Module"]),
    ([CUSTOM, "model._target_=mine.no_model"], ["gives a int; name something that gives a torch.nn"], a_user_module),
    ([CUSTOM, "model._target_=mine.raises"], ["mine.raises fails", "ValueError: depth is too small"], a_user_module),
    ([CUSTOM, "model._target_=mine.Narrow", "+model.width=wide"], ["model.width=wide is not a whole"], a_user_module),
    ([CUSTOM, "model._target_=mine.Takes100"], ["the model does not take samples of shape (1, 8, 8)"], a_user_module),
    (
        [CUSTOM, "model._target_=mine.TwoOutputs"],
        ["outputs of shape (N, 2), data and loss need (N, 10)"],
        a_user_module,
    ),
    (
        [CUSTOM, "model._target_=mine.Odd"],
        ["model._extra_state.source is a function or class (Source), which a checkpoint cannot hold"],
        a_user_module,
    ),
    (["model._target_=torch.nn.Linear"], ["model.hidden and model.activation", "model.in_features is missing"]),
    (["data._target_=mine.unequal", "~data.mean", "~data.std"], ["data: "], a_user_module),
    (["loss._target_=torch.nn.MSELoss"], ["is not a runner.loss.Loss"]),
    (["device=cuda:1"], ["write device=cuda device.index=1"]),
    (["model=resnet"], ["write model=torchvision model.name=resnet18"]),
    (["model=vit_b_32"], ["write model=torchvision model.name=vit_b_32"]),
    (["model=[mlp,cnn]"], ["a run has one model; choose one, or write --multirun model=mlp,cnn"]),
    (["model.hidden="], ["model.hidden= is not a list such as", "write model.hidden=[64,32]"]),
    (["help"], ["help: there is no value; write --help"]),
    (["model=net.Mine"], ["write model=custom model._target_=net.Mine"]),
    (["model=custom", "model._target_=mine.Net", "model.width=3"], ["write +model.width=3 if the class takes it"]),
    (["optimizer._target_=5"], ["optimizer._target_=5 is no place of a class"]),
    (["optimizer._target_=math.sqrt"], ["takes no params and no model, so it cannot give a torch.optim.Optimizer"]),
    (["scheduler._target_=math.sqrt"], ["takes no optimizer, so it cannot give a scheduler of torch.optim"]),
    # Files of the user's.
    (["--config-dir", "nowhere"], ["--config-dir nowhere: there is no such folder"]),
    (["--config-name", "other"], ["--config-name other: there is no such config; choose from config"]),
    (["--config-path", "nowhere"], ["there is no such folder"]),
    (["--config-dir=conf", "model=typo"], ["model=typo: ", "typo.yaml, line 3, is not YAML"], user_configs),
    (
        ["--config-dir=conf", "trainer=mine", "seed=x"],
        ["no key trainer.epoch; did you mean trainer.epochs?", "trainer.keep_checkpoints=many: write", "seed=x"],
        user_configs,
    ),
    (["--config-dir=conf", "optimizer=lookahead"], ["optimizer.lr=fast is not a number"], user_configs),
    (
        ["--config-dir=conf", "optimizer=lookahead", "optimizer.lr=1"],
        ["optimizer.learning_rate: SGD takes no learning_rate"],
        user_configs,
    ),
    (["--config-dir=conf", "model=number"], ["model=number: its file holds a value of type int"], user_configs),
    (["--config-dir=conf", "model=sequence"], ["model=sequence: its file holds a list, not keys"], user_configs),
    # Tracking and folders.
    (["tracking=server"], ["tracking.uri is missing: write tracking.uri=http://"]),
    (["tracking=server", "tracking.uri=localhost:5000"], ["tracking.uri=localhost:5000 is not a server's"]),
    (["tracking.uri=http://localhost:5000"], ["write tracking=server"]),
    (["tracking.uri=mlruns"], ["write tracking.uri=sqlite:///"]),
    (["tracking.experiment="], ["tracking.experiment= is empty: write a name"]),
    ([f"tracking.experiment={'e' * 501}"], ["tracking.experiment=eeee", "than the 500 characters that MLflow takes"]),
    (["hydra.run.dir=file", "seed=x"], ["hydra.run.dir=file cannot be made", "seed=x: write"], a_run),
    (["hydra.run.dir=held"], ["hydra.run.dir=held holds a run already: write resume=held"], a_run),
    (["hydra.run.dir=" + 300 * "x"], ["longer than 255 bytes"]),
    (["model=cn"], ["cannot be made", "RUNNER_OUTPUTS", "model=cn"], outputs_is_a_file),
    (["resume=nothing"], ["resume=nothing: there is no such folder"]),
    (["resume="], ["resume= is empty"]),
    (["resume=.", "modle=3"], ["resume=. is no run's folder"]),
    (["resume=file"], ["resume=file is a file: name the run's folder"], a_run),
    (["resume=held"], ["its config.yaml is another program's"], a_run),
    (["resume=0123456789abcdef0123456789abcdef"], ["there is no MLflow store"]),
    # Sweeps.
    (["-m", "seed=a,b", "modle=1"], ["seed=a: write", "seed=b: write", "no key modle"]),
    (["-m", "model=mlp,cn", "optimizer.lr=0.1,-1"], ["did you mean cnn?", "optimizer.lr=-1 is out of range"]),
    (["-m", "resume=x"], ["leave out --multirun"]),
    # Several at once: names, types and ranges; then signatures, shapes, device and data.
    (
        ["modle=cnn", "optimizer=5", "optimizer.lr=x", "trainer.epochs=x", "hydra.run.dir=file"],
        ["modle", "optimizer=5", "optimizer.lr=x", "trainer.epochs=x", "hydra.run.dir=file cannot be made"],
        a_run,
    ),
    (
        ["trainer.clip_norm=0", "tracking=server", "data.limit=0", "x", "scheduler=cosin", "data.num_workers=-1"],
        ["trainer.clip_norm=0", "tracking.uri", "data.limit", "x:", "mean cosine?", "data.num_workers=-1"],
    ),
    (
        ["+optimizer.lrr=3", "data=csv", "data.path=no.csv", "device=mps"],
        ["SGD takes no lrr; did you mean lr?", "data.path=no.csv", "device=mps"],
    ),
    (["+model.hiden=3", "loss=mse"], ["MLP takes no hiden; did you mean hidden?", "loss=mse needs"]),
]


@pytest.mark.usefixtures("delivery_here")  # a process for it would start, and be ended, where build finds the mistake
@pytest.mark.parametrize("case", WRONG, ids=lambda case: " ".join(case[0])[:60] or "(empty)")
def test_what_is_wrong_is_said_at_once_and_nothing_is_left_behind(
    case: tuple, here: Path, runner: Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments, words, *set_up = case
    for prepare in set_up:
        prepare(here)
    monkeypatch.syspath_prepend(here)
    for module in ("mine", "broken", "needy"):
        monkeypatch.delitem(sys.modules, module, raising=False)
    before = listing(here)
    called = runner(*arguments)
    assert called.code == 2, called.err
    assert called.err.splitlines() == called.errors, "something else than one line a problem"
    for word in words:
        assert any(word in line for line in called.errors), (word, called.errors)
    assert len(called.errors) == len(set(called.errors)), "said twice"
    assert all(len(line) <= 2 * 160 for line in called.errors), "longer than two lines of a terminal"
    for jargon in ("Hydra", "OmegaConf", "Traceback", "DictConfig", "object_type", "full_key"):
        assert jargon not in called.err
    assert listing(here) == before


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


@pytest.mark.parametrize("way", ["python -m runner", "runner"])
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
    ["a b (c), d=e", "a~b~", "ünïcödé 数", "1.10", "1e5", 'it\'s "quoted"', "back\\slash", "[x], {y}", "a: b"],
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
    assert "choose from auto, cpu, cuda, mps" in runner("device=tpu").errors[0]


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

    for name in cli.COMMANDS:
        monkeypatch.setattr(sys, "argv", ["runner", name, "--help"])
        with pytest.raises(SystemExit) as left:
            cli._main()
        assert left.value.code == 0
        assert f"python -m runner.{name}" in capsys.readouterr().out
