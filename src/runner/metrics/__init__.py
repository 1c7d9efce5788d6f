"""Metrics beside those of the loss: torchmetrics' classes, and functions of the user's.

A metric gets probabilities in float64, or values in the units of the data. Imports neither data nor tasks, and
torchmetrics only for a config that asks for one of its classes.
"""

from runner.metrics.entries import ALIASES, Entry, read_entries
from runner.metrics.make import make_metrics
from runner.metrics.meaning import Meaning, meaning_of
from runner.metrics.measured import Measured, MetricSet

__all__ = ["ALIASES", "Entry", "Meaning", "Measured", "MetricSet", "make_metrics", "meaning_of", "read_entries"]
