"""Reading the spectra of chosen targets from a coadd, in blocks, as the record holds them.

The fusion rounds what comes from here; the validation compares the Parquet with it.
"""

import math
import re
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from desi_fits_to_parquet.formats.fits import Fits, find_hdu
from desi_fits_to_parquet.formats.fits_images import image_shape, read_image
from desi_fits_to_parquet.formats.fits_tables import convert_values
from desi_fits_to_parquet.outcomes import BadTile
from desi_fits_to_parquet.record.arms import (
    CAMERAS,
    STEP,
    TOLERANCE,
    Grid,
    Spectra,
    combine,
    cut_range,
    drop_masked,
    join_grids,
)
from desi_fits_to_parquet.record.resolution import combine_widths, line_widths
from desi_fits_to_parquet.record.schema import FLUX_UNIT, IVAR_UNIT
from desi_fits_to_parquet.settings import SpectraSettings

QUANTITIES = ("FLUX", "IVAR", "MASK")
"""What each arm's images are of that are read, one row a target."""


NOT_FINITE = 1 << 30
"""Bit of `mask` that no SPECMASK bit of DESI's takes: flux or ivar is NaN or infinite here."""

MAX_DIAGONALS = 51
"""More diagonals than any band matrix of DESI's has: those of DR1 have 11."""

_BLOCK = 64  # targets whose pixels are counted at once


class SpectraLayout(NamedTuple):
    """How the spectra of a coadd lie on their grids.

    Attributes
    ----------
    wavelengths
        Pixel centres of each arm, Angstrom, float64.
    grid
        The joined grid, None where the arms stay separate.
    cut
        First and stop pixel of the joined grid within `spectra.wavelength_range`.
    no_weight
        Whether masked pixels lose their weight (before the arms are joined, where they are).
    mask_arms
        Whether the bits of the arms are kept beside those of the joined spectrum.
    resolution
        `spectra.resolution`.
    resolution_values
        Values of RESOLUTION that are read of a target, of all arms together.
    """

    wavelengths: tuple[npt.NDArray[np.float64], ...]
    grid: Grid | None
    cut: tuple[int, int]
    no_weight: bool
    mask_arms: bool
    resolution: Literal["none", "lsf", "matrix"]
    resolution_values: int


class PixelCounts(NamedTuple):
    """How many pixels of each target, over all arms, are such; int64, shape (ntarget,).

    Attributes
    ----------
    not_finite
        Flux or ivar is NaN or infinite, flux where ivar is above 0.
    masked_with_ivar
        Masked, and ivar is above 0 all the same.
    with_ivar
        ivar is above 0.
    """

    not_finite: npt.NDArray[np.int64]
    masked_with_ivar: npt.NDArray[np.int64]
    with_ivar: npt.NDArray[np.int64]


def check_images(fits: Fits, n_rows: int, with_resolution: bool = False) -> None:
    """Assert that a coadd has the images of each arm, in shapes that go together.

    Parameters
    ----------
    fits
        The coadd, opened; of a remote one no more than the headers is read.
    n_rows
        Number of targets in its FIBERMAP.
    with_resolution
        Look at RESOLUTION too, which has an odd number of diagonals.

    Raises
    ------
    BadTile
        `corrupt_source` where an HDU is missing, or an image has another shape than targets and
        wavelengths give.
    """
    for camera in CAMERAS:
        shape = image_shape(fits, f"{camera}_WAVELENGTH")
        if len(shape) != 1:
            raise _corrupt(fits, f"HDU {camera}_WAVELENGTH has shape {shape}, not one dimension")
        n_wave = shape[0]
        for quantity in QUANTITIES:
            shape = image_shape(fits, f"{camera}_{quantity}")
            if shape != (n_rows, n_wave):
                raise _corrupt(
                    fits,
                    f"HDU {camera}_{quantity} has shape {shape}, but {n_rows} targets in FIBERMAP "
                    f"and {n_wave} pixels in {camera}_WAVELENGTH make ({n_rows}, {n_wave})",
                )
        if not with_resolution:
            continue
        shape = image_shape(fits, f"{camera}_RESOLUTION")
        n_diagonals = shape[1] if len(shape) == 3 else 0
        odd = n_diagonals % 2 and 3 <= n_diagonals <= MAX_DIAGONALS
        if not odd or shape != (n_rows, n_diagonals, n_wave):
            raise _corrupt(
                fits,
                f"HDU {camera}_RESOLUTION has shape {shape}, not ({n_rows}, an odd number of "
                f"diagonals from 3 to {MAX_DIAGONALS}, {n_wave})",
            )


