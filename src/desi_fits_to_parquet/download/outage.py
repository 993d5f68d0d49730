"""An outage is borne by the run: its downloads wait until the archive answers again.

A tile whose requests failed as often as they may asks for one byte of some other tiles. Where one
of them answers, only this tile is in trouble; it is tried once more, and then it is `unreachable`.
Where none answers, the archive is what cannot be reached. That is written into a file of the
results folder, which each download looks for before it begins: they all wait. The one that holds a
lock asks for a byte again and again, after pauses that grow, and removes the file when it gets one.
"""

import errno
import fcntl
import json
import logging
import os
import random
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

from desi_fits_to_parquet.archive.errors import (
    RangeIgnored,
    Redirected,
    SourceChanged,
    SourceMissing,
    Unreachable,
)
from desi_fits_to_parquet.archive.link import Link
from desi_fits_to_parquet.download.tile import download_tile
from desi_fits_to_parquet.files import write_json
from desi_fits_to_parquet.paths import DOWNLOAD_RECORD, OUTAGE, OUTAGE_LOCK
from desi_fits_to_parquet.records import DownloadRecord, OutageRecord, read_outage
from desi_fits_to_parquet.settings import Settings, TransferSettings
from desi_fits_to_parquet.tile import Tile
from desi_fits_to_parquet.tiles_csv import Source, Sources, list_tiles, read_sources

log = logging.getLogger(__name__)

ASKED = 3
"""Other tiles that are asked for before the archive is said not to answer."""

FIRST_PAUSE_S = 5.0

GROWTH = 0.1
"""The archive is asked after a pause of this share of the time that the outage lasts."""

LOOK_S = 1.0
"""Seconds between two looks at whether the outage, or the run, is over."""


def download_patiently(
    tile: Tile,
    sources: Sources,
    settings: Settings,
    folder: Path,
    run: str,
    go_on: Callable[[], None],
    hdus: Collection[str] | None = None,
) -> DownloadRecord:
    """Fetch a tile as `download_tile` does, but wait where the whole archive cannot be reached.

    Parameters
    ----------
    tile, sources, settings, folder, hdus
        See `download_tile`. The list of all tiles is in the results folder.
    run
        The id of the run: what another run left of an outage does not count.
    go_on
        Called every second while the tile waits; raises where the run is ending.

    Returns
    -------
    DownloadRecord
        As it is written. `unreachable` means that other tiles could be reached, or that an outage
        was longer than `transfer.outage_hours`: then no tile waits any longer, each has one try.
    """
    results = Path(settings["results"])
    failures = 0
    while True:
        outage = _wait(results, run, tile, sources, settings, go_on)
        record = download_tile(
            tile, sources, _impatient(settings, 1) if outage else settings, folder, hdus
        )
        if record["outcome"] != "unreachable":
            if outage:
                (results / OUTAGE).unlink(missing_ok=True)
            return record
        if outage:
            record["reason"] += (
                "; the archive could not be reached for longer than transfer.outage_hours = "
                f"{settings['transfer']['outage_hours']:g}"
            )
            write_json(folder / DOWNLOAD_RECORD, record)
            return record
        if _answers(ASKED, tile, sources, settings):
            failures += 1
            if failures > 1:
                return record
            log.info("the archive answers for other tiles: this one is tried once more")
        else:
            failures = 0
            _begin(results, run, record["reason"])


def _begin(results: Path, run: str, error: str) -> None:
    """Write down that there is an outage, unless another job does or did."""
    with _open_lock(results) as lock:
        if _is_mine(lock) and not read_outage(results, run):
            log.warning("the archive cannot be reached, so all tiles wait: %s", error)
            begun = time.time()
            _write(
                results,
                OutageRecord(run=run, since=begun, lasted_s=0.0, error=error, over_limit=False),
            )


def _wait(
    results: Path,
    run: str,
    tile: Tile,
    sources: Sources,
    settings: Settings,
    go_on: Callable[[], None],
) -> OutageRecord | None:
    """Wait until no outage is known; return it where it is longer than may be waited for."""
    if not read_outage(results, run):
        return None
    longest_s = settings["transfer"]["outage_pause_s"]
    limit_s = settings["transfer"]["outage_hours"] * 3600
    log.info("the archive cannot be reached: this tile waits")
    with _open_lock(results) as lock:
        mine = False
        asked = time.monotonic()
        while True:
            go_on()
            if not mine and _is_mine(lock):  # before the look: the holder removes the file first
                mine, asked = True, time.monotonic()
            outage = read_outage(results, run)
            if outage is None or outage["over_limit"]:
                return outage
            pause = min(max(FIRST_PAUSE_S, GROWTH * outage["lasted_s"]), longest_s)
            pause = min(pause, limit_s - outage["lasted_s"])
            if mine and time.monotonic() - asked >= pause:
                if _answers(1, tile, sources, settings):
                    log.warning("the archive answers again: the run goes on")
                    (results / OUTAGE).unlink(missing_ok=True)
                    return None
                # added up, because two moments of a clock that is set tell nothing
                now = time.monotonic()
                lasted = outage["lasted_s"] + now - asked
                asked = now
                outage |= {"lasted_s": lasted, "over_limit": lasted >= limit_s}
                _write(results, outage)
            else:
                time.sleep(min(LOOK_S, longest_s))


def _answers(number: int, tile: Tile, sources: Sources, settings: Settings) -> bool:
    """Ask for one byte of so many other tiles; tell whether the archive gave one of them.

    Of a tile that is alone in the archive, its own files are asked for.
    """
    asked = _other_files(number, tile, settings) or list(sources.values())
    with Link(settings["archive"], _impatient(settings, 2)["transfer"]) as link:
        for source in asked:
            try:
                link.fetch(source, 0, 1)
            except (RangeIgnored, Redirected, SourceChanged, SourceMissing):  # it answers
                return True
            except Unreachable as error:
                log.info("%s", error)
            else:
                return True
    return False


def _other_files(number: int, tile: Tile, settings: Settings) -> list[Source]:
    listed = Path(settings["results"], "tiles.csv")
    tiles = list_tiles(listed)
    found: list[Source] = []
    for other in random.sample(tiles, min(number + 10, len(tiles))):  # some may lack the file
        if other != tile and len(found) < number:
            found += read_sources(listed, other, ["redrock"]).values()
    return found


def _impatient(settings: Settings, attempts: int) -> Settings:
    transfer: TransferSettings = {**settings["transfer"], "attempts": attempts}
    return {**settings, "transfer": transfer}


def _write(results: Path, outage: OutageRecord) -> None:
    # by several jobs at once, where the file system has no locks
    part = results / f"{OUTAGE}.{os.uname().nodename}.{os.getpid()}.part"
    part.write_text(json.dumps(outage) + "\n")
    part.replace(results / OUTAGE)


@contextmanager
def _open_lock(results: Path) -> Iterator[int]:
    descriptor = os.open(results / OUTAGE_LOCK, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        yield descriptor
    finally:
        os.close(descriptor)  # gives the lock back


def _is_mine(descriptor: int) -> bool:
    """Take the lock where it is free; where the file system has none, each job asks."""
    try:
        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        return False
    except OSError as error:
        if error.errno not in (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP):
            raise
    return True
