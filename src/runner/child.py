"""`python -m runner` for a notebook or a script: its messages go to the process that started it.

See `runner.util.events` for the messages and `runner.api.process` for the other end.
"""

import signal
import sys

from runner.cli import run_command
from runner.util import events, program
from runner.util.stopping import end_with_parent


def main() -> int:
    """Run the command line of this process; return the exit code."""
    end_with_parent(signal.SIGTERM)  # a run ends with its notebook, as one in a terminal does, and can be resumed
    events.connect()
    return run_command(sys.argv[1:])


if __name__ == "__main__":
    program.run(main)
