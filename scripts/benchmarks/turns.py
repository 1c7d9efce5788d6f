"""Turns: several processes train at once, one epoch of one at a time.

How fast a machine is changes from second to second where others use it too. What is compared is therefore not one
run's epochs with those of another run a quarter of a minute later, but each epoch with the others' next to it.
"""

import os
import socket
import tempfile
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

Figures = Mapping[str, float]
"""What was measured at once, by name: `seconds`, `megabytes`."""

Contestants = Mapping[str, Callable[..., Figures]]
"""By name, what measures each once."""

ADDRESS = "BENCH_TURNS"
NAME = "BENCH_NAME"
"""In the environment of who takes turns: the socket to ask at, and the name to ask by."""

WANTED, OVER, GO = b".", b"x", b"!"

PAUSE = 0.3
"""Seconds after a turn: OpenMP's threads wait for more work, busily, for a fifth of a second."""

PATIENCE = 120
"""Seconds in which each is to have warmed up."""


class Turn:
    """What a process asks for its turns with; it has one at once where there is nobody to ask."""

    def __init__(self) -> None:
        self._line: socket.socket | None = None
        if address := os.environ.get(ADDRESS):
            self._line = socket.socket(socket.AF_UNIX)
            self._line.connect(address)
            self._line.sendall(f"{os.environ[NAME]}\n".encode())

    def wait(self) -> None:
        """Give the turn back, if this process has it, and wait for the next."""
        self._say(WANTED)

    def over(self) -> None:
        """Give the last one back, and wait until the others have had theirs."""
        self._say(OVER)

    def _say(self, word: bytes) -> None:
        if self._line is not None:
            self._line.sendall(word)
            if not self._line.recv(1):
                raise EOFError("nobody gives turns any more")


def schedule(optimizer: Any, epochs: int) -> Any:
    """A learning rate that stays, whose schedule waits for a turn before each epoch but the first.

    It is how runner's own training takes turns, by `scheduler._target_=turns.schedule`: a schedule is stepped between
    two epochs, in nobody's time.
    """
    from torch.optim.lr_scheduler import LRScheduler

    class Turns(LRScheduler):
        def __init__(self) -> None:
            self.turn: Turn | None = None
            super().__init__(optimizer)  # takes a first step
            self.turn = Turn()

        def get_lr(self) -> list[float]:
            return [group["lr"] for group in self.optimizer.param_groups]

        def step(self, epoch: int | None = None) -> None:
            super().step(epoch)
            if self.turn is not None:
                self.turn.wait() if self.last_epoch < epochs else self.turn.over()

        def state_dict(self) -> dict[str, Any]:
            return {"last_epoch": self.last_epoch}

    return Turns()


def in_turns(contestants: Contestants) -> dict[str, Figures]:
    """Run them all at once, and give turns until all are over.

    Args:
        contestants: by name; each is given the `environment` in which its process asks for turns.

    Raises:
        RuntimeError: one of them has failed.
    """
    with (
        tempfile.TemporaryDirectory() as folder,
        socket.socket(socket.AF_UNIX) as door,
        ThreadPoolExecutor(len(contestants)) as pool,
    ):
        address = str(Path(folder) / "turns")
        door.bind(address)
        door.listen()
        door.settimeout(1.0)
        running = {}
        for name, contestant in contestants.items():
            environment = {ADDRESS: address, NAME: name, "PYTHONPATH": _path()}
            running[name] = pool.submit(contestant, environment=environment)
        by_name: dict[str, socket.socket] = {}
        deadline = time.monotonic() + PATIENCE
        while len(by_name) < len(contestants):
            try:
                by_name |= [_greet(door)]
            except TimeoutError as error:
                failed = [future for future in running.values() if future.done()]
                if not failed and time.monotonic() < deadline:
                    continue
                door.close()
                for line in by_name.values():
                    line.close()
                for future in failed:
                    future.result()
                raise RuntimeError(f"not all of {', '.join(contestants)} have come to their first turn") from error
        lines = [by_name[name] for name in contestants]
        for line in lines:
            _heard(line)  # each has warmed up
        while any(_heard(line) == WANTED for line in lines):
            for line in lines:
                if _heard(line) == WANTED:
                    line.recv(1)
                    line.sendall(GO)
                    _heard(line)  # until it is given back
                    time.sleep(PAUSE)
        for line in lines:
            line.sendall(GO)
            line.close()
        return {name: future.result() for name, future in running.items()}


def _heard(line: socket.socket) -> bytes:
    """What a process says, or has said, and was not answered; nothing if it is gone."""
    return line.recv(1, socket.MSG_PEEK)


def _path() -> str:
    """Where processes find this module, besides what they find already."""
    here = str(Path(__file__).resolve().parent)
    return os.pathsep.join([here, *filter(None, [os.environ.get("PYTHONPATH")])])


def _greet(door: socket.socket) -> tuple[str, socket.socket]:
    """Who comes in, by its name."""
    line, _ = door.accept()
    line.settimeout(None)
    with line.makefile("rb", buffering=0) as words:
        return words.readline().decode().strip(), line
