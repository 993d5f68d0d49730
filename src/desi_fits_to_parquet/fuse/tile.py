"""Fusing a tile's FITS files into one Parquet file: one record per selected target.

The targets are read, combined, rounded and written in blocks of one row group, so memory does not
grow with the tile.
"""

import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa

from desi_fits_to_parquet.columns import kinds_used
from desi_fits_to_parquet.files import atomic_path, sha256_of
from desi_fits_to_parquet.formats.arrow import row_lists
from desi_fits_to_parquet.fuse.parquet import (
    ROW_GROUP,
    ZSTD_LEVEL,
    ZSTD_LEVEL_REPEATED,
    encoded_size,
    open_writer,
)
from desi_fits_to_parquet.fuse.provenance import file_metadata
from desi_fits_to_parquet.outcomes import BadTile
from desi_fits_to_parquet.paths import parquet_path
from desi_fits_to_parquet.record.arms import Spectra
from desi_fits_to_parquet.record.blocks import read_blocks
from desi_fits_to_parquet.record.opened import OpenedTile, open_tile, read_download
from desi_fits_to_parquet.record.precision import round_flux, round_ivar, round_lsf, round_matrix
from desi_fits_to_parquet.record.schema import Field, record_fields
from desi_fits_to_parquet.record.spectra import read_spectra
from desi_fits_to_parquet.record.tables import read_tables
from desi_fits_to_parquet.records import DownloadRecord, FusedRecord, FuseRecord
from desi_fits_to_parquet.settings import PrecisionSettings, Settings
from desi_fits_to_parquet.tile import REQUIRED_KINDS, Tile

_PIXEL_BYTES = 12  # flux, ivar and mask

_SAMPLE = 2  # spectra on which the share of rounding is measured


def fuse_tile(
    tile: Tile, fits_folder: Path, parquet_folder: Path, settings: Settings
) -> FuseRecord:
    """Convert a tile.

    Parameters
    ----------
    tile
        The tile.
    fits_folder
        Holds its FITS files under their DESI names, and `download.json` where they were fetched
        by this project.
    parquet_folder
        Made where it is missing; gets `{survey}-{program}-{healpix}.parquet`, or nothing where the
        tile fails. A tile without selected targets gets a file without rows.
    settings
        The validated configuration.

    Returns
    -------
    FuseRecord
        See there.
    """
    started = time.monotonic()
    parquet_folder.mkdir(parents=True, exist_ok=True)
    path = parquet_path(tile, parquet_folder)
    path.unlink(missing_ok=True)
    record: FuseRecord = {
        "outcome": None,
        "reason": "",
        "n_targets": None,
        "n_rows": None,
        "bytes_parquet": 0,
        "bytes_causes": {},
        "sha256": None,
        "seconds": 0.0,
    }
    download = read_download(fits_folder, tile)
    if download["outcome"]:
        record["outcome"], record["reason"] = download["outcome"], download["reason"]
        record["n_targets"] = download["n_targets"]
    else:
        try:
            with atomic_path(path) as temporary:
                fused = _write(tile, fits_folder, temporary, settings, download)
            record = {**record, **fused}
            record["bytes_parquet"] = path.stat().st_size
            record["sha256"] = sha256_of(path)
            record["bytes_causes"]["encoding"] = record["bytes_parquet"]
        except BadTile as bad:
            record |= {"outcome": bad.outcome, "reason": bad.reason, "n_rows": None}
    record["seconds"] = round(time.monotonic() - started, 3)
    return record


def round_spectra(spectra: Spectra, precision: PrecisionSettings) -> Spectra:
    """Round flux, ivar and resolution as configured; wavelengths and mask stay as they are."""
    if precision["mode"] == "lossless":
        return spectra
    return spectra._replace(
        flux=round_flux(spectra.flux, spectra.ivar, precision["flux_tolerance"]),
        ivar=round_ivar(spectra.ivar, precision["ivar_bits"]),
        lsf=None if spectra.lsf is None else round_lsf(spectra.lsf, precision["lsf_bits"]),
        resolution=None if spectra.resolution is None else round_matrix(spectra.resolution),
    )


