"""Results of the jobs: outcomes, the table, the parent run in MLflow."""
