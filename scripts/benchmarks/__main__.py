"""`scripts/bench [--full] [name ...]`: measure runner against hand-written loops and report which budgets are met."""

import argparse
import csv
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import astuple
from pathlib import Path

from measuring import COLUMNS, Measured, measure
from table import table

ROUNDS, ROUNDS_QUICK = 9, 1
FOLDER = Path(__file__).resolve().parents[2] / "outputs" / "bench"


def main() -> int:
    """Measure the chosen lines; return 0 if all budgets are met."""
    parser = argparse.ArgumentParser(prog="scripts/bench", description=__doc__)
    parser.add_argument("--full", action="store_true", help=f"{ROUNDS} rounds of whole epochs, instead of a quick look")
    parser.add_argument(
        "--earlier", type=Path, metavar="FOLDER", help="a checkout of an earlier commit to compare with"
    )
    parser.add_argument("name", nargs="*", help="lines of the table; default: all")
    options = parser.parse_args()
    for one in (signal.SIGTERM, signal.SIGHUP):  # exit normally, so that no stopped process stays behind
        signal.signal(one, lambda number, _: sys.exit(128 + number))
    began, measured, complete = time.monotonic(), list[Measured](), True
    name = "bench" if options.full and not options.name else "bench_look"
    with tempfile.TemporaryDirectory() as made:
        groups = table(Path(made), options.full, options.earlier)
        names = [budget.name for group in groups for budget in group.budgets]
        if unknown := [name for name in options.name if name not in names]:
            print(f"error: {', '.join(unknown)}: choose from {', '.join(names)}", file=sys.stderr)
            return 2
        for group in groups:
            budgets = [budget for budget in group.budgets if not options.name or budget.name in options.name]
            if not budgets:
                continue
            if why := group.unavailable():
                for budget in budgets:
                    print(f"{budget.name:<14} not measured: {why}", flush=True)
                continue
            try:
                measured += measure(group, budgets, ROUNDS if options.full else ROUNDS_QUICK, _going_on)
            except RuntimeError as error:
                complete = False
                _going_on("")
                print(f"error: {', '.join(budget.name for budget in budgets)}: {error}", file=sys.stderr)
                continue
            _going_on("")
            print(*map(line, measured[len(measured) - len(budgets) :]), sep="\n", flush=True)
            write(FOLDER, name, measured)
    where = f"; {name}.csv and {name}.png are in {FOLDER}" if measured else ""
    print(f"{time.monotonic() - began:.0f} s{where}", file=sys.stderr)
    return 0 if complete and measured and all(one.met for one in measured) else 1


def line(one: Measured) -> str:
    """Format a measured line for the terminal."""
    verdict = "met" if one.met else "EXCEEDED"
    spread = f"({one.low:.3f}-{one.high:.3f})"
    ours = f"{one.ours:.3g} ({one.ours_low:.3g}-{one.ours_high:.3g}) {one.unit}"
    theirs = f"{one.theirs:.3g} ({one.theirs_low:.3g}-{one.theirs_high:.3g})"
    return (
        f"{one.name:<14} {one.ratio:5.3f} {spread:<15} at most {one.most:.3f}  {verdict:<8}  {ours} against {theirs}  "
        f"{one.what}, against {one.against}"
    )


def write(folder: Path, name: str, measured: Sequence[Measured]) -> None:
    """Write the table as `<name>.csv` and draw it as `<name>.png`."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / f"{name}.csv").open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        rows.writerow(COLUMNS)
        rows.writerows(map(astuple, measured))
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(8, 1.0 + 0.4 * len(measured)), layout="constrained")
    shares = [one.ratio / one.most for one in measured]
    bars = axes.barh([one.name for one in measured], shares, color=["C0" if one.met else "C3" for one in measured])
    spread = [
        (share - one.low / one.most, one.high / one.most - share) for one, share in zip(measured, shares, strict=True)
    ]
    axes.errorbar(shares, range(len(shares)), xerr=list(zip(*spread, strict=True)), fmt="none", ecolor="0.3", capsize=2)
    for bar, one in zip(bars, measured, strict=True):  # inside the bar, where no error bar crosses it
        text = f"{one.ratio:.2f} of {one.most:.2f}"
        axes.text(0.015, bar.get_y() + bar.get_height() / 2, text, va="center", color="white")
    axes.axvline(1.0, color="black", linewidth=1)
    axes.set(xlabel="ratio as a share of its budget (median, and range of the rounds)")
    axes.set_xlim(0, 1.25 * max(1.0, *(one.high / one.most for one in measured)))
    axes.invert_yaxis()
    figure.savefig(folder / f"{name}.png", dpi=120)


def _going_on(text: str) -> None:
    """Show on a terminal what is being measured; the next call overwrites the line."""
    if sys.stderr.isatty():
        print(f"\r\x1b[K{text}", end="", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
