"""Parquet files and markers of runs that never happened, for the tests of the collection."""

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import astropy.units as u
import numpy as np
import pyarrow as pa
from astropy_healpix import HEALPix

from desi_fits_to_parquet.files import write_json
from desi_fits_to_parquet.fuse.parquet import open_writer
from desi_fits_to_parquet.paths import marker_path, parquet_folder, parquet_path
from desi_fits_to_parquet.record.schema import record_fields
from desi_fits_to_parquet.records import tile_keys
from desi_fits_to_parquet.tile import Tile

PIXELS = 5
"""Pixels of a spectrum."""


def place(tile: Tile, share: float) -> int:
    """Return the pixel of order 29 that lies a share of the way through the tile's pixel."""
    shift = 2 * (29 - tile.order)
    return (tile.pixel << shift) + int(share * (1 << shift))


def make_row(targetid: int, healpix_29: int, **values: Any) -> dict[str, Any]:
    """Return the columns of a row that matter."""
    return {"targetid": targetid, "_healpix_29": healpix_29, "zwarn": 0, **values}


def write_tile(results: Path, tile: Tile, rows: Sequence[Mapping[str, Any]], settings: Any) -> Path:
    """Write a tile's Parquet and marker as a run would; return the path of the Parquet."""
    rows = sorted(rows, key=lambda row: row["_healpix_29"])
    fields = record_fields(settings)
    number = np.array([row["_healpix_29"] for row in rows], np.int64)
    lon, lat = HEALPix(nside=1 << 29, order="nested").healpix_to_lonlat(number)
    given: dict[str, Any] = {
        "survey": [tile.survey] * len(rows),
        "program": [tile.program] * len(rows),
        "healpix": [tile.pixel] * len(rows),
        "healpix_order": [tile.order] * len(rows),
        "target_ra": lon.to_value(u.deg),
        "target_dec": lat.to_value(u.deg),
    }
    arrays = []
    for field in fields:
        values = given.get(field.name)
        if values is None:
            values = [row.get(field.name, _value(field.type, row["targetid"])) for row in rows]
        arrays.append(pa.array(values, field.type))
    path = parquet_path(tile, parquet_folder(results, tile))
    path.parent.mkdir(parents=True, exist_ok=True)
    with open_writer(path, fields, {"tile": tile.name}) as writer:
        if rows:
            writer.write_batch(pa.RecordBatch.from_arrays(arrays, schema=writer.schema))
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    write_marker(results, tile, len(rows), path.stat().st_size, digest)
    return path


def write_failed(results: Path, tile: Tile) -> None:
    """Write the marker and the empty folder of a tile that failed."""
    parquet_folder(results, tile).mkdir(parents=True, exist_ok=True)
    write_marker(results, tile, None, 0, None)


def write_marker(
    results: Path, tile: Tile, n_rows: int | None, size: int, sha256: str | None
) -> None:
    """Write what the collection needs of a marker."""
    marker = {**tile_keys(tile), "n_rows": n_rows, "bytes_parquet": size, "sha256": sha256}
    write_json(marker_path(results, tile), marker)


def _value(kind: pa.DataType, seed: int) -> Any:
    """Make up a value of a type; some scalars are null."""
    if pa.types.is_struct(kind):
        return {member.name: _value(member.type, seed) for member in kind}
    if pa.types.is_list(kind):
        return [_value(kind.value_type, 100 * seed + i + 1) for i in range(PIXELS)]
    if seed % 100 == 0:
        return None
    if pa.types.is_string(kind):
        return f"text {seed % 5}"
    if pa.types.is_boolean(kind):
        return bool(seed % 2)
    return seed % 100 + (0.5 if pa.types.is_floating(kind) else 0)
