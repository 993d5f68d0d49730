"""An S3 service on a real socket of this machine that misbehaves as it is told.

It answers what this project asks: ListObjectsV2, GET, HEAD, ranges, If-Match. A function decides
for each request which fault to commit, if any; see `FAULTS`.
"""

import hashlib
import socket
import ssl
import struct
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import NamedTuple
from urllib.parse import parse_qs, quote, unquote, urlsplit
from xml.sax.saxutils import escape

FAULTS = {
    "slow_down": "503 with S3's SlowDown",
    "too_many": "429",
    "error": "500",
    "forbidden": "403",
    "gone": "404",
    "changed": "412",
    "hang_up": "the connection is reset before any answer, listings too",
    "reset": "the connection is reset in the middle of the body",
    "close": "the connection ends cleanly in the middle of the body",
    "stall": "the body stops in the middle and nothing more comes",
    "silent": "no answer comes at all",
    "long": "the body is longer than was asked for, and Content-Length says so",
    "endless": "the body does not end, and Content-Length says so",
    "endless_error": "503 with a body that does not end, at a few MB a second",
    "huge_error": "503 with a Content-Length that is more than any memory",
    "trailing": "bytes that belong to nothing follow the body",
    "html": "a page of a proxy with status 200",
    "whole": "the whole object with status 200 where a range was asked for",
    "shifted": "another range than was asked for",
    "flip": "one bit of the body is another one",
    "other_version": "right in form, but with another ETag",
    "no_etag": "right, but without an ETag",
    "unconditional": "right, but If-Match is not looked at",
    "no_bucket": "404 with S3's NoSuchBucket",
    "no_range": "416",
    "other_total": "right, but Content-Range says another size of the whole",
    "moved": "301: the bucket is in region eu-west-1",
    "drip": "a byte every tenth of a second",
}

Choose = Callable[["Asked"], str | None]


class Asked(NamedTuple):
    """A request: `key` is empty for a listing; `number` counts requests for the same thing."""

    key: str
    start: int | None
    stop: int | None
    number: int

    @property
    def kind(self) -> str:
        """`list`, or what the name of the file begins with."""
        return self.key.rpartition("/")[2].partition("-")[0] if self.key else "list"


class Service:
    """Objects by key, and the function that chooses faults; both may be changed while it runs."""

    def __init__(self, bucket: str, objects: dict[str, bytes]) -> None:
        self.bucket = bucket
        self.objects = objects
        self.choose: Choose = lambda asked: None
        self.asked: list[Asked] = []
        self.headers: list[dict[str, str]] = []
        self.page = 1000
        self.error_text = ""
        self.ended = threading.Event()
        self.endpoint = ""
        self._numbers: Counter[tuple[str, int | None]] = Counter()
        self._lock = threading.Lock()

    def note(self, key: str, start: int | None, stop: int | None) -> tuple[Asked, str | None]:
        """Count a request and choose its fault."""
        with self._lock:
            asked = Asked(key, start, stop, self._numbers[key, start])
            self._numbers[key, start] += 1
            self.asked.append(asked)
            return asked, self.choose(asked)

    def forget(self) -> None:
        """Begin counting anew."""
        with self._lock:
            self._numbers.clear()
            self.asked.clear()


