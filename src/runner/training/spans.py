"""Names for the parts of training, which `trainer.profile_steps` measures; without it they do nothing."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import TypeVar

Item = TypeVar("Item")

Span = Callable[[str], AbstractContextManager[None]]
"""Returns the context of a named part: `with span("forward"): ...`."""

_NOTHING = nullcontext()


def no_span(name: str) -> AbstractContextManager[None]:
    """Return a null context: the span of a training that is not profiled."""
    return _NOTHING


def each(span: Span, name: str, items: Iterable[Item]) -> Iterable[Item]:
    """Return the same items; fetching each of them is a part of that name."""
    return items if span is no_span else _each(span, name, items)


def _each(span: Span, name: str, items: Iterable[Item]) -> Iterator[Item]:
    iterator = iter(items)
    while True:
        with span(name):
            try:
                item = next(iterator)
            except StopIteration:
                return
        yield item
