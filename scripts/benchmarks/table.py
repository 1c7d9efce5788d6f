"""The lines of the table: what is measured against what, and the budget."""

import os
import subprocess
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path

import serving
import several_ranks
import stacks
from earlier import groups
from large_model import LargeModel
from long_run import LongRun
from measuring import Budget, Contestants, Figures, Group
from processes import PYTHON, Run, peer, runner, whole
from reading import make
from samples import has_mnist, mnist_root, photographs
from turns import warm

from runner.util.cores import usable_cores

PIXELS = 64  # side of the photographs as ResNet-18 gets them
WORKERS = 1  # with 0, 1 and 2 an epoch takes the same time on two cores


def _seconds(run: Run) -> Figures:
    """Return the seconds of each epoch, of each validation and of the whole process, and the megabytes."""
    figures = {
        "seconds": warm(run.metrics["time/epoch_seconds"]),
        "megabytes": [run.done.megabytes],
        "whole": [run.done.seconds],
    }
    if "time/validation_seconds" in run.metrics:
        figures["validation"] = warm(run.metrics["time/validation_seconds"])
    return figures


def _total(run: Figures) -> Figures:
    """Add the sum of all epochs: work in only some of them counts with its share."""
    return {**run, "total": [sum(run["seconds"])]}


def table(folder: Path, full: bool, earlier: Path | None = None) -> list[Group]:
    """Return the groups of the table.

    Args:
        folder: for files of the measurements.
        full: measure at the size that the budgets are meant for; else just enough for the order of magnitude.
        earlier: a checkout of an earlier commit, which some lines compare with.
    """
    images = 48_000 if full else 16_000
    return [
        _epoch(folder, "mlp", images, 9 if full else 4, 1.03, "a bare tensor loop", every_core=True),
        _tracking_and_validation(folder, images // 5, images // 4, 61 if full else 11),
        _memory(folder, 48_000),  # with fewer images the imports would dominate
        _large_model(folder / "large_model"),
        _others(folder, images // 8),
        _epoch(folder, "cnn", images // 12, 5 if full else 2, 1.05, "a bare loop, channels_last", channels_last=True),
        _char_gpt(480 if full else 240, 9 if full else 4),
        _cnn_amp(folder, images // 12),
        _busy_digits(37 if full else 10),  # the first epoch of each warms up
        _busy_mlp(folder, images, 10),
        _tiny(10_000 if full else 2_000),
        _four(images, 7 if full else 4),
        _history(50_000 if full else 10_000, 1_000_000 if full else 100_000),
        _long_run(folder / "long_run", 1_000_000 if full else 100_000),
        _reading(folder / "table.csv", 2_000_000 if full else 200_000),
        _start(folder / "started"),
        _sweep(folder / "started"),
        _images(folder / "photographs", 4_000 if full else 400),
        _image_cache(folder / "photographs", 4_000 if full else 400),
        serving.group(folder / "started"),
        *stacks.groups(folder, full),
        *several_ranks.groups(folder, full),
        *groups(folder, earlier, 500 if full else 50),
    ]


def _make_store(folder: Path) -> None:
    """Do a first run in a folder, unless one was done: most runs use an existing store."""
    folder.mkdir(exist_ok=True)
    if not (folder / "outputs" / "mlflow.db").exists():
        runner("trainer.epochs=1", folder=folder)


def _mnist(
    folder: Path,
    model: str,
    samples: int,
    epochs: int,
    *overrides: str,
    environment: Mapping[str, str] | None = None,
    weigh: bool = False,
    held_out: int | None = None,
    place: Path | None = None,
) -> Figures:
    """Run on this many images of MNIST, validated on others, by default a quarter as many."""
    held_out = samples // 4 if held_out is None else held_out
    limit = samples + held_out
    return _seconds(
        runner(
            f"model={model}", "data=mnist", f"data.root={mnist_root(folder)}", f"data.limit={limit}",
            f"data.val_fraction={held_out / limit}", "data.batch_size=64", "device=cpu",
            "optimizer=sgd", "optimizer.lr=0.01", "scheduler=constant", f"trainer.epochs={epochs}",
            f"tracking.log_model={weigh}", *overrides, environment=environment, weigh=weigh, folder=place,
        )
    )  # fmt: skip


def _epoch(
    folder: Path,
    model: str,
    samples: int,
    epochs: int,
    most: float,
    against: str,
    channels_last: bool = False,
    every_core: bool = False,
) -> Group:
    """Compare by turns, epoch by epoch: the difference is a few hundredths.

    The bare loop computes on every core. A small model does so in runner only if asked to (see `util/cores.py`), which
    `every_core` measures too.
    """

    def prepare() -> Contestants:
        loop = {"root": mnist_root(folder), "model": model, "samples": samples, "epochs": epochs}
        ours = partial(_mnist, folder, model, samples, epochs, "scheduler._target_=turns.schedule")
        asked = {"every_core": partial(ours, f"device.threads={usable_cores()}")} if every_core else {}
        return {"runner": ours, **asked, "bare": partial(peer, "tensors", channels_last=channels_last, **loop)}

    what, bare = f"{model.upper()} epoch, {_images_of(samples)}, batch 64, fp32", ["bare.seconds"]
    budgets = [Budget(model, what, against, most, "runner.seconds", bare)]
    if every_core:
        asked = f"the same, device.threads={usable_cores()}"
        budgets.append(Budget(f"{model}_every_core", asked, against, most, "every_core.seconds", bare))
    return Group(prepare, budgets, turns=True)


def _tracking_and_validation(folder: Path, samples: int, held_out: int, epochs: int) -> Group:
    """Compare by many short turns: the difference is smaller than the machine's own from second to second."""

    def prepare() -> Contestants:
        def ours(*overrides: str, environment: Mapping[str, str]) -> Figures:
            options = ("scheduler._target_=turns.schedule", *overrides)
            return _total(_mnist(folder, "mlp", samples, epochs, *options, environment=environment, held_out=held_out))

        loop = {"root": mnist_root(folder), "samples": samples, "held_out": held_out, "epochs": epochs}
        return {
            "untracked": partial(ours, "tracking=off"),
            "runner": ours,
            "forward": partial(peer, "forward", **loop),
        }

    return Group(
        prepare,
        [
            Budget("tracking", f"{epochs - 1} MLP epochs, {_images_of(samples)}, tracking local", "tracking=off", 1.02,
                   "runner.total", ["untracked.total"]),
            Budget("validation", f"validation of {held_out:,} images", "the forward pass, best batch size", 1.10,
                   "runner.validation", ["forward.seconds"]),
        ],
        turns=True,
    )  # fmt: skip


def _images_of(samples: int) -> str:
    """Describe the training images: MNIST, or noise of its shape."""
    return f"{samples:,} images of MNIST" if has_mnist() else f"{samples:,} images of noise"


def _memory(folder: Path, samples: int) -> Group:
    """Compare the memory of each process with its children, including runner's upload to MLflow."""

    def prepare() -> Contestants:
        root, place = mnist_root(folder), folder / "weighed"
        place.mkdir()
        ours = partial(_mnist, folder, "mlp", samples, 1, weigh=True, place=place)
        ours()  # most runs are not the first: they use an existing store, and know the graph of their model
        return {
            "runner": ours,
            "bare": partial(peer, "tensors", root=root, model="mlp", samples=samples, epochs=1, weigh=True),
        }

    return Group(
        prepare,
        [Budget("memory", "peak memory of an MLP's run, all processes", "the bare loop's process", 1.15,
                "runner.megabytes", ["bare.megabytes"], "MB")],
    )  # fmt: skip


def _large_model(folder: Path) -> Group:
    """Compare the memory of all processes of a run."""

    def prepare() -> Contestants:
        model = LargeModel(folder)
        bare = partial(peer, "large_model.bare", weigh=True)
        return {"resume": model.resume, "save": model.save, "bare": bare}

    what, against = "peak memory, 50 million parameters", "a bare loop with torch.save"
    return Group(
        prepare,
        [
            Budget("resume_memory", f"{what}, resumed", against, 1.15, "resume.peak", ["bare.peak"], "MB"),
            Budget("save_memory", f"{what}, saved for MLflow", against, 1.25, "save.peak", ["bare.peak"], "MB"),
        ],
    )


def _others(folder: Path, samples: int) -> Group:
    def prepare() -> Contestants:
        loop = {"root": mnist_root(folder), "model": "mlp", "samples": samples, "epochs": 2}
        return {
            "runner": partial(_mnist, folder, "mlp", samples, 2),
            "notebook": partial(peer, "notebook", **loop),
            "lightning": partial(peer, "lightning", **loop),
        }

    return Group(
        prepare,
        [
            Budget("mlp_notebook", f"MLP epoch, {_images_of(samples)}", "the notebooks' loop", 1 / 6,
                   "runner.seconds", ["notebook.seconds"]),
            Budget("mlp_lightning", "the same", "Lightning's Trainer on the notebooks' loader", 1 / 8,
                   "runner.seconds", ["lightning.seconds"]),
        ],
    )  # fmt: skip


def _char_gpt(samples: int, epochs: int) -> Group:
    """Compare by turns a GPT of characters in nanoGPT's shape."""

    def ours(environment: Mapping[str, str]) -> Figures:
        return _seconds(
            runner(
                "model=gpt", "data=text", "task=language_model", f"data.limit={samples}", "device=cpu",
                "optimizer=adamw", "optimizer.lr=1e-3", "scheduler=constant", "scheduler._target_=turns.schedule",
                f"trainer.epochs={epochs}", f"trainer.validate_every_epochs={epochs}", "tracking.log_model=false",
                environment=environment,
            )
        )  # fmt: skip

    options = {"samples": samples, "epochs": epochs}
    what = f"epoch of a GPT, {samples} windows of 128 characters, batch 12"
    return Group(
        lambda: {
            "runner": ours,
            "bare": partial(peer, "char_gpt", **options),
            "lightning": partial(peer, "char_gpt_lightning", **options),
        },
        [
            Budget("char_gpt", what, "a bare tensor loop", 1.03, "runner.seconds", ["bare.seconds"]),
            Budget("char_gpt_lightning", "the same", "Lightning's Trainer", 1.0, "runner.seconds",
                   ["lightning.seconds"]),
        ],
        turns=True,
    )  # fmt: skip


def _cnn_amp(folder: Path, samples: int) -> Group:
    def slow_here() -> str:
        import torch  # late: pages that this process shares with a contestant would not count fully for it

        from runner.precision import Precision

        return (Precision("amp", torch.device("cpu")).slow_here() or "").partition(":")[0]

    def prepare() -> Contestants:
        loop = {"root": mnist_root(folder), "model": "cnn", "samples": samples}
        return {
            "runner": partial(_mnist, folder, "cnn", samples, 2, "precision=amp"),
            "notebook": partial(peer, "notebook", epochs=2, **loop),
        }

    return Group(
        prepare,
        [Budget("cnn_amp", f"CNN epoch, {_images_of(samples)}, precision=amp", "the notebooks' loop", 1 / 3.3,
                "runner.seconds", ["notebook.seconds"])],
        unavailable=slow_here,
    )  # fmt: skip


@contextmanager
def every_core_busy() -> Iterator[list[int]]:
    """Keep each core busy with a process, also between turns; yield the process ids.

    Each process ends by itself when this process is gone, for any reason.
    """
    loop = f"import os\nwhile os.getppid() == {os.getpid()}: pass"
    with ExitStack() as loops:
        started = []
        for core in os.sched_getaffinity(0):
            process = loops.enter_context(subprocess.Popen([*PYTHON, "-c", loop]))
            loops.callback(process.kill)
            os.sched_setaffinity(process.pid, {core})
            started.append(process.pid)
        yield started


def _busy_digits(epochs: int) -> Group:
    def ours(*overrides: str, environment: Mapping[str, str]) -> Figures:
        options = ("scheduler=constant", "scheduler._target_=turns.schedule", "tracking=off", *overrides)
        return _seconds(runner(f"trainer.epochs={epochs}", *options, environment=environment))

    return _busy("busy_digits", "digits epoch, every core busy", ours)


def _busy_mlp(folder: Path, samples: int, epochs: int) -> Group:
    def ours(*overrides: str, environment: Mapping[str, str]) -> Figures:
        options = ("scheduler._target_=turns.schedule", "tracking=off", *overrides)
        return _mnist(folder, "mlp", samples, epochs, *options, environment=environment)

    return _busy("busy_mlp", f"MLP epoch, {_images_of(samples)}, every core busy", ours)


def _busy(name: str, what: str, ours: Callable[..., Figures]) -> Group:
    """Compare the automatic number of threads with one thread by turns, while other programs keep every core busy."""
    return Group(
        lambda: {"auto": ours, "one": partial(ours, "device.threads=1")},
        [Budget(name, what, "device.threads=1", 1.5, "auto.seconds", ["one.seconds"])],
        turns=True,
        around=every_core_busy,
        unavailable=lambda: "" if hasattr(os, "sched_setaffinity") else "only Linux can bind a process to a core",
    )


def _tiny(epochs: int) -> Group:
    def ours() -> Figures:
        """Measure from one logged epoch to another, so that logging and checkpoints between them count."""
        run = runner("experiment=tiny_sigmoid", f"trainer.epochs={epochs}")
        times = run.times["time/epoch_seconds"]
        return {"seconds": [(times[-1] - times[0]) * len(times) / (len(times) - 1)]}

    return Group(
        lambda: {"runner": ours, "bare": partial(peer, "tiny", epochs=epochs)},
        [Budget("tiny", f"tiny_sigmoid, {epochs:,} epochs", "the bare loop", 1.15, "runner.seconds", ["bare.seconds"])],
    )


def _four(samples: int, epochs: int) -> Group:
    """Compare by turns, epoch by epoch."""

    def ours(environment: Mapping[str, str]) -> Figures:
        return _seconds(
            runner(
                "data=custom", "data._target_=four.data", f"+data.count={samples}", "data.val_fraction=0",
                "data.batch_size=64", "model=custom", "model._target_=four.Net", "device=cpu", "optimizer=sgd",
                "optimizer.lr=0.01", "scheduler=constant", "scheduler._target_=turns.schedule",
                f"trainer.epochs={epochs}", "tracking=off", environment=environment,
            )
        )  # fmt: skip

    return Group(
        lambda: {"runner": ours, "bare": partial(peer, "four", samples=samples, epochs=epochs)},
        [Budget("four", f"a dict of four tensors, {samples:,} samples, batch 64", "a bare loop", 1.10,
                "runner.seconds", ["bare.seconds"])],
        turns=True,
    )  # fmt: skip


def _history(epochs: int, points: int) -> Group:
    """Compare a long history with a short one, and with the plainest way to read it."""
    return Group(
        lambda: {
            "saving": partial(peer, "history.checkpoint", epochs=epochs),
            "journal": partial(peer, "history.journal", points=points, by_line=False),
            "json": partial(peer, "history.journal", points=points, by_line=True),
        },
        [
            Budget("checkpoint", f"a checkpoint after {epochs:,} epochs", "one after 5 epochs", 1.1,
                   "saving.late", ["saving.early"]),
            Budget("journal", f"a resume's reading of {points:,} points, CPU time", "json.loads of each line", 1.0,
                   "journal.seconds", ["json.seconds"]),
        ],
    )  # fmt: skip


def _long_run(folder: Path, points: int) -> Group:
    """Compare what a long journal adds with the CPU seconds that it may add."""

    def prepare() -> Contestants:
        made = LongRun(folder, points)
        allowed = {"resume": [3.0], "compare": [1.0]}
        return {"resume": made.resume, "compare": made.compare, "allowed": lambda: allowed}

    added = f"added by a journal of {points:,} points, CPU time"
    return Group(
        prepare,
        [
            Budget("resume", f"a resume, {added}", "3 s", 1.0, "resume.seconds", ["allowed.resume"]),
            Budget("compare", f"runner.compare, {added}", "1 s", 1.0, "compare.seconds", ["allowed.compare"]),
        ],
    )


def _reading(path: Path, rows: int) -> Group:
    """Compare reading a table until its tensors exist with `pandas.read_csv`, in processes with the same imports."""

    def prepare() -> Contestants:
        make(path, rows)
        return {name: partial(peer, f"reading.{name}", path=path) for name in ("csv", "table", "pandas")}

    what, against = f"of a CSV file of {rows:,} rows x 20", "pandas.read_csv"
    return Group(
        prepare,
        [
            Budget("csv", f"data=csv {what}", against, 1.3, "csv.seconds", ["pandas.seconds"]),
            Budget("csv_memory", f"peak memory, data=csv {what}", against, 1.2, "csv.peak", ["pandas.peak"], "MB"),
            Budget("table", f"data=table {what}", against, 1.3, "table.seconds", ["pandas.seconds"]),
            Budget(
                "table_memory", f"peak memory, data=table {what}", against, 1.2, "table.peak", ["pandas.peak"], "MB"
            ),
        ],
    )


def _start(folder: Path) -> Group:
    def prepare() -> Contestants:
        _make_store(folder)
        return {
            "runner": lambda: _seconds(runner("trainer.epochs=1", folder=folder)),
            "imports": partial(whole, "-c", "import torch, torchvision, mlflow"),
            "config": partial(whole, "-m", "runner", "--cfg", "job"),
            "hydra": partial(whole, "-c", "import hydra"),
        }

    return Group(
        prepare,
        [
            Budget("start", "python -m runner trainer.epochs=1", 'python -c "import torch, torchvision, mlflow"', 0.9,
                   "runner.whole", ["imports.seconds"]),
            Budget("config", "python -m runner --cfg job", 'python -c "import hydra"', 4.0,
                   "config.seconds", ["hydra.seconds"]),
        ],
    )  # fmt: skip


def _sweep(folder: Path) -> Group:
    """Compare sixteen jobs with sixteen single runs; one of average length stands for all of these."""
    words = ["optimizer.lr=0.1,0.05,0.02,0.01", "data.batch_size=16,32,64,128", "trainer.epochs=5"]

    def row() -> Figures:
        run = runner("optimizer.lr=0.05", "data.batch_size=32", "trainer.epochs=5", folder=folder)
        return {"seconds": [16 * run.done.seconds]}

    def prepare() -> Contestants:
        _make_store(folder)
        sweep = partial(whole, "-m", "runner", "--multirun", *words, folder=folder)
        return {"sweep": sweep, "row": row}

    return Group(
        prepare,
        [Budget("sweep", "16 jobs on digits, 5 epochs", "16 runs in a row (16 times one of them)", 1 / 5,
                 "sweep.seconds", ["row.seconds"])],
    )  # fmt: skip


def _images(folder: Path, count: int) -> Group:
    def ours() -> Figures:
        return _seconds(
            runner(
                "model=torchvision", "model.name=resnet18", "data=image_folder", f"data.path={folder}",
                f"data.size={PIXELS}", "data.in_memory=false", "data.cache=false", "data.test_fraction=0",
                "data.val_fraction=0", "data.batch_size=64", f"data.num_workers={WORKERS}", "scheduler=constant",
                "trainer.epochs=1", "tracking.log_model=false",
            )
        )  # fmt: skip

    def prepare() -> Contestants:
        photographs(folder, count)
        return {
            "runner": ours,
            "decoding": partial(peer, "decoding", path=folder, size=PIXELS, workers=2),
            "resnet": partial(peer, "resnet", samples=count, size=PIXELS, epochs=1),
        }

    return Group(
        prepare,
        [Budget("images", f"ResNet-18 epoch, {count:,} JPEGs, {PIXELS} px", "decoding and training alone, added", 1.10,
                "runner.seconds", ["decoding.seconds", "resnet.seconds"])],
    )  # fmt: skip


def _image_cache(folder: Path, count: int) -> Group:
    """Compare the second epoch of a run, which reads what the first has decoded, with one that decodes again."""

    def run(cache: str) -> Figures:
        return _seconds(
            runner(
                "model=mlp", "model.hidden=[8]", "data=image_folder", f"data.path={folder}", f"data.size={PIXELS}",
                "data.in_memory=false", f"data.cache={cache}", "data.test_fraction=0", "data.val_fraction=0",
                "data.batch_size=64", "scheduler=constant", "trainer.epochs=2", "tracking.log_model=false",
            )
        )  # fmt: skip

    def prepare() -> Contestants:
        photographs(folder, count)
        return {"cached": partial(run, "auto"), "decoded": partial(run, "false")}

    what = f"second epoch, {count:,} JPEGs, {PIXELS} px, by batch"
    return Group(
        prepare, [Budget("image_cache", what, "data.cache=false", 0.35, "cached.seconds", ["decoded.seconds"])]
    )
