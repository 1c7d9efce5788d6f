"""Sweeps: planning, checking, running and ranking many runs."""
