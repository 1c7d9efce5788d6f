"""Standard output and error that are closed, full or lost, and secrets that are written to them."""

import errno
import fcntl
import json
import os
import pty
import select
import signal
import subprocess
import sys
import termios
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from helpers.faults import inject
from helpers.sweeping import Forked, outcomes, sweep_folder, wait_for
from runner.util.options import run_with_options
from runner.util.streams import Output, OutputError, ReaderGone, Result

RUN = ("tracking=off", "data.limit=64", "model.hidden=[4]", "hydra.run.dir=mine")
EPOCHS = 30


def into(path: str) -> Output:
    """Open a stream to a file or device."""
    return Output(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND))


class TestAStream:
    def test_a_full_disk_loses_only_the_lines(self) -> None:
        output = into("/dev/full")
        assert output.write("a line\n") == 7
        output.flush()
        assert output.failure is not None and output.failure.errno == errno.ENOSPC

    def test_a_reader_that_is_gone_loses_only_the_lines(self) -> None:
        reading, writing = os.pipe()
        os.close(reading)
        output = Output(writing)
        print("a line", file=output, flush=True)
        assert isinstance(output.failure, BrokenPipeError)

    def test_a_lost_terminal_loses_only_the_lines(self) -> None:
        ours, theirs = pty.openpty()
        os.close(ours)
        output = Output(theirs)
        print("a line", file=output, flush=True)
        assert output.failure is not None and output.failure.errno == errno.EIO
        assert not output.isatty()

    def test_a_non_blocking_pipe_receives_everything(self) -> None:
        reading, writing = os.pipe()
        os.set_blocking(writing, False)
        output, lines = Output(writing), [f"{number} {'x' * 1000}\n" for number in range(300)]
        writer = threading.Thread(target=lambda: [output.write(line) for line in lines])
        writer.start()
        time.sleep(0.05)  # the pipe is full now
        left, got = len("".join(lines)), b""
        while len(got) < left:
            got += os.read(reading, 1 << 16)
        writer.join()
        assert got.decode() == "".join(lines)
        assert output.failure is None

    def test_characters_outside_the_encoding_are_escaped(self, tmp_path: Path) -> None:
        print("\udce9t\udce9 \u20ac", file=into(str(tmp_path / "log")))
        assert (tmp_path / "log").read_text() == "\\udce9t\\udce9 \u20ac\n"

    def test_a_secret_in_several_writes_is_found(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("HUB_TOKEN", "hf-0123456789")
        output = into(str(tmp_path / "log"))
        for part in ("see http://ada:s3c", "ret@host", " hf-01234", "56789"):
            output.write(part)
            output.flush()  # as a progress bar does
        output.finish()
        assert (tmp_path / "log").read_text() == "see http://***@host ${oc.env:HUB_TOKEN}"

    def test_part_of_a_line_is_shown_when_it_is_flushed(self, tmp_path: Path) -> None:
        output = into(str(tmp_path / "log"))
        print("\rchecking 4 jobs ...", end="", file=output, flush=True)
        assert (tmp_path / "log").read_bytes() == b"\rchecking 4 jobs ..."


class TestAResult:
    """A command's result on standard output is never lost silently."""

    @pytest.mark.parametrize("full", [True, False])
    def test_a_failed_write_is_an_error(self, full: bool, monkeypatch: pytest.MonkeyPatch) -> None:
        if full:
            output = into("/dev/full")
        else:
            reading, writing = os.pipe()
            os.close(reading)
            output = Output(writing, by_line=False)
        monkeypatch.setattr(sys, "stdout", output)
        with pytest.raises(OutputError) as raised:
            result = Result()
            print("a line", file=result)
            result.finish()
        assert isinstance(raised.value, ReaderGone) is not full
        cause = raised.value.__cause__
        assert isinstance(cause, OSError) and cause.errno == (errno.ENOSPC if full else errno.EPIPE)

    @pytest.mark.parametrize(("lost", "code"), [(OutputError("it is full"), 1), (ReaderGone("it is gone"), 0)])
    def test_the_exit_code_of_a_command(
        self, lost: OutputError, code: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def fails(*lines: str) -> None:
            raise lost

        monkeypatch.setattr("runner.util.options.print_result", fails)
        assert run_with_options(["--help"], "usage", {"key": "meaning"}, lambda _: 0) == code
        assert capsys.readouterr().err == ("error: it is full\n" if code else "")


def test_no_file_gets_the_number_of_a_closed_descriptor() -> None:
    code = (
        "import os, sys; from runner.util import streams; streams.protect()\n"
        "sys.stderr.write('nowhere'); print(os.open('/dev/null', os.O_RDONLY) > 2, sys.stdin)"
    )
    command = f'exec {sys.executable} -c "{code}" <&- 2>&-'
    done = subprocess.run(["sh", "-c", command], stdout=subprocess.PIPE, text=True)
    assert (done.returncode, done.stdout) == (0, "True None\n")


def test_a_command_without_standard_output_reports_that_its_result_is_lost() -> None:
    code = "from runner import sync; from runner.util import program; program.run(lambda: sync.main(['--help']))"
    command = f'exec {sys.executable} -c "{code}" >&-'
    done = subprocess.run(["sh", "-c", command], stderr=subprocess.PIPE, text=True)
    assert (done.returncode, done.stderr) == (1, "error: standard output cannot be written: it is closed\n")


def test_a_deleted_current_folder_is_reported_in_one_line(tmp_path: Path) -> None:
    (gone := tmp_path / "gone").mkdir()
    code = "from runner import sync; from runner.util import program; program.run(lambda: sync.main([]))"
    command = f"cd {gone}; rmdir {gone}; exec {sys.executable} -c '{code}'"
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr == "error: the current folder has been deleted; cd to an existing one\n"


def status(here: Path) -> str:
    """Read how the run ended."""
    return str(json.loads((here / "mine" / "result.json").read_text())["status"])


def reports(here: Path) -> int:
    """Count the epochs in the log."""
    log = here / "mine" / "run.log"
    return log.read_text().count(" epoch ") if log.exists() else 0


class _Into:
    """A file, opened in the process itself: descriptors of this one are not there."""

    def __init__(self, path: str, terminal: bool = False) -> None:
        self.path, self.terminal = path, terminal

    def __call__(self) -> None:
        inject(None)()
        signal.signal(signal.SIGHUP, signal.SIG_DFL)  # which the server that it is a fork of ignores
        file = os.open(self.path, os.O_RDWR | os.O_NOCTTY if self.terminal else os.O_WRONLY)
        if self.terminal:
            fcntl.ioctl(file, termios.TIOCSCTTY, 0)
        os.dup2(file, 2)
        os.dup2(file, 1)


def fifo(here: Path) -> int:
    """Make a named pipe, and open its read end."""
    os.mkfifo(here / "pipe")
    return os.open(here / "pipe", os.O_RDONLY | os.O_NONBLOCK)


class TestARun:
    """A run ends in the same way as if all its output had been read."""

    def test_its_reader_goes_and_then_ctrl_c(self, here: Path) -> None:
        """`2>&1 | tee log`: Ctrl-C ends tee as well."""
        reading = fifo(here)
        run = Forked(here, *RUN, "trainer.epochs=100000", prepare=_Into(str(here / "pipe")))
        wait_for(lambda: reports(here) >= 3)
        os.close(reading)
        seen = reports(here)
        wait_for(lambda: reports(here) >= seen + 3)
        run.send_signal(signal.SIGINT)
        code, _ = run.wait()
        assert (code, status(here)) == (130, "KILLED")
        assert "resume     python -m runner resume=mine" in (here / "mine" / "run.log").read_text()

    def test_its_terminal_is_closed(self, here: Path) -> None:
        ours, theirs = pty.openpty()
        run = Forked(here, *RUN, f"trainer.epochs={EPOCHS}", prepare=_Into(os.ttyname(theirs), terminal=True))
        wait_for(lambda: select.select([ours], [], [], 0)[0])
        os.close(theirs)
        os.close(ours)
        code, _ = run.wait()
        assert (code, status(here), reports(here)) == (0, "FINISHED", EPOCHS)

    @pytest.mark.soak
    def test_a_sighup_sent_by_a_user_is_a_request_to_stop(self, here: Path) -> None:
        run = Forked(here, *RUN, "trainer.epochs=100000", prepare=_Into(os.devnull))
        wait_for(lambda: reports(here) >= 1)
        run.send_signal(signal.SIGHUP)
        code, _ = run.wait()
        assert (code, status(here)) == (128 + signal.SIGHUP, "KILLED")

    @pytest.mark.soak
    def test_the_disk_under_its_log_and_its_standard_error_is_full(self, here: Path) -> None:
        (here / "mine").mkdir()
        (here / "mine" / "run.log").symlink_to("/dev/full")
        code, _ = Forked(here, *RUN, f"trainer.epochs={EPOCHS}", prepare=_Into("/dev/full")).wait()
        assert (code, status(here)) == (0, "FINISHED")


@pytest.mark.soak
def test_a_sweep_whose_reader_leaves_ends_normally(here: Path) -> None:
    reading = fifo(here)
    arguments = ("--multirun", *RUN[:-1], "seed=0,1,2", "sweep.jobs=2", "trainer.epochs=2")
    sweep = Forked(here, *arguments, prepare=_Into(str(here / "pipe")))
    wait_for(lambda: select.select([reading], [], [], 0)[0])
    os.close(reading)
    code, _ = sweep.wait()
    folder = sweep_folder(here)
    assert code == 0
    assert {fate["status"] for fate in outcomes(folder).values()} == {"FINISHED"}
    assert len((folder / "jobs.csv").read_text().splitlines()) == 4
    assert "best       job" in (folder / "run.log").read_text()


@pytest.mark.soak
class TestAsTyped:
    """Commands in a shell, with all ways to lose their output."""

    WAYS: tuple[tuple[str, str], ...] = (
        ("closed", "{} 2>&-"),
        ("all closed", "{} 2>&- >&- <&-"),
        ("full", "{} 2>/dev/full"),
        ("head", "{} 2>&1 >/dev/null | head -2 >/dev/null; exit ${{PIPESTATUS[0]}}"),
        ("nobody", "{} 2>&1 >/dev/null | true; exit ${{PIPESTATUS[0]}}"),
    )

    @pytest.fixture(scope="class")
    @staticmethod
    def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
        here = tmp_path_factory.mktemp("trained")
        assert shell(here, f"{RUNNER} {' '.join(RUN)} trainer.epochs=2").returncode == 0
        return here / "mine"

    @pytest.mark.parametrize(("way", "how"), WAYS)
    def test_a_run(self, way: str, how: str, here: Path) -> None:
        done = shell(here, how.format(f"{RUNNER} {' '.join(RUN)} trainer.epochs={EPOCHS}"))
        assert (done.returncode, status(here), reports(here)) == (0, "FINISHED", EPOCHS), way

    @pytest.mark.parametrize(("way", "how"), WAYS)
    def test_a_sweep(self, way: str, how: str, here: Path) -> None:
        arguments = "data.limit=64 model.hidden=[4] trainer.epochs=3 seed=0,1,2,3 sweep.jobs=2 hydra.sweep.dir=all"
        done = shell(here, how.format(f"{RUNNER} --multirun {arguments}"))
        assert done.returncode == 0, way
        assert len((here / "all" / "jobs.csv").read_text().splitlines()) == 5
        manifest = json.loads((here / "all" / ".tracking" / "manifest.json").read_text())
        assert manifest["status"] == "FINISHED"

    @pytest.mark.parametrize("module", ["evaluate", "predict"])
    @pytest.mark.parametrize(("way", "how"), WAYS)
    def test_evaluate_and_predict(self, way: str, how: str, module: str, here: Path, trained: Path) -> None:
        values = [[[[0.0] * 8] * 8]]
        more = f'"input={values}" output=predicted.csv' if module == "predict" else ""
        done = shell(here, how.format(f"{RUNNER}.{module} run={trained} {more}"))
        assert done.returncode == 0, way
        if module == "predict":
            assert len((here / "predicted.csv").read_text().splitlines()) == 2

    @pytest.mark.parametrize(("to", "code"), [("> /dev/full", 1), (">&-", 1), ("| head -1; exit ${PIPESTATUS[0]}", 0)])
    @pytest.mark.parametrize("what", [" --help", " --cfg job", ".predict run={} input=[[[[0]]]]", ".predict --help"])
    def test_results(self, what: str, to: str, code: int, here: Path, trained: Path) -> None:
        what = what.replace("[[[[0]]]]", f"{[[[[0.0] * 8] * 8]]}".replace(" ", "")).format(trained)
        done = shell(here, f"{RUNNER}{what} {to}")
        assert done.returncode == code, done.stderr
        assert ("error: standard output cannot be written" in done.stderr) is bool(code)

    def test_the_terminal_of_a_sweep_is_closed(self, here: Path) -> None:
        arguments = ["--multirun", "data.limit=64", "trainer.epochs=60", "seed=0,1,2", "sweep.jobs=2", "hydra.sweep.dir=all"]  # fmt: skip # noqa: E501
        child, terminal = pty.fork()
        if child == 0:
            os.chdir(here)
            os.execv(sys.executable, [sys.executable, "-m", "runner", *arguments])
        shown = b""
        while b"epoch" not in shown:
            shown += os.read(terminal, 1 << 12)
        os.close(terminal)
        _, ended = os.waitpid(child, 0)
        assert os.waitstatus_to_exitcode(ended) == 0
        assert len((here / "all" / "jobs.csv").read_text().splitlines()) == 4


RUNNER = f"{sys.executable} -m runner"


def shell(here: Path, line: str) -> Any:
    """Run a line in a shell, in a folder."""
    clean = {key: value for key, value in os.environ.items() if not key.startswith("RUNNER_")}
    return subprocess.run(["bash", "-c", line], cwd=here, env=clean, stderr=subprocess.PIPE, text=True, timeout=120)
