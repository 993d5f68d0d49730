"""A results folder as large as a whole release's, of which only the catalogue is real.

Its rows are the demo's, drawn anew, with targets, redshifts, magnitudes and files of their own; all
spectra are those of one of the demo's files.
"""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq

from desi_fits_to_parquet.collection.hats import partition_path, write_catalog_files
from desi_fits_to_parquet.collection.partition import ROW_GROUP, open_writer
from desi_fits_to_parquet.paths import (
    CATALOG,
    COLLECTION,
    INDEX,
    parquet_folder,
    parquet_path,
)
from desi_fits_to_parquet.tile import Tile

ORDER = 1
TILE_ORDER = 6
TILES = 12_000


def write_results(demo: Path, results: Path, n_rows: int) -> None:
    """Write the catalogue, the index, the list of tiles; link the spectra.

    Parameters
    ----------
    demo
        Results of the demo.
    results
        A folder that is not there.
    n_rows
        Rows of the catalogue, spread evenly over 12,000 tiles.
    """
    rng = np.random.default_rng(1)
    files = sorted(map(str, (demo / CATALOG / "dataset").rglob("Npix=*.parquet")))
    rows = ds.dataset(files).to_table()
    schema = pq.read_schema(files[0])
    spectra = max((demo / "parquet").rglob("*.parquet"), key=lambda path: path.stat().st_size)
    n_spectra = pq.read_metadata(spectra).num_rows
    tiles = np.sort(rng.choice(12 * 4**TILE_ORDER, TILES, replace=False))
    names = [_link(results, Tile("main", "dark", int(pixel)), spectra) for pixel in tiles]
    home = tiles >> 2 * (TILE_ORDER - ORDER)
    per_tile = n_rows // TILES
    partitions = np.unique(home)
    pairs = []
    table = rows.take(rng.integers(len(rows), size=per_tile * np.bincount(home).max()))
    for number in partitions.tolist():
        inside = np.flatnonzero(home == number)
        which = np.repeat(inside, per_tile)
        n = len(which)
        shift = 2 * (29 - TILE_ORDER)
        targets = rng.integers(39_627_000_000_000_000, 39_633_400_000_000_000, n)
        z = rng.gamma(4, 0.45, n)
        columns = {
            "targetid": targets,
            "_healpix_29": np.sort((tiles[which] << shift) + rng.integers(1 << shift, size=n)),
            "healpix": tiles[which],
            "z": z,
            "flux_r": 10 ** (0.4 * (22.5 - rng.uniform(17, 23, n))),
            "row": rng.integers(n_spectra, size=n),
            "file": pa.array(names).take(pa.array(which)),
        }
        part = table.slice(0, n)
        for name, values in columns.items():
            position = schema.get_field_index(name)
            array = values if isinstance(values, pa.Array) else pa.array(values)
            array = array.cast(schema.field(name).type)
            part = part.set_column(position, schema.field(name), array)
        path = partition_path(results / CATALOG, (ORDER, number))
        path.parent.mkdir(parents=True, exist_ok=True)
        with open_writer(path, schema) as writer:
            writer.write_table(part.cast(schema), row_group_size=ROW_GROUP)
        pairs.append(np.stack([targets, np.full(n, number)]))
    total = per_tile * TILES
    write_catalog_files(
        results / CATALOG, [(ORDER, n) for n in partitions.tolist()], schema, {"hats_nrows": total}
    )
    _write_index(results / INDEX / "dataset/index/part.0.parquet", np.concatenate(pairs, axis=1))
    _write_tiles(demo, results, tiles, per_tile)
    (results / COLLECTION).write_text("obs_title=Many targets\n")


def _link(results: Path, tile: Tile, spectra: Path) -> str:
    path = parquet_path(tile, parquet_folder(results, tile))
    path.parent.mkdir(parents=True)
    path.symlink_to(spectra)
    return str(path.relative_to(results))


def _write_index(path: Path, pairs: np.ndarray) -> None:
    path.parent.mkdir(parents=True)
    pairs = pairs[:, np.argsort(pairs[0])]
    table = pa.table(
        {
            "targetid": pairs[0],
            "Norder": np.full(pairs.shape[1], ORDER, np.uint8),
            "Npix": pairs[1].astype(np.uint64),
        }
    )
    pq.write_table(table, path, row_group_size=ROW_GROUP, compression="zstd")


def _write_tiles(demo: Path, results: Path, tiles: np.ndarray, per_tile: int) -> None:
    listed = pq.read_table(demo / "report/tiles.parquet")
    table = listed.take(np.zeros(TILES, np.int64))
    columns = {
        "survey": ["main"] * TILES,
        "program": ["dark"] * TILES,
        "healpix": tiles,
        "order": np.full(TILES, TILE_ORDER),
        "pixel": tiles,
        "outcome": ["converted"] * TILES,
        "n_rows": np.full(TILES, per_tile),
    }
    for name, values in columns.items():
        field = listed.schema.field(name)
        table = table.set_column(
            listed.schema.get_field_index(name), field, pa.array(values).cast(field.type)
        )
    path = results / "report/tiles.parquet"
    path.parent.mkdir()
    pq.write_table(table, path)
