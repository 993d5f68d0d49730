"""Which requests to send for a set of byte ranges: a cost model, not a constant."""

import math
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

REQUEST_CPU_S = 0.0002
"""CPU that one small request takes in this process and the kernel (measured: 0.15 to 0.2 ms)."""

MAX_REQUEST_BYTES = 1 << 20
"""Longer ranges are split, so that they share the connections and little memory is in flight."""


class Cost(NamedTuple):
    """What a link costs.

    Attributes
    ----------
    latency_s
        Seconds from a request to the first byte of its answer.
    bytes_per_s
        Bandwidth that this process has.
    connections
        Requests that are in flight at once, sharing the latency.
    """

    latency_s: float
    bytes_per_s: float
    connections: int

    @property
    def gap(self) -> int:
        """Bytes that take as long as one more request: shorter gaps are cheaper to read."""
        return math.floor((self.latency_s / self.connections + REQUEST_CPU_S) * self.bytes_per_s)

    def seconds(self, requests: int, amount: int, rounds: int = 1) -> float:
        """Time for so many requests and bytes, in at least `rounds` that await one another."""
        trips = max(math.ceil(requests / self.connections), rounds)
        return trips * self.latency_s + requests * REQUEST_CPU_S + amount / self.bytes_per_s


class Request(NamedTuple):
    """One request, from `start` to before `stop`, for the ranges `first` to before `last`."""

    start: int
    stop: int
    first: int
    last: int


def plan_requests(
    starts: npt.NDArray[np.int64], stops: npt.NDArray[np.int64], gap: int
) -> list[Request]:
    """Merge ranges into requests.

    Parameters
    ----------
    starts, stops
        Ranges in bytes, int64, shape (n,), sorted and without overlap; each at most
        `MAX_REQUEST_BYTES` long (see `split_ranges`) to be merged with others.
    gap
        Neighbours whose gap is at most this long are read together.

    Returns
    -------
    list of Request
        In order; each at most `MAX_REQUEST_BYTES` long unless a single range is longer.
    """
    requests: list[Request] = []
    first = 0
    positions = list(zip(starts.tolist(), stops.tolist(), strict=True))
    for i, (start, stop) in enumerate(positions):
        begin = positions[first][0]
        if i > first and (start - positions[i - 1][1] > gap or stop - begin > MAX_REQUEST_BYTES):
            requests.append(Request(begin, positions[i - 1][1], first, i))
            first = i
    if positions:
        requests.append(Request(positions[first][0], positions[-1][1], first, len(positions)))
    return requests


def split_ranges(
    starts: npt.NDArray[np.int64], stops: npt.NDArray[np.int64]
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Cut ranges so that none is longer than `MAX_REQUEST_BYTES`.

    Returns
    -------
    tuple of ndarray
        New starts and stops, and for each of them the index of the range that it is of; int64.
    """
    pieces = np.maximum(-(-(stops - starts) // MAX_REQUEST_BYTES), 1)
    of = np.repeat(np.arange(len(starts)), pieces)
    number = np.arange(len(of)) - np.repeat(np.cumsum(pieces) - pieces, pieces)
    new_starts = starts[of] + number * MAX_REQUEST_BYTES
    return new_starts, np.minimum(new_starts + MAX_REQUEST_BYTES, stops[of]), of
