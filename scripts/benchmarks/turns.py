"""Turns: several processes train at once, one epoch of one at a time.

How fast a machine is changes from second to second where others use it too. What is compared is therefore not one
run's epochs with those of another run a quarter of a minute later, but each epoch with the others' next to it.
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
"""What was measured of one process, by name: `seconds`, `megabytes`; of one that takes turns, a value a turn."""

Contestants = Mapping[str, Callable[..., Figures]]
"""By name, what measures each once."""

ADDRESS = "BENCH_TURNS"
NAME = "BENCH_NAME"
"""In the environment of who takes turns: the socket to ask at, and the name to ask by."""

WANTED, OVER, GO = b".", b"x", b"!"

PATIENCE = 120
"""Seconds that a turn may take, and those before the first."""


def warm(values: list[float]) -> list[float]:
    """Those of a process's epochs that count: all but the first, if there are others."""
    return values[1:] or values


class Turn:
    """What a process asks for its turns with; it has one at once where there is nobody to ask."""

    def __init__(self) -> None:
        self._line: socket.socket | None = None
        if address := os.environ.get(ADDRESS):
            self._line = socket.socket(socket.AF_UNIX)
            self._line.connect(address)
            self._line.sendall(f"{os.environ[NAME]} {os.getpid()}\n".encode())

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


class Gone(RuntimeError):
    """A player, by its name, has ended before its turns were over."""


class Player:
    """Who takes turns, as seen by who gives them.

    Out of its turn it is stopped, with all that it has started: OpenMP's threads wait for more work busily, and a
    delivery to MLflow is to take its time in no other's turn.

    Args:
        door: it has come to.

    Raises:
        TimeoutError: nobody has.
    """

    def __init__(self, door: socket.socket) -> None:
        self._line, _ = door.accept()
        self._line.settimeout(PATIENCE)
        with self._line.makefile("rb", buffering=0) as words:
            self.name, pid = words.readline().decode().split()
        self._pid = int(pid)
        self._stopped: list[psutil.Process] = []

    def says(self) -> bytes:
        """What it says, waited for, and says until it is answered.

        Raises:
            RuntimeError: it says nothing.
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
        """Let it and its processes rest."""
        with suppress(psutil.NoSuchProcess):
            first = psutil.Process(self._pid)
            self._stopped = [first, *first.children(recursive=True)]
        for process in self._stopped:
            with suppress(psutil.NoSuchProcess):
                process.suspend()

    def go(self) -> None:
        """Answer it: it has its turn, or they are over."""
        self._go_on()
        self._line.recv(1)
        self._line.sendall(GO)

    def leave(self) -> None:
        """Give no turns any more."""
        self._go_on()
        self._line.close()

    def _go_on(self) -> None:
        for process in self._stopped:
            with suppress(psutil.NoSuchProcess):
                process.resume()
        self._stopped = []


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
            running[gone.args[0]].result(PATIENCE)  # what it has died of says more
            raise
        finally:
            door.close()
            for player in players.values():
                player.leave()
        return {name: future.result() for name, future in running.items()}


def _give_turns(players: list[Player]) -> None:
    for player in players:
        player.says()  # it has warmed up
    for player in players:
        player.stop()
    # In every order: who comes after whom, and a machine that becomes slower or faster, are in favour of nobody.
    for order in itertools.cycle(itertools.permutations(players)):
        for player in order:
            if player.says() == WANTED:
                player.go()
                player.says()  # when its turn is over
                player.stop()
        if not any(player.says() == WANTED for player in players):
            break
    for player in players:
        player.go()


def _path() -> str:
    """Where processes find this module, besides what they find already."""
    here = str(Path(__file__).resolve().parent)
    return os.pathsep.join([here, *filter(None, [os.environ.get("PYTHONPATH")])])
