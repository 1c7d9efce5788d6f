"""MLflow, and nothing else: a separate process uploads what the folder of a run holds, and may lag behind it."""