def read_layout(fits: Fits, n_rows: int, settings: SpectraSettings) -> SpectraLayout:
    """Read the wavelengths of a coadd and check the shapes of its images.

    Parameters
    ----------
    fits
        The opened coadd.
    n_rows
        Number of targets in its FIBERMAP.
    settings
        The section `spectra` of the configuration.

    Raises
    ------
    BadTile
        `corrupt_source` where an HDU is missing, an image has another shape than targets and
        wavelengths give, units or steps are not DESI's, or the arms do not share a grid.
    """
    with_resolution = settings["resolution"] != "none"
    check_images(fits, n_rows, with_resolution)
    waves = []
    resolution_values = 0
    for camera in CAMERAS:
        _check_unit(fits, f"{camera}_WAVELENGTH", 0, "Angstrom")
        _check_unit(fits, f"{camera}_FLUX", -17, FLUX_UNIT)
        _check_unit(fits, f"{camera}_IVAR", 34, IVAR_UNIT)
        wave = read_image(fits, f"{camera}_WAVELENGTH").astype(np.float64)
        if not np.isfinite(wave).all():
            raise _corrupt(fits, f"HDU {camera}_WAVELENGTH holds values that are no numbers")
        waves.append(wave)
        if with_resolution:
            resolution_values += math.prod(image_shape(fits, f"{camera}_RESOLUTION")[1:])
    joined, cut = settings["cameras"] == "combined", (0, 0)
    try:
        grid = join_grids(waves)
        if joined:
            cut = cut_range(grid.wavelength, settings["wavelength_range"])
    except ValueError as error:
        raise _corrupt(fits, str(error)) from error
    for camera, wave in zip(CAMERAS, waves, strict=True):
        steps = np.diff(wave)
        odd = np.abs(steps - STEP) > 2 * TOLERANCE
        if odd.any():
            i = int(np.argmax(odd))
            raise _corrupt(
                fits,
                f"HDU {camera}_WAVELENGTH: pixels {i} and {i + 1} are {steps[i]:.4g} apart, those "
                f"of DESI {STEP} Angstrom",
            )
    return SpectraLayout(
        tuple(waves),
        grid if joined else None,
        cut,
        settings["masked_pixels"] == "no_weight",
        settings["mask_arms"],
        settings["resolution"],
        resolution_values,
    )


def count_pixels(
    fits: Fits, rows: npt.NDArray[np.int64], targetid: npt.NDArray[np.int64]
) -> PixelCounts:
    """Count what is odd in the pixels of some rows, before any loses its weight for its mask.

    Raises
    ------
    BadTile
        As `read_spectra`.
    """
    counts = PixelCounts(*np.zeros((3, len(rows)), np.int64))
    for first in range(0, len(rows), _BLOCK):
        part = slice(first, first + _BLOCK)
        for camera in CAMERAS:
            _, ivar, mask, odd = _read_arm(fits, camera, rows[part], targetid[part])
            good = ivar > 0
            for count, pixels in zip(counts, (odd, good & (mask != 0), good), strict=True):
                count[part] += np.count_nonzero(pixels, axis=1)
    return counts


