"""Models to choose from, and their checks before training."""
