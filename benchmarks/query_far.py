"""Measure spectra that are read from an archive of Parquet behind a far link.

The link is that of `transfer.py`: 34 MB/s, 50 ms. The catalogue is here already, as after the first
time; every look-up begins without any footer in memory.
"""

import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import obstore
import pyarrow as pa
import pyarrow.parquet as pq
from far_archive import FarArchive, serve_far
from obstore.store import HTTPStore
from transfer import BYTES_A_TARGET, BYTES_PER_S, ROUND_TRIP_S

from desi_fits_to_parquet import open_catalog

PIXELS = ["flux", "ivar", "mask"]

N_FITS = 2
"""Whole tiles of FITS that are fetched; the figure is for 100."""

TARGETS_A_TILE = 567
"""Of the run of September 2025, in the mean."""


def measure_far(results: Path, targets: Sequence[int]) -> dict[str, float]:
    """Read the dark spectra of targets, each of another tile, over the link."""
    with tempfile.TemporaryDirectory(prefix="benchmark-far-") as name:
        work = Path(name)
        root = work / "archive"
        root.mkdir()
        (root / "copy").symlink_to(results.resolve())
        (root / "fits").mkdir()
        for i in range(N_FITS):
            with (root / f"fits/{i}").open("wb") as stream:
                stream.truncate(TARGETS_A_TILE * BYTES_A_TARGET)
        with serve_far(root, work, BYTES_PER_S, ROUND_TRIP_S) as far:
            return _measure(far, work / "cache", targets)


def _measure(far: FarArchive, cache: Path, targets: Sequence[int]) -> dict[str, float]:
    def reopen() -> Any:
        return open_catalog("s3://copy", endpoint=far.endpoint, cache=cache)

    def dark(catalog: Any, wanted: Any) -> Any:
        return catalog.where("program = 'dark'").targets(wanted).spectra(columns=PIXELS)

    def timed(call: Callable[[], Any]) -> tuple[Any, float, float]:
        sent, began = far.sent.value, time.monotonic()
        answer = call()
        return answer, time.monotonic() - began, (far.sent.value - sent) / 1e6

    _, first_s, first_mb = timed(reopen)
    _, again_s, _ = timed(reopen)
    ones, requests = [], 0
    for target in targets[:15]:
        catalog = reopen()
        tree = catalog._collection.tree
        before = tree.requests
        spectrum, *cost = timed(lambda c=catalog, t=target: dark(c, t)[0])
        assert (spectrum.targetid, len(spectrum.flux)) == (target, 7751)
        requests = max(requests, tree.requests - before)
        ones.append(cost)
    catalog = reopen()
    flux, many_s, many_mb = timed(lambda: dark(catalog, targets).flux)
    assert flux.shape == (len(targets), 7751)
    files = catalog.where("program = 'dark'").targets(targets).to_arrow(["file"])["file"]
    store = HTTPStore.from_url(far.endpoint, client_options={"allow_http": True})

    def whole(file: str) -> int:
        data = bytes(obstore.get(store, f"copy/{file}").bytes())
        with pq.ParquetFile(pa.BufferReader(data)) as parquet:
            return len(parquet.read(PIXELS))

    def whole_tiles() -> None:
        with ThreadPoolExecutor(32) as threads:
            list(threads.map(whole, files.to_pylist()))

    _, tiles_s, tiles_mb = timed(whole_tiles)

    def fits() -> None:
        with ThreadPoolExecutor(N_FITS) as threads:
            list(threads.map(lambda i: len(obstore.get(store, f"fits/{i}").bytes()), range(N_FITS)))

    _, fits_s, fits_mb = timed(fits)
    scale = len(targets) / N_FITS
    return {
        "remote_open_first_s": first_s,
        "remote_open_first_mb": first_mb,
        "remote_open_s": again_s,
        "remote_one_s": statistics.median(s for s, _ in ones),
        "remote_one_mb": statistics.median(mb for _, mb in ones),
        "remote_one_mb_most": max(mb for _, mb in ones),
        "remote_requests": requests,
        "remote_100_s": many_s,
        "remote_100_mb": many_mb,
        "remote_100_tiles_s": tiles_s,
        "remote_100_tiles_mb": tiles_mb,
        "remote_100_fits_s": fits_s * scale,
        "remote_100_fits_mb": fits_mb * scale,
    }
