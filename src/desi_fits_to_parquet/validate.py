"""Comparing a tile's Parquet with its FITS files as this project reads them; the tile's outcome.

The Parquet is read back and compared with the FITS read again: schema, targets, every field of the
tables, and every pixel within the bound of the configured precision. That proves what the fusion
did with the FITS as the readers of this project read them (`formats`, `record`), which both use.
What the readers do is proven on the audited tiles, by a second reader that shares no code with them
(`second_reader`).
"""

import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from desi_fits_to_parquet.files import sha256_of
from desi_fits_to_parquet.formats.arrow import as_numbers, list_lengths, missing_values
from desi_fits_to_parquet.outcomes import BadTile
from desi_fits_to_parquet.paths import parquet_path
from desi_fits_to_parquet.record.arms import Spectra
from desi_fits_to_parquet.record.blocks import read_blocks
from desi_fits_to_parquet.record.opened import OpenedTile, open_tile, read_download
from desi_fits_to_parquet.record.positions import is_outside
from desi_fits_to_parquet.record.precision import Bound, bound
from desi_fits_to_parquet.record.schema import (
    FINGERPRINT_KEY,
    HATS_INDEX,
    Field,
    arrow_schema,
    fingerprint,
    record_fields,
)
from desi_fits_to_parquet.record.tables import read_tables
from desi_fits_to_parquet.records import (
    DownloadRecord,
    FuseRecord,
    Marker,
    PixelRecord,
    no_pixels,
    tile_keys,
)
from desi_fits_to_parquet.second_reader import read_again
from desi_fits_to_parquet.settings import Settings, settings_fingerprint
from desi_fits_to_parquet.tile import Tile, is_audited

_SLACK = 1 + 1e-9
"""Room for the rounding of the comparison itself, which is made in float64."""


class Errors(NamedTuple):
    """What rounding did to the pixels compared so far.

    `independent` counts pixels whose flux differs from their neighbour's: repeated values are
    rounded alike and say nothing new about a bias.
    """

    max_flux_sigma: float = 0.0
    max_ivar_relative: float = 0.0
    max_lsf_relative: float = 0.0
    sum_flux_sigma: float = 0.0
    n_pixels: int = 0
    independent: int = 0

    @property
    def mean_flux_sigma(self) -> float:
        """Mean error of flux in units of sigma, 0 without pixels."""
        return self.sum_flux_sigma / self.n_pixels if self.n_pixels else 0.0


def validate_tile(
    tile: Tile,
    fits_folder: Path,
    parquet_folder: Path,
    fuse_record: FuseRecord,
    settings: Settings,
) -> Marker:
    """Validate a tile's Parquet and return its marker.

    Parameters
    ----------
    tile
        The tile.
    fits_folder
        Holds the FITS files that `fuse_tile` read, and the download record.
    parquet_folder
        Holds the Parquet file, or nothing where the tile has failed. A file that does not pass is
        removed.
    fuse_record
        What `fuse_tile` returned.
    settings
        The validated configuration.

    Returns
    -------
    Marker
        See there.
    """
    started = time.monotonic()
    download = read_download(fits_folder, tile)
    path = parquet_path(tile, parquet_folder)
    outcome, reason = fuse_record["outcome"], fuse_record["reason"]
    errors, checksum, n_outside, second_reader = Errors(), None, 0, False
    pixels = no_pixels()
    fields = record_fields(settings)
    if outcome is None:
        outcome = "converted" if fuse_record["n_rows"] else "no_targets"
        try:
            errors, n_outside, pixels = _check(tile, fits_folder, path, fields, settings, download)
            checksum = sha256_of(path)
            if checksum != fuse_record["sha256"]:
                raise _invalid(f"{path.name} is not what the fusion wrote: its sha256 is another")
            if is_audited(tile, settings["transfer"]["audit_fraction"]):
                second_reader = True
                read_again(tile, fits_folder, path, settings)
        except BadTile as bad:
            checksum, outcome, reason = None, bad.outcome, bad.reason
    failed = checksum is None
    if failed:
        path.unlink(missing_ok=True)
    return {
        **tile_keys(tile),
        "outcome": outcome,
        "reason": reason,
        "n_targets": fuse_record["n_targets"],
        "n_rows": None if failed else fuse_record["n_rows"],
        "n_outside": 0 if failed else n_outside,
        **(no_pixels() if failed else pixels),
        "bytes_archive": download["bytes_archive"],
        "bytes_fetched": download["bytes_fetched"],
        "bytes_parquet": 0 if failed else fuse_record["bytes_parquet"],
        "bytes_causes": {} if failed else fuse_record["bytes_causes"],
        "requests": download["requests"],
        "retries": download["retries"],
        "throttled": download["throttled"],
        "seconds_download": download["seconds"],
        "seconds_fuse": fuse_record["seconds"],
        "seconds_validate": round(time.monotonic() - started, 3),
        "max_flux_error_sigma": errors.max_flux_sigma,
        "mean_flux_error_sigma": errors.mean_flux_sigma,
        "max_ivar_error_relative": errors.max_ivar_relative,
        "max_lsf_error_relative": errors.max_lsf_relative,
        "sha256": checksum,
        "schema_fingerprint": fingerprint(fields),
        "settings_fingerprint": settings_fingerprint(settings),
        "sources": download["sources"],
        "listed": download["listed"],
        "audit": download["audit"],
        "second_reader": second_reader,
        "finished": time.time(),
    }


