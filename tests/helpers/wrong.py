"""Commands that are wrong: what each problem is about, and what to type after following its suggestion."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Wrong:
    """A command that is refused.

    Attributes:
        typed: its arguments.
        about: key and topic of each problem.
        then: the arguments after all suggestions are followed; None if one of them is not to be typed as it stands.
        set_up: makes the files that the command needs.
    """

    typed: list[str]
    about: list[tuple[str, str]]
    then: list[str] | None = None
    set_up: Callable[[Path], None] | None = None


def a_user_module(here: Path) -> None:
    (here / "mine.py").write_text(
        "from typing import Annotated\n"
        "import torch\n"
        "from torch import nn\n"
        "from runner.util.ranges import Range\n"
        "from runner.callbacks import Callback\n"
        "from runner.data.source import Source\n"
        "NUMBER = 3\n"
        "class Narrow(nn.Module):\n"
        "    def __init__(self, num_outputs: int, width: int = 8):\n"
        "        super().__init__()\n"
        "        layers = nn.Linear(64, width), nn.ReLU(), nn.Linear(width, num_outputs)\n"
        "        self.net = nn.Sequential(nn.Flatten(), *layers)\n"
        "    def forward(self, inputs):\n"
        "        return self.net(inputs)\n"
        "class Bounded(Narrow):\n"
        "    def __init__(self, num_outputs: int, width: Annotated[int, Range(1, 9, whole=True)] = 8):\n"
        "        super().__init__(num_outputs, width)\n"
        "class TwoOutputs(Narrow):\n"
        "    def __init__(self):\n"
        "        super().__init__(num_outputs=2)\n"
        "class Takes100(nn.Sequential):\n"
        "    def __init__(self, num_outputs: int):\n"
        "        super().__init__(nn.Flatten(), nn.Linear(100, num_outputs))\n"
        "class Odd(Narrow):\n"
        "    def get_extra_state(self):\n"
        "        return {'source': Source}\n"
        "class Watch(Callback):\n"
        "    def __init__(self, every: int = 1):\n"
        "        pass\n"
        "def no_model():\n"
        "    return 3\n"
        "def raises(depth: int = 1):\n"
        "    raise ValueError('depth is too small')\n"
        "def dots(count: int = 40):\n"
        "    inputs = torch.randn(count, 1, 8, 8, generator=torch.Generator().manual_seed(0))\n"
        "    return Source('dots', (inputs, torch.arange(count) % 2))\n"
        "class Stop(BaseException):\n"
        "    pass\n"
        "class Exits(Narrow):\n"
        "    def __init__(self, num_outputs: int):\n"
        "        raise SystemExit(0)\n"
        "class Interrupts(Narrow):\n"
        "    def __init__(self, num_outputs: int):\n"
        "        raise KeyboardInterrupt\n"
        "class Stops(Narrow):\n"
        "    def forward(self, inputs):\n"
        "        raise Stop('no more')\n"
        "class Closes(torch.optim.SGD):\n"
        "    def __init__(self, params, lr: float = 0.1):\n"
        "        raise SystemExit('closed')\n"
        "class Ends(Callback):\n"
        "    def __init__(self):\n"
        "        raise SystemExit(3)\n"
        "def no_data():\n"
        "    raise SystemExit\n"
        "class Mute(Exception):\n"
        "    def __str__(self):\n"
        "        raise ValueError\n"
        "def mute():\n"
        "    raise Mute\n"
        "def unequal():\n"
        "    return Source('unequal', (torch.zeros(9, 4), torch.zeros(7).long()))\n"
    )
    (here / "broken.py").write_text("def f(:\n")
    (here / "script.py").write_text("import sys\nsys.exit(0)\n")
    (here / "needy.py").write_text("import no_such_library\n")


def user_configs(here: Path) -> None:
    for name, text in {
        "model/typo.yaml": "_target_: runner.model.mlp.MLP\nhidden: [8\n",
        "trainer/mine.yaml": "defaults: [default]\nepoch: 3\nkeep_checkpoints: many\nmax_steps: null\n",
        "optimizer/lookahead.yaml": "_target_: torch.optim.SGD\nlearning_rate: 0.1\nlr: fast\n",
        "model/number.yaml": "5\n",
        "model/null_key.yaml": "_target_: runner.model.mlp.MLP\nnull: 3\n",
        "trainer/flag_key.yaml": "defaults: [default]\non: 3\n",
        "model/sequence.yaml": "[1, 2]\n",
        "trainer/sequence.yaml": "[1, 2]\n",
        "loss/sequence.yaml": "[1, 2]\n",
        "hydra/job_logging/empty.yaml": "",
        "model/itself.yaml": "defaults: [itself]\n",
        "model/one.yaml": "defaults: [other]\n",
        "model/other.yaml": "defaults: [one]\n",
        "model/deep.yaml": f"hidden: {'[' * 99}{']' * 99}\n",
        "model/aliases.yaml": "a: &a {b: *a}\n",
        "model/references.yaml": "".join(f"a{n}: '${{.a{n + 1}}}${{.a{n + 1}}}'\n" for n in range(99)) + "a99: 1\n",
    }.items():
        (here / "conf" / name).parent.mkdir(parents=True, exist_ok=True)
        (here / "conf" / name).write_text(text)
    (here / "conf" / "model" / "latin.yaml").write_bytes("# café\n".encode("latin-1"))


def a_table(here: Path) -> None:
    (here / "table.csv").write_text("a,b,kind\n" + "".join(f"{i},{i % 3},{'xy'[i % 2]}\n" for i in range(20)))


def a_run(here: Path) -> None:
    (here / "held").mkdir()
    (here / "held" / "config.yaml").write_text("seed: 0\n")
    (here / "damaged").mkdir()
    (here / "damaged" / "config.yaml").write_text("5\n")
    (here / "file").write_text("")


def outputs_is_a_file(here: Path) -> None:
    (here / "outputs").write_text("")


CUSTOM = "model=custom"
WRONG = [
    # What is there, and what is not.
    Wrong(["model=cn"], [("model", "choice")], then=["model=cnn"]),
    Wrong(["modle=cnn"], [("modle", "unknown")], then=["model=cnn"]),
    Wrong(["sed=1"], [("sed", "unknown")], then=["seed=1"]),
    Wrong(["trainer.epoch=3"], [("trainer.epoch", "unknown")], then=["trainer.epochs=3"]),
    Wrong(["batch_size=3"], [("batch_size", "unknown")], then=["data.batch_size=3"]),
    Wrong(
        ["trainer.early_stopping.patiense=3"],
        [("trainer.early_stopping.patiense", "unknown")],
        then=["trainer.early_stopping.patience=3"],
    ),
    Wrong(["data.root=/somewhere"], [("data.root", "unknown")], then=["data=cifar10", "data.root=/somewhere"]),
    Wrong(
        ["scheduler=constant", "scheduler.min_lr=1"],
        [("scheduler.min_lr", "unknown")],
        then=["scheduler=cosine", "scheduler.min_lr=1"],
    ),
    Wrong(["+optimizer.lrr=1"], [("optimizer.lrr", "unknown")], then=["optimizer.lr=1"]),
    Wrong(["++optimizer.lrr=1", "+optimizer.foo=2"], [("optimizer.lrr", "unknown")], then=[]),
    Wrong(["+trainer.foo=1", "++device.fast=true"], [("device.fast", "unknown"), ("trainer.foo", "unknown")]),
    Wrong(["+foo=1"], [("foo", "unknown")]),
    Wrong(["+seed=1"], [("seed", "conflict")], then=["seed=1"]),
    Wrong(["+model=cnn"], [("model", "conflict")], then=["model=cnn"]),
    Wrong(["model@net=cnn"], [("model", "conflict")], then=["model=cnn"]),
    Wrong(["~seed", "~optimizer"], [("seed", "missing"), ("optimizer", "missing")], then=["seed=3", "optimizer=adam"]),
    Wrong(["~nothing"], [("nothing", "unknown")], then=[]),
    Wrong(["~data.batch_size"], [("data.batch_size", "missing")], then=["data.batch_size=3"]),
    Wrong(
        ["hydra.foo=1", "hydra/launcher=slurmm"],
        [("hydra/launcher", "choice"), ("hydra.foo", "unknown"), ("hydra/launcher", "conflict")],
    ),
    Wrong(
        ["experiment=nothing", "debug=slow"],
        [("experiment", "choice"), ("debug", "choice")],
        then=["experiment=char_gpt", "debug=anomaly"],
    ),
    # Types and ranges.
    Wrong(["seed=${trainer.epochs}", "trainer.epochs=${seed}"], [("seed", "conflict"), ("trainer.epochs", "missing")]),
    Wrong(["seed=abc"], [("seed", "type")], then=["seed=3"]),
    Wrong(["seed=1.5", "seed=-1"], [("seed", "type"), ("seed", "range")], then=["seed=3"]),
    Wrong(
        ["seed=null", "trainer.epochs=null"],
        [("seed", "missing"), ("trainer.epochs", "missing")],
        then=["seed=3", "trainer.epochs=3"],
    ),
    Wrong(["optimizer.lr=null"], [("optimizer.lr", "type")], then=["optimizer.lr=0.5"]),
    Wrong(["model=null"], [("model", "missing")], then=["model=cnn"]),
    Wrong(
        ["data.batch_size=null", "data.in_memory=null"],
        [("data.batch_size", "missing"), ("data.in_memory", "missing")],
        then=["data.batch_size=3", "data.in_memory=auto"],
    ),
    Wrong(
        ["trainer.epochs=0", "data.batch_size=2.0"],
        [("trainer.epochs", "range"), ("data.batch_size", "type")],
        then=["trainer.epochs=3", "data.batch_size=3"],
    ),
    Wrong(["optimizer.lr=nan"], [("optimizer.lr", "range")], then=["optimizer.lr=0.5"]),
    Wrong(
        ["optimizer.lr=inf", "trainer.max_time=inf"],
        [("optimizer.lr", "range"), ("trainer.max_time", "range")],
        then=["optimizer.lr=0.5", "trainer.max_time=0.5"],
    ),
    Wrong(
        ["optimizer.lr=", "optimizer.momentum=1"],
        [("optimizer.lr", "type"), ("optimizer.momentum", "range")],
        then=["optimizer.lr=0.5", "optimizer.momentum=0.5"],
    ),
    Wrong(["trainer.early_stopping=5", "runner=3"], [("trainer.early_stopping", "type"), ("runner", "type")]),
    Wrong(["trainer={epochs:3}"], [("trainer", "type")], then=["trainer=default"]),
    Wrong(["tracking.log_model=perhaps"], [("tracking.log_model", "type")], then=["tracking.log_model=true"]),
    Wrong(
        ["device.threads=0", "precision.name=int8"],
        [("device.threads", "range"), ("precision.name", "choice")],
        then=["device.threads=auto", "precision.name=amp"],
    ),
    Wrong(
        ["device.threads=100000000", "data.num_workers=100000000"],
        [("device.threads", "range"), ("data.num_workers", "range")],
        then=["device.threads=auto", "data.num_workers=3"],
    ),
    Wrong(["device.threads=1.5"], [("device.threads", "type")], then=["device.threads=auto"]),
    Wrong(["model.hidden=64"], [("model.hidden", "type")], then=["model.hidden=[64]"]),
    Wrong(["model.dropout=abc"], [("model.dropout", "type")], then=["model.dropout=0.5"]),
    Wrong(["-m", "seed=0,1", "sweep.jobs=" + 50 * "9"], [("sweep.jobs", "range")]),
    Wrong(["model.hidden=[" + 50 * "9" + "]", "+data.x=" + 50 * "9"], [("model.hidden", "range"), ("data.x", "range")]),
    Wrong(["seed=" + 4500 * "9", "trainer.max_time=" + 400 * "9"], [("seed", "range"), ("trainer.max_time", "range")]),
    Wrong(["model.hidden=[-1]"], [("model.hidden", "range")]),
    Wrong(["model.hidden=null", "optimizers=3"], [("optimizers", "type"), ("model.hidden", "missing")]),
    Wrong(["model.hidden={a:1}"], [("model.hidden", "type")], then=["model.hidden=[128,64]"]),
    Wrong(["metrics={accuracy:3}"], [("metrics", "type")], then=["metrics=[accuracy]"]),
    Wrong(["metrics={auroc:{average:macro}}"], [("metrics", "type")], then=["metrics=[{auroc:{average:macro}}]"]),
    Wrong(["+metrics.f1={average:macro}"], [("metrics.f1", "type")], then=["metrics=[{f1:{average:macro}}]"]),
    Wrong(["model._recursive_=true"], [("model._recursive_", "unknown")], then=["+model._recursive_=true"]),
    Wrong(["+model._recursive_=maybe"], [("model._recursive_", "type")], then=["+model._recursive_=true"]),
    Wrong(["+model._args_=3", "+optimizer._convert_=x"], [("model._args_", "type"), ("optimizer._convert_", "type")]),
    Wrong(["-m", "seed=0," + 4500 * "9"], [("seed", "range")]),
    Wrong(["-m", "hydra/sweeper=random", f"optimizer.lr=interval(1,{4500 * '9'})"], [("optimizer.lr", "range")]),
    Wrong(["seed=0x" + 5000 * "f"], [("seed", "type")], then=["seed=3"]),
    Wrong(["resume=" + 4500 * "9"], [("resume", "file")]),
    Wrong(["trainer.max_time=1e400"], [("trainer.max_time", "range")], then=["trainer.max_time=0.5"]),
    # Of any depth and length.
    Wrong([f"model.hidden={'[' * 500}{']' * 500}"], [("model.hidden", "range")]),
    Wrong([f"tracking.tags={'{a:' * 500}1{'}' * 500}"], [("tracking.tags", "type")]),
    Wrong(["+model" + 500 * ".a" + "=1"], [("model" + 500 * ".a", "range")]),
    Wrong(["-m", "seed=" + 500 * "sort(" + "1,2" + 500 * ")"], [("seed", "range")]),
    Wrong(["model.activation=" + 10_000 * "v"], [("model.activation", "choice")], then=["model.activation=gelu"]),
    Wrong(["seed=" + 10_000 * "v"], [("seed", "type")], then=["seed=3"]),
    Wrong([10_000 * "k" + "=1"], [(10_000 * "k", "unknown")]),
    Wrong(["tracking.experiment=" + 10_000 * "e"], [("tracking.experiment", "range")]),
    Wrong(["hydra.run.dir=" + 5_000 * "d/"], [("hydra.run.dir", "file")]),
    Wrong(["data=csv", "data.path=" + 10_000 * "p"], [("data.path", "file")]),
    Wrong(["model.weights=" + 10_000 * "w"], [("model.weights", "file")]),
    # Hydra's own part.
    Wrong(
        ["~hydra/job_logging", "~hydra/launcher", "~hydra.job.name"],
        [
            ("hydra/job_logging", "missing"),
            ("hydra/launcher", "missing"),
            ("hydra.job.name", "missing"),
            ("hydra/launcher", "conflict"),
        ],
        then=["--multirun"],
    ),
    Wrong(["-m", "seed=0,1", "~hydra/sweeper"], [("hydra/sweeper", "missing")], then=["-m", "seed=0,1"]),
    Wrong(
        ["-m", "seed=0,1", "hydra.launcher=null"],
        [("hydra.launcher", "missing")],
        then=["-m", "seed=0,1", "hydra/launcher=local"],
    ),
    Wrong(["hydra.verbose=nan"], [("hydra.verbose", "type")]),
    Wrong(["hydra.job.env_copy=[NO_SUCH_VARIABLE]"], [("hydra.job.env_copy", "missing")]),
    Wrong(["hydra.searchpath=[http://a]"], [("hydra.searchpath", "type")]),
    Wrong(["hydra.searchpath=[pkg://no_such_package]"], [("hydra.searchpath", "unavailable")]),
    Wrong(["hydra.searchpath=[" + 300 * "x" + "]"], [("hydra.searchpath", "file")]),
    Wrong(["model.activation=rleu"], [("model.activation", "choice")], then=["model.activation=relu"]),
    Wrong(
        ["optimizer=adamw", "optimizer.betas=[0.9]"],
        [("optimizer.betas", "type")],
        then=["optimizer=adamw", "optimizer.betas=[0.1,0.2]"],
    ),
    Wrong(["optimizer.nesterov=true", "optimizer.momentum=0"], [("optimizer", "code")]),
    Wrong(["resume_mode=warm"], [("resume_mode", "choice")], then=["resume_mode=exact"]),
    Wrong(["resume_mode=warm_start"], [("resume_mode", "missing")]),
    # What is trained, and how.
    Wrong(["trainer.callbacks=3"], [("trainer.callbacks", "type")]),
    Wrong(["trainer.callbacks=[mine.All]"], [("trainer.callbacks.callback", "type")]),
    Wrong(["trainer.callbacks.mine=3"], [("trainer.callbacks.mine", "type")]),
    Wrong(["trainer.callbacks={a-b:{_target_:mine.All}}"], [("trainer.callbacks.a-b", "syntax")]),
    Wrong(["trainer.callbacks.mine.every=3"], [("trainer.callbacks.mine._target_", "missing")]),
    Wrong(
        ["trainer.callbacks.mine._target_=mine.Wach"],
        [("trainer.callbacks.mine._target_", "unknown")],
        then=["trainer.callbacks.mine._target_=mine.Watch"],
        set_up=a_user_module,
    ),
    Wrong(
        ["trainer.callbacks.mine._target_=mine.Narrow"],
        [("trainer.callbacks.mine._target_", "type")],
        set_up=a_user_module,
    ),
    Wrong(
        ["trainer.callbacks.mine._target_=mine.Watch", "trainer.callbacks.mine.evry=3"],
        [("trainer.callbacks.mine.evry", "unknown")],
        then=["trainer.callbacks.mine._target_=mine.Watch", "trainer.callbacks.mine.every=3"],
        set_up=a_user_module,
    ),
    Wrong(
        ["trainer.callbacks.mine._target_=mine.Watch", "trainer.callbacks.mine.every=x"],
        [("trainer.callbacks.mine.every", "type")],
        then=["trainer.callbacks.mine._target_=mine.Watch", "trainer.callbacks.mine.every=3"],
        set_up=a_user_module,
    ),
    Wrong(["trainer.log_norms=maybe"], [("trainer.log_norms", "type")], then=["trainer.log_norms=true"]),
    Wrong(["model.freeze=[layer.*]"], [("model.freeze", "unknown")], then=["model.freeze=[layers.*]"]),
    Wrong(["model.freeze=[layers]"], [("model.freeze", "conflict")]),
    Wrong(["model.freeze={a:1}"], [("model.freeze", "type")], then=["model.freeze=[backbone.*]"]),
    Wrong(
        ["model.unfreeze_at_epoch=3"],
        [("model.unfreeze_at_epoch", "missing")],
        then=["model.freeze=[backbone.*]", "model.unfreeze_at_epoch=3"],
    ),
    Wrong(
        ["model.unfreeze_at_epoch=1", "model.freeze=[layers.1]"],
        [("model.unfreeze_at_epoch", "range")],
        then=["model.unfreeze_at_epoch=3", "model.freeze=[layers.1]"],
    ),
    Wrong(["model.lora.rank=4"], [("model.lora.rank", "missing")]),
    Wrong(["model.lora=layers"], [("model.lora", "type")]),
    Wrong(
        ["model.lora.params=layers.1", "model.lora.rank=0"],
        [("model.lora.rank", "range")],
        then=["model.lora.params=layers.1", "model.lora.rank=3"],
    ),
    Wrong(["model.lora.rnk=4"], [("model.lora.rnk", "unknown")], then=["model.lora.rank=4"]),
    Wrong(
        ["model.lora.params=layers.1", "model.freeze=[layers.5]", "model.unfreeze_at_epoch=2"],
        [("model.unfreeze_at_epoch", "conflict")],
        then=["model.lora.params=layers.1", "model.freeze=[layers.5]"],
    ),
    Wrong(["optimizer.groups.head.lr=0.1"], [("optimizer.groups.head.params", "missing")]),
    Wrong(
        ["optimizer.groups.head.params=5.5", "optimizer.groups.head.lr=0.1"],
        [("optimizer.groups.head.params", "unknown")],
    ),
    Wrong(["optimizer.groups.rest.params=layers.1"], [("optimizer.groups.rest", "conflict")]),
    Wrong(["optimizer.groups.head=layers.1"], [("optimizer.groups.head", "type")]),
    Wrong(
        ["optimizer.groups=5"],
        [("optimizer.groups", "type")],
        then=["optimizer.groups.head.params=head.*", "optimizer.groups.head.lr=0.1"],
    ),
    Wrong(
        ["optimizer.groups.head.params=layer.5.*"],
        [("optimizer.groups.head.params", "unknown")],
        then=["optimizer.groups.head.params=layers.5.*"],
    ),
    Wrong(
        ["optimizer.groups.head.params=layers.5", "optimizer.groups.head.lr=-1"],
        [("optimizer.groups.head.lr", "range")],
        then=["optimizer.groups.head.params=layers.5", "optimizer.groups.head.lr=0.5"],
    ),
    Wrong(
        ["optimizer.groups.head.params=layers.5", "optimizer.groups.head.lrr=1"],
        [("optimizer.groups.head.lrr", "unknown")],
        then=["optimizer.groups.head.params=layers.5", "optimizer.groups.head.lr=1"],
    ),
    Wrong(
        ["optimizer.groups.a.params=layers.5", "optimizer.groups.b.params=*.bias"],
        [("optimizer.groups.b.params", "conflict")],
    ),
    Wrong(
        ["optimizer=muon", "optimizer.no_decay=true"],
        [("optimizer.no_decay", "conflict")],
        then=["optimizer=muon"],
    ),
    Wrong(["optimizer.no_decay=perhaps"], [("optimizer.no_decay", "unknown")]),
    Wrong(["optimizer.layer_decay=2"], [("optimizer.layer_decay", "range")], then=["optimizer.layer_decay=0.5"]),
    # Grammar.
    Wrong(["seed"], [("seed", "syntax")]),
    Wrong([""], [("", "syntax")], then=[]),
    Wrong(["~", "+", "@=1", "="], [("", "syntax"), ("", "syntax"), ("@", "syntax"), ("", "syntax")]),
    Wrong(["=3"], [("", "syntax")]),
    Wrong(["seed =1"], [("seed", "syntax")], then=["seed=1"]),
    Wrong(
        ["seed==", "optimizer.lr=a (b"],
        [("seed", "syntax"), ("optimizer.lr", "syntax")],
        then=["seed=3", "optimizer.lr=0.5"],
    ),
    Wrong(["optimizer.lr=0.1,0.01"], [("optimizer.lr", "conflict")], then=["--multirun", "optimizer.lr=0.1,0.01"]),
    Wrong(["model=mlp,cnn"], [("model", "conflict")], then=["--multirun", "model=mlp,cnn"]),
    Wrong(["model.hidden=128,64"], [("model.hidden", "conflict")], then=["model.hidden=[128,64]"]),
    Wrong(
        ["tracking.experiment=a,b"],
        [("tracking.experiment", "conflict")],
        then=["--multirun", "tracking.experiment=a,b"],
    ),
    Wrong(["--epochs=3"], [("--epochs", "unknown")], then=["trainer.epochs=3"]),
    Wrong(
        ["--lr", "0.1", "--batch-size=8"],
        [("--lr", "unknown"), ("--batch-size", "unknown")],
        then=["optimizer.lr=0.1", "data.batch_size=8"],
    ),
    Wrong(["--gpu", "--foo"], [("--gpu", "unknown"), ("--foo", "unknown")]),
    Wrong(["--multirun", "--cfg", "job"], [("--cfg", "conflict")], then=["--cfg", "job"]),
    Wrong(["--cfg", "job", "-p", "nothing"], [("-p", "choice")]),
    Wrong(["--cfg", "job", "-p", "trainr"], [("-p", "choice")], then=["--cfg", "job", "-p", "trainer"]),
    Wrong(["--cfg", "job", "-p", "hydra.launcher"], [("--cfg", "conflict")]),
    Wrong(["--cfg", "hydra", "-p", "model"], [("--cfg", "conflict")]),
    Wrong(["hydra.searchpath=&a", "scheduler=😀"], [("hydra.searchpath", "type"), ("scheduler", "choice")]),
    Wrong(["hydra.searchpath=5"], [("hydra.searchpath", "type")]),
    Wrong(["hydra.searchpath=[nowhere]"], [("hydra.searchpath", "file")]),
    Wrong(["--multi", "seed=1"], [("--multi", "unknown")], then=["--multirun", "seed=1"]),
    Wrong(["--cfg", "everything"], [("--cfg", "choice")], then=["--cfg", "all"]),
    Wrong(["--info", "plugin"], [("--info", "choice")], then=["--info", "plugins"]),
    Wrong(["--package"], [("--package", "missing")]),
    Wrong(["--hydra-help=3"], [("--hydra-help", "syntax")]),
    Wrong(
        ["--cfg", "job", "modle=1", "seed=x"],
        [("modle", "unknown"), ("seed", "type")],
        then=["--cfg", "job", "model=1", "seed=3"],
    ),
    Wrong(["--help", "seed=x"], [("seed", "type")], then=["--help", "seed=3"]),
    Wrong(["optimizer.lr=${rate}"], [("optimizer.lr", "unknown")]),
    Wrong(["optimizer.lr=${optimizer.lr}"], [("optimizer.lr", "conflict")]),
    Wrong(['optimizer.lr=${oc.decode:"["}', "seed=${none:1}"], [("seed", "syntax"), ("optimizer.lr", "syntax")]),
    Wrong(["optimizer.lr=${oc.env:NO_SUCH_VARIABLE}"], [("optimizer.lr", "missing")]),
    # Data, shapes, devices.
    Wrong(["data=csv"], [("data.path", "missing")]),
    Wrong(
        ["data=csv", "data.index=null", "data.header=null", "data.target_type=null", "data.scale_targets=null"],
        [
            ("data.scale_targets", "missing"),
            ("data.index", "missing"),
            ("data.header", "missing"),
            ("data.target_type", "missing"),
        ],
        then=["data=csv", "data.index=auto", "data.header=auto", "data.target_type=auto", "data.scale_targets=auto"],
    ),
    Wrong(
        ["data=csv", "data.path=tabel.csv"],
        [("data.path", "file")],
        then=["data=csv", "data.path=table.csv"],
        set_up=a_table,
    ),
    Wrong(
        ["data=csv", "data.path=table.csv", "model=cnn"],
        [("model", "shape")],
        then=["data=csv", "data.path=table.csv", "model=mlp"],
        set_up=a_table,
    ),
    Wrong(["data=tensors", "data.inputs=[[1,2],[3]]", "data.targets=[0,1]"], [("data.inputs", "shape")]),
    Wrong(["data.val_fraction=0.0001"], [("data.val_fraction", "range")], then=["data.val_fraction=0"]),
    Wrong(["data.val_fraction=0.9999"], [("data.val_fraction", "range")], then=["data.val_fraction=0"]),
    Wrong(["data.augment=[flp]"], [("data.augment", "unknown")], then=["data.augment=[flip]"]),
    Wrong(
        ["data.augment=[{mixup:{alhpa:1}}]"], [("data.augment", "unknown")], then=["data.augment=[{mixup:{alpha:1}}]"]
    ),
    Wrong(
        ["data.augment.cutmix.alpha=-1"], [("data.augment.cutmix.alpha", "range")], ["data.augment.cutmix.alpha=0.5"]
    ),
    Wrong(
        ["data=csv", "data.path=table.csv", "data.augment=cutmix"],
        [("data.augment.cutmix.alpha", "shape")],
        then=["data.augment.cutmix.alpha=0", "data=csv", "data.path=table.csv", "data.augment=cutmix"],
        set_up=a_table,
    ),
    Wrong(["data.mean=[1,2]"], [("data.mean", "shape")]),
    Wrong(["data.mean=nan"], [("data.mean", "range")], then=["data.mean=0"]),
    Wrong(["data.std=1e400"], [("data.std", "range")], then=["data.std=1"]),
    Wrong(
        ["loss=mse", "trainer.monitor=val/accuracy"],
        [("loss", "conflict"), ("trainer.monitor", "choice")],
        then=["loss=cross_entropy", "trainer.monitor=train/loss"],
    ),
    Wrong(["trainer.monitor=val/acc"], [("trainer.monitor", "choice")], then=["trainer.monitor=val/accuracy"]),
    Wrong(
        ["data.val_fraction=0", "trainer.early_stopping.patience=2"],
        [("trainer.early_stopping.patience", "conflict")],
        then=["data.val_fraction=0.2"],
    ),
    Wrong(
        ["data.val_fraction=0", "trainer.validate_every_steps=2"],
        [("trainer.validate_every_steps", "conflict")],
        then=["data.val_fraction=0.2"],
    ),
    Wrong(["device=mps"], [("device", "unavailable")], then=["device=auto"]),
    # Classes and functions of the user's.
    Wrong([CUSTOM], [("model._target_", "missing")]),
    Wrong(["data=custom"], [("data._target_", "missing")]),
    Wrong(["data=custom", "data._target_=no_such.data"], [("data._target_", "unknown")]),
    Wrong(["data=custom", "data._target_=mine.no_model"], [("data._target_", "type")], set_up=a_user_module),
    Wrong(
        ["data=custom", "data._target_=mine.dots", "data.cuont=30"],
        [("data.cuont", "unknown")],
        then=["data=custom", "data._target_=mine.dots", "+data.cuont=30"],
        set_up=a_user_module,
    ),
    Wrong(["data=mine.dots"], [("data", "choice")], then=["data=custom", "data._target_=mine.dots"]),
    Wrong([CUSTOM, "model._target_=no_such.Net"], [("model._target_", "unknown")]),
    Wrong(
        [CUSTOM, "model._target_=mine.Narow"],
        [("model._target_", "unknown")],
        then=["model=custom", "model._target_=mine.Narrow"],
        set_up=a_user_module,
    ),
    Wrong([CUSTOM, "model._target_=mine.NUMBER"], [("model._target_", "type")], set_up=a_user_module),
    Wrong([CUSTOM, "model._target_=broken.f"], [("model._target_", "code")], set_up=a_user_module),
    Wrong([CUSTOM, "model._target_=needy.f"], [("model._target_", "unavailable")], set_up=a_user_module),
    Wrong([CUSTOM, "model._target_=torch.optim.SGD"], [("model._target_", "type")]),
    Wrong([CUSTOM, "model._target_=mine.no_model"], [("model._target_", "type")], set_up=a_user_module),
    Wrong([CUSTOM, "model._target_=mine.raises"], [("model", "code")], set_up=a_user_module),
    Wrong([CUSTOM, "model._target_=mine.mute"], [("model", "code")], set_up=a_user_module),
    Wrong(
        [CUSTOM, "model._target_=mine.Exits", "data=custom", "data._target_=mine.no_data"],
        [("data", "code")],
        set_up=a_user_module,
    ),
    Wrong([CUSTOM, "model._target_=mine.Exits"], [("model", "code")], set_up=a_user_module),
    Wrong([CUSTOM, "model._target_=mine.Stops"], [("model", "code")], set_up=a_user_module),
    Wrong([CUSTOM, "model._target_=script.Net"], [("model._target_", "code")], set_up=a_user_module),
    Wrong(
        ["optimizer._target_=mine.Closes", "~optimizer.momentum", "~optimizer.weight_decay", "~optimizer.nesterov"],
        [("optimizer", "code")],
        set_up=a_user_module,
    ),
    Wrong(["trainer.callbacks.mine._target_=mine.Ends"], [("trainer.callbacks.mine", "code")], set_up=a_user_module),
    Wrong(
        [CUSTOM, "model._target_=mine.Narrow", "+model.width=wide"],
        [("model.width", "type")],
        then=["model=custom", "model._target_=mine.Narrow", "+model.width=3"],
        set_up=a_user_module,
    ),
    Wrong(
        [CUSTOM, "model._target_=mine.Bounded", "+model.width=10", "seed=x"],
        [("seed", "type"), ("model.width", "range")],
        then=["model=custom", "model._target_=mine.Bounded", "+model.width=3", "seed=3"],
        set_up=a_user_module,
    ),
    Wrong([CUSTOM, "model._target_=mine.Takes100"], [("model", "shape")], set_up=a_user_module),
    Wrong([CUSTOM, "model._target_=mine.TwoOutputs"], [("model", "shape")], set_up=a_user_module),
    Wrong([CUSTOM, "model._target_=mine.Odd"], [("model._extra_state.source", "code")], set_up=a_user_module),
    Wrong(
        ["model._target_=torch.nn.Linear"],
        [("model.hidden", "unknown"), ("model.in_features", "missing"), ("model.out_features", "missing")],
    ),
    Wrong(["data._target_=mine.unequal", "~data.mean", "~data.std"], [("data", "code")], set_up=a_user_module),
    Wrong(["loss._target_=torch.nn.MSELoss"], [("loss._target_", "type")]),
    Wrong(["device=cuda:1"], [("device", "choice")], then=["device=cuda", "device.index=1"]),
    Wrong(["model=resnet"], [("model", "choice")], then=["model=torchvision", "model.name=resnet18"]),
    Wrong(["model=vit_b_32"], [("model", "choice")], then=["model=torchvision", "model.name=vit_b_32"]),
    Wrong(["model=[mlp,cnn]"], [("model", "conflict")]),
    Wrong(["model.hidden="], [("model.hidden", "type")], then=["model.hidden=[64,32]"]),
    Wrong(["help"], [("help", "syntax")], then=["--help"]),
    Wrong(["model=net.Mine"], [("model", "choice")], then=["model=custom", "model._target_=net.Mine"]),
    Wrong(
        ["model=custom", "model._target_=mine.Net", "model.width=3"],
        [("model.width", "unknown")],
        then=["model=custom", "model._target_=mine.Net", "+model.width=3"],
    ),
    Wrong(["optimizer._target_=5"], [("optimizer._target_", "type")]),
    Wrong(["optimizer._target_=math.sqrt"], [("optimizer._target_", "code")]),
    Wrong(["scheduler._target_=math.sqrt"], [("scheduler._target_", "code")]),
    # Files of the user's.
    Wrong(["--config-dir", "nowhere"], [("--config-dir", "file")]),
    Wrong(["--config-name", "other"], [("--config-name", "choice")], then=["--config-name", "config"]),
    Wrong(["--config-path", "nowhere"], [("--config-path", "file")], then=[]),
    Wrong(["--config-dir=conf", "model=typo"], [("model", "syntax")], set_up=user_configs),
    Wrong(
        ["--config-dir=conf", "trainer=mine", "seed=x"],
        [("trainer.epoch", "unknown"), ("trainer.keep_checkpoints", "type"), ("seed", "type")],
        set_up=user_configs,
    ),
    Wrong(
        ["--config-dir=conf", "optimizer=lookahead"],
        [("optimizer.lr", "type")],
        then=["optimizer.lr=0.5", "--config-dir=conf", "optimizer=lookahead"],
        set_up=user_configs,
    ),
    Wrong(
        ["--config-dir=conf", "optimizer=lookahead", "optimizer.lr=1"],
        [("optimizer.learning_rate", "unknown")],
        set_up=user_configs,
    ),
    Wrong(["--config-dir=conf", "model=number"], [("model", "type")], set_up=user_configs),
    Wrong(["--config-dir=conf", "model=null_key"], [("model", "type")], set_up=user_configs),
    Wrong(["--config-dir=conf", "trainer=flag_key"], [("trainer", "type")], set_up=user_configs),
    Wrong(["--config-dir=conf", "model=latin"], [("model", "syntax")], set_up=user_configs),
    Wrong(["--config-dir=conf", "model=sequence"], [("model", "type")], set_up=user_configs),
    Wrong(["--config-dir=conf", "trainer=sequence"], [("trainer", "type")], set_up=user_configs),
    Wrong(["--config-dir=conf", "loss=sequence", "seed=x"], [("loss", "type"), ("seed", "type")], set_up=user_configs),
    Wrong(["--config-dir=conf", "model=itself"], [("model", "conflict")], set_up=user_configs),
    Wrong(["--config-dir=conf", "model=one"], [("model", "conflict")], set_up=user_configs),
    Wrong(["--config-dir=conf", "model=deep"], [("model", "range")], set_up=user_configs),
    Wrong(["--config-dir=conf", "model=aliases"], [("model", "range")], set_up=user_configs),
    Wrong(["--config-dir=conf", "model=references"], [("model.a0", "range")], set_up=user_configs),
    Wrong(
        ["--config-dir=conf", "hydra/job_logging=empty"],
        [("hydra.job_logging", "missing")],
        then=["hydra/job_logging=default", "--config-dir=conf"],
        set_up=user_configs,
    ),
    # Tracking and folders.
    Wrong(
        ["tracking=server"],
        [("tracking.uri", "missing")],
        then=["tracking.uri=http://127.0.0.1:5000", "tracking=server"],
    ),
    Wrong(["tracking=server", "tracking.uri=localhost:5000"], [("tracking.uri", "type")]),
    Wrong(["tracking=server", "tracking.uri=http://"], [("tracking.uri", "type")]),
    Wrong(["tracking=server", "tracking.uri='http://[::1'"], [("tracking.uri", "type")]),
    Wrong(["tracking=server", "tracking.uri='http://localhost:99999'"], [("tracking.uri", "type")]),
    Wrong(
        ["tracking.uri=http://localhost:5000"],
        [("tracking.uri", "type")],
        then=["tracking=server", "tracking.uri=http://localhost:5000"],
    ),
    Wrong(["tracking.uri=mlruns"], [("tracking.uri", "type")]),
    Wrong(["tracking.uri=sqlite:////dev/null", "seed=x"], [("seed", "type"), ("tracking.uri", "file")]),
    Wrong(["-m", "seed=0,1", "tracking.uri=sqlite:////proc/x.db"], [("tracking.uri", "file")]),
    Wrong(["resume=held", "tracking.uri='http://[::1'"], [("tracking.uri", "type")], set_up=a_run),
    Wrong(["tracking.experiment="], [("tracking.experiment", "missing")], then=["tracking.experiment=name"]),
    Wrong([f"tracking.experiment={'e' * 501}"], [("tracking.experiment", "range")]),
    Wrong(["hydra.run.dir=file", "seed=x"], [("seed", "type"), ("hydra.run.dir", "file")], set_up=a_run),
    Wrong(["hydra.run.dir=held"], [("hydra.run.dir", "conflict")], then=["resume=held"], set_up=a_run),
    Wrong(["hydra.run.dir=."], [("hydra.run.dir", "file")], then=["hydra.run.dir=run_1"], set_up=a_run),
    Wrong(
        ["-m", "seed=0,1", "hydra.sweep.dir=."],
        [("hydra.sweep.dir", "file")],
        then=["-m", "seed=0,1", "hydra.sweep.dir=sweep_1"],
        set_up=a_table,
    ),
    Wrong(["hydra.run.dir=" + 300 * "x"], [("hydra.run.dir", "file")]),
    Wrong(["model=cn"], [("model", "choice"), ("hydra.run.dir", "file")], set_up=outputs_is_a_file),
    Wrong(["resume=nothing"], [("resume", "file")]),
    Wrong(["resume="], [("resume", "missing")]),
    Wrong(["resume=.", "modle=3"], [("resume", "run")]),
    Wrong(["resume=file"], [("resume", "run")], set_up=a_run),
    Wrong(["resume=held"], [("resume", "run")], set_up=a_run),
    Wrong(["resume=damaged"], [("resume", "file")], set_up=a_run),
    Wrong(["resume=0123456789abcdef0123456789abcdef"], [("resume", "store")]),
    # Sweeps.
    Wrong(
        ["-m", "seed=a,b", "modle=1"],
        [("modle", "unknown"), ("seed", "type"), ("seed", "type")],
        then=["-m", "seed=3", "model=1"],
    ),
    Wrong(
        ["-m", "model=mlp,cn", "optimizer.lr=0.1,-1"],
        [("optimizer.lr", "range"), ("model", "choice")],
        then=["-m", "model=cnn", "optimizer.lr=0.5"],
    ),
    Wrong(["-m", "resume=x"], [("resume", "conflict")], then=["resume=x"]),
    # Several at once: names, types and ranges; then signatures, shapes, device and data.
    Wrong(
        ["modle=cnn", "optimizer=5", "optimizer.lr=x", "trainer.epochs=x", "hydra.run.dir=file"],
        [
            ("optimizer", "choice"),
            ("modle", "unknown"),
            ("trainer.epochs", "type"),
            ("optimizer.lr", "type"),
            ("hydra.run.dir", "file"),
        ],
        set_up=a_run,
    ),
    Wrong(
        ["trainer.clip_norm=0", "tracking=server", "data.limit=0", "x", "scheduler=cosin", "data.num_workers=-1"],
        [
            ("x", "syntax"),
            ("scheduler", "choice"),
            ("tracking.uri", "missing"),
            ("trainer.clip_norm", "range"),
            ("data.limit", "range"),
            ("data.num_workers", "range"),
        ],
    ),
    Wrong(
        ["+optimizer.lrr=3", "data=csv", "data.path=no.csv", "device=mps"],
        [("optimizer.lrr", "unknown"), ("device", "unavailable"), ("data.path", "file")],
    ),
    Wrong(
        ["+model.hiden=3", "loss=mse"],
        [("model.hiden", "unknown"), ("loss", "conflict")],
        then=["model.hidden=3", "loss=cross_entropy"],
    ),
    Wrong(["data.split=startified"], [("data.split", "choice")], then=["data.split=stratified"]),
    Wrong(
        ["data.split=sequential", "data.val_fraction=0"],
        [("data.split", "conflict")],
        then=["data.split=random", "data.val_fraction=0"],
    ),
    Wrong(["data.split_by=patient"], [("data.split_by", "unknown")]),
    Wrong(["data.sampler=weighted"], [("data.sample_weight", "missing")]),
    Wrong(
        ["trainer.steps_per_epoch=5"], [("trainer.steps_per_epoch", "conflict")], then=["trainer.steps_per_epoch=null"]
    ),
    # Ready tasks.
    Wrong(["model=gpt"], [("model", "shape")], then=["model=mlp"]),
    Wrong(
        ["model=unet", "data=wine"],
        [("model", "shape")],
        then=["model=mlp", "data=wine"],
    ),
    Wrong(
        ["task=language_model", "data=text", "model=gpt", "loss=mse"],
        [("loss", "conflict")],
        then=["task=language_model", "data=text", "model=gpt", "loss=auto"],
    ),
    Wrong(
        ["task=language_model", "data=text", "model=gpt", "model.heads=3"],
        [("model.heads", "conflict")],
        then=["task=language_model", "data=text", "model=gpt", "model.heads=2"],
    ),
    Wrong(
        ["data=text", "data.block=60000", "task=language_model", "model=gpt"],
        [("data.block", "range")],
        then=["data=text", "data.block=23251", "task=language_model", "model=gpt"],
    ),
    Wrong(
        ["task=segmentation", "data=shapes", "data.samples=20", "model=unet", "loss=mse"],
        [("loss", "conflict")],
        then=["task=segmentation", "data=shapes", "data.samples=20", "model=unet", "loss=cross_entropy"],
    ),
    Wrong(
        ["task=segmentation", "data=shapes", "data.samples=20", "model=unet", "data.augment.flip=true"],
        [("data.augment.flip", "conflict")],
        then=["task=segmentation", "data=shapes", "data.samples=20", "model=unet", "data.augment.flip=false"],
    ),
    Wrong(
        [
            "task=segmentation",
            "data=shapes",
            "data.samples=20",
            "data.size=16",
            "model=unet",
            "model.channels=[2,2,2,2,2,2]",
        ],
        [("model.channels", "shape")],
        then=[
            "task=segmentation",
            "data=shapes",
            "data.samples=20",
            "data.size=16",
            "model=unet",
            "model.channels=[2,2,2,2,2]",
        ],
    ),
    Wrong(["task=segmentation"], [("data", "shape")]),
    Wrong(["task=autoencoder", "loss=cross_entropy"], [("loss", "conflict")], then=["task=autoencoder", "loss=mse"]),
    Wrong(
        ["task=autoencoder", "data.scale_targets=true"],
        [("data.scale_targets", "conflict")],
        then=["task=autoencoder", "data.scale_targets=auto"],
    ),
]
