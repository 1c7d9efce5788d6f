"""A past run, read back from its folder or from MLflow: config, inputs, weights."""
