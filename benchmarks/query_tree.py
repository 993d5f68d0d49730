"""A tree of 12,000 tiles, as a run of the workflow leaves it, written in minutes.

The rows are those of a few simulated and fused tiles, drawn anew for each tile, with TARGETIDs and
positions of their own. Only in every sixtieth tile are the spectra real; in the others they are a
few pixels long, which changes nothing for whoever reads the scalar columns.
"""

import hashlib
import json
import tempfile
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any

import astropy.units as u
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from astropy_healpix import HEALPix

from desi_fits_to_parquet.config import load_config
from desi_fits_to_parquet.fuse.parquet import ROW_GROUP, open_writer
from desi_fits_to_parquet.fuse.provenance import file_metadata
from desi_fits_to_parquet.fuse.tile import fuse_tile
from desi_fits_to_parquet.paths import marker_path, parquet_folder, parquet_path
from desi_fits_to_parquet.record.schema import record_fields
from desi_fits_to_parquet.records import empty_download, tile_keys
from desi_fits_to_parquet.simulate.tile import simulate_tile
from desi_fits_to_parquet.tile import Tile
from desi_fits_to_parquet.tiles_csv import write_tiles

REPOSITORY = Path(__file__).resolve().parents[1]

N_DARK, N_BRIGHT = 9_000, 3_000
"""Tiles; those of the bright programme lie on pixels that the dark one has too."""

ROWS = 125
"""Rows of a tile."""

REAL_EVERY = 60
"""Every so many tiles the spectra are whole."""

_SHORT = 8

_POOL_TILES = 5

_BRICK = 0.25


def settings() -> Any:
    """Return the configuration of the production run."""
    return load_config(REPOSITORY / "config/schema.yaml", REPOSITORY / "config/config.yaml")


def has_whole_spectra(tile: Tile) -> bool:
    """Tell whether the tile's spectra have all their pixels."""
    return tile.program == "dark" and tile.number % REAL_EVERY == 0


