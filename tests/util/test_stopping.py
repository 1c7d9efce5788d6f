"""Signals to a command that has made nothing yet; those to a run are in test_run.py, to a sweep in test_sweep.py."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from runner.util.stopping import Stop

AT_AN_IMPORT = """
import importlib.abc, os, signal, sys

class Interrupt(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name == {module!r}:
            sys.meta_path.remove(self)
            try:
                os.kill(os.getpid(), {number})
            except KeyboardInterrupt:
                {then}

sys.meta_path.insert(0, Interrupt())
"""

RAISES, SWALLOWS = "raise", "pass  # as a bare `except` does"
TURNS = "raise ImportError('half of it is loaded')  # as extension modules do"


@pytest.mark.parametrize(
    ("command", "module", "number", "then"),
    [
        ("runner", "hydra", signal.SIGINT, RAISES),
        ("runner.compare", "runner.rundir", signal.SIGTERM, RAISES),
        ("runner tracking=off", "runner.runs.start", signal.SIGINT, TURNS),
        ("runner", "hydra", signal.SIGHUP, RAISES),
        *(
            pytest.param(*case, marks=pytest.mark.soak)
            for case in (
                ("runner tracking=off", "torch.utils.flop_counter", signal.SIGINT, SWALLOWS),
                ("runner --multirun seed=1,2", "runner.sweeps.launch", signal.SIGINT, TURNS),
            )
        ),
    ],
)
def test_a_signal_at_an_import_is_one_line(
    command: str, module: str, number: signal.Signals, then: str, here: Path
) -> None:
    (here / "sitecustomize.py").write_text(AT_AN_IMPORT.format(module=module, number=int(number), then=then))
    paths = os.pathsep.join(filter(None, [str(here), os.environ.get("PYTHONPATH")]))
    done = subprocess.run(
        [sys.executable, "-m", *command.split()], cwd=here, env=os.environ | {"PYTHONPATH": paths},
        capture_output=True, text=True, timeout=60, start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_DFL),  # `nohup` ignores it
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (128 + number, f"interrupted by {number.name}\n")
    assert not (here / "outputs").exists()


def test_a_second_interrupt_is_raised_once_and_held_back_while_the_end_is_recorded() -> None:
    stop = Stop()

    def interrupt() -> None:
        os.kill(os.getpid(), signal.SIGINT)

    with stop.listening():
        interrupt()
        assert stop.requested
        with pytest.raises(KeyboardInterrupt):
            interrupt()
        interrupt()  # the one before is still being handled
        stop.hold()
        interrupt()
        with pytest.raises(KeyboardInterrupt):
            stop.release()
        stop.hold()
        stop.release()
        with pytest.raises(KeyboardInterrupt):
            interrupt()


def test_a_program_that_only_imports_the_package_keeps_its_own_handlers() -> None:
    code = "import signal, runner; assert signal.getsignal(signal.SIGINT) is signal.default_int_handler"
    subprocess.run([sys.executable, "-c", code], check=True, preexec_fn=lambda: signal.signal(2, signal.SIG_DFL))


def test_a_thread_that_stays_at_the_end_can_be_interrupted_and_the_exit_code_is_the_command_s() -> None:
    code = (
        "import os, signal, threading, time\n"
        "from runner.util import program\n"
        "def stays():\n"
        "    time.sleep(0.3)\n"
        "    os.kill(os.getpid(), signal.SIGINT)\n"
        "    time.sleep(60)\n"
        "threading.Thread(target=stays).start()\n"
        "program.run(lambda: 3)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30)
    assert (done.returncode, done.stderr) == (3, "")
