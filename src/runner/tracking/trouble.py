"""Why a store does not take an upload: it is away, it refuses, or it answers with an error; each in one line."""

import contextlib
import json
import re
from collections.abc import Iterator
from http import HTTPStatus
from urllib.parse import unquote, urlsplit

from runner.errors import Problem, StoreError
from runner.rundir import layout
from runner.util.redaction import redact

_BUSY = (408, 425, 429)
"""Statuses of a request that succeeds later, though they begin with 4."""

_STATUS = re.compile(r"error code (\d{3})\b|too many (\d{3}) error responses")
_OF_CONTENT = frozenset({400, 403, 404, 405, 406, 409, 411, 413, 414, 415, 422, 431, 451, 507})
"""Statuses of an answer that may concern what was sent."""

_INVALID = ("INVALID_PARAMETER_VALUE", "BAD_REQUEST", "MALFORMED_REQUEST")
"""Codes of MLflow's own answers to what it cannot take."""

_BY_CODE = {"UNAUTHENTICATED": 401, "PERMISSION_DENIED": 403}
_OF_A_GATEWAY = re.compile(r"INTERNAL_ERROR: .{0,80}(unauthori[sz]ed|not authenticated).{0,80}", re.IGNORECASE)
"""A 401 with JSON that is not MLflow's own; its status is lost."""

_NOT_JSON = "not in a valid JSON format"

# Errors of PostgreSQL, MySQL and SQL Server for a wrong or missing password.
_PASSWORD = (
    "password authentication failed",
    "no password supplied",
    "Access denied for user",
    "Login failed for user",
)

_DATABASE_REFUSES = re.compile(
    r'(role|user|database) "[^"]*" does not exist|no pg_hba\.conf entry[^\n]*|permission denied[^\n]*'
)
"""Errors of PostgreSQL that waiting does not fix."""

_OUTAGES = (
    ("Connection refused", "the server does not answer (connection refused)"),
    ("Name or service not known", "unknown server name"),
    ("Failed to resolve", "unknown server name"),
    ("failed to resolve host", "unknown server name"),
    ("Connection reset", "the server, or a proxy before it, cuts the connection"),
    ("Remote end closed", "the server, or a proxy before it, cuts the connection"),
    ("Broken pipe", "the server, or a proxy before it, cuts the connection"),
    ("timed out", "the server does not answer in time"),
    ("timeout expired", "the server does not answer in time"),
    ("database is locked", "the database is busy"),
    ("disk I/O error", "writing to its disk failed (disk I/O error)"),
    ("database or disk is full", "its disk is full"),
    ("readonly database", "the database is read-only"),
)


def describe_trouble(error: BaseException, experiment: str = "") -> str:
    """Describe why an upload fails, as a sentence without a full stop."""
    if why := describe_refusal(error, experiment):
        return f"the tracking store {why}"
    return str(error) if isinstance(error, StoreError) else f"the tracking store is unreachable: {explain(error)}"


def describe_refusal(error: BaseException, experiment: str = "") -> str | None:
    """Describe how a store refuses access, and what to set; None for any other error.

    Args:
        error: the exception of MLflow, or of the libraries that it uses.
        experiment: the experiment of a new run.
    """
    status = http_status(error)
    if status == HTTPStatus.UNAUTHORIZED:
        return (
            "refused access (401): set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or"
            " MLFLOW_TRACKING_TOKEN, to an account of the server"
        )
    if status == HTTPStatus.FORBIDDEN:
        if not experiment:  # for an existing run another experiment does not help
            return "refused access (403): this account has no permission for that experiment; ask its owner for it"
        return (
            f"refused access (403): this account has no permission for the experiment {experiment}; ask its owner for"
            " it, or start again with tracking.experiment=<another>"
        )
    if status is not None and 400 <= status < 500 and status not in _BUSY:
        return f"refused access ({status}): {_one_line(error)}"
    if _NOT_JSON in str(error):
        return (
            "does not answer as an MLflow server does, but with a page: write the address of the server in"
            " tracking.uri; if it asks for a login, set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or"
            " MLFLOW_TRACKING_TOKEN"
        )
    if problem := password_refused(error, "tracking.uri"):
        return str(problem)
    if refused := _DATABASE_REFUSES.search(str(error)):
        return f"refused access: {redact(refused[0])}"
    return None


