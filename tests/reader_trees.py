"""Small collections of simulated tiles, for the tests of the reader."""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fusion_tiles import write_tile
from hats_trees import write_marker

from desi_fits_to_parquet.collection.build import build_collection
from desi_fits_to_parquet.fuse.tile import fuse_tile
from desi_fits_to_parquet.paths import parquet_folder, parquet_path
from desi_fits_to_parquet.tile import Tile

TILES = (Tile("main", "dark", 10000), Tile("main", "bright", 10000), Tile("main", "dark", 20000))


def simulate(root: Path, tiles: Sequence[Tile] = TILES) -> Path:
    """Simulate the tiles; each has its own folder below the one returned."""
    for tile in tiles:
        write_tile(root / tile.name, tile, 40, kinds=("coadd", "redrock"))
    return root


def collect(fits: Path, results: Path, settings: Any, tiles: Sequence[Tile] = TILES) -> Path:
    """Fuse the tiles and build their collection, without the rest of the workflow."""
    for tile in tiles:
        record = fuse_tile(tile, fits / tile.name, parquet_folder(results, tile), settings)
        assert record["outcome"] is None, record["reason"]
        path = parquet_path(tile, parquet_folder(results, tile))
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        write_marker(results, tile, record["n_rows"], path.stat().st_size, digest)
    build_collection(results, tiles, settings)
    return results
