"""Plan a sweep of 5,000 points and compose its jobs: `planning.py`, in a process of this commit or of version 0.1.0.

This commit filters the points too, and keeps all of them, which is the most work.
"""

import sys
from importlib.util import find_spec

from hydra.types import RunMode

POINTS = ["optimizer.lr=range(1,1251)", "model=mlp,simple_nn", "data.batch_size=32,64", "trainer.epochs=2"]


def now() -> int:
    """Return the number of jobs that this commit has composed."""
    from runner.config.compose import Composer
    from runner.sweeps.check import preflight
    from runner.sweeps.plan import grid
    from runner.sweeps.plan.job_configs import JobConfigs

    composer = Composer()
    composer.compose([*POINTS, "hydra.job.num=0"], RunMode.MULTIRUN)
    planned = grid.plan(composer, POINTS, {}, "optimizer.lr * data.batch_size > 0 and model != 'cnn'")
    return len(preflight.compose(JobConfigs(composer), planned.jobs)[0])


def of_0_1_0() -> int:
    """Return the number of jobs that version 0.1.0 has composed."""
    from runner.compose import Composer  # type: ignore[import-not-found]
    from runner.sweep import grid, preflight  # type: ignore[import-not-found]

    composer = Composer()
    composer.compose([*POINTS, "hydra.job.num=0"], RunMode.MULTIRUN)
    return len(preflight.compose(composer, grid.plan(composer, POINTS, {}).jobs)[0])


if __name__ == "__main__":
    composed = now() if find_spec("runner.sweeps") else of_0_1_0()
    if composed != 5000:
        sys.exit(f"{composed} jobs instead of 5000")
