"""Where things lie below the results folder."""

from pathlib import Path

from desi_fits_to_parquet.records import Marker
from desi_fits_to_parquet.tile import Tile

LOW_NOTE = ".disk_low"
"""File in the results by which a job tells the run that it is to end."""


DOWNLOAD_RECORD = "download.json"
"""What the download of a tile tells of itself, beside the tile's FITS."""

FUSE_RECORD = "fuse.json"
"""What the fusion of a tile tells of itself, there too: it goes when the FITS go."""


def parquet_path(tile: Tile, folder: Path) -> Path:
    """Return the path of the tile's Parquet file in its folder."""
    return folder / f"{tile.name}.parquet"


def parquet_folder(results: Path, tile: Tile) -> Path:
    """Folder of a tile's Parquet, in the Hive style that readers of the whole tree understand."""
    return (
        results
        / "parquet"
        / f"survey={tile.survey}"
        / f"program={tile.program}"
        / f"healpix={tile.healpix}"
    )


def marker_path(results: Path, tile: Tile) -> Path:
    """Path of a tile's marker, which holds its outcome."""
    return results / "validated" / tile.survey / tile.program / f"{tile.healpix}.json"


def marker_tile(marker: Marker) -> Tile:
    """Return the tile that a marker is about."""
    return Tile(marker["survey"], marker["program"], marker["healpix"])
