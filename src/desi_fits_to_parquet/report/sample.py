"""A bounded look into the Parquet files: enough spectra for the report's figures of the content."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from desi_fits_to_parquet.paths import parquet_folder, parquet_path
from desi_fits_to_parquet.records import TileKeys, record_tile

N_FILES = 1000
"""Files of which the scalar columns are read; the report says how many there are."""

N_MEASURED_FILES = 40
"""Files of which one row group of spectra is read."""

Z_LIMITS = (-1.0, 20.0)
"""Redshifts outside of these, and those that are no numbers, are counted and not drawn."""

N_BINNED = 25
"""Spectra of each of these files that are kept for the composite."""

LOG_STEP = 2e-4
"""Bins of the composite, in the logarithm of the wavelength: 138 km/s."""

LOG_GRID: npt.NDArray[np.float64] = np.arange(np.log10(3500.0), np.log10(10_000.0), LOG_STEP)
"""Lower edges of these bins in the observed frame, logarithm of Angstrom."""

SCALARS = ("targetid", "z", "spectype", "flux_r")

Array = npt.NDArray[np.float64]


class Spectrum(NamedTuple):
    """One arm, or the joined spectrum: Angstrom, 1e-17 erg/(s cm2 Angstrom), its sigma or NaN."""

    wavelength: Array
    flux: Array
    sigma: Array


class Sample(NamedTuple):
    """What was read.

    Attributes
    ----------
    rows
        One row a spectrum: `tile`, `targetid`, `z`, `spectype`, `flux_r` (nanomaggy; NaN where
        that column was not converted).
    measured
        The same columns for those spectra whose pixels were read, and `snr`, the median over good
        pixels of flux / sigma (NaN without good pixels), `path`, `row_group`, `row` within it, and
        `binned`: of at most `N_BINNED` a file the flux on `LOG_GRID`, else None.
    n_files
        Files read for `rows`.
    n_converted
        Files that there should be: converted tiles.
    """

    rows: pd.DataFrame
    measured: pd.DataFrame
    n_files: int
    n_converted: int


def read_sample(tiles: pd.DataFrame, results: Path) -> Sample:
    """Read rows of at most `N_FILES` converted tiles, spread evenly over the run.

    Parameters
    ----------
    tiles
        The tiles' table.
    results
        The results folder, which holds the Parquet files.

    Raises
    ------
    ValueError
        Where a file cannot be read as Parquet; the message names it.
    """
    converted = tiles[tiles.outcome == "converted"]
    identity = converted[list(TileKeys.__annotations__)].to_dict("records")
    chosen = [record_tile(cast("TileKeys", record)) for record in _spread(identity, N_FILES)]
    paths = [parquet_path(tile, parquet_folder(results, tile)) for tile in chosen]
    paths = [path for path in paths if path.exists()]
    rows = [_read_scalars(path) for path in paths]
    measured = [_measure(path) for path in _spread(paths, N_MEASURED_FILES)]
    return Sample(_concatenate(rows), _concatenate(measured), len(rows), len(converted))


def choose_gallery(measured: pd.DataFrame, n: int) -> pd.DataFrame:
    """Choose spectra that span the redshifts: of each of `n` equally filled bins the clearest."""
    good = measured[measured.snr.notna() & measured.z.between(*Z_LIMITS)]
    good = good.sort_values(["z", "targetid"], ignore_index=True)
    parts = np.array_split(np.arange(len(good)), min(n, len(good))) if len(good) else []
    best = [good.snr.iloc[part].idxmax() for part in parts]
    return good.loc[best]


def read_spectrum(path: str, row_group: int, row: int) -> list[Spectrum]:
    """Read one spectrum: one item, or one for each arm where the arms were kept apart."""
    with pq.ParquetFile(path) as file:
        arms = spectrum_prefixes(file.schema_arrow.names)
        table = file.read_row_group(row_group, columns=_pixel_columns(file, arms))
    return [_spectrum(table, arm, row) for arm in arms]


def spectrum_prefixes(names: Sequence[str]) -> list[str]:
    """Give what stands before `flux` in the columns: nothing, or one of `b_`, `r_`, `z_` each."""
    return [prefix for prefix in ("", "b_", "r_", "z_") if f"{prefix}flux" in names]


def _spread(items: Sequence[Any], most: int) -> list[Any]:
    if len(items) <= most:
        return list(items)
    return [items[i] for i in np.linspace(0, len(items) - 1, most).round().astype(int)]


def _concatenate(frames: Sequence[pd.DataFrame]) -> pd.DataFrame:
    if not frames:
        return pd.DataFrame(columns=["tile", *SCALARS, "snr", "path", "row_group", "row", "binned"])
    return pd.concat(frames, ignore_index=True)


def _open(path: Path) -> pq.ParquetFile:
    try:
        return pq.ParquetFile(path)
    except (pa.ArrowException, OSError) as error:
        raise ValueError(
            f"{path}: not readable as Parquet ({error}); `snakemake verify` finds such files and "
            "clears them for the next run"
        ) from error


def _read_scalars(path: Path, row_group: int | None = None) -> pd.DataFrame:
    with _open(path) as file:
        names = [name for name in SCALARS if name in file.schema_arrow.names]
        if row_group is None:
            table = file.read(columns=names)
        else:
            table = file.read_row_group(row_group, columns=names)
    frame: pd.DataFrame = table.to_pandas()
    frame["tile"] = path.stem
    for name in SCALARS:
        if name not in frame:
            frame[name] = np.nan
    return frame


def _measure(path: Path) -> pd.DataFrame:
    """Read the scalars and the signal to noise of a file's first row group."""
    frame = _read_scalars(path, 0)
    with _open(path) as file:
        arms = spectrum_prefixes(file.schema_arrow.names)
        table = file.read_row_group(0, columns=_pixel_columns(file, arms))
    snr = []
    binned: list[Array | None] = [None] * table.num_rows
    kept = set(_spread(range(table.num_rows), N_BINNED))
    for row in range(table.num_rows):
        spectra = [_spectrum(table, arm, row) for arm in arms]
        ratio = np.concatenate([s.flux / s.sigma for s in spectra]) if spectra else np.empty(0)
        ratio = ratio[np.isfinite(ratio)]
        snr.append(float(np.median(ratio)) if ratio.size else np.nan)
        if row in kept and ratio.size:
            binned[row] = _bin(spectra)
    frame["snr"] = snr
    frame["binned"] = pd.Series(binned, dtype=object)
    frame["path"] = str(path)
    frame["row_group"] = 0
    frame["row"] = np.arange(len(frame))
    return frame


