"""`python -m helpers.all_large`: runner, for which the checkpoint of each model is a large one."""

from runner.cli import main
from runner.rundir import checkpoint

if __name__ == "__main__":
    checkpoint.LARGE = 1
    main()
