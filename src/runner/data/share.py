"""The share of each batch that a rank takes, if several train one model."""

from dataclasses import dataclass


class Padding(tuple):
    """A batch for a rank that has no share of it: it is computed, as all ranks take part in a step, and not counted."""


@dataclass(frozen=True)
class Share:
    """One of equal parts of a batch, as far as its samples can be divided; the first ranks take one sample more.

    The ranks' shares in their order are the batch: the order of samples does not depend on the number of ranks.

    Attributes:
        rank: from 0.
        ranks: their number.
    """

    rank: int = 0
    ranks: int = 1

    def of(self, first: int, last: int) -> tuple[int, int]:
        """Return the part of the samples from `first` to before `last`; it may be empty."""
        each, more = divmod(last - first, self.ranks)
        start = first + each * self.rank + min(self.rank, more)
        return start, start + each + (self.rank < more)

    @property
    def key(self) -> tuple[int, ...]:
        """Tells the random numbers of the ranks apart; empty if there is one."""
        return () if self.ranks == 1 else (self.rank,)


WHOLE = Share()
