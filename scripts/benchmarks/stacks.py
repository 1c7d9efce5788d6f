"""Compare sweeps whose jobs are trained as one program with those of one process a job, and a step of the two."""

import json
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

from measuring import Budget, Contestants, Figures, Group
from processes import PYTHON, run, runner, whole
from samples import mnist_root

STEPS = str(Path(__file__).with_name("stacked_steps.py"))
RATES = ("optimizer.lr=0.1,0.05,0.03,0.02,0.01,0.005,0.002,0.001", "seed=0,1,2,3,4,5,6,7")
ALONE = "the same with hydra/launcher=local"


def groups(folder: Path, full: bool) -> list[Group]:
    """Return the groups of lines about stacked sweeps.

    Args:
        folder: for files of the measurements.
        full: measure at the size that the budgets are meant for; else just enough for the order of magnitude.
    """
    digits = (*RATES, f"trainer.epochs={20 if full else 4}")
    rates = ",".join(str(0.002 * number) for number in range(1, 17))

    def mlp() -> list[str]:
        root = mnist_root(folder / "stacked_mnist")
        return ["data=mnist", f"data.root={root}", f"optimizer.lr={rates}", f"trainer.epochs={3 if full else 1}"]

    what = "64 digits jobs over lr and seed, 20 epochs, whole process"
    lines: dict[str, tuple[Callable[[], list[str]], str, float]] = {
        "stacked": (lambda: [*digits, "sweep.artifacts=best"], f"{what}, sweep.artifacts=best", 1 / 3),
        "stacked_all": (lambda: [*digits], what, 1 / 2),
        "stacked_mlp": (mlp, "16 MNIST MLP jobs over lr, 3 epochs, whole process", 0.7),
    }
    made = [
        Group(
            partial(_both, folder / name, arguments),
            [Budget(name, what, ALONE, most, "stacked.seconds", ["local.seconds"])],
        )
        for name, (arguments, what, most) in lines.items()
    ]
    return [*made, _step(64, 20 if full else 4)]


def _both(folder: Path, arguments: Callable[[], list[str]]) -> Contestants:
    """Return the sweep with both launchers, each in a folder that has a store."""
    contestants: Contestants = {}
    for launcher in ("stacked", "local"):
        place = folder / launcher
        place.mkdir(parents=True)
        runner("trainer.epochs=1", folder=place)
        words = ["-m", "runner", "--multirun", f"hydra/launcher={launcher}", *arguments()]
        contestants[launcher] = partial(whole, *words, folder=place)
    return contestants


def _step(models: int, rounds: int) -> Group:
    def measure() -> Figures:
        with tempfile.TemporaryDirectory() as place:
            file = Path(place) / "figures.json"
            run([*PYTHON, STEPS, str(file), str(models), str(rounds)], Path(place), {"OMP_NUM_THREADS": "1"})
            figures: Figures = json.loads(file.read_text())
            return figures

    what = f"a step of {models} stacked digits models, one core"
    budget = Budget("stacked_step", what, f"{models} steps of one", 1 / 5, "steps.stacked", ["steps.alone"], "ms")
    return Group(lambda: {"steps": measure}, [budget])