def bias_limit(flux_tolerance: float, independent: int) -> float:
    """Return the largest mean flux error, in sigma, that is still consistent with no bias.

    Errors of rounding to nearest are spread evenly over at most +-tolerance/2 sigma, so their mean
    over n pixels scatters by tolerance/sqrt(12 n). Ten times that never happens by chance in
    30,000 tiles; the small constant allows for spectra whose values are not spread (a dead fibre).
    Truncation would give a mean of at least tolerance/4.

    Parameters
    ----------
    flux_tolerance
        Largest step of flux in units of sigma.
    independent
        Number of pixels with a flux of their own.
    """
    return flux_tolerance * (1 / 64 + 10 / math.sqrt(12 * max(independent, 1)))


def compare_spectra(
    exact: Spectra, stored: Spectra, limits: Bound, errors: Errors, where: str
) -> Errors:
    """Compare stored spectra with those of the FITS, pixel by pixel.

    Parameters
    ----------
    exact
        From the FITS, combined but not rounded.
    stored
        From the Parquet; shapes as in `exact`.
    limits
        The largest errors allowed; zeros demand equality bit for bit.
    errors
        The errors so far.
    where
        Which spectra these are, for messages.

    Returns
    -------
    Errors
        The errors so far and of these spectra.

    Raises
    ------
    BadTile
        `invalid_output` where they differ by more than allowed.
    """
    for name in ("mask", "mask_arms"):
        if not np.array_equal(getattr(stored, name), getattr(exact, name)):
            raise _invalid(f"{where}: {name} is not that of the FITS")
    for name, limit in (
        ("flux", limits.flux_sigma),
        ("ivar", limits.ivar_relative),
        ("lsf", limits.lsf_relative),
        ("resolution", limits.matrix),
    ):
        new, old = getattr(stored, name), getattr(exact, name)
        if limit == 0 and old is not None and not np.array_equal(_bits(new), _bits(old)):
            raise _invalid(f"{where}: {name} is not bit for bit that of the FITS")
    errors = _compare_resolution(exact, stored, limits, errors, where)
    good = exact.ivar > 0
    if not np.array_equal(good, stored.ivar > 0):
        raise _invalid(f"{where}: ivar is 0 where it was not, or the other way round")
    if not np.array_equal(_bits(stored.flux)[~good], _bits(exact.flux)[~good]):
        raise _invalid(f"{where}: flux changed where ivar is 0 and nothing may be rounded")
    ivar, flux = exact.ivar[good].astype(np.float64), exact.flux[good].astype(np.float64)
    if not len(ivar):
        return errors
    in_sigma = (stored.flux[good] - flux) * np.sqrt(ivar)
    relative = np.abs(stored.ivar[good] - ivar) / ivar
    # a NaN fails these comparisons too
    max_flux, max_ivar = float(np.abs(in_sigma).max()), float(relative.max())
    if not max_flux <= limits.flux_sigma * _SLACK:
        raise _invalid(f"{where}: flux is off by {max_flux:.4g} sigma, {limits.flux_sigma} allowed")
    if not max_ivar <= limits.ivar_relative * _SLACK:
        raise _invalid(
            f"{where}: ivar is off by a fraction of {max_ivar:.4g}, {limits.ivar_relative} allowed"
        )
    return errors._replace(
        max_flux_sigma=max(errors.max_flux_sigma, max_flux),
        max_ivar_relative=max(errors.max_ivar_relative, max_ivar),
        sum_flux_sigma=errors.sum_flux_sigma + float(in_sigma.sum()),
        n_pixels=errors.n_pixels + len(ivar),
        independent=errors.independent + 1 + int(np.count_nonzero(flux[1:] != flux[:-1])),
    )


