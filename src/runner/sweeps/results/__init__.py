"""What the jobs have come to: outcomes, the table, the parent run in MLflow."""
