"""A request that is not answered by predictions: its status, and a sentence."""

from runner.errors import MAX_SUGGESTION, MAX_TEXT, ConfigError, abbreviate, to_one_line
from runner.util.redaction import redact

CODES = {
    400: "BAD_REQUEST",
    404: "NOT_FOUND",
    405: "METHOD_NOT_ALLOWED",
    408: "TIMEOUT",
    413: "TOO_LARGE",
    415: "UNSUPPORTED_MEDIA_TYPE",
    422: "INVALID_PARAMETER_VALUE",
    500: "INTERNAL_ERROR",
    503: "UNAVAILABLE",
}
"""The `error_code` of each status, in the form that MLflow's clients know."""


class Refusal(Exception):
    """A request that is refused.

    Attributes:
        status: of HTTP.
        text: what is wrong, and what to send instead, in one line.
    """

    def __init__(self, status: int, text: str) -> None:
        self.status, self.text = status, to_one_line(abbreviate(redact(text), MAX_TEXT + MAX_SUGGESTION))
        super().__init__(self.text)

    @property
    def content(self) -> dict[str, str]:
        """The body of the response."""
        return {"error_code": CODES.get(self.status, "ERROR"), "message": self.text}


def not_fitting(error: ConfigError) -> Refusal:
    """Return the refusal of samples that a model does not take."""
    return Refusal(422, "; ".join(map(str, error.problems)))
