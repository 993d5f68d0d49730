"""Small simulated tiles as the objects of a bucket."""

import hashlib
from pathlib import Path
from typing import Any

from fault_server import etag

from desi_fits_to_parquet.archive.keys import sort_by_kind
from desi_fits_to_parquet.simulate.tile import simulate_tile
from desi_fits_to_parquet.tile import Tile
from desi_fits_to_parquet.tiles_csv import Source, Sources

PREFIX = "dr1/spectro/redux/iron/"

ROOT = f"{PREFIX}healpix/"
"""Where the tiles of layout healpix lie."""


def simulate_objects(tile: Tile, folder: Path, n_targets: int, **kwargs: Any) -> dict[str, bytes]:
    """Simulate a tile and return its files by their keys."""
    simulate_tile(tile, folder / tile.folder, n_targets, **kwargs)
    return read_objects(tile, folder)


def read_objects(tile: Tile, folder: Path) -> dict[str, bytes]:
    return {
        f"{PREFIX}{tile.archive_folder}/{path.name}": path.read_bytes()
        for path in (folder / tile.folder).iterdir()
    }


def key_of(tile: Tile, kind: str) -> str:
    name = tile.checksum_name("iron") if kind == "sha256sum" else tile.file_name(kind)
    return f"{PREFIX}{tile.archive_folder}/{name}"


def list_sources(tile: Tile, objects: dict[str, bytes]) -> Sources:
    """List the tile's files as a discovery would."""
    listed = [Source(key=k, size=len(data), etag=etag(data)) for k, data in objects.items()]
    mine = f"{PREFIX}{tile.archive_folder}/"
    return sort_by_kind(tile, [source for source in listed if source["key"].startswith(mine)])


def checksum_list(tile: Tile, objects: dict[str, bytes]) -> bytes:
    """Write the list of checksums of the tile's other files."""
    return "".join(
        f"{hashlib.sha256(data).hexdigest()}  {key.rpartition('/')[2]}\n"
        for key, data in sorted(objects.items())
        if key.startswith(f"{PREFIX}{tile.archive_folder}/") and not key.endswith(".sha256sum")
    ).encode()
