"""Pieces of a run, one after another: one that the store refuses, or fails at, does not hold up the others."""

import contextlib
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, TypeVar

from runner.tracking.trouble import explain, refuses_content
from runner.util.tags import WRITABLE_TAG

if TYPE_CHECKING:
    from mlflow import MlflowClient

T = TypeVar("T")


class Pieces:
    """Sends the pieces of a run.

    A failure that may be an outage is judged by a piece that the store has taken before: if that still works and the
    piece fails twice, with the others between, it is the piece (a proxy may cut a connection instead of answering 413).

    Args:
        works: whether the store takes a harmless piece at the moment.

    Attributes:
        refused: the reasons, by the name of the piece.
    """

    def __init__(self, works: Callable[[], bool]) -> None:
        self._works = works
        self._doubtful: dict[str, Callable[[], None]] = {}
        self.refused: dict[str, str] = {}

    def send(self, name: str, put: Callable[[], None]) -> None:
        """Send a piece.

        Args:
            name: of the piece, for a reader.
            put: sends it.

        Raises:
            Exception: the store takes nothing at the moment.
        """
        try:
            put()
        except Exception as error:
            if reason := refuses_content(error):
                self.refused[name] = reason
            elif self._works():
                self._doubtful[name] = put
            else:
                raise

    def finish(self) -> None:
        """Send the pieces that have failed once more.

        Raises:
            Exception: as `send`.
        """
        for name, put in self._doubtful.items():
            try:
                put()
            except Exception as error:
                reason = refuses_content(error)
                if reason is None and not self._works():
                    raise
                self.refused[name] = reason or f"failed twice while other files arrive: {explain(error)}"
        self._doubtful.clear()


def takes_tags(client: "MlflowClient", run_id: str) -> bool:
    """Whether the store takes a harmless tag of a run at the moment."""
    with contextlib.suppress(Exception):
        client.set_tag(run_id, WRITABLE_TAG, "true")
        return True
    return False


def send_each(
    send: Callable[[Sequence[T]], object], items: Sequence[T], works: Callable[[], bool]
) -> list[tuple[T, str]]:
    """Send items together, but without those that the store refuses: it refuses a batch as a whole.

    Args:
        send: sends some items; those that were sent before may be sent again.
        items: to send.
        works: see `Pieces`.

    Returns:
        The refused items, with the reasons.

    Raises:
        Exception: the store takes nothing at the moment.
    """
    try:
        send(items)
    except Exception as error:
        reason = refuses_content(error)
        if reason is None or (len(items) == 1 and not works()):
            raise
        if len(items) == 1:
            return [(items[0], reason)]
    else:
        return []
    middle = len(items) // 2
    return send_each(send, items[:middle], works) + send_each(send, items[middle:], works)
