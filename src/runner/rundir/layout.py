"""The names of the files and folders that a run or a sweep leaves in its folder."""

CONFIG = "config.yaml"
"""The config as it was resolved, without credentials."""

ENVIRONMENT = "environment.txt"
"""Python, machine and installed packages."""

SAMPLES = "samples.json"
"""What a sample of the run's model is: shape, classes, columns."""

JOURNAL = "metrics.jsonl"
"""Every measured value, a line each, written before anything else."""

RESULT = "result.json"
"""Status and final figures, once the run has ended."""

LOG = "run.log"
"""What was printed, with times; and tracebacks."""

CHECKPOINTS = "checkpoints"
LAST, BEST = "last.pt", "best.pt"

PLOTS = "plots"
PROFILE = "profile"

MODEL = "model"
"""The MLflow model."""

SWEEP_PLAN = "sweep.json"
"""The jobs of a sweep, and what they are made from."""

JOB = "job.json"
"""How a job of a sweep has ended."""

JOBS, JOBS_TABLE = "jobs.json", "jobs.csv"
"""What the jobs of a sweep have come to."""
