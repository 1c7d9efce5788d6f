"""What the server that jobs are forked from does first, by importing this: see `forkserver`."""

import atexit
import gc
import os

from runner.tracking.environment import environment
from runner.util import streams
from runner.util.program import COLLECT_AFTER

streams.protect()  # and with it all forks
gc.set_threshold(COLLECT_AFTER)
# Its end takes a second by Python's way, and whoever reads what the sweep prints waits for it. Forks end otherwise.
atexit.register(os._exit, 0)
environment({})  # which packages there are is then known to all jobs, each of which would take 0.1 s to find out
