"""Comparison of runs: reads, compares and ranks them. No matplotlib."""
