"""An object of the archive that is read here and there, each byte fetched once."""

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator

import numpy as np

from desi_fits_to_parquet.archive.link import Link
from desi_fits_to_parquet.archive.plan import plan_requests, split_ranges
from desi_fits_to_parquet.tiles_csv import Source

Range = tuple[int, int]
"""From a byte to before another one."""


class RemoteFile:
    """Keeps what was fetched of an object. For one thread.

    Parameters
    ----------
    link
        Fetches.
    source
        The object.
    """

    def __init__(self, link: Link, source: Source) -> None:
        self.source = source
        self._link = link
        self._starts: list[int] = []
        self._pieces: list[memoryview] = []

    def prefetch(self, ranges: Iterable[Range]) -> None:
        """Fetch what of the ranges is not here, at once and in as few requests as pays.

        Ranges may overlap; what lies outside the object is left out.
        """
        missing: list[list[int]] = []
        for start, stop in sorted(self._missing(ranges)):
            if missing and start <= missing[-1][1]:
                missing[-1][1] = max(missing[-1][1], stop)
            else:
                missing.append([start, stop])
        if not missing:
            return
        edges = np.array(missing, np.int64)
        starts, stops, _ = split_ranges(edges[:, 0], edges[:, 1])
        requests = plan_requests(starts, stops, self._link.cost().gap)
        spans = [(request.start, request.stop) for request in requests]
        self._link.fetch_each(self.source, spans, lambda i, data: self._keep(*spans[i], data))

    def read_at(self, offset: int, length: int) -> bytes:
        """Return exactly `length` bytes from `offset`, fetched if need be."""
        self.prefetch([(offset, offset + length)])
        parts = []
        position = offset
        i = bisect_right(self._starts, offset) - 1
        while position < offset + length:
            piece = self._pieces[i][position - self._starts[i] :]
            parts.append(piece[: offset + length - position])
            position += len(parts[-1])
            i += 1
        return b"".join(parts)

    def has(self, offset: int, length: int) -> bool:
        """Tell whether these bytes are here."""
        return not list(self._missing([(offset, offset + length)]))

    def pieces(self) -> Iterator[tuple[int, memoryview]]:
        """Give what is here: offsets and bytes, in order."""
        return zip(self._starts, self._pieces, strict=True)

    def _missing(self, ranges: Iterable[Range]) -> Iterator[Range]:
        for start, stop in ranges:
            position, stop = max(start, 0), min(stop, self.source["size"])
            i = bisect_right(self._starts, position) - 1
            if i >= 0:
                position = max(position, self._starts[i] + len(self._pieces[i]))
            i += 1
            while position < stop:
                here = self._starts[i] if i < len(self._starts) else stop
                if position < min(here, stop):
                    yield position, min(here, stop)
                position = here + (len(self._pieces[i]) if i < len(self._starts) else 0)
                i += 1

    def _keep(self, begin: int, end: int, data: memoryview) -> None:
        for start, stop in list(self._missing([(begin, end)])):
            i = bisect_left(self._starts, start)
            self._starts.insert(i, start)
            self._pieces.insert(i, data[start - begin : stop - begin])
