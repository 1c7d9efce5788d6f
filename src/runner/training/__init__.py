"""The training loop and its state. No Hydra, no OmegaConf, no MLflow."""
