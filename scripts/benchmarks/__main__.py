"""`scripts/bench [--full] [name ...]`: measure in pairs, one after the other, and say which budgets are kept."""

import argparse
import csv
import statistics
import sys
import time
from dataclasses import dataclass, fields
from pathlib import Path

from cases import REPOSITORY, Case, cases, mnist_root

PAIRS, PAIRS_QUICK = 5, 1


@dataclass(frozen=True)
class Measured:
    """A line of the table that was measured.

    Attributes:
        ratio: the median of the pairs' ratios, and `low` and `high` the smallest and the largest.
        ours: the median of what was measured.
        theirs: the median of what it is compared with.
    """

    name: str
    what: str
    against: str
    most: float
    ratio: float
    low: float
    high: float
    ours: float
    theirs: float

    @property
    def kept(self) -> bool:
        """Whether the budget is kept."""
        return self.ratio <= self.most


def measure(case: Case, pairs: int) -> Measured:
    """Measure one and the other in turn: a machine's own speed changes in between."""
    ours, theirs = [], []
    for number in range(pairs):
        for measured, measure_once in ((ours, case.ours), (theirs, case.theirs))[:: -1 if number % 2 else 1]:
            measured.append(measure_once())
    ratios = [one / other for one, other in zip(ours, theirs, strict=True)]
    return Measured(
        case.name, case.what, case.against, case.most, statistics.median(ratios), min(ratios), max(ratios),
        statistics.median(ours), statistics.median(theirs),
    )  # fmt: skip


def main() -> int:
    """Measure what is asked for; 0 if all budgets are kept."""
    parser = argparse.ArgumentParser(prog="scripts/bench", description=__doc__)
    parser.add_argument("--full", action="store_true", help=f"{PAIRS} pairs of whole epochs, instead of a look")
    parser.add_argument("name", nargs="*", help="lines of the table; all, if none is named")
    options = parser.parse_args()
    root = mnist_root()
    if root is None:
        print("error: MNIST is not here: set RUNNER_DATA to the folder with MNIST/raw in it", file=sys.stderr)
        return 2
    table = cases(root, options.full)
    names = [case.name for case in table]
    if unknown := [name for name in options.name if name not in names]:
        print(f"error: {', '.join(unknown)}: choose from {', '.join(names)}", file=sys.stderr)
        return 2
    began, measured = time.monotonic(), []
    for case in table:
        if not options.name or case.name in options.name:
            measured.append(measure(case, PAIRS if options.full else PAIRS_QUICK))
            print(line(measured[-1]), flush=True)
    folder = REPOSITORY / "outputs" / "bench"
    write(folder, measured)
    print(f"{time.monotonic() - began:.0f} s; written to {folder}", file=sys.stderr)
    return 0 if all(one.kept for one in measured) else 1


def line(one: Measured) -> str:
    """A measured line, for people."""
    verdict = "kept" if one.kept else "NOT KEPT"
    spread = f"({one.low:.3f}-{one.high:.3f})"
    return f"{one.name:<14} {one.ratio:6.3f} {spread:<16} at most {one.most:.3f}  {verdict:<8}  {one.what}, against {one.against}"


def write(folder: Path, measured: list[Measured]) -> None:
    """Write the table as CSV, and draw it."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "bench.csv").open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        rows.writerow([field.name for field in fields(Measured)])
        rows.writerows([getattr(one, field.name) for field in fields(Measured)] for one in measured)
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(8, 0.5 + 0.45 * len(measured)), layout="constrained")
    shares = [one.ratio / one.most for one in measured]
    axes.barh([one.name for one in measured], shares, color=["C0" if one.kept else "C3" for one in measured])
    axes.axvline(1.0, color="black", linewidth=1)
    axes.bar_label(axes.containers[0], [f" {one.ratio:.2f} of {one.most:.2f}" for one in measured])
    axes.set(xlabel="share of the budget", xlim=(0, max(1.3, 1.25 * max(shares))))
    axes.invert_yaxis()
    figure.savefig(folder / "bench.png", dpi=120)


if __name__ == "__main__":
    sys.exit(main())
