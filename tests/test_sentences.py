"""The wording of problems, in one place: all other tests assert their keys, topics and suggestions."""

import shlex
from collections.abc import Callable

import pytest

from conftest import Called

GOLDEN = [
    (
        "model=cn",
        "model=cn: unknown model; did you mean cnn?",
    ),
    (
        "modle=cnn",
        "modle=cnn: unknown key modle; did you mean model?",
    ),
    (
        "trainer.epoch=3",
        "trainer.epoch=3: unknown key trainer.epoch; did you mean trainer.epochs?",
    ),
    (
        "data.root=/somewhere",
        (
            "data.root=/somewhere: unknown key data.root; choose data=cifar10 or data=fashion_mnist or data=mnist"
            " to set it"
        ),
    ),
    (
        "strategy.nproc=2",
        (
            "strategy.nproc=2: unknown key strategy.nproc; strategy has find_unused_parameters, name, nproc_per_node,"
            " shard"
        ),
    ),
    (
        "+optimizer.lrr=1",
        "optimizer.lrr: SGD takes no lrr; did you mean lr?",
    ),
    (
        "++optimizer.lrr=1 +optimizer.foo=2",
        (
            "optimizer.lrr and optimizer.foo: SGD takes no such keys, only lr, momentum, dampening, weight_decay,"
            " nesterov, maximize, foreach, differentiable, fused; leave them out by ~optimizer.lrr ~optimizer.foo"
        ),
    ),
    (
        "seed=abc",
        "seed=abc is not valid; write a whole number at least 0 and at most 9223372036854775807",
    ),
    (
        "trainer.epochs=0",
        "trainer.epochs=0 is out of range; write a whole number at least 1",
    ),
    (
        "optimizer.lr=null",
        "optimizer.lr=null is not a number, which SGD needs; write a number above 0",
    ),
    (
        "optimizer.lr=nan",
        "optimizer.lr=nan is out of range; write a number above 0",
    ),
    (
        "model.hidden=64",
        ("model.hidden=64 is not a list such as [a whole number, ...], which MLP needs; write model.hidden=[64]"),
    ),
    (
        "'model.hidden=[-1]'",
        "model.hidden=[-1] is out of range; each must be a whole number at least 1",
    ),
    (
        "model.activation=rleu",
        "model.activation=rleu is not a choice; did you mean relu?",
    ),
    (
        "resume_mode=warm",
        "resume_mode=warm is not a choice; choose from exact, warm_start",
    ),
    (
        "seed",
        "seed: the value is missing; write seed=<value>",
    ),
    (
        "optimizer.lr=0.1,0.01",
        "optimizer.lr=0.1,0.01 names several values; add --multirun for a run of each, or write one",
    ),
    (
        "tracking.experiment=a,b",
        (
            "tracking.experiment=a,b names several values; add --multirun for a run of each, or write one text as"
            " 'tracking.experiment=\"a,b\"'"
        ),
    ),
    (
        "'model=[mlp,cnn]'",
        ("model=[mlp,cnn]: a run has one model; choose one, or write --multirun model=mlp,cnn for a run of each"),
    ),
    (
        "--epochs=3",
        "unknown option --epochs=3; write trainer.epochs=3; see --help",
    ),
    (
        "--cfg everything",
        "--cfg everything is not a choice; choose from all, hydra, job",
    ),
    (
        "--multirun --cfg job",
        "--cfg and --multirun exclude each other; leave out --multirun",
    ),
    (
        "'optimizer.lr=${rate}'",
        "optimizer.lr: it refers to the unknown key rate; write a value, or an existing key",
    ),
    (
        "'~optimizer.foreach'",
        "~optimizer.foreach: unknown key optimizer.foreach; leave it out",
    ),
    (
        "'data.batch_size=${trainer}'",
        "data.batch_size is not valid but a group of keys; write max or a whole number at least 1",
    ),
    (
        "'trainer.epochs=${trainer.monitor}'",
        (
            "trainer.epochs: it refers to trainer.monitor, whose value is of another type;"
            " write a whole number at least 1"
        ),
    ),
    (
        "'trainer.epochs=${trainer}'",
        "trainer.epochs: it refers to the group that it is in; write a whole number at least 1",
    ),
    (
        "hydra=foo",
        "hydra=foo: hydra is a group of keys; write one of its keys, such as hydra.run.dir=<folder>",
    ),
    (
        "resume_mode=warm_start",
        "resume_mode=warm_start needs a run; write resume=<its folder or MLflow run id>",
    ),
    (
        "model=resnet",
        "model=resnet: unknown model; write model=torchvision model.name=resnet18",
    ),
    (
        "data=csv",
        "data.path is not set, and data=csv reads a file; write data.path=<table.csv>",
    ),
    (
        "data.val_fraction=0.9999",
        (
            "data.val_fraction=0.9999 leaves none of 1437 training samples; write data.val_fraction=0, or a "
            "smaller fraction"
        ),
    ),
    (
        "'data.mean=[1,2]'",
        "data.mean has 2 values, but the samples have 1 channels or features; write one value",
    ),
    (
        "loss=mse",
        "loss=mse needs values, but the targets are named classes; write loss=cross_entropy",
    ),
    (
        "trainer.monitor=val/acc",
        "trainer.monitor=val/acc is not measured with loss=cross_entropy; did you mean val/accuracy?",
    ),
    (
        "data.val_fraction=0 trainer.early_stopping.patience=2",
        (
            "trainer.early_stopping.patience needs validation samples; write data.val_fraction=0.2, or "
            "trainer.monitor=train/loss"
        ),
    ),
    (
        "model=custom",
        "model._target_ is missing; write model._target_=<package.module.Name>",
    ),
    (
        "model=custom model._target_=no_such.Net",
        (
            "model._target_=no_such.Net cannot be imported: there is no module no_such; install it, or start from"
            " its folder"
        ),
    ),
    (
        "optimizer._target_=math.sqrt",
        (
            "optimizer._target_=math.sqrt has no parameter params or model, so it cannot return a "
            "torch.optim.Optimizer; name a torch.optim.Optimizer, or a function that returns one"
        ),
    ),
    (
        "model=cnn 'model.strides=[1]'",
        (
            "model.strides=[1] must have one number for each of model.channels=[32, 64, 128]; write "
            "model.strides=[1,2,2]"
        ),
    ),
    (
        "model=torchvision model.name=vgg11",
        (
            "model.name=vgg11 requires images of at least 32x32 pixels, found 8x8; write model.name=resnet18, "
            "which takes any size"
        ),
    ),
    (
        "tracking=server",
        "tracking.uri is missing; write tracking.uri=http://127.0.0.1:5000",
    ),
    (
        "tracking.uri=http://localhost:5000",
        (
            "tracking.uri=http://localhost:5000 is not the address of a database; add tracking=server, or write "
            "tracking.uri=null"
        ),
    ),
    (
        "'tracking.tags={a@b:1}'",
        "tracking.tags.a@b=1: MLflow refuses the name; write a name such as a_b",
    ),
    (
        "resume=nothing",
        "resume=nothing: the folder does not exist; write the folder of a run, or an MLflow run id",
    ),
    (
        "-m model=mlp,cn optimizer.lr=0.1,-1",
        "jobs 1, 3 (lr=-1): optimizer.lr=-1 is out of range; write a number above 0",
        "jobs 2, 3 (model=cn): model=cn: unknown model; did you mean cnn?",
    ),
    (
        "-m seed=1,2 sweep.metric=val/los",
        "sweep.metric=val/los is not measured by all jobs; did you mean sweep.metric=val/loss?",
    ),
    (
        "-m 'optimizer.lr=interval(0.1,1)'",
        (
            "optimizer.lr=interval(0.1,1): a grid needs a list of values; write optimizer.lr=0.1,1.0, or add "
            "hydra/sweeper=random"
        ),
    ),
    (
        "sweep.jobs=2",
        "sweep.jobs=2 is for a sweep; add --multirun",
    ),
    (
        "data=tensors 'data.inputs=[[1],[2]]' 'data.targets=[0,0]' data.val_fraction=0",
        (
            "data=tensors: classification needs at least two classes, all 2 samples have class 0; if others are "
            "rare, write data.classes=2; for numbers write loss=mse"
        ),
    ),
    (
        "data=tensors 'data.inputs=[[1],[2]]' 'data.targets=[0,2]' data.classes=2 data.val_fraction=0",
        "data.classes=2 allows targets 0 to 1, they are 0 to 2; write data.classes=3",
    ),
]
"""Arguments, and the lines that answer them, without `error: `."""


@pytest.mark.usefixtures("delivery_here")
@pytest.mark.parametrize(
    ("typed", "lines"), [(typed, lines) for typed, *lines in GOLDEN], ids=[row[0] for row in GOLDEN]
)
def test_a_problem_is_one_plain_sentence(typed: str, lines: list[str], runner: Callable[..., Called]) -> None:
    called = runner(*shlex.split(typed))
    assert called.code == 2
    assert called.err.splitlines() == [f"error: {line}" for line in lines]
