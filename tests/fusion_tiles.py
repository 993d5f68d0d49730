"""Small simulated tiles for the tests of the fusion, and ways to break them."""

import shutil
from collections.abc import Callable
from contextlib import ExitStack
from copy import deepcopy
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from astropy.io import fits as astropy_fits

from desi_fits_to_parquet.formats.fits import open_fits
from desi_fits_to_parquet.fuse.tile import fuse_tile
from desi_fits_to_parquet.record.selection import Selection, select_targets
from desi_fits_to_parquet.simulate.tile import simulate_tile
from desi_fits_to_parquet.tile import Tile
from desi_fits_to_parquet.validate import validate_tile

TILE = Tile("main", "dark", 10000)


def write_tile(folder: Path, tile: Tile = TILE, n_targets: int = 24, **variant: Any) -> Path:
    """Simulate a tile of which about a third are quasars; its scans are thinned out."""
    simulate_tile(tile, folder, n_targets, seed=5, quasar_share=0.4, scan_step=50, **variant)
    return folder


def copy_tile(source: Path, target: Path) -> Path:
    """Copy a tile's folder, so that the copy can be broken."""
    shutil.copytree(source, target)
    return target


def edit_fits(path: Path, change: Callable[[Any], None]) -> None:
    """Change a FITS file through astropy."""
    with astropy_fits.open(path, memmap=False) as hdus:
        change(hdus)
        hdus.writeto(path, overwrite=True, checksum=True)


def select(folder: Path, settings: dict[str, Any], tile: Tile = TILE) -> Selection:
    """Select the targets of a tile's files, of those that are there."""
    with ExitStack() as stack:
        redrock, mgii, qn = (
            stack.enter_context(open_fits(path)) if path.exists() else None
            for path in (folder / tile.file_name(k) for k in ("redrock", "qso_mgii", "qso_qn"))
        )
        return select_targets(redrock, tile.survey, settings, mgii, qn)


def changed(settings: dict[str, Any], **sections: dict[str, Any]) -> dict[str, Any]:
    """Return settings with some of them changed, by section."""
    copy = deepcopy(settings)
    for section, values in sections.items():
        copy[section] |= values
    return copy


def convert(
    tile: Tile, folder: Path, out: Path, settings: dict[str, Any]
) -> tuple[dict[str, Any], dict[str, Any], Path]:
    """Fuse and validate a tile: the fuse record, the marker, the path of the Parquet."""
    record = fuse_tile(tile, folder, out, settings)
    marker = validate_tile(tile, folder, out, record, settings)
    return record, marker, out / f"{tile.name}.parquet"


def converted(folder: Path, out: Path, settings: dict[str, Any], tile: Tile = TILE) -> pa.Table:
    """Convert a tile that must pass, and read its Parquet."""
    record, marker, path = convert(tile, folder, out, settings)
    assert record["outcome"] is None, record["reason"]
    assert marker["outcome"] in ("converted", "no_targets"), marker["reason"]
    return pq.ParquetFile(path).read()


def different_columns(one: pa.Table, other: pa.Table) -> list[str]:
    """Names of the columns in which two tables differ; NaN equals NaN."""
    assert one.column_names == other.column_names
    return [
        name
        for name in one.column_names
        if repr(one[name].to_pylist()) != repr(other[name].to_pylist())
    ]
