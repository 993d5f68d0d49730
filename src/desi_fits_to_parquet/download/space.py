"""Room on the disk: known before a tile is fetched, so that no write runs into a full disk."""

import shutil
from collections.abc import Collection
from pathlib import Path

from desi_fits_to_parquet.columns import RESOLUTION_CORE, extra_hdus
from desi_fits_to_parquet.settings import Settings
from desi_fits_to_parquet.tiles_csv import Sources
from desi_fits_to_parquet.units import size_text

ROWS_SHARE = 0.25
"""Largest share of a coadd and of rrdetails that `transfer.mode: rows` can write.

Of a coadd's bytes 79 % are RESOLUTION; where that is wanted the share is 1.
"""


class DiskLow(Exception):
    """There is less room than a tile needs; the message says how much is missing."""


def needed_bytes(sources: Sources, settings: Settings, hdus: Collection[str] | None = None) -> int:
    """Return how much a tile can write at the most: its FITS, then its Parquet beside them.

    Parameters
    ----------
    sources
        The tile's files in the archive.
    settings
        The validated configuration.
    hdus
        See `download_tile`.

    Returns
    -------
    int
        Bytes: the FITS that are fetched and a Parquet no larger than these.
    """
    hdus = extra_hdus(settings) if hdus is None else hdus
    large_too = {"RESOLUTION", RESOLUTION_CORE} & {*hdus}
    by_rows = settings["transfer"]["mode"] == "rows" and not large_too
    share = ROWS_SHARE if by_rows else 1
    large = ("coadd", "rrdetails")
    fits = sum(s["size"] * (share if kind in large else 1) for kind, s in sources.items())
    return int(2 * fits)


def check_space(folder: Path, needed: int, min_free_gb: float) -> None:
    """Assert that a tile fits on the disk and leaves what the configuration wants to be free.

    Parameters
    ----------
    folder
        A folder on the disk in question; it need not be there yet.
    needed
        Bytes that the tile can write.
    min_free_gb
        `resources.min_free_gb`.

    Raises
    ------
    DiskLow
        Where less is free.
    """
    there = next(path for path in (folder, *folder.resolve().parents) if path.exists())
    free = shutil.disk_usage(there).free
    missing = needed + min_free_gb * 1e9 - free
    if missing > 0:
        raise DiskLow(
            f"the disk of {folder} has {size_text(free)} free; a tile of {size_text(needed)} "
            f"and resources.min_free_gb = {min_free_gb:g} need {size_text(int(missing))} more. "
            "No new tile is started; make room and run the same command again."
        )
