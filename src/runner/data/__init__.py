"""Data sets, and how their samples become batches."""
