"""How fast requests may go: how many at once, and how many bytes a second."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    pass


class Window:
    """How many requests may be in flight, adapted to what the service bears.

    Halved when it is overloaded, but once for all requests that were on their way then; one more
    for each window of successes (additive increase, multiplicative decrease, as TCP does).
    """

    def __init__(self, most: int) -> None:
        self.most = most
        self.size = float(most)
        self._flying = 0
        self._halved = 0.0
        self._free = threading.Condition()

    @contextmanager
    def request(self) -> Iterator[None]:
        """Wait until one more request may go, and count it while the block runs."""
        with self._free:
            while self._flying and self._flying + 1 > self.size:
                self._free.wait()
            self._flying += 1
        try:
            yield
        finally:
            with self._free:
                self._flying -= 1
                self._free.notify()

    def succeeded(self) -> None:
        """Count a success."""
        if self.size < self.most:
            with self._free:
                self.size = min(self.size + 1 / self.size, self.most)
                self._free.notify()

    def overloaded(self, started: float) -> None:
        """Halve, unless that was done after the request started (`time.monotonic()`)."""
        with self._free:
            if started > self._halved:
                self.size = max(self.size / 2, 1.0)
                self._halved = time.monotonic()


class TokenBucket:
    """A limit of speed: each request waits until the ones before it are paid for."""

    def __init__(self, bytes_per_s: float) -> None:
        self._rate = bytes_per_s
        self._paid_until = 0.0
        self._lock = threading.Lock()

    def take(self, amount: int) -> None:
        """Wait until `amount` bytes may be asked for."""
        with self._lock:
            now = time.monotonic()
            pause = max(self._paid_until - now, 0.0)
            self._paid_until = now + pause + amount / self._rate
        if pause:
            time.sleep(pause)
