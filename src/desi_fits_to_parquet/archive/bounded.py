"""Answers to boto3 that end: by itself it reads whatever a server sends into memory."""

from collections.abc import Callable, Iterator
from io import BytesIO
from time import monotonic
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from botocore.awsrequest import AWSPreparedRequest, AWSResponse

ANSWER_BYTES = 4 << 20

ANSWER_S = 60.0
"""No answer is longer or takes longer: a page of a thousand keys of a thousand characters fits."""


class Endless(Exception):
    """An answer was given up because it did not end."""


class _Body(BytesIO):
    """What was read of an answer, in the form in which botocore takes it."""

    def stream(self) -> Iterator[bytes]:
        yield self.read()


def bounded_sender(url: str, trusted: str | None, connections: int) -> "Callable[..., AWSResponse]":
    """Return a handler of boto3's event `before-send` that sends the request and reads the answer.

    Parameters
    ----------
    url
        Of the service, to find the proxy that the environment names for it.
    trusted
        File of trusted certificates, None for the usual ones.
    connections
        To be kept open.

    Returns
    -------
    callable
        It raises `Endless`, and where a connection fails the errors that boto3 itself would.
    """
    from botocore.awsrequest import AWSResponse
    from botocore.exceptions import HTTPClientError
    from botocore.httpsession import URLLib3Session
    from botocore.utils import get_environ_proxies
    from urllib3.exceptions import HTTPError

    open_http: Any = URLLib3Session  # the stubs know neither a file nor two limits of time
    http = open_http(
        verify=trusted or True,
        proxies=get_environ_proxies(url),
        timeout=(4, 20),
        max_pool_connections=connections,
    )

    def send(request: "AWSPreparedRequest", **_: object) -> AWSResponse:
        request.stream_output = True  # read here, not there
        begun = monotonic()
        answer = http.send(request)
        body = bytearray()
        try:
            while piece := answer.raw.read1(1 << 16):
                body += piece
                spent = monotonic() - begun
                if len(body) > ANSWER_BYTES or spent > ANSWER_S:
                    answer.raw.close()
                    raise Endless(f"the answer does not end: {len(body)} bytes in {spent:.0f} s")
        except HTTPError as error:
            raise HTTPClientError(error=error) from error
        finally:
            answer.raw.release_conn()
        return AWSResponse(answer.url, answer.status_code, answer.headers, _Body(body))

    return send
