"""Names of metrics: whether higher is better, and how values are formatted."""

from collections.abc import Mapping

PARTS = ("train", "val", "test")
"""The parts of the data, which the name of a metric begins with: `val/loss`."""


def higher_is_better(metric: str) -> bool:
    """Return whether a metric's name ends in `/accuracy` or `/r2`. A loss says this itself for its own metrics."""
    return metric.endswith(("/accuracy", "/r2"))


def without_details(metrics: Mapping[str, float]) -> dict[str, float]:
    """Return metrics without those of single classes, for a line that should stay short.

    `val/iou/cat` is a detail of `val/iou`. A part of a loss, `val/loss/kl`, is not.
    """

    def is_detail(name: str) -> bool:
        whole = name.rpartition("/")[0]
        return whole in metrics and not whole.endswith("loss")

    return {name: value for name, value in metrics.items() if not is_detail(name)}


def format_metric(name: str, value: float) -> str:
    """Format a value: an accuracy in per cent, a small loss with its leading digits, a large error without its last."""
    if name.endswith("accuracy"):
        return f"{100 * value:6.2f} %"
    if abs(value) >= 1000:  # an error in the units of the data
        return f"{value:,.1f}"
    return f"{value:.4f}" if abs(value) >= 0.01 or value == 0 else f"{value:.3g}"


PEAK_MEMORY = "system/peak_memory_megabytes"
"""The most memory that training needed: of the device, or of the process on a CPU."""
