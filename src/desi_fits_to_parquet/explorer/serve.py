"""A web server of this machine alone for the explorer: a folder of results, by ranges of bytes."""

import re
import sys
from functools import partial
from http import HTTPStatus
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from pathlib import Path
from typing import IO, Any
from urllib.parse import urlsplit

from desi_fits_to_parquet.explorer.page import STATIC
from desi_fits_to_parquet.paths import EXPLORER, EXPLORER_HOST

_RANGE = re.compile(r"bytes=(\d*)-(\d*)")


def make_server(results: Path, port: int = 0) -> ThreadingHTTPServer:
    """Return a server of a results folder; `serve_forever` starts it.

    `/explorer/` is the page of this very package, whatever page the results hold.

    Parameters
    ----------
    results
        The folder of the results.
    port
        Where it listens, on 127.0.0.1; 0 takes a free one, which `server_port` tells.

    Raises
    ------
    OSError
        Where the port is taken.
    """
    handler = partial(_Handler, directory=str(results.resolve()))
    return _Server((EXPLORER_HOST, port), handler)


def page_address(server: ThreadingHTTPServer) -> str:
    """Return the address of the explorer's page."""
    return f"http://{EXPLORER_HOST}:{server.server_port}/{EXPLORER}/"


class _Server(ThreadingHTTPServer):
    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing where the browser went away, as it does when a page is left."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


class _Handler(SimpleHTTPRequestHandler):
    """Python's own handler of files, to which it adds ranges of bytes (RFC 9110, section 14)."""

    protocol_version = "HTTP/1.1"  # keeps connections: a click is some ten requests

    def send_head(self) -> BytesIO | IO[bytes] | None:  # type: ignore[override]
        """Answer with the head; return what is to follow it."""
        path = urlsplit(self.path).path
        if path in ("/", f"/{EXPLORER}"):
            self.send_response(HTTPStatus.FOUND)
            self.send_header("Location", f"/{EXPLORER}/")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return None
        wanted = _RANGE.fullmatch(self.headers.get("Range", ""))
        place = Path(self.translate_path(self.path))
        if wanted is None or not any(wanted.groups()) or not place.is_file():
            return super().send_head()
        return self._send_range(place, *wanted.groups())

    def translate_path(self, path: str) -> str:
        """Return the file that an address means; the page is that of the package."""
        place = Path(super().translate_path(path))
        page = Path(self.directory) / EXPLORER
        return str(STATIC / place.relative_to(page)) if place.is_relative_to(page) else str(place)

    def list_directory(self, path: Any) -> None:
        """Show no folder: what is not asked for by name is not there."""
        self.send_error(HTTPStatus.NOT_FOUND)

    def end_headers(self) -> None:
        """Have the browser ask anew: the next run writes other files under these names."""
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("Cache-Control", "no-cache")
        super().end_headers()

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing of requests: a click is many."""

    def _send_range(self, place: Path, first: str, last: str) -> BytesIO | None:
        """Answer with a range; without `first`, with the `last` so many bytes of the file."""
        with place.open("rb") as stream:
            size = stream.seek(0, 2)
            begin = int(first) if first else max(0, size - int(last))
            end = min(size, int(last) + 1) if first and last else size
            if begin >= end:
                self.send_response(HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE)
                self.send_header("Content-Range", f"bytes */{size}")
                self.send_header("Content-Length", "0")
                self.end_headers()
                return None
            stream.seek(begin)
            data = stream.read(end - begin)
        self.send_response(HTTPStatus.PARTIAL_CONTENT)
        self.send_header("Content-Type", self.guess_type(place))
        self.send_header("Content-Range", f"bytes {begin}-{end - 1}/{size}")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        return BytesIO(data)
