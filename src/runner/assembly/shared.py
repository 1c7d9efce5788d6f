"""What experiments of a process share that differ only in seed and numbers: their data are read once for each seed."""

from collections.abc import Callable
from typing import Any, TypeVar

T = TypeVar("T")


class SharedData:
    """The data of the experiment that was built last, for the next ones with the same seed."""

    def __init__(self) -> None:
        self._seed: int | None = None
        self._made: dict[str, Any] = {}

    def get(self, seed: int, name: str, make: Callable[[], T]) -> T:
        """Return a part of the data, which is made for the first experiment with a seed."""
        if seed != self._seed:
            self._seed, self._made = seed, {}
        if name not in self._made:
            self._made[name] = make()
        found: T = self._made[name]
        return found