def _bin(spectra: Sequence[Spectrum]) -> Array:
    """Average flux, weighted by ivar, in the bins of `LOG_GRID`; NaN where there is none."""
    wavelength, flux, sigma = map(np.concatenate, zip(*spectra, strict=True))
    good = np.isfinite(sigma) & np.isfinite(flux)
    place = np.floor((np.log10(wavelength[good]) - LOG_GRID[0]) / LOG_STEP).astype(int)
    inside = (place >= 0) & (place < LOG_GRID.size)
    place, weight = place[inside], 1 / sigma[good][inside] ** 2
    total = np.bincount(place, weight, LOG_GRID.size)
    summed = np.bincount(place, weight * flux[good][inside], LOG_GRID.size)
    mean: Array = np.divide(summed, total, out=np.full(LOG_GRID.size, np.nan), where=total > 0)
    return mean


def _pixel_columns(file: pq.ParquetFile, arms: Sequence[str]) -> list[str]:
    wanted = [f"{arm}{name}" for arm in arms for name in ("wavelength", "flux", "ivar", "mask")]
    return [name for name in wanted if name in file.schema_arrow.names]


def _spectrum(table: pa.Table, arm: str, row: int) -> Spectrum:
    """Take one spectrum out of a row group; sigma is NaN where a pixel is masked or has no ivar."""
    flux, ivar, wavelength = (
        table[f"{arm}{name}"][row].values.to_numpy(zero_copy_only=False).astype(float)
        for name in ("flux", "ivar", "wavelength")
    )
    mask = table[f"{arm}mask"][row].values.to_numpy(zero_copy_only=False)
    with np.errstate(divide="ignore"):
        sigma = np.where((ivar > 0) & (mask == 0), 1 / np.sqrt(ivar), np.nan)
    return Spectrum(wavelength, flux, sigma)
