"""What a run has measured, as PNG: curves from its journal, and what its model says of the test samples."""

from .curves import draw
from .samples import draw_predictions

__all__ = ["draw", "draw_predictions"]