def _compare_resolution(
    exact: Spectra, stored: Spectra, limits: Bound, errors: Errors, where: str
) -> Errors:
    """Compare what is there of the resolution; what is no number is the same in both."""
    for name, limit in (("lsf", limits.lsf_relative), ("resolution", limits.matrix)):
        old, new = getattr(exact, name), getattr(stored, name)
        if old is None:
            continue
        known = np.isfinite(old)
        if not np.array_equal(_bits(new)[~known], _bits(old)[~known]):
            raise _invalid(f"{where}: {name} changed where it is no number")
        if not known.any():
            continue
        wide = old[known].astype(np.float64)
        off = np.abs(new[known] - wide) / (wide if name == "lsf" else 1)
        largest = float(off.max())
        if not largest <= limit * _SLACK:
            raise _invalid(f"{where}: {name} is off by {largest:.4g}, {limit} allowed")
        if name == "lsf":
            errors = errors._replace(max_lsf_relative=max(errors.max_lsf_relative, largest))
    return errors


def _check(
    tile: Tile,
    folder: Path,
    path: Path,
    fields: Sequence[Field],
    settings: Settings,
    download: DownloadRecord,
) -> tuple[Errors, int, PixelRecord]:
    if not path.exists():
        raise _invalid(f"{path.name} is not there")
    with open_tile(tile, folder, settings, download) as opened:
        try:
            with pq.ParquetFile(path) as parquet:
                _check_schema(parquet, path, fields)
                errors, n_outside = _check_rows(parquet, path, fields, settings, opened)
        except (pa.ArrowException, OSError) as error:
            raise _invalid(f"{path.name} cannot be read back: {error}") from error
    precision = settings["precision"]
    limit = bias_limit(precision["flux_tolerance"], errors.independent)
    if abs(errors.mean_flux_sigma) > limit:
        raise _invalid(
            f"{path.name}: flux is off by {errors.mean_flux_sigma:.4g} sigma in the mean of "
            f"{errors.n_pixels} pixels; without bias it would be below {limit:.4g}"
        )
    return errors, n_outside, opened.pixels


def _check_schema(parquet: pq.ParquetFile, path: Path, fields: Sequence[Field]) -> None:
    declared = arrow_schema(fields)
    if not parquet.schema_arrow.remove_metadata().equals(declared.remove_metadata()):
        raise _invalid(f"{path.name}: its schema is not the declared one")
    for there, wanted in zip(parquet.schema_arrow, declared, strict=True):
        # Parquet adds its own field numbers
        kept = {k: v for k, v in (there.metadata or {}).items() if not k.startswith(b"PARQUET:")}
        if kept != (wanted.metadata or {}):
            raise _invalid(f"{path.name}: unit or description of {there.name} is not the declared")
    stored = (parquet.metadata.metadata or {}).get(FINGERPRINT_KEY.encode(), b"").decode()
    if stored != fingerprint(fields):
        raise _invalid(f"{path.name}: fingerprint of the schema is {stored or 'not there'}")


