"""Fusing a tile's FITS files into one Parquet file: one record per selected target.

The targets are read, combined, rounded and written in blocks of one row group, so memory does not
grow with the tile.
"""

import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from desi_fits_to_parquet.arms import Spectra
from desi_fits_to_parquet.arrow_arrays import rows
from desi_fits_to_parquet.columns import kinds_used
from desi_fits_to_parquet.files import atomic_path, read_json, sha256_of
from desi_fits_to_parquet.fits import Fits, open_fits, read_columns
from desi_fits_to_parquet.outcomes import BadTile
from desi_fits_to_parquet.parquet import (
    ROW_GROUP,
    ZSTD_LEVEL,
    ZSTD_LEVEL_IVAR,
    encoded_size,
    open_writer,
)
from desi_fits_to_parquet.precision import round_flux, round_ivar
from desi_fits_to_parquet.provenance import file_metadata
from desi_fits_to_parquet.record import (
    open_details,
    read_best_fits,
    read_scans,
    read_tables,
)
from desi_fits_to_parquet.schema import Field, record_fields
from desi_fits_to_parquet.selection import Selection, check_row_match, match_rows, select_targets
from desi_fits_to_parquet.spectra import Layout, read_layout, read_spectra
from desi_fits_to_parquet.tile import DOWNLOAD_RECORD, Tile

_PIXEL_BYTES = 12  # flux, ivar and mask

_SAMPLE = 2  # spectra on which the share of rounding is measured


class Source(NamedTuple):
    """A tile's files, opened, with what is selected from them.

    `coadd` is the opened coadd and how its spectra lie, None where nothing is selected and it was
    not fetched; `rows` are the rows of the coadd in the order of the selection.
    """

    selection: Selection
    coadd: tuple[Fits, Layout] | None
    rows: npt.NDArray[np.int64]


def parquet_path(tile: Tile, folder: Path) -> Path:
    """Return the path of the tile's Parquet file in its folder."""
    return folder / f"{tile.name}.parquet"


def fuse_tile(
    tile: Tile, fits_folder: Path, parquet_folder: Path, settings: Mapping[str, Any]
) -> dict[str, Any]:
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
    dict
        The fuse record: `outcome` (None, or the failed outcome of the tile), `reason`,
        `n_targets`, `n_rows`, `bytes_parquet`, `sha256`, `seconds`, and `bytes_causes`: the bytes
        left after each step from the archive to the Parquet.
    """
    started = time.monotonic()
    parquet_folder.mkdir(parents=True, exist_ok=True)
    path = parquet_path(tile, parquet_folder)
    path.unlink(missing_ok=True)
    record: dict[str, Any] = {
        "outcome": None,
        "reason": "",
        "n_targets": None,
        "n_rows": None,
        "bytes_parquet": 0,
        "bytes_causes": {},
        "sha256": None,
    }
    download = read_download(fits_folder)
    if download.get("outcome"):
        record |= {
            "outcome": download["outcome"],
            "reason": download.get("reason", ""),
            "n_targets": download.get("n_targets"),
        }
    else:
        try:
            with atomic_path(path) as temporary:
                record |= _write(tile, fits_folder, temporary, settings, download)
            record["bytes_parquet"] = path.stat().st_size
            record["sha256"] = sha256_of(path)
            record["bytes_causes"]["encoding"] = record["bytes_parquet"]
        except BadTile as bad:
            record |= {"outcome": bad.outcome, "reason": bad.reason, "n_rows": None}
    return record | {"seconds": round(time.monotonic() - started, 3)}


def read_download(fits_folder: Path) -> dict[str, Any]:
    """Return the download record of a FITS folder, empty where there is none."""
    path = fits_folder / DOWNLOAD_RECORD
    return dict(read_json(path)) if path.exists() else {}


def open_source(
    stack: ExitStack,
    tile: Tile,
    folder: Path,
    settings: Mapping[str, Any],
    download: Mapping[str, Any],
) -> Source:
    """Select a tile's targets and open its coadd, with the row match asserted.

    Parameters
    ----------
    stack
        Closes the coadd in the end.
    tile, folder, settings
        As in `fuse_tile`.
    download
        The download record; where its `mode` is `rows`, the coadd may hold the selected targets
        alone, and may be missing where nothing is selected.

    Raises
    ------
    BadTile
        `corrupt_source` where the files are broken or do not belong together.
    """
    for kind in ("redrock", "coadd"):
        path = folder / tile.file_name(kind)
        absent_by_design = kind == "coadd" and download.get("mode") == "rows"
        if not path.exists() and not absent_by_design:
            raise BadTile("missing_source", f"{path.name} is not there")
    selection = select_targets(
        folder / tile.file_name("redrock"),
        tile.survey,
        settings,
        folder / tile.file_name("qso_mgii"),
        folder / tile.file_name("qso_qn"),
    )
    n_selected = len(selection.targetid)
    path = folder / tile.file_name("coadd")
    if not path.exists():
        if n_selected:
            raise BadTile(
                "missing_source", f"{path.name} is not there, but {n_selected} targets are selected"
            )
        return Source(selection, None, np.zeros(0, np.int64))
    coadd = stack.enter_context(open_fits(path))
    found = read_columns(coadd, "FIBERMAP", ("TARGETID",))["TARGETID"].astype(np.int64)
    if not (download.get("mode") == "rows" and np.array_equal(np.sort(found), selection.targetid)):
        whole = read_table_ids(folder / tile.file_name("redrock"))
        check_row_match(whole, found, "HDU FIBERMAP", coadd.source)
    layout = read_layout(coadd, len(found), settings["spectra"])
    return Source(selection, (coadd, layout), match_rows(selection.targetid, found))


def read_table_ids(redrock_path: Path) -> npt.NDArray[np.int64]:
    """Return the TARGETIDs of redrock's REDSHIFTS, int64."""
    with open_fits(redrock_path) as fits:
        return read_columns(fits, "REDSHIFTS", ("TARGETID",))["TARGETID"].astype(np.int64)


