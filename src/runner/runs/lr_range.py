"""A run that only looks for a learning rate: `debug=lr_range`."""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from runner.assembly.experiment import Experiment
from runner.config.keys import flatten
from runner.errors import first_line
from runner.rundir import layout
from runner.rundir.folders import display_path
from runner.training.lr_range import DIVERGED, RangeTest, range_test
from runner.training.state import Training
from runner.util.files import write_atomically

log = logging.getLogger("runner")

SUGGESTION = "lr_range/suggestion"
"""The metric of the suggested rate."""

TABLE, PLOT = "lr_range.csv", "lr_range.png"


def find_rate(state: Training, experiment: Experiment, folder: Path) -> dict[str, float]:
    """Test a range of learning rates, write table and plot, and log a suggestion to type.

    Returns:
        The suggested rate, by the name of its metric; empty without one.
    """
    settings = state.settings.lr_range
    log.info("lr range   %s steps from %g to %g", f"{settings.steps:,}", settings.lowest, settings.highest)
    result = range_test(state)
    for step, (rate, loss, smoothed) in enumerate(zip(result.rates, result.losses, result.smoothed, strict=True), 1):
        state.log({"lr_range/lr": rate, "lr_range/loss": loss, "lr_range/smoothed_loss": smoothed}, step)
    _write(result, folder / layout.PLOTS)
    if result.diverged:
        last = f"{result.rates[-1]:.3g}" if result.rates else "the first rate"
        log.info("           ended at %s: the loss is %g times the best, or not finite", last, DIVERGED)
    if (place := result.suggestion) is None:
        log.warning("suggestion none: the loss does not fall; write another trainer.lr_range.lowest, highest or steps")
        return {}
    typed = _as_typed(result.rates[place], float(state.optimizer.param_groups[0]["lr"]), experiment.config["optimizer"])
    log.info("suggestion %s   (steepest descent of the smoothed loss)", typed)
    log.info("           %s", display_path(folder / layout.PLOTS / PLOT))
    return {SUGGESTION: float(f"{result.rates[place]:.3g}")}


def _as_typed(rate: float, now: float, optimizer: Mapping[str, Any]) -> str:
    """Return the overrides of a rate, and of all others of the optimizer, which rise by the same factor."""
    others = {
        f"optimizer.{key}": float(value) * rate / now
        for key, value in flatten(optimizer).items()
        if key != "lr" and (key.endswith("_lr") or (key.startswith("groups.") and key.endswith(".lr"))) and now
    }
    return " ".join(f"{key}={value:.3g}" for key, value in {"optimizer.lr": rate, **others}.items())


def _write(result: RangeTest, folder: Path) -> None:
    """Write table and plot; a plot that cannot be drawn is only a warning."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = zip(result.rates, result.losses, result.smoothed, strict=True)
    lines = ["lr,loss,smoothed_loss", *(",".join(map(repr, row)) for row in rows)]
    write_atomically(folder / TABLE, "\n".join(lines) + "\n")
    if not result.rates:
        return
    try:
        from runner.plots.lr_range import draw

        draw(result.rates, result.losses, result.smoothed, result.suggestion, folder)
    except Exception as error:  # matplotlib may raise anything
        log.warning("the plot could not be drawn: %s: %s", type(error).__name__, first_line(error))
        log.debug("", exc_info=True)
