"""What can go wrong on the way to the archive, and what an error of the client means."""

import re
from typing import TYPE_CHECKING, Literal

from obstore.exceptions import PreconditionError

if TYPE_CHECKING:
    pass


Fault = Literal["changed", "missing", "whole", "throttled", "broken"]


class ArchiveUnreachable(Exception):
    """The archive does not answer, or is not there; the message is one line with its address."""


class SourceChanged(Exception):
    """The object is no longer the one that was listed."""


class SourceMissing(Exception):
    """The object that was listed is not there."""


class RangeIgnored(Exception):
    """The server answers a request for a range with the whole object."""


class Unreachable(Exception):
    """A request failed as often as it may; the message says where and how."""


class Stopped(Exception):
    """The link was closed while the request was waiting."""


def classify_error(error: Exception) -> Fault:
    """Say what an error of obstore means.

    obstore has few types of errors, so the text decides where the type does not (0.9 to 0.12;
    `tests/test_archive.py` holds each of them on real sockets).

    Returns
    -------
    str
        `changed`: the object is another one (412, or 416: shorter than the range). `missing`: 404.
        `whole`: a range was asked for, status 200 came. `throttled`: 429, 503 or SlowDown.
        `broken`: anything else, such as a lost connection, a timeout, a short body.
    """
    if isinstance(error, PreconditionError):
        return "changed"
    if isinstance(error, FileNotFoundError):
        return "missing"
    text = str(error)
    if "status code: 416" in text:
        return "changed"
    if "non-partial response" in text:
        return "whole"
    if re.search(r"status code: (429|503)|SlowDown|TooManyRequests", text):
        return "throttled"
    return "broken"


def describe_error(error: Exception) -> str:
    """Return the telling part of an error in one line of at most 200 characters."""
    text = str(error)
    for sign, words in (
        ("dns error", "the name of the server cannot be resolved"),
        ("Connection refused", "connection refused"),
        ("Connection reset", "connection reset"),
        ("TimedOut", "no answer in time"),
        ("kind: Interrupted", "the connection ended within the answer"),
    ):
        if sign in text:
            return words
    status = re.search(r"status code: (\d{3})", text)
    if status:  # no more of the answer: S3 repeats a request's keys and tokens in some of them
        code = re.search(r"<Code>(\w{1,60})</Code>", text)
        return " ".join(["status", status[1], *(code.groups() if code else ())])
    return (text.strip().splitlines() or [type(error).__name__])[0][:200]


class NothingFound(Exception):
    """The archive answers, but holds no tile of those that are wanted."""
