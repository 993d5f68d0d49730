"""Where things lie below the results folder."""

from pathlib import Path

from desi_fits_to_parquet.tile import Tile

LOW_NOTE = ".disk_low"
"""File in the results by which a job tells the run that it is to end."""


REPORTED = ".reported"

COLLECTED = ".collected"
"""Files in the results that are there while report and collection are of the present tiles."""

WRITABLE = ".writable"
"""Written and removed, to see whether the results can be written to."""

OUTAGE = ".outage.json"
"""File in the results that is there while the archive cannot be reached."""

OUTAGE_LOCK = ".outage.lock"
"""Held by the one job that asks whether the archive answers again."""

SETTINGS = ".settings.json"
"""File in the results with the settings of the run that works there: its jobs read it."""

LEFTOVERS = ".leftovers"
"""Made by a run that had to remove what a killed one left; it makes that run begin."""

ENDING = ".ending"
"""File in the results that names the runs whose waiting jobs are to end."""


DOWNLOAD_RECORD = "download.json"
"""What the download of a tile tells of itself, beside the tile's FITS."""

FUSE_RECORD = "fuse.json"
"""What the fusion of a tile tells of itself, there too: it goes when the FITS go."""


COLLECTION = "collection.properties"
"""File that makes the results a HATS collection; it is there when all of it is whole."""

CATALOG, MARGIN, INDEX = "catalog", "catalog_margin", "catalog_targetid"
"""Folders of the collection's catalogue, of its margin and of its index of TARGETIDs."""


PARQUET = "parquet"
"""Folder of the spectra: in it one of each survey and program."""


EXPLORER = "explorer"
"""Folder of the page that shows the results in a browser."""

EXPLORER_HOST, EXPLORER_PORT = "127.0.0.1", 8765
"""Where `desi-fits-to-parquet serve` shows it, unless `--port` says another."""


def fits_folder(results: Path, tile: Tile) -> Path:
    """Folder of a tile's FITS, which goes when the tile is validated."""
    return results / "fits" / tile.survey / tile.program / str(tile.number)


def catalogue_folder(results: Path, survey: str, program: str) -> Path:
    """Folder of the HATS catalogue that the tiles of a survey and program make."""
    return results / PARQUET / f"{survey}-{program}"


def partition(order: int, pixel: int) -> str:
    """Folder of a HATS partition below `dataset/`.

    Source: IVOA note "HATS", https://www.ivoa.net/documents/Notes/HATS/, section on the layout.
    """
    return f"Norder={order}/Dir={pixel // 10000 * 10000}/Npix={pixel}"


def parquet_folder(results: Path, tile: Tile) -> Path:
    """Folder of a tile's Parquet: a partition of its HATS catalogue."""
    catalogue = catalogue_folder(results, tile.survey, tile.program)
    return catalogue / "dataset" / partition(tile.order, tile.pixel)


def parquet_path(tile: Tile, folder: Path) -> Path:
    """Return the path of the tile's Parquet file in its folder."""
    return folder / f"{tile.name}.parquet"


VALIDATED, SKIMMED = "validated", "skimmed"
"""Folders of the markers: of tiles that became Parquet, of tiles that were skimmed."""

SKIM = "skim"
"""Folder of the small production that the target `skim` makes."""

SKIM_SUMMARY = "skim.json"
"""In it: what was selected, sums, and tiles by outcome."""

SKIM_TILES = "tiles.csv"
"""In it too: outcome, targets and bytes of each tile."""


def skim_folder(results: Path, prefix: str, tile: Tile) -> Path:
    """Folder of a tile in the small production, where the archive with that prefix has it."""
    return results / SKIM / prefix / tile.archive_folder


def skim_marker_path(results: Path, tile: Tile) -> Path:
    """Path of the marker of a skimmed tile."""
    return results / SKIMMED / tile.survey / tile.program / f"{tile.number}.json"


def marker_path(results: Path, tile: Tile) -> Path:
    """Path of a tile's marker, which holds its outcome."""
    return results / VALIDATED / tile.survey / tile.program / f"{tile.number}.json"
