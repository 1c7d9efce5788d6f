"""Turns: several processes train at once, one epoch of one at a time.

The speed of a shared machine changes from second to second. So each epoch is compared with the others' epochs right
beside it, not with those of another run a quarter of a minute later.
"""

import itertools
import os
import socket
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil

Figures = Mapping[str, Sequence[float]]
"""Measurements of one process by name (`seconds`, `megabytes`); of a process that takes turns, one value per turn."""

Contestants = Mapping[str, Callable[..., Figures]]
"""By name, a function that measures the contestant once."""

ADDRESS = "BENCH_TURNS"
NAME = "BENCH_NAME"
"""Environment variables of a process that takes turns: the address of the socket, and its name."""

WANTED, OVER, GO = b".", b"x", b"!"

PATIENCE = 120
"""Seconds that a turn, or the time before the first turn, may take."""


def warm(values: list[float]) -> list[float]:
    """Return the epochs that count: all but the first, if there are more."""
    return values[1:] or values


class Turn:
    """The connection by which a process asks for turns; without a server, every turn is granted at once."""

    def __init__(self) -> None:
        self._line: socket.socket | None = None
        if address := os.environ.get(ADDRESS):
            self._line = socket.socket(socket.AF_UNIX)
            self._line.connect(address)
            self._line.sendall(f"{os.environ[NAME]} {os.getpid()}\n".encode())

    def wait(self) -> None:
        """End the current turn, if there is one, and wait for the next."""
        self._say(WANTED)

    def over(self) -> None:
        """End the last turn and wait until the others have finished theirs."""
        self._say(OVER)

    def _say(self, word: bytes) -> None:
        if self._line is not None:
            self._line.sendall(word)
            if not self._line.recv(1):
                raise EOFError("the server of turns is gone")


def schedule(optimizer: Any, epochs: int) -> Any:
    """Return a constant schedule that waits for a turn before each epoch but the first.

    This is how runner's training takes turns: `scheduler._target_=turns.schedule`. A schedule is stepped between two
    epochs, outside of the measured time.
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


class Gone(RuntimeError):
    """A player ended before its turns were over; the argument is its name."""


class Player:
    """A process that takes turns, as the server sees it.

    Outside of its turn it is stopped with all its child processes: OpenMP's threads wait busily, and an upload to
    MLflow must not run in another's turn.

    Args:
        door: the listening socket.

    Raises:
        TimeoutError: no process connected.
    """

    def __init__(self, door: socket.socket) -> None:
        self._line, _ = door.accept()
        self._line.settimeout(PATIENCE)
        with self._line.makefile("rb", buffering=0) as words:
            self.name, pid = words.readline().decode().split()
        self._pid = int(pid)
        self._stopped: list[psutil.Process] = []

    def next_word(self) -> bytes:
        """Wait for its next word and return it; the word stays until it is answered.

        Raises:
            RuntimeError: no word came in time.
            Gone: it has ended.
        """
        try:
            word = self._line.recv(1, socket.MSG_PEEK)
        except TimeoutError as error:
            raise RuntimeError(f"{self.name}: its turn is not over after {PATIENCE} s") from error
        except ConnectionError as error:
            raise Gone(self.name) from error
        if not word:
            raise Gone(self.name)
        return word

    def stop(self) -> None:
        """Stop it and its child processes."""
        with suppress(psutil.NoSuchProcess):
            first = psutil.Process(self._pid)
            self._stopped = [first, *first.children(recursive=True)]
        for process in self._stopped:
            with suppress(psutil.NoSuchProcess):
                process.suspend()

    def go(self) -> None:
        """Answer it: its turn begins, or all turns are over."""
        self._go_on()
        self._line.recv(1)
        self._line.sendall(GO)

    def leave(self) -> None:
        """Resume it and close the connection."""
        self._go_on()
        self._line.close()

    def _go_on(self) -> None:
        for process in self._stopped:
            with suppress(psutil.NoSuchProcess):
                process.resume()
        self._stopped = []


def in_turns(contestants: Contestants) -> dict[str, Figures]:
    """Run all contestants at the same time and serve turns until all are over.

    Args:
        contestants: by name; each gets the `environment` for its process.

    Raises:
        RuntimeError: one of them failed.
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
        players: dict[str, Player] = {}
        try:
            deadline = time.monotonic() + PATIENCE
            while len(players) < len(contestants):
                with suppress(TimeoutError):
                    player = Player(door)
                    players[player.name] = player
                    continue
                missing = sorted(contestants.keys() - players)
                if gone := [name for name in missing if running[name].done()]:
                    raise Gone(*gone)
                if time.monotonic() > deadline:
                    raise RuntimeError(f"{', '.join(missing)}: not at the first turn after {PATIENCE} s")
            _give_turns([players[name] for name in contestants])
        except Gone as gone:
            running[gone.args[0]].result(PATIENCE)  # raises the error that ended it
            raise
        finally:
            door.close()
            for player in players.values():
                player.leave()
        return {name: future.result() for name, future in running.items()}


def _give_turns(players: list[Player]) -> None:
    for player in players:
        player.next_word()  # ready: warmed up
    for player in players:
        player.stop()
    # All orders in turn: neither the predecessor nor a machine that slows down or speeds up favours a player.
    for order in itertools.cycle(itertools.permutations(players)):
        for player in order:
            if player.next_word() == WANTED:
                player.go()
                player.next_word()  # until its turn is over
                player.stop()
        if not any(player.next_word() == WANTED for player in players):
            break
    for player in players:
        player.go()


def _path() -> str:
    """Return the PYTHONPATH of the processes: this folder before the present one."""
    here = str(Path(__file__).resolve().parent)
    return os.pathsep.join([here, *filter(None, [os.environ.get("PYTHONPATH")])])
