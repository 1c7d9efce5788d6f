"""Compare a step on several ranks with that of a bare loop around torch's engine."""

import json
import tempfile
from functools import partial
from pathlib import Path

from measuring import Budget, Figures, Group
from processes import PYTHON, run
from samples import mnist_root

STEPS = str(Path(__file__).with_name("ranked_steps.py"))


def groups(folder: Path, full: bool) -> list[Group]:
    """Return a group for one rank and one for two.

    Args:
        folder: for files of the measurements.
        full: measure at the size that the budgets are meant for; else just enough for the order of magnitude.
    """
    return [_step(folder / f"ranks_{ranks}", ranks, 21 if full else 5) for ranks in (1, 2)]


def _step(folder: Path, ranks: int, rounds: int) -> Group:
    def measure(root: str) -> Figures:
        with tempfile.TemporaryDirectory() as place:
            file = Path(place) / "figures.json"
            torchrun = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}"]
            run([*PYTHON, *torchrun, STEPS, str(file), root, str(rounds)], Path(place), {"OMP_NUM_THREADS": "1"})
            figures: Figures = json.loads(file.read_text())
            return figures

    name = f"ranks_{ranks}"
    what = f"a step of the MNIST MLP on {ranks} rank{'s' * (ranks > 1)}, global batch 64, Gloo"
    budget = Budget(
        name, what, "a bare loop around DistributedDataParallel", 1.05, f"{name}.runner", [f"{name}.bare"], "ms"
    )
    return Group(lambda: {name: partial(measure, str(mnist_root(folder)))}, [budget])