@lru_cache(maxsize=256)
def etag(data: bytes) -> str:
    """Return the ETag that S3 gives an object that was uploaded in one part."""
    return hashlib.md5(data, usedforsecurity=False).hexdigest()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = 1 << 16
    service: Service

    def log_message(self, *_: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        self.service.headers.append(dict(self.headers))
        url = urlsplit(self.path)
        bucket, _, key = unquote(url.path).lstrip("/").partition("/")
        if bucket != self.service.bucket:
            return self._error(404, "NoSuchBucket")
        if not key:
            return self._list({k: v[0] for k, v in parse_qs(url.query).items()})
        data = self.service.objects.get(key)
        if data is None:
            self.service.note(key, None, None)
            return self._error(404, "NoSuchKey")
        span = self.headers.get("Range")
        start, stop = 0, len(data)
        if span:
            first, _, last = span.removeprefix("bytes=").partition("-")
            start, stop = int(first), min(int(last) + 1, len(data))
        _, fault = self.service.note(key, start if span else None, stop if span else None)
        if fault == "hang_up":
            return self._hang_up()
        match = self.headers.get("If-Match")
        if fault == "changed" or (match and match.strip('"') != etag(data) and fault is None):
            return self._error(412, "PreconditionFailed")
        if self.headers.get("If-None-Match", "").strip('"') == etag(data):
            self.send_response(304)
            self.send_header("ETag", f'"{etag(data)}"')
            self.end_headers()
            return None
        if span and start >= len(data):
            return self._error(416, "InvalidRange")
        return self._object(data, start, stop, bool(span), fault)

    def _object(self, data: bytes, start: int, stop: int, partial: bool, fault: str | None) -> None:
        statuses = {"slow_down": 503, "too_many": 429, "error": 500, "forbidden": 403, "gone": 404}
        if fault == "no_range":
            return self._error(416, "InvalidRange")
        if fault == "no_bucket":
            return self._error(404, "NoSuchBucket")
        if fault == "moved":
            return self._error(301, "PermanentRedirect")
        if fault in statuses:
            return self._error(statuses[fault], "SlowDown" if fault == "slow_down" else "Fault")
        if fault in ("endless_error", "huge_error"):
            return self._endless_error(1 << 50 if fault == "huge_error" else None)
        if fault == "html":
            return self._page()
        if fault == "silent":
            return self._hold()
        if fault == "whole":
            start, stop, partial = 0, len(data), False
        body = data[start:stop]
        if fault == "flip" and body:
            at = len(body) // 2
            body = body[:at] + bytes([body[at] ^ 16]) + body[at + 1 :]
        if fault == "long":
            body += b"too much"
        shift = 10 if fault == "shifted" else 0
        self.send_response(206 if partial else 200)
        self.send_header("Content-Length", str(len(body) if fault != "endless" else 1 << 50))
        if fault != "no_etag":
            self.send_header("ETag", f'"{etag(data) if fault != "other_version" else "0" * 32}"')
        self.send_header("Last-Modified", "Tue, 01 Apr 2025 00:00:00 GMT")
        self.send_header("Accept-Ranges", "bytes")
        if partial:
            total = len(data) + (1000 if fault == "other_total" else 0)
            span = f"bytes {start + shift}-{stop + shift - 1}/{total}"
            self.send_header("Content-Range", span)
        self.end_headers()
        if self.command == "HEAD":
            return None
        if fault in ("reset", "close", "stall"):
            self.wfile.write(body[: len(body) // 2])
            self.wfile.flush()
            if fault == "stall":
                return self._hold()
            if fault == "reset":
                return self._hang_up()
            self.close_connection = True
            return None
        while fault == "endless":
            self.wfile.write(bytes(1 << 20))
        if fault == "drip":
            for byte in body:
                if self.service.ended.wait(0.1):
                    return None
                self.wfile.write(bytes([byte]))
                self.wfile.flush()
            return None
        self.wfile.write(body)
        if fault == "trailing":
            self.wfile.write(b"bytes of nothing")
        return None

    def _list(self, query: dict[str, str]) -> None:
        _, fault = self.service.note("", None, None)
        if fault == "html":
            return self._page()
        if fault == "silent":
            return self._hold()
        if fault == "moved":
            return self._error(301, "PermanentRedirect")
        if fault == "hang_up":
            return self._hang_up()
        if fault:
            return self._error(503, "SlowDown")
        prefix, delimiter = query.get("prefix", ""), query.get("delimiter", "")
        after = query.get("continuation-token", "")
        entries: dict[str, str] = {}
        for key in sorted(self.service.objects):
            rest = key.removeprefix(prefix)
            if not key.startswith(prefix):
                continue
            if delimiter and delimiter in rest:
                folder = prefix + rest.partition(delimiter)[0] + delimiter
                entries[folder] = (
                    f"<CommonPrefixes><Prefix>{quote(folder)}</Prefix></CommonPrefixes>"
                )
            else:
                data = self.service.objects[key]
                entries[key] = (
                    f"<Contents><Key>{quote(key)}</Key><Size>{len(data)}</Size>"
                    f"<LastModified>2025-04-01T00:00:00.000Z</LastModified>"
                    f"<ETag>&quot;{etag(data)}&quot;</ETag></Contents>"
                )
        names = [name for name in sorted(entries) if name > after]
        page = names[: self.service.page]
        more = len(names) > len(page)
        body = (
            '<?xml version="1.0" encoding="UTF-8"?>'
            '<ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">'
            f"<Name>{self.service.bucket}</Name><Prefix>{escape(quote(prefix))}</Prefix>"
            f"<KeyCount>{len(page)}</KeyCount><MaxKeys>{self.service.page}</MaxKeys>"
            f"<EncodingType>url</EncodingType><IsTruncated>{str(more).lower()}</IsTruncated>"
            + (f"<NextContinuationToken>{escape(page[-1])}</NextContinuationToken>" if more else "")
            + "".join(entries[name] for name in page)
            + "</ListBucketResult>"
        )
        return self._send(200, body.encode(), "application/xml")

    def _error(self, status: int, code: str) -> None:
        words = f"<Code>{code}</Code><Message>{code}</Message>{self.service.error_text}"
        body = f'<?xml version="1.0"?><Error>{words}</Error>'
        self._send(status, body.encode(), "application/xml")

    def _endless_error(self, length: int | None) -> None:
        self.send_response(503)
        if length is None:
            self.send_header("Connection", "close")
        else:
            self.send_header("Content-Length", str(length))
        self.end_headers()
        while not self.service.ended.wait(0.01):
            self.wfile.write(bytes(1 << 16))

    def _page(self) -> None:
        self._send(200, b"<html><body>Please log in to the network.</body></html>", "text/html")

    def _send(self, status: int, body: bytes, kind: str) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        if status == 301:
            self.send_header("x-amz-bucket-region", "eu-west-1")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _hang_up(self) -> None:
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close_connection = True

    def _hold(self) -> None:
        self.service.ended.wait(30)
        self.close_connection = True


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 256

    def handle_error(self, *_: object) -> None:
        """A client that gives up on a fault is what is tested."""


@contextmanager
def serve(
    objects: dict[str, bytes],
    bucket: str = "desidata",
    context: ssl.SSLContext | None = None,
) -> Iterator[Service]:
    """Run the service in a thread of this process; over TLS where a context is given."""
    service = Service(bucket, objects)
    handler = type("Handler", (_Handler,), {"service": service})
    with _Server(("127.0.0.1", 0), handler) as server:
        service.endpoint = f"http://127.0.0.1:{server.server_address[1]}"
        if context:
            server.socket = context.wrap_socket(server.socket, server_side=True)
            service.endpoint = service.endpoint.replace("http", "https")
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield service
        finally:
            service.ended.set()
            server.shutdown()
            thread.join()