def _check_rows(
    parquet: pq.ParquetFile,
    path: Path,
    fields: Sequence[Field],
    settings: Settings,
    opened: OpenedTile,
) -> tuple[Errors, int]:
    targetid = opened.selection.targetid
    stored_id, healpix_29 = (
        as_numbers(column.combine_chunks()) for column in parquet.read(["targetid", HATS_INDEX])
    )
    if len(np.unique(stored_id)) != len(stored_id):
        raise _invalid(f"{path.name}: a TARGETID occurs more than once")
    if not np.array_equal(stored_id, targetid):
        raise _invalid(
            f"{path.name}: its {len(stored_id)} targets are not the {len(targetid)} selected ones"
        )
    tables = read_tables(opened, fields, settings["selection"]["preset"])
    limits = bound(settings["precision"])
    groups = range(parquet.num_row_groups)
    lengths = [parquet.metadata.row_group(group).num_rows for group in groups]
    errors = Errors()
    for group, block in zip(groups, read_blocks(opened, tables, fields, lengths), strict=True):
        stored = parquet.read_row_group(group)
        for name, array in block.arrays.items():
            if not _same(stored.column(name).combine_chunks(), array):
                raise _invalid(f"{path.name}: column {name} is not what the FITS files hold")
        where = f"{path.name}, row group {group}"
        for prefix, exact in block.spectra.items():
            pixels = _stored_spectra(stored, prefix, exact, where)
            errors = compare_spectra(exact, pixels, limits, errors, where)
    tile = opened.tile
    return errors, int(np.count_nonzero(is_outside(healpix_29, tile.order, tile.pixel)))


def _stored_spectra(block: pa.Table, prefix: str, exact: Spectra, where: str) -> Spectra:
    """Return the spectra of a row group as 2-d arrays, with lengths and wavelengths checked."""
    shape = exact.flux.shape
    columns: dict[str, npt.NDArray[Any]] = {}
    for name, values in exact._asdict().items():
        if values is None:
            continue
        array = block.column(prefix + name).combine_chunks()
        length = values.shape[-1]
        if not np.all(list_lengths(array) == length):
            raise _invalid(f"{where}: a {prefix}{name} does not have {length} values")
        columns[name] = as_numbers(array.flatten()).reshape(len(exact.flux), length)
    wavelength = columns.pop("wavelength")
    if not np.all(np.diff(exact.wavelength) > 0):
        raise _invalid(f"{where}: {prefix}wavelength does not increase strictly")
    if not np.array_equal(wavelength, np.broadcast_to(exact.wavelength, shape)):
        raise _invalid(f"{where}: {prefix}wavelength is not that of the FITS")
    return Spectra(exact.wavelength, **columns)


def _same(stored: pa.Array, expected: pa.Array) -> bool:
    """Compare two arrays; NaN equals NaN, as it does in a table that is copied."""
    if pa.types.is_list(expected.type):
        return np.array_equal(list_lengths(stored), list_lengths(expected)) and _same(
            stored.flatten(), expected.flatten()
        )
    if pa.types.is_struct(expected.type):
        pairs = zip(stored.flatten(), expected.flatten(), strict=True)
        return np.array_equal(missing_values(stored), missing_values(expected)) and all(
            _same(a, b) for a, b in pairs
        )
    if not pa.types.is_floating(expected.type):
        return bool(stored.equals(expected))
    missing = missing_values(expected)
    return np.array_equal(missing_values(stored), missing) and np.array_equal(
        as_numbers(stored)[~missing], as_numbers(expected)[~missing], equal_nan=True
    )


def _bits(values: npt.NDArray[np.float32]) -> npt.NDArray[np.uint32]:
    return np.ascontiguousarray(values).view(np.uint32)


def _invalid(reason: str) -> BadTile:
    return BadTile("invalid_output", reason)
