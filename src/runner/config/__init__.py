"""From YAML and the command line to one checked config. Hydra and OmegaConf live here."""
