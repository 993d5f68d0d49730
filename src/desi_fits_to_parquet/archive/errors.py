"""What can go wrong on the way to the archive, and what an error of the client means."""

import re
from typing import Literal

from obstore.exceptions import PreconditionError

from desi_fits_to_parquet.text import neutral, shorten

Fault = Literal["changed", "refused", "missing", "redirected", "whole", "throttled", "broken"]


class ArchiveUnreachable(Exception):
    """The archive does not answer, or is not there; the message is one line with its address."""


class SourceChanged(Exception):
    """The object is no longer the one that was listed."""


class SourceContradicted(SourceChanged):
    """The service contradicts its own listing, but nothing shows that the object is another one.

    The message names the object and what was answered.
    """


class SourceMissing(Exception):
    """The object that was listed is not there."""


class RangeIgnored(Exception):
    """The server answers a request for a range with the whole object."""


class Unreachable(Exception):
    """A request failed as often as it may; the message says where and how."""


class Redirected(Unreachable):
    """The service sends to another place, which it does not name: the bucket is not there."""


class Stopped(Exception):
    """The link was closed while the request was waiting."""


def classify_error(error: Exception) -> Fault:
    """Say what an error of obstore means.

    obstore has few types of errors, so the text decides where the type does not (0.9 to 0.12;
    `tests/test_archive.py` holds each of them on real sockets).

    Returns
    -------
    str
        `changed`: the object is another one (412). `refused`: it has no such range (416).
        `missing`: 404, of an object in a bucket that is there. `redirected`: the bucket is in
        another region (301, 307). `whole`: a range was asked for, status 200 came. `throttled`:
        429, 503 or SlowDown. `broken`: anything else, such as a lost connection, a timeout, a
        short body.
    """
    if isinstance(error, PreconditionError):
        return "changed"
    text = str(error)
    if isinstance(error, FileNotFoundError):
        return "broken" if "<Code>NoSuchBucket<" in text else "missing"
    if "status code: 416" in text:
        return "refused"
    if "redirect without LOCATION" in text:
        return "redirected"
    if "non-partial response" in text:
        return "whole"
    if re.search(r"status code: (429|503)|SlowDown|TooManyRequests", text):
        return "throttled"
    return "broken"


def describe_error(error: Exception) -> str:
    """Return the telling part of an error in one line of at most 200 characters.

    obstore's errors are a line that begins with the object's address and, below it, all that was
    the cause of what, the first cause last.
    """
    text = str(error)
    for sign, words in (
        ("dns error", "the name of the server cannot be resolved"),
        ("Connection refused", "connection refused"),
        ("Connection reset", "connection reset"),
        ("TimedOut", "no answer in time"),
        ("kind: Interrupted", "the connection ended within the answer"),
        ("InvalidMessage", "the server does not answer in TLS: https where it speaks http?"),
    ):
        if sign in text:
            return words
    status = re.search(r"status code: (\d{3})", text)
    if status:  # no more of the answer: S3 repeats a request's keys and tokens in some of them
        code = re.search(r"<Code>(\w{1,60})</Code>", text)
        return " ".join(["status", status[1], *(code.groups() if code else ())])
    first, _, causes = text.strip().partition("\n")
    names = re.findall(r"[A-Z]\w+", causes)[-2:]
    if "InvalidCertificate" in causes:
        return f"the certificate of the server is not trusted ({' '.join(names)})"
    what = re.sub(r"^.*Error performing \w+ \S+ in \S+ - ", "", first) or type(error).__name__
    return shorten(neutral(f"{what} ({' '.join(names)})" if "HTTP error" in what else what), 200)


class NothingFound(Exception):
    """The archive answers, but holds no tile of those that are wanted."""
