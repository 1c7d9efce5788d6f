"""Launchers: local processes, Ray, Slurm; and the slots that jobs run in."""
