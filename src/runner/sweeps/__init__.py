"""Sweeps: which jobs there are, that all of them can run, running them, and what came of them."""
