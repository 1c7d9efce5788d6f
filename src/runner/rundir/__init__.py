"""The folder of a run: file names, lock, journal, manifest, checkpoints. No MLflow."""
