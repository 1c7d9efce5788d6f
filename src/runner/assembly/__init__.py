"""From a checked config to an `Experiment` of plain typed objects, with every problem reported together."""
