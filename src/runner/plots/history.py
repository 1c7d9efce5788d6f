"""The curves of a run in one figure, for a notebook."""

import io
from collections.abc import Mapping

import matplotlib as mpl
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from runner.plots.curves import COLORS, LOOKS, MARKERS, MOST_MARKERS, PARTS, Look
from runner.plots.drawing import GREY, STYLE
from runner.plots.thinning import thin
from runner.rundir.points import Curve

COLUMNS = 3
MOST = 6
"""Metrics that are drawn."""


class History(Figure):
    """A figure that a notebook shows without `%matplotlib inline`."""

    def _repr_png_(self) -> bytes:
        file = io.BytesIO()
        self.savefig(file, format="png")
        return file.getvalue()


def draw_history(curves: Mapping[str, Curve], best_epoch: int | None = None) -> Figure:
    """Draw the loss and other metrics of training and validation over the epochs, side by side.

    Args:
        curves: those of the journal, by the full names of the metrics; those by step are left out.
        best_epoch: is marked.
    """
    names = {name.partition("/")[2] for name in curves if name.partition("/")[0] in PARTS and name[-5:] != "_step"}
    known = list(LOOKS)
    chosen = sorted(names, key=lambda name: (known.index(name) if name in known else len(known), name))[:MOST]
    columns, rows = max(1, min(len(chosen), COLUMNS)), max(1, -(-len(chosen) // COLUMNS))
    with mpl.rc_context(STYLE):
        figure = History((4.4 * columns, 3.2 * rows), dpi=100, layout="constrained")
        FigureCanvasAgg(figure)
        for place, name in enumerate(chosen, start=1):
            axes, look = figure.add_subplot(rows, columns, place), LOOKS.get(name, Look(name))
            for part, label in PARTS.items():
                if (curve := curves.get(f"{part}/{name}")) is None:
                    continue
                marker = MARKERS[part] if len(curve.steps) <= MOST_MARKERS else None
                values = look.factor * np.where(np.isfinite(curve.values), curve.values, np.nan)
                axes.plot(*thin(curve.steps, values), color=COLORS[part], marker=marker, markersize=4, label=label)
            if look.log_scale and all((np.asarray(line.get_ydata()) > 0).all() for line in axes.lines):
                axes.set_yscale("log")
            if best_epoch:
                axes.axvline(best_epoch, color=GREY, linestyle=":", label=f"best epoch: {best_epoch:,}")
            axes.set(xlabel="epoch", ylabel=look.label)
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
            axes.legend()
    return figure
