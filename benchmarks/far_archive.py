"""An archive behind a far link, on one machine: nginx, a lister, and a link with delay and rate.

nginx serves the files (ranges and If-Match as S3 has them), a small server answers ListObjectsV2,
and a TCP proxy in a process of its own stands for the link: each byte towards the client waits
for its turn at the link's rate and then travels for half the round trip, each request travels for
the other half, and a new connection costs one round trip more. There is no slow start.
"""

import asyncio
import contextlib
import multiprocessing
import os
import subprocess
import threading
from collections import deque
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from multiprocessing.sharedctypes import Synchronized
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import parse_qs, quote, unquote, urlsplit

from needs import program

WINDOW_BYTES = 1 << 20
"""What one connection may have under way, as TCP's window: 20 MB/s at 50 ms."""

TICK_S = 0.001


class FarArchive(NamedTuple):
    """Where to ask, and how many bytes came over the link so far."""

    endpoint: str
    sent: "Synchronized[int]"


@contextlib.contextmanager
def serve_far(
    root: Path, work: Path, bytes_per_s: float, round_trip_s: float
) -> Iterator[FarArchive]:
    """Serve `root` (its folders are buckets) behind a link; stop all of it in the end."""
    nginx = program("nginx")
    if nginx is None:
        raise FileNotFoundError("nginx")
    context = multiprocessing.get_context("spawn")
    sent = context.Value("q", 0)
    with contextlib.ExitStack() as stack:
        lister = ThreadingHTTPServer(("127.0.0.1", 0), _lister(root))
        thread = threading.Thread(target=lister.serve_forever, daemon=True)
        thread.start()
        stack.callback(lister.shutdown)
        port = _start_nginx(stack, nginx, root, work, lister.server_address[1])
        theirs, ours = context.Pipe()
        link = context.Process(
            target=run_link, args=(port, bytes_per_s, round_trip_s, sent, theirs), daemon=True
        )
        link.start()
        theirs.close()  # so that a link that does not start ends the waiting for it
        stack.callback(link.join)
        stack.callback(link.terminate)
        yield FarArchive(f"http://127.0.0.1:{ours.recv()}", sent)


