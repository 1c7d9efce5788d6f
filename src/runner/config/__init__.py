"""The config: composing it from YAML and the command line, and checking it. Hydra and OmegaConf are used here."""