def _write(
    tile: Tile,
    folder: Path,
    path: Path,
    settings: Settings,
    download: DownloadRecord,
) -> FusedRecord:
    fields = record_fields(settings)
    with open_tile(tile, folder, settings, download) as opened:
        n_rows = len(opened.selection.targetid)
        headers = {kind: opened.fits[kind] for kind in REQUIRED_KINDS if kind in opened.fits}
        tables = read_tables(opened, fields, settings["selection"]["preset"])
        lengths = [min(ROW_GROUP, n_rows - first) for first in range(0, n_rows, ROW_GROUP)]
        metadata = file_metadata(tile, settings, fields, download, headers)
        with open_writer(path, fields, metadata) as writer:
            for block in read_blocks(opened, tables, fields, lengths):
                arrays = block.arrays | _spectra_arrays(
                    block.spectra, fields, settings["precision"]
                )
                writer.write_batch(
                    pa.RecordBatch.from_arrays(
                        [arrays[f.name] for f in fields], schema=writer.schema
                    )
                )
        rounded_share = 1.0
        if opened.layout and settings["precision"]["mode"] != "lossless":
            few = opened.rows[:_SAMPLE], opened.selection.targetid[:_SAMPLE]
            sample = read_spectra(opened.fits["coadd"], opened.layout, *few)
            rounded_share = _rounded_share(sample, settings["precision"])
        table_bytes = sum(array.nbytes for array in tables.values())
    return {
        "n_targets": opened.selection.n_targets,
        "n_rows": n_rows,
        "bytes_causes": _causes(
            tile, folder, settings, download, opened, table_bytes, rounded_share
        ),
    }


def _spectra_arrays(
    spectra: Mapping[str, Spectra], fields: Sequence[Field], precision: PrecisionSettings
) -> dict[str, pa.Array]:
    kinds = {field.name: field.type for field in fields}
    arrays = {}
    for prefix, exact in spectra.items():
        rounded = round_spectra(exact, precision)
        grid = np.broadcast_to(exact.wavelength, exact.flux.shape)
        for name, values in rounded._replace(wavelength=grid)._asdict().items():
            if values is not None:
                arrays[prefix + name] = row_lists(kinds[prefix + name], values)
    return arrays


def _causes(
    tile: Tile,
    folder: Path,
    settings: Settings,
    download: DownloadRecord,
    opened: OpenedTile,
    table_bytes: int,
    rounded_share: float,
) -> dict[str, int]:
    """Return the bytes left after each step but the last, in the order of the steps.

    Rounding alone saves nothing: its share is what encoding makes of rounded flux and ivar,
    relative to what it makes of them as they were.
    """
    n, n_targets, layout = len(opened.rows), opened.selection.n_targets, opened.layout
    archive = download["bytes_archive"] or sum(
        (folder / tile.file_name(kind)).stat().st_size
        for kind in kinds_used(settings)
        if (folder / tile.file_name(kind)).exists()
    )
    pixels = sum(len(wave) for wave in layout.wavelengths) if layout else 0
    kept = layout.cut[1] - layout.cut[0] if layout and layout.grid else pixels
    read = kept_too = 0  # of the resolution
    if layout:
        read = n * 4 * layout.resolution_values
        kept_too = n * 4 * kept if layout.resolution == "lsf" else read
    return {
        "archive": int(archive),
        "rows_selected": round(archive * n / n_targets) if n_targets else 0,
        "hdus_read": n * pixels * _PIXEL_BYTES + read + table_bytes,
        "wavelength_range": n * kept * _PIXEL_BYTES + kept_too + table_bytes,
        "rounding": round(n * kept * (8 * rounded_share + 4)) + kept_too + table_bytes,
    }


def _rounded_share(spectra: Mapping[str, Spectra], precision: PrecisionSettings) -> float:
    """Return the encoded size of flux and ivar after rounding, relative to that before it."""
    before = after = 0
    for exact in spectra.values():
        rounded = round_spectra(exact, precision)
        for level, old, new in (
            (ZSTD_LEVEL, exact.flux, rounded.flux),
            (ZSTD_LEVEL_REPEATED, exact.ivar, rounded.ivar),
        ):
            before += encoded_size(old, level)
            after += encoded_size(new, level)
    return after / before
