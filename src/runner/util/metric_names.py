"""What the names of metrics say: which way is better, and how a value is written."""

PARTS = ("train", "val", "test")
"""Of the data, as `val/loss` names them."""


def higher_is_better(metric: str) -> bool:
    """Which way is better, as far as a name tells: accuracies and R2 rise; what else does, its loss says."""
    return metric.endswith(("/accuracy", "/r2"))


def format_metric(name: str, value: float) -> str:
    """A metric's value for people: accuracies in per cent, small losses with their leading digits."""
    if name.endswith("accuracy"):
        return f"{100 * value:6.2f} %"
    return f"{value:.4f}" if abs(value) >= 0.01 or value == 0 else f"{value:.3g}"
