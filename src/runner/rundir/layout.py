"""The names of the files and folders in the folder of a run or a sweep."""

CONFIG = "config.yaml"
"""The resolved config, without credentials."""

ENVIRONMENT = "environment.txt"
"""Python, machine and installed packages."""

SAMPLES = "samples.json"
"""The samples of the run: shape, classes, columns."""

JOURNAL = "metrics.jsonl"
"""All metrics, one value per line; each is written here first."""

EPOCH_SECONDS = "epoch_seconds.txt"
"""Seconds of training of each finished epoch, one per line."""

ENERGY = "energy.json"
"""Kilowatt-hours of all starts of the run so far."""

RESULT = "result.json"
"""Status and final metrics, once the run has ended."""

LOG = "run.log"
"""The printed lines with their times, and tracebacks."""

LOCK = ".lock"
"""Held by the process that works in the folder."""

TRACKING = ".tracking"
"""Notes on what was uploaded."""

CHECKPOINTS = "checkpoints"
LAST, BEST = "last.pt", "best.pt"

ARTIFACTS = "artifacts"
"""Images, figures and tables that the user's callbacks make."""

OBJECTS = "objects"
"""Pickled objects of a notebook that the config names; also in the folder of all outputs, with data of a notebook."""

CODE = "code"
"""The user's code: a record, and what git does not have of it. A job of a sweep has only the record."""

CODE_RECORD = "code.json"
"""The record in it."""

RANKS = "ranks"
"""The logs of the ranks other than 0, which has the run's own."""

PLOTS = "plots"
PROFILE = "profile"

MODEL = "model"
"""The MLflow model."""

SWEEP_PLAN = "sweep.json"
"""The jobs of a sweep, and the arguments they are made from."""

REHEARSALS = ".rehearsals"
"""What the first of several runs by the same code has found out about resuming it; in the folder of all outputs."""

STACKS = "stacks"
"""The checkpoints of jobs that are trained as one program, a file for each stack, and its log."""

CLEANED = "cleaned.json"
"""When `runner.clean` removed the checkpoints and the model."""

JOB = "job.json"
"""The outcome of a job of a sweep."""

GRAPHS = ".model_graphs"
"""Exported graphs of models, a file each; in the folder of all outputs."""

BEST_SO_FAR = "best_so_far.json"
"""The best results of the jobs of a sweep that have finished, with `sweep.artifacts=best`."""

REQUESTS = "requests"
"""What `runner.steer` asks a running sweep for, and the answers."""

HALVING = "halving.json"
"""Which jobs of a sweep have reached which rung, and with which value."""

FOLDS, OUT_OF_FOLD = "folds.json", "out_of_fold.csv"
"""Of a sweep over folds: what they have together, and the prediction of each training sample out of its fold."""

JOBS, JOBS_TABLE = "jobs.json", "jobs.csv"
"""The results of a sweep's jobs."""

VERDICT, VERDICT_TABLE, VERDICT_TEXT = "verdict.json", "verdict.csv", "verdict.md"
"""Which configuration of several runs is better, with a paragraph for a paper."""