def list_tiles() -> list[Tile]:
    """Return the tiles: the sky north of -20 degrees, as much of it as is needed."""
    grid = HEALPix(nside=64, order="nested")
    lon, lat = grid.healpix_to_lonlat(np.arange(grid.npix))
    ra, dec = lon.to_value(u.deg), lat.to_value(u.deg)
    sky = np.flatnonzero((dec > -18) & (dec < 80) & (((ra > 105) & (ra < 275)) | (ra < 65)))
    pixels = sorted(np.random.default_rng(0).permutation(sky)[:N_DARK].tolist())
    return [Tile("main", "dark", pixel) for pixel in pixels] + [
        Tile("main", "bright", pixel) for pixel in pixels[:: N_DARK // N_BRIGHT]
    ]


def write_tree(results: Path) -> None:
    """Write Parquet files, markers and tiles.csv of a run below `results`."""
    tiles = list_tiles()
    with tempfile.TemporaryDirectory(prefix="benchmark-query-") as name:
        pool = write_pool(Path(name))
        with ProcessPoolExecutor(2) as workers:
            parts = [tiles[first : first + 200] for first in range(0, len(tiles), 200)]
            for _ in workers.map(write_part, [results] * len(parts), parts, [pool] * len(parts)):
                pass
    write_tiles(results / "tiles.csv", {tile: {} for tile in tiles})


def write_pool(work: Path) -> Path:
    """Simulate and fuse some tiles full of quasars; return the folder of their Parquet files."""
    for i in range(_POOL_TILES):
        tile = Tile("main", "dark", 10_000 + i)
        simulate_tile(tile, work / "fits", 300, seed=i, quasar_share=0.95, scan_step=50)
        fuse_tile(tile, work / "fits", work / "pool", settings())
    return work / "pool"


@cache
def _read_pool(pool: Path) -> tuple[pa.Table, pa.Table]:
    """Return the rows of the pool: with whole spectra, and with short ones."""
    whole = pa.concat_tables(
        [pq.ParquetFile(path).read() for path in sorted(pool.glob("*.parquet"))]
    ).combine_chunks()
    short = whole
    for name in ("wavelength", "flux", "ivar", "mask"):
        position = short.schema.get_field_index(name)
        cut = pc.list_slice(short[name], 0, _SHORT).cast(short.schema.field(name).type)
        short = short.set_column(position, short.schema.field(name), cut)
    return whole, short


def write_part(results: Path, tiles: Sequence[Tile], pool: Path, rows: int = ROWS) -> None:
    """Write some tiles of so many rows."""
    whole, short = _read_pool(pool)
    config = settings()
    fields = record_fields(config)
    for tile in tiles:
        rng = np.random.default_rng([len(tile.program), tile.number])
        table = (whole if has_whole_spectra(tile) else short).take(
            rng.integers(len(whole), size=rows)
        )
        table = identify(table, tile)
        path = parquet_path(tile, parquet_folder(results, tile))
        path.parent.mkdir(parents=True)
        with open_writer(
            path, fields, file_metadata(tile, config, fields, empty_download(tile), {})
        ) as writer:
            for batch in table.combine_chunks().to_batches(max_chunksize=ROW_GROUP):
                writer.write_batch(pa.RecordBatch.from_arrays(batch.columns, schema=writer.schema))
        marker = {
            **tile_keys(tile),
            "outcome": "converted",
            "n_rows": rows,
            "bytes_parquet": path.stat().st_size,
            "sha256": hashlib.sha256(tile.name.encode()).hexdigest(),
        }
        place = marker_path(results, tile)
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(json.dumps(marker))  # without the sync of files.write_json


def identify(table: pa.Table, tile: Tile) -> pa.Table:
    """Give rows the tile's identity, and TARGETIDs and positions that its pixel has."""
    # the same targets in all programmes: they depend on the pixel alone
    rng = np.random.default_rng(tile.pixel)
    healpix_29 = np.sort((tile.pixel << 46) + rng.integers(1 << 46, size=len(table)))
    lon, lat = HEALPix(nside=1 << 29, order="nested").healpix_to_lonlat(healpix_29)
    ra, dec = lon.to_value(u.deg), lat.to_value(u.deg)
    columns: dict[str, Any] = {
        "survey": [tile.survey] * len(table),
        "program": [tile.program] * len(table),
        "healpix": np.full(len(table), tile.pixel),
        "healpix_order": np.full(len(table), tile.order),
        "targetid": targetids(ra, dec, rng),
        "_healpix_29": healpix_29,
        "target_ra": ra,
        "target_dec": dec,
    }
    for name, values in columns.items():
        position = table.schema.get_field_index(name)
        field = table.schema.field(name)
        table = table.set_column(position, field, pa.array(values, field.type))
    return table


def targetids(
    ra: npt.NDArray[np.float64], dec: npt.NDArray[np.float64], rng: np.random.Generator
) -> npt.NDArray[np.int64]:
    """Return TARGETIDs as desitarget gives them: release, brick, object in the brick.

    The bricks of the Legacy Surveys, a quarter of a degree wide, are counted along rows of equal
    declination from the south pole on: the numbers follow HEALPix nowhere.

    Source: desitarget.targets.encode_targetid (bits 42, 22 and 0).
    """
    south = np.arange(-90, 90, _BRICK)
    per_row = np.ceil(360 / _BRICK * np.cos(np.radians(south + _BRICK / 2))).astype(np.int64)
    first = np.concatenate([[0], np.cumsum(per_row)])
    row = ((dec + 90) / _BRICK).astype(np.int64)
    brick = first[row] + (ra / 360 * per_row[row]).astype(np.int64)
    numbers: npt.NDArray[np.int64] = (9010 << 42) | (brick << 22) | rng.integers(1, 6000, len(ra))
    return numbers
