"""A look at a test part: a version of a registered model was judged by it, and became the champion or not."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass

from runner.util.tags import LOOK_TAG


@dataclass(frozen=True)
class Look:
    """A look at a test part, and how many there have been.

    Attributes:
        model: the registered model.
        version: that was judged.
        looks: of versions of this model at the same test part, up to this one.
        champions: of these, that became the champion.
        chosen: whether this one did.
    """

    model: str
    version: str
    looks: int
    champions: int
    chosen: bool

    @classmethod
    def read(cls, tags: Mapping[str, str]) -> "Look | None":
        """Return what the tags of a run say; None if they say nothing."""
        try:
            look = cls(**json.loads(tags[LOOK_TAG]))
            return look if isinstance(look.looks, int) and isinstance(look.champions, int) else None
        except (KeyError, ValueError, TypeError):  # a tag may hold anything
            return None

    def to_tags(self) -> dict[str, str]:
        """Return the tag of the run whose model was judged."""
        return {LOOK_TAG: json.dumps(asdict(self))}

    def count(self) -> str:
        """Return `the 3rd champion chosen on this test set, with the 5th look at it`."""
        look = f"the {ordinal(self.looks)} look at"
        if not self.chosen:
            return f"{look} this test set"
        return f"the {ordinal(self.champions)} champion chosen on this test set, with {look} it"

    def warn(self) -> str:
        """Say that a test part has decided before; empty for the first time."""
        if self.looks < 2:
            return ""
        caution = ", so expect less on new ones" if self.chosen else ""
        return f"{self.count()}: each fits the choice to its samples a little more{caution}"


def ordinal(number: int) -> str:
    """Return 1st, 2nd, 3rd, 4th, ..., 11th, ..., 21st, ..."""
    suffix = "th" if number % 100 in (11, 12, 13) else {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")
    return f"{number}{suffix}"
