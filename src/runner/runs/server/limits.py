"""What a request may cost the server."""

from collections.abc import Mapping
from dataclasses import dataclass, fields

from runner.errors import ConfigError, Problem

MEGABYTE = 1_000_000


@dataclass(frozen=True)
class Limits:
    """What a request may cost; each can be set as an option of the command.

    Attributes:
        max_mb: the largest body, in MB.
        max_rows: samples in a request.
        max_megapixels: the largest image, in millions of pixels; a small file may become a large one.
        max_new_tokens: characters that a language model writes after a text; other requests wait meanwhile.
        max_waiting: requests at work or waiting; the next one gets 503.
        timeout: seconds in which a request must have arrived whole.
    """

    max_mb: int = 16
    max_rows: int = 10_000
    max_megapixels: int = 50
    max_new_tokens: int = 1_000
    max_waiting: int = 1_000
    timeout: int = 30

    @property
    def body(self) -> int:
        """The largest body, in bytes."""
        return self.max_mb * MEGABYTE

    @property
    def held(self) -> int:
        """The bytes of all bodies that are in memory at a time."""
        return max(16 * self.body, 64 * MEGABYTE)

    @property
    def pixels(self) -> int:
        """The largest image, in pixels."""
        return self.max_megapixels * 1_000_000


MEANINGS = {
    "max_mb": "the largest body of a request, in MB",
    "max_rows": "samples in a request",
    "max_megapixels": "the largest uploaded image, in millions of pixels",
    "max_new_tokens": "characters that a language model may write after a text",
    "max_waiting": "requests at work or waiting; one more gets 503",
    "timeout": "seconds in which a request must have arrived whole",
}
"""What each limit means to a user."""

OPTIONS = {field.name: f"{MEANINGS[field.name]}; {field.default:,} by default" for field in fields(Limits)}
"""The options of the command that set limits."""


def read_limits(options: Mapping[str, str]) -> Limits:
    """Return the limits that options set.

    Raises:
        ConfigError: one is not a whole number above 0.
    """
    typed = {key: options[key] for key in OPTIONS if key in options}
    if wrong := [key for key, value in typed.items() if not value.isdecimal() or int(value) == 0]:
        problems = (
            Problem(
                key,
                f"{key}={typed[key]} is not a whole number above 0",
                f"write {key}={getattr(Limits, key)}",
                topic="range",
            )
            for key in wrong
        )
        raise ConfigError(*problems)
    return Limits(**{key: int(value) for key, value in typed.items()})
