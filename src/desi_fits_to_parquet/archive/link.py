"""Reading objects of the archive: ranges and whole objects; unsigned, checked, patient, polite.

A `Link` is what one process has to the archive. All its requests go through `Link.fetch` or
`Link.save`: they carry the ETag of the listing (If-Match), are checked against what was asked for,
tried again after a random and growing pause, and are bounded in number and in speed.

Threads, not asyncio: for 1,000 ranges of 11 kB obstore takes 0.15 s of CPU from 32 threads and
0.28 s from 32 coroutines, and parsers that read on demand (FITS headers, HDF5) need no bridge. One
call a range: obstore's own call for many ranges tells nothing of the answers, so that a server that
ignores If-Match could mix two versions of an object.
"""

import hashlib
import logging
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import obstore
from obstore.exceptions import BaseError
from tenacity import (
    RetryCallState,
    Retrying,
    retry_if_exception_type,
    stop_after_attempt,
    wait_random_exponential,
)
from tenacity.nap import sleep_using_event

from desi_fits_to_parquet.archive.errors import (
    Fault,
    RangeIgnored,
    Redirected,
    SourceChanged,
    SourceContradicted,
    SourceMissing,
    Stopped,
    Unreachable,
    classify_error,
    describe_error,
)
from desi_fits_to_parquet.archive.keys import archive_address
from desi_fits_to_parquet.archive.pace import TokenBucket, Window
from desi_fits_to_parquet.archive.plan import Cost
from desi_fits_to_parquet.archive.store import (
    Broken,
    OtherObject,
    Stores,
    check_length,
    read_bounded,
)
from desi_fits_to_parquet.settings import ArchiveSettings, TransferSettings
from desi_fits_to_parquet.tiles_csv import Source

log = logging.getLogger(__name__)

PART_BYTES = 4 << 20
"""Whole objects are read in parts of this size, so that a failure costs one part."""

PARTS_IN_FLIGHT = 8
"""Parts of one object on their way at once: 32 MiB of memory, enough for 3 Gbit/s over 0.1 s."""

ALL_CONNECTIONS = 256
"""Requests in flight of all tiles that are fetched at once, shared out among them."""

START_LATENCY_S = 0.1

START_BYTES_PER_S = 34e6
"""Round trip and bandwidth to DESI's bucket as once measured, taken until this process knows."""

FIRST_PAUSE_S = 0.5

LONGEST_PAUSE_S = 30.0

Item = TypeVar("Item")


