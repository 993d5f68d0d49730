"""What the markers say of the tiles' Parquet files."""

from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from desi_fits_to_parquet.files import read_json
from desi_fits_to_parquet.paths import marker_path, parquet_folder, parquet_path
from desi_fits_to_parquet.tile import Tile


class TileFile(NamedTuple):
    """A tile's Parquet: its path, rows, size in bytes and checksum."""

    tile: Tile
    path: Path
    n_rows: int
    size: int
    sha256: str


def list_files(results: Path, tiles: Iterable[Tile]) -> list[TileFile]:
    """Return the Parquet files of the tiles that have one, in the order of the tiles.

    Parameters
    ----------
    results
        The folder of the results.
    tiles
        The tiles; each has a marker.

    Raises
    ------
    ValueError
        Where a marker is missing or broken.
    """
    files = []
    for tile in tiles:
        place = marker_path(results, tile)
        try:
            marker = read_json(place)
            if marker["sha256"]:
                path = parquet_path(tile, parquet_folder(results, tile))
                files.append(
                    TileFile(
                        tile, path, marker["n_rows"], marker["bytes_parquet"], marker["sha256"]
                    )
                )
        except FileNotFoundError as error:
            raise ValueError(
                f"{place} is not there: run the workflow to its end, then make the catalogue again"
            ) from error
        except (KeyError, TypeError) as error:
            raise ValueError(
                f"{place}: no marker of this version ({error!r}); delete it and run again"
            ) from error
    return files
