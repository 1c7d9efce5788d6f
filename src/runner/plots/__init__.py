"""Plots as PNG: curves from the journal, predictions for the test samples, comparisons, sweeps."""