class Link:
    """The requests of one process to the archive. Use it as a context manager.

    Parameters
    ----------
    archive
        Section `archive` of the configuration.
    transfer
        Section `transfer` of the configuration.

    Attributes
    ----------
    requests, retries, throttled
        Requests sent, those that repeat a failed one, answers 503 or 429.
    received
        Bytes of all bodies, also of those that were refused, by the object's key.
    ranges_ignored
        Set by the caller once the server was seen to ignore ranges: objects then come whole.
    """

    def __init__(self, archive: ArchiveSettings, transfer: TransferSettings) -> None:
        self.address = archive_address(archive)
        self.requests = self.retries = self.throttled = 0
        self.received: Counter[str] = Counter()
        self.ranges_ignored = False
        self._attempts = int(transfer["attempts"])
        share = max(ALL_CONNECTIONS // transfer["downloads"], 1)
        self.window = Window(min(transfer["connections"], share))
        limit = transfer["limit_mb_s"]
        self._bucket = TokenBucket(limit * 1e6) if limit else None
        self._stores = Stores(archive, float(transfer["timeout_s"]), self.window.most)
        self._latency_s = float("inf")
        self._bytes_per_s = START_BYTES_PER_S / transfer["downloads"]
        self._seconds_per_byte: float | None = None
        self._lock = threading.Lock()
        self._closed = threading.Event()
        self._pool = ThreadPoolExecutor(self.window.most, "fetch")
        self._retrying = Retrying(
            retry=retry_if_exception_type(Broken),
            stop=stop_after_attempt(self._attempts),
            wait=wait_random_exponential(multiplier=FIRST_PAUSE_S, max=LONGEST_PAUSE_S),
            sleep=sleep_using_event(self._closed),
            before_sleep=self._count_retry,
            reraise=True,
        )

    def __enter__(self) -> "Link":
        return self

    def __exit__(self, *_: object) -> None:
        self._closed.set()
        self._pool.shutdown(wait=True, cancel_futures=True)

    # ------------------------------------------------------------------------------ requests

    def fetch(self, source: Source, start: int, stop: int) -> memoryview:
        """Fetch the bytes from `start` to before `stop` of an object.

        Raises
        ------
        SourceChanged, SourceContradicted, SourceMissing, RangeIgnored, Redirected
            See there.
        Unreachable
            After `transfer.attempts` failures.
        """
        if start == stop:
            return memoryview(b"")
        ignored = 0

        def attempt() -> memoryview:
            nonlocal ignored
            options = self._stores.options(source)
            options["range"] = (start, stop)
            with self._request(stop - start) as begun:
                try:
                    store = self._stores.for_amount(stop - start)
                    result = obstore.get(store, source["key"], options=options)
                    waited = time.monotonic() - begun
                    data = read_bounded(result, stop - start)
                except (BaseError, OSError) as error:
                    fault = self._judge(error, source, begun)
                    ignored += fault == "whole"
                    if ignored > 1:  # once may be a proxy's page in place of the answer
                        raise RangeIgnored(source["key"]) from error
                    raise Broken(describe_error(error)) from error
                self._count_received(source, len(data))
                self._stores.check_version(result.meta, source)
                check_length(len(data), stop - start)
            self._latency_s = min(self._latency_s, waited)
            self.window.succeeded()
            return data

        return self._retry(source, attempt)

    def fetch_each(
        self,
        source: Source,
        spans: Sequence[tuple[int, int]],
        use: Callable[[int, memoryview], None],
    ) -> None:
        """Fetch many ranges of an object and hand each to `use`, one at a time, in any order.

        The threads of this link share the ranges out among them: a task for each range would take
        a third more CPU. The first error ends it all and is raised; `use` is not called any more
        after that.

        Parameters
        ----------
        source
            The object.
        spans
            From a byte to before another one.
        use
            Called with the position in `spans` and the bytes.

        Raises
        ------
        SourceChanged, SourceMissing, RangeIgnored, Unreachable
            As `fetch`.
        """
        ended = False
        turn = threading.Lock()
        left = iter(range(len(spans)))

        def work() -> None:
            while True:
                with turn:
                    i = None if ended else next(left, None)
                if i is None:
                    return
                data = self.fetch(source, *spans[i])
                with turn:
                    if not ended:
                        use(i, data)

        workers = min(self.window.most, len(spans))
        futures = [self._pool.submit(work) for _ in range(workers)]
        try:
            done, _ = wait(futures, return_when=FIRST_EXCEPTION)
            for future in done:
                future.result()
        finally:
            with turn:
                ended = True
            for future in futures:
                future.cancel()

    def parts(self, source: Source) -> Iterator[tuple[int, memoryview]]:
        """Read an object from its beginning to its end: pairs of offset and bytes, in order."""
        pending: deque[tuple[int, Future[memoryview]]] = deque()
        try:
            for start in range(0, source["size"], PART_BYTES):
                stop = min(start + PART_BYTES, source["size"])
                pending.append((start, self._pool.submit(self.fetch, source, start, stop)))
                if len(pending) == PARTS_IN_FLIGHT:
                    offset, future = pending.popleft()
                    yield offset, future.result()
            while pending:
                offset, future = pending.popleft()
                yield offset, future.result()
        finally:
            for _, future in pending:
                future.cancel()

    def save(self, source: Source, path: Path, algorithm: str = "sha256") -> str:
        """Write an object into a file and return its checksum, in constant memory.

        Parameters
        ----------
        source
            The object.
        path
            File to write; the caller names and renames it.
        algorithm
            Of `hashlib`.

        Raises
        ------
        SourceChanged, SourceMissing, RangeIgnored, Unreachable
            As `fetch`.
        """
        begun = time.monotonic()
        if source["size"] <= PART_BYTES or self.ranges_ignored:
            digest = self._retry(source, lambda: self._save_whole(source, path, algorithm))
        else:
            checksum = hashlib.new(algorithm)
            with path.open("wb") as stream:
                for _, data in self.parts(source):
                    stream.write(data)
                    checksum.update(data)
            digest = checksum.hexdigest()
        if source["size"] >= 1 << 20:
            spent = time.monotonic() - begun - min(self._latency_s, START_LATENCY_S)
            self._seconds_per_byte = max(spent, 1e-3) / source["size"]
        return digest

    def _save_whole(self, source: Source, path: Path, algorithm: str) -> str:
        """Fetch an object in one request, without a range."""
        checksum = hashlib.new(algorithm)
        size = 0
        with self._request(source["size"]) as begun, path.open("wb") as stream:
            if source["size"]:
                try:
                    store = self._stores.for_amount(source["size"])
                    options = self._stores.options(source)
                    result = obstore.get(store, source["key"], options=options)
                    self._latency_s = min(self._latency_s, time.monotonic() - begun)
                    self._stores.check_whole(result.meta, source)
                    for chunk in result.stream(min_chunk_size=1 << 20):
                        size += len(chunk)
                        self._count_received(source, len(chunk))
                        if size > source["size"]:
                            break
                        stream.write(chunk)
                        checksum.update(chunk)
                except (BaseError, FileNotFoundError) as error:
                    self._judge(error, source, begun)
                    raise Broken(describe_error(error)) from error
            check_length(size, source["size"])
        self.window.succeeded()
        return checksum.hexdigest()

    def cost(self) -> Cost:
        """Give the cost model as the requests so far have shaped it.

        Latency is the shortest wait seen for an answer. Seconds per byte are the mean of those of a
        share of the usual link and what the last large file took, so that a moment without other
        tiles on the link does not make this one greedy.
        """
        latency = self._latency_s if self._latency_s < float("inf") else START_LATENCY_S
        seconds = 1 / self._bytes_per_s
        if self._seconds_per_byte is not None:
            seconds = (seconds + self._seconds_per_byte) / 2
        return Cost(latency, 1 / seconds, max(int(self.window.size), 1))

    # ------------------------------------------------------------------------------- details

    @contextmanager
    def _request(self, amount: int) -> Iterator[float]:
        """Count requests, wait for their turn, and give the moment when they start."""
        if self._bucket:
            self._bucket.take(amount)
        with self.window.request():
            if self._closed.is_set():
                raise Stopped
            with self._lock:
                self.requests += 1
            yield time.monotonic()

    def _judge(self, error: Exception, source: Source, begun: float) -> Fault:
        """Raise where trying again cannot help, else adapt to the failure and name it."""
        fault = classify_error(error)
        if fault == "changed":
            raise SourceChanged(source["key"]) from error
        if fault == "refused":
            raise SourceContradicted(f"{source['key']}: {describe_error(error)}") from error
        if fault == "missing" and not self._stores.is_gone():
            raise SourceMissing(source["key"]) from error
        if fault == "redirected":
            raise Redirected(
                f"{source['key']} could not be read from {self.address}, which redirects: "
                "archive.region is not that of the bucket"
            ) from error
        self._adapt(fault, begun)
        return fault

    def _adapt(self, fault: Fault, begun: float) -> None:
        """Send less at once after a failure that may mean overload."""
        if fault in ("throttled", "broken"):
            self.window.overloaded(begun)
        with self._lock:
            self.throttled += fault == "throttled"

    def _retry(self, source: Source, attempt: Callable[[], Item]) -> Item:
        try:
            return attempt()  # what keeps count of the tries costs a fifth of a request's CPU
        except Broken as error:
            failed = [error]

        def attempt_again() -> Item:
            if failed:
                raise failed.pop()
            return attempt()

        try:
            return self._retrying(attempt_again)
        except OtherObject as error:
            raise SourceContradicted(f"{source['key']}: {error}") from error
        except Broken as error:
            raise Unreachable(
                f"{source['key']} could not be read from {self.address}: "
                f"{self._attempts} tries failed, the last with: {error}"
            ) from error

    def _count_retry(self, state: RetryCallState) -> None:
        error = state.outcome.exception() if state.outcome else None
        log.info("a request is tried again: %s", error)
        with self._lock:
            self.retries += 1

    def _count_received(self, source: Source, amount: int) -> None:
        with self._lock:
            self.received[source["key"]] += amount