def round_spectra(spectra: Spectra, precision: Mapping[str, Any]) -> Spectra:
    """Round flux and ivar as configured; wavelengths and mask stay as they are."""
    if precision["mode"] == "lossless":
        return spectra
    return spectra._replace(
        flux=round_flux(spectra.flux, spectra.ivar, precision["flux_tolerance"]),
        ivar=round_ivar(spectra.ivar, precision["ivar_bits"]),
    )


def _write(
    tile: Tile,
    folder: Path,
    path: Path,
    settings: Mapping[str, Any],
    download: Mapping[str, Any],
) -> dict[str, Any]:
    fields = record_fields(settings)
    names = {field.name for field in fields}
    with ExitStack() as stack:
        source = open_source(stack, tile, folder, settings, download)
        targetid = source.selection.targetid
        headers = {"redrock": stack.enter_context(open_fits(folder / tile.file_name("redrock")))}
        # a file without rows must be the same whether or not the coadd was fetched
        filled = source.coadd if len(targetid) else None
        if filled:
            headers["coadd"] = filled[0]
        preset = settings["selection"]["preset"]
        arrays = read_tables(
            tile, folder, filled[0] if filled else None, source.selection, fields, preset
        )
        details = None
        if names & {"rrdetails", "rrdetails_scans"}:
            details = stack.enter_context(open_details(folder / tile.file_name("rrdetails")))
        metadata = file_metadata(tile, settings, fields, download, headers)
        with open_writer(path, fields, metadata) as writer:
            for first in range(0, len(targetid), ROW_GROUP):
                part = slice(first, first + ROW_GROUP)
                block = {name: array[part] for name, array in arrays.items()}
                spectra = read_spectra(*filled, source.rows[part]) if filled else {}
                block |= _spectra_arrays(spectra, fields, settings["precision"])
                if "rrdetails" in names:
                    block["rrdetails"] = read_best_fits(details, targetid[part])
                if "rrdetails_scans" in names:
                    block["rrdetails_scans"] = read_scans(details, targetid[part])
                writer.write_batch(
                    pa.RecordBatch.from_arrays(
                        [block[f.name] for f in fields], schema=writer.schema
                    )
                )
        table_bytes = sum(array.nbytes for array in arrays.values())
        layout = source.coadd[1] if source.coadd else None
        rounded_share = 1.0
        if filled and settings["precision"]["mode"] != "lossless":
            sample = read_spectra(*filled, source.rows[:_SAMPLE])
            rounded_share = _rounded_share(sample, settings["precision"])
    return {
        "n_targets": source.selection.n_targets,
        "n_rows": len(targetid),
        "bytes_causes": _causes(
            tile, folder, settings, download, source.selection, layout, table_bytes, rounded_share
        ),
    }


def _spectra_arrays(
    spectra: Mapping[str, Spectra], fields: Sequence[Field], precision: Mapping[str, Any]
) -> dict[str, pa.Array]:
    kinds = {field.name: field.type for field in fields}
    arrays = {}
    for prefix, exact in spectra.items():
        rounded = round_spectra(exact, precision)
        columns: dict[str, npt.NDArray[Any]] = {
            "wavelength": np.broadcast_to(exact.wavelength, exact.flux.shape),
            "flux": rounded.flux,
            "ivar": rounded.ivar,
            "mask": rounded.mask,
        }
        if rounded.mask_arms is not None:
            columns["mask_arms"] = rounded.mask_arms
        for name, values in columns.items():
            arrays[prefix + name] = rows(kinds[prefix + name], values)
    return arrays


def _causes(
    tile: Tile,
    folder: Path,
    settings: Mapping[str, Any],
    download: Mapping[str, Any],
    selection: Selection,
    layout: Layout | None,
    table_bytes: int,
    rounded_share: float,
) -> dict[str, int]:
    """Return the bytes left after each step but the last, in the order of the steps.

    Rounding alone saves nothing: its share is what encoding makes of rounded flux and ivar,
    relative to what it makes of them as they were.
    """
    n = len(selection.targetid)
    archive = download.get("bytes_archive") or sum(
        (folder / tile.file_name(kind)).stat().st_size
        for kind in kinds_used(settings)
        if (folder / tile.file_name(kind)).exists()
    )
    pixels = sum(len(wave) for wave in layout.wavelengths) if layout else 0
    kept = layout.cut[1] - layout.cut[0] if layout and layout.grid else pixels
    return {
        "archive": int(archive),
        "rows_selected": round(archive * n / selection.n_targets) if selection.n_targets else 0,
        "hdus_read": n * pixels * _PIXEL_BYTES + table_bytes,
        "wavelength_range": n * kept * _PIXEL_BYTES + table_bytes,
        "rounding": round(n * kept * (8 * rounded_share + 4)) + table_bytes,
    }


def _rounded_share(spectra: Mapping[str, Spectra], precision: Mapping[str, Any]) -> float:
    """Return the encoded size of flux and ivar after rounding, relative to that before it."""
    before = after = 0
    for exact in spectra.values():
        rounded = round_spectra(exact, precision)
        for level, old, new in (
            (ZSTD_LEVEL, exact.flux, rounded.flux),
            (ZSTD_LEVEL_IVAR, exact.ivar, rounded.ivar),
        ):
            before += encoded_size(old, level)
            after += encoded_size(new, level)
    return after / before
