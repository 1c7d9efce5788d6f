"""Setup of the server that jobs are forked from, done by importing this first: see `forkserver`."""

import atexit
import gc
import os

from runner.tracking.environment import environment
from runner.util import streams
from runner.util.program import COLLECT_AFTER

streams.protect()  # inherited by all forks
gc.set_threshold(COLLECT_AFTER)
# Python's own exit takes a second, for which a reader of the sweep's output would wait. Forks exit another way.
atexit.register(os._exit, 0)
environment({})  # caches the list of installed packages, which would take each job 0.1 s