def _start_nginx(
    stack: contextlib.ExitStack, nginx: str, root: Path, work: Path, lister: int
) -> int:
    port = free_port()
    folders = "".join(
        f"{kind}_temp_path {work}/{kind};\n"
        for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    # where root starts it, nginx would serve as another user, who may not read our folder
    user = "user root;" if os.geteuid() == 0 else ""
    (work / "nginx.conf").write_text(f"""
{user}
daemon off; worker_processes 1; pid {work}/nginx.pid; error_log {work}/nginx.log;
events {{ worker_connections 4096; }}
http {{
  {folders}
  access_log off; sendfile on; tcp_nopush on; keepalive_requests 10000000;
  server {{
    listen 127.0.0.1:{port} backlog=1024; root {root};
    location / {{ if ($args ~ list-type=2) {{ proxy_pass http://127.0.0.1:{lister}; }} }}
  }}
}}
""")
    process = subprocess.Popen([nginx, "-e", str(work / "nginx.log"), "-c", work / "nginx.conf"])
    stack.callback(process.wait)
    stack.callback(process.terminate)
    return port


def free_port() -> int:
    """Return a port of this machine that nobody uses now."""
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _lister(root: Path) -> type[BaseHTTPRequestHandler]:
    """Make a server that answers ListObjectsV2 from the files below `root`, in one page."""

    class Lister(BaseHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

        def do_GET(self) -> None:
            url = urlsplit(self.path)
            query = {key: values[0] for key, values in parse_qs(url.query).items()}
            bucket = root / unquote(url.path).strip("/")
            prefix, delimiter = query.get("prefix", ""), query.get("delimiter")
            folder = bucket / prefix.rpartition("/")[0]
            entries = set()
            for path in folder.rglob("*"):
                key = path.relative_to(bucket).as_posix()
                rest = key.removeprefix(prefix)
                if not path.is_file() or not key.startswith(prefix):
                    continue
                if delimiter and delimiter in rest:
                    name = quote(prefix + rest.partition(delimiter)[0] + delimiter)
                    entries.add(f"<CommonPrefixes><Prefix>{name}</Prefix></CommonPrefixes>")
                    continue
                status = path.stat()
                etag = f"&quot;{int(status.st_mtime):x}-{status.st_size:x}&quot;"  # as nginx
                entries.add(
                    f"<Contents><Key>{quote(key)}</Key><Size>{status.st_size}</Size>"
                    f"<ETag>{etag}</ETag></Contents>"
                )
            body = (
                "<?xml version='1.0'?><ListBucketResult><IsTruncated>false</IsTruncated>"
                f"{''.join(sorted(entries))}</ListBucketResult>"
            ).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/xml")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    return Lister


# ---------------------------------------------------------------------------------- the link


class _Pipe:
    """Bytes under way in one direction, delivered in order when they are due."""

    def __init__(self, delay_s: float, bytes_per_s: float, sent: Any = None) -> None:
        self.delay_s, self.rate, self.sent = delay_s, bytes_per_s, sent
        self.free_at = 0.0
        self.due: deque[tuple[float, _Side, bytes]] = deque()

    def send(self, now: float, side: "_Side", data: bytes) -> None:
        self.free_at = max(self.free_at, now) + len(data) / self.rate
        self.due.append((self.free_at + self.delay_s, side, data))

    def deliver(self, now: float) -> None:
        amount = 0
        while self.due and self.due[0][0] <= now:
            _, side, data = self.due.popleft()
            amount += len(data)
            side.arrived(data)
        if self.sent is not None and amount:
            self.sent.value += amount


class _Side(asyncio.Protocol):
    """One end of a connection; what it receives goes through its pipe to the other end."""

    def __init__(self, pipe: _Pipe) -> None:
        self.pipe = pipe
        self.other: _Side | None = None
        self.transport: Any = None
        self.under_way = 0
        self.ended = False
        self.ready_at = 0.0
        self.early: list[bytes] = []

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        now = asyncio.get_running_loop().time()
        if self.other is None or now < self.ready_at:
            self.early.append(data)
            return
        self.under_way += len(data)
        if self.under_way > WINDOW_BYTES:
            self.transport.pause_reading()
        self.pipe.send(now, self.other, data)

    def flush_early(self) -> None:
        early, self.early = self.early, []
        for data in early:
            self.data_received(data)

    def arrived(self, data: bytes) -> None:
        """Hand on what has travelled; an empty piece says that the other end is closed."""
        if not data:
            self.transport.close()
            return
        self.transport.write(data)
        assert self.other is not None
        before = self.other.under_way
        self.other.under_way -= len(data)
        if before > WINDOW_BYTES >= self.other.under_way and not self.other.ended:
            self.other.transport.resume_reading()

    def connection_lost(self, _: Exception | None) -> None:
        self.ended = True
        if self.other is not None and not self.other.ended:
            now = asyncio.get_running_loop().time()
            self.pipe.due.append((max(now, self.pipe.free_at) + self.pipe.delay_s, self.other, b""))


def run_link(target: int, bytes_per_s: float, round_trip_s: float, sent: Any, ready: Any) -> None:
    """Run the link to a port of this machine until the process is ended."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        up = _Pipe(round_trip_s / 2, 1e12)
        down = _Pipe(round_trip_s / 2, bytes_per_s, sent)

        async def join(client: _Side) -> None:
            _, server = await loop.create_connection(lambda: _Side(down), "127.0.0.1", target)
            client.ready_at = loop.time() + round_trip_s
            server.other = client
            await asyncio.sleep(round_trip_s)
            client.other = server
            client.flush_early()

        tasks = set()

        def accept() -> _Side:
            client = _Side(up)
            task = loop.create_task(join(client))
            tasks.add(task)
            task.add_done_callback(tasks.discard)
            return client

        server = await loop.create_server(accept, "127.0.0.1", 0, backlog=1024)
        ready.send(server.sockets[0].getsockname()[1])
        while True:
            await asyncio.sleep(TICK_S)
            now = loop.time()
            up.deliver(now)
            down.deliver(now)

    asyncio.run(main())