def read_spectra(
    fits: Fits,
    layout: SpectraLayout,
    rows: npt.NDArray[np.int64],
    targetid: npt.NDArray[np.int64],
) -> dict[str, Spectra]:
    """Read the spectra of some rows, with the arms joined and cut as configured, not yet rounded.

    Parameters
    ----------
    fits
        The opened coadd.
    layout
        From `read_layout`.
    rows
        Rows of the images, in the order wanted.
    targetid
        Their TARGETIDs, for messages: a coadd that was fetched by rows has other numbers of rows.

    Returns
    -------
    dict of str to Spectra
        By the prefix of the field names: one under `""` where the arms are joined, otherwise
        under `b_`, `r_` and `z_` as the FITS holds them, but for the weight of masked pixels.
        Pixels whose flux or ivar is NaN or infinite have ivar 0 and the bit `NOT_FINITE`.

    Raises
    ------
    BadTile
        `corrupt_source` where ivar is negative, or a mask does not fit 32 bits.
    """
    arms = []
    for camera, wave in zip(CAMERAS, layout.wavelengths, strict=True):
        flux, ivar, mask, _ = _read_arm(fits, camera, rows, targetid)
        if layout.no_weight:
            ivar = drop_masked(ivar, mask)
        lsf = matrix = None
        if layout.resolution != "none":
            image = read_image(fits, f"{camera}_RESOLUTION", rows).astype(np.float32, copy=False)
            if layout.resolution == "lsf":
                lsf = line_widths(image)
            else:
                matrix = image.reshape(len(rows), -1)
        arms.append(Spectra(wave, flux, ivar, mask, None, lsf, matrix))
    if layout.grid is None:
        return {f"{c.lower()}_": arm for c, arm in zip(CAMERAS, arms, strict=True)}
    joined = combine(
        layout.grid, [a.flux for a in arms], [a.ivar for a in arms], [a.mask for a in arms]
    )
    if not layout.mask_arms:
        joined = joined._replace(mask_arms=None)
    widths = [a.lsf for a in arms if a.lsf is not None]
    if widths:
        joined = joined._replace(lsf=combine_widths(layout.grid, widths, [a.ivar for a in arms]))
    inside = slice(*layout.cut)
    pixels = (v if v is None else np.ascontiguousarray(v[..., inside]) for v in joined)
    return {"": Spectra._make(pixels)}


def _check_unit(fits: Fits, name: str, power: int, expected: str) -> None:
    """Assert that the unit of an image, where it has one, is so many powers of ten of DESI's."""
    unit = find_hdu(fits, name).header.get("BUNIT")
    if unit is None:
        return
    scale = re.match(r"\s*(?:10\s*(?:\*\*|\^)|1[eE])\s*\(?([+-]?\d+)", str(unit))
    if int(scale[1] if scale else 0) != power or "angstrom" not in str(unit).lower():
        raise _corrupt(fits, f"HDU {name}: BUNIT is {unit!r}, not {expected!r}")


def _read_arm(
    fits: Fits, camera: str, rows: npt.NDArray[np.int64], targetid: npt.NDArray[np.int64]
) -> tuple[
    npt.NDArray[np.float32], npt.NDArray[np.float32], npt.NDArray[np.int32], npt.NDArray[np.bool_]
]:
    """Read flux, ivar and mask of an arm, and which pixels are not finite; those get ivar 0."""
    flux = read_image(fits, f"{camera}_FLUX", rows).astype(np.float32, copy=False)
    ivar = read_image(fits, f"{camera}_IVAR", rows).astype(np.float32, copy=False)
    where = f"{fits.source}: HDU {camera}_MASK"
    mask = convert_values(read_image(fits, f"{camera}_MASK", rows), np.int32, where)
    negative = ivar < 0
    if negative.any():
        row, pixel = np.argwhere(negative)[0]
        raise _corrupt(
            fits,
            f"HDU {camera}_IVAR is {ivar[row, pixel]} for TARGETID {targetid[row]}, pixel "
            f"{pixel}: an inverse variance is a number from 0 up",
        )
    odd: npt.NDArray[np.bool_] = ~np.isfinite(ivar) | (~np.isfinite(flux) & (ivar > 0))
    if odd.any():
        ivar = np.where(odd, np.float32(0), ivar)
        mask = np.where(odd, mask | np.int32(NOT_FINITE), mask)
    return flux, ivar, mask, odd


def _corrupt(fits: Fits, what: str) -> BadTile:
    return BadTile("corrupt_source", f"{fits.source}: {what}")