def refuses_content(error: BaseException) -> str | None:
    """Describe that a store refuses what was sent, and may take other things; None for any other error."""
    if isinstance(error, UnicodeError):
        return "its name or value is not valid Unicode"
    status = http_status(error)
    if status == HTTPStatus.REQUEST_ENTITY_TOO_LARGE:
        return "the server, or a proxy before it, refuses its size (413): raise its limit (nginx: client_max_body_size)"
    if status == HTTPStatus.INSUFFICIENT_STORAGE:
        return "the server has no space for it (507)"
    if status in _OF_CONTENT or getattr(error, "error_code", None) in _INVALID:
        return f"the server, or a proxy before it, refuses it ({_name(status)})" if status else _one_line(error)
    return None


def refused_path(error: BaseException) -> str | None:
    """Return the path of the artifact that a server has refused, from the address of the request; None if unknown."""
    for each in _chain(error):
        url = str(getattr(getattr(each, "response", None), "url", ""))
        if "/artifacts/" in url:
            return unquote(urlsplit(url).path.rpartition("/artifacts/")[2].removeprefix(f"{layout.MODEL}/"))
    return None


def http_status(error: BaseException) -> int | None:
    """Return the status with which a server has answered; None if it has not, or if the answer is MLflow's own.

    MLflow raises its own exceptions for its calls, and those of requests for files.
    """
    for each in _chain(error):
        response = getattr(each, "response", None)
        if (status := getattr(response, "status_code", None)) is not None:
            return int(status)
        if (status := _BY_CODE.get(str(getattr(each, "error_code", "")))) is not None:
            return status
        if match := _STATUS.search(str(each)):
            return int(match[1] or match[2])
        if _OF_A_GATEWAY.fullmatch(str(each)):
            return HTTPStatus.UNAUTHORIZED
    return None


def password_refused(error: BaseException, key: str) -> Problem | None:
    """Return the problem that a database refuses the password of an address; None for any other error.

    Args:
        error: the exception of the database's driver.
        key: the config key of the address.
    """
    if not any(sign in str(error) for sign in _PASSWORD):
        return None
    text = "refused access: the address needs its password, which is never saved"
    address = f"{key}=<dialect>://<user>:<password>@<host>/<database>"
    return Problem(key, text, f"write {address}, or ${{oc.env:<variable>}} as the password", topic="store")


def explain(error: BaseException) -> str:
    """Describe an error of MLflow in one line without credentials."""
    if isinstance(error, StoreError):
        return redact(str(error))
    if why := describe_refusal(error):
        return why
    status = http_status(error)
    if status in _BUSY:
        return f"the server is busy ({_name(status)})"
    if status is not None:
        said = _answer(error)
        return f"the server, or a proxy before it, reports an error ({_name(status)}{': ' if said else ''}{said})"
    text = str(error)
    return next((meaning for cause, meaning in _OUTAGES if cause in text), _one_line(error))


def _name(status: int | None) -> str:
    known = [each for each in HTTPStatus if each == status]
    return f"{status} {known[0].phrase}" if known else str(status)


def _answer(error: BaseException) -> str:
    """Return what a server says about its error, such as that its disk is full, shortened; empty for a page."""
    for each in _chain(error):
        text = str(getattr(getattr(each, "response", None), "text", "") or "")
        if text.lstrip().startswith("<"):
            return ""
        with contextlib.suppress(ValueError, TypeError, KeyError):
            text = str(json.loads(text)["message"])
        if text.strip():
            return _shorten(redact(text))
    return ""


def _one_line(error: BaseException) -> str:
    """Return the text of an error without SQL and credentials, shortened."""
    text = redact(str(error)).partition("[SQL:")[0].partition("(Background on this error")[0]
    return _shorten(text) or type(error).__name__


def _shorten(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= 200 else text[:197] + "..."


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
