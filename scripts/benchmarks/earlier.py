"""Compare runner with an earlier commit of itself, in a checkout beside this one."""

import statistics
import tempfile
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import numpy as np
from measuring import Budget, Contestants, Figures, Group
from processes import PYTHON, peer, run, runner, whole
from samples import mnist_root

SWEEP = (
    "--multirun", "optimizer.lr=0.1,0.05,0.03,0.01,0.005,0.003,0.002,0.001", "data.batch_size=32,64",
    "trainer.epochs=5",
)  # fmt: skip
PLANNING = str(Path(__file__).with_name("planning.py"))
SEEDS = 5
GOAL = 0.99
"""The test accuracy that both sides must reach in the mean."""


class Earlier:
    """This commit and an earlier one, each with a folder of its own that has a store and a run.

    Args:
        folder: for both.
        checkout: of the earlier commit.
    """

    def __init__(self, folder: Path, checkout: Path) -> None:
        self._places: dict[str, tuple[Path, Mapping[str, str] | None]] = {}
        for name, environment in (("now", None), ("then", {"PYTHONPATH": str(checkout.resolve() / "src")})):
            place = folder / name
            place.mkdir(parents=True)
            run([*PYTHON, "-m", "runner", "trainer.epochs=1", "hydra.run.dir=digits"], place, environment)
            np.save(place / "new.npy", np.zeros((4, 1, 8, 8), np.float32))
            self._places[name] = place, environment

    def both(self, *arguments: str) -> Contestants:
        """Return whole processes of both sides."""
        return {
            name: partial(whole, *arguments, folder=place, environment=environment)
            for name, (place, environment) in self._places.items()
        }


def groups(folder: Path, checkout: Path | None, jobs: int) -> list[Group]:
    """Return the groups of lines against an earlier commit.

    Args:
        folder: for files of the measurements.
        checkout: of the earlier commit; without it the lines are not measured.
        jobs: of a long sweep.
    """

    def why() -> str:
        return "" if checkout is not None else "it needs --earlier=<a checkout of an earlier commit>"

    def prepared(*arguments: str) -> Callable[[], Contestants]:
        def prepare() -> Contestants:
            assert checkout is not None
            return Earlier(Path(tempfile.mkdtemp(dir=folder)), checkout).both(*arguments)

        return prepare

    lines = {
        "sweep_earlier": (("-m", "runner", *SWEEP), "16 jobs on digits, 5 epochs", 1 / 3),
        "evaluate": (("-m", "runner.evaluate", "run=digits"), "runner.evaluate of a digits run", 0.7),
        "planning": ((PLANNING,), "planning and composing 5,000 jobs, filtered; the earlier one without a filter", 0.5),
        "predict": (("-m", "runner.predict", "run=digits", "input=new.npy"), "runner.predict of a digits run", 0.7),
    }
    made = [
        Group(
            prepared(*arguments),
            [Budget(name, what, "the earlier commit", most, "now.seconds", ["then.seconds"])],
            unavailable=why,
        )
        for name, (arguments, what, most) in lines.items()
    ]
    return [*made, _saves(checkout, why), _mnist_fast(folder, checkout, why), _later_jobs(folder, jobs)]


def _saves(checkout: Path | None, why: Callable[[], str]) -> Group:
    """Compare how long a checkpoint of 50 million parameters and their momentum keeps training from going on."""

    def prepare() -> Contestants:
        assert checkout is not None
        then = {"PYTHONPATH": str(checkout.resolve() / "src")}
        return {"now": partial(peer, "large_model.blocked"), "then": partial(peer, "large_model.blocked", then)}

    what, against = "50 million parameters, SGD with momentum, three checkpoints", "the earlier commit"
    return Group(
        prepare,
        [
            Budget("save_blocks", f"{what}: the wait for one", against, 0.2, "now.seconds", ["then.seconds"]),
            Budget("save_training", f"{what}: 35 steps", against, 1.0, "now.training", ["then.training"]),
        ],
        unavailable=why,
    )


def _mnist_fast(folder: Path, checkout: Path | None, why: Callable[[], str]) -> Group:
    """Compare the seconds of training of `experiment=mnist_fast`; both must reach 99 % in the mean of the seeds."""

    def train(environment: Mapping[str, str] | None) -> Figures:
        seconds, accuracies = list[float](), list[float]()
        for seed in range(SEEDS):
            done = runner(
                "experiment=mnist_fast", f"data.root={mnist_root(folder)}", f"seed={seed}", "tracking=off",
                environment=environment,
            )  # fmt: skip
            seconds.append(sum(done.metrics["time/epoch_seconds"]))
            accuracies.append(done.result["test/accuracy"])
        if (mean := statistics.mean(accuracies)) < GOAL:
            raise RuntimeError(f"mnist_fast reached {mean:.4f} in the mean of {SEEDS} seeds, not {GOAL}")
        return {"seconds": [statistics.mean(seconds)]}

    def prepare() -> Contestants:
        assert checkout is not None
        return {"now": partial(train, None), "then": partial(train, {"PYTHONPATH": str(checkout.resolve() / "src")})}

    return Group(
        prepare,
        [Budget("mnist_fast", f"training to 99 % of MNIST, mean of {SEEDS} seeds", "the earlier commit", 0.6,
                "now.seconds", ["then.seconds"])],
        unavailable=why,
    )  # fmt: skip


def _later_jobs(folder: Path, jobs: int) -> Group:
    """Compare the last fifth of the jobs of a sweep with the first."""
    fifth = jobs // 5

    def sweep() -> Figures:
        with tempfile.TemporaryDirectory(dir=folder) as place:
            seeds = ",".join(map(str, range(jobs)))
            words = [f"seed={seeds}", "trainer.epochs=1", "hydra.sweep.dir=sweep"]
            run([*PYTHON, "-m", "runner", "--multirun", *words], Path(place))
            ends = sorted(file.stat().st_mtime for file in Path(place).glob("sweep/*/job.json"))
            return {"first": [ends[fifth] - ends[0]], "last": [ends[-1] - ends[-1 - fifth]]}

    return Group(
        lambda: {"sweep": sweep},
        [Budget("sweep_long", f"the last {fifth} of {jobs} jobs of one epoch", f"the first {fifth}", 1.1,
                "sweep.last", ["sweep.first"])],
    )  # fmt: skip
