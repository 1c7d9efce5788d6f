"""What a run leaves behind: the folder is the truth, MLflow is told from it and may lag."""
