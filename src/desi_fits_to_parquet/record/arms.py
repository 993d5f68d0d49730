"""Joining the three arms of the spectrograph to one spectrum.

With `masked_pixels: no_weight`, the default, masked pixels get ivar 0 first (`drop_masked`), as
desispec did it from 0.56 to 0.69 and as redrock does when it fits. With `masked_pixels: desispec`
they are left, and what comes out is what `desispec.coaddition.coadd_cameras` of desispec 0.70.0
gives (written from its behaviour, and compared with it by the tests):

- the grid is that of B, then the pixels of R beyond it, then those of Z beyond that;
- a pixel that one arm covers is copied: flux, ivar and mask;
- a pixel that two arms cover has the mean of their flux weighted by ivar, the sum of their ivar,
  and all bits of both masks; without any weight its flux is 0;
- then the mask is cleared wherever ivar is above 0.

Where a masked pixel has ivar > 0, that last step loses its mask, and the pixel looks good. Without
weight it keeps its mask, which is then cleared only where another arm saw the pixel well. Either
way `mask_arms` has all bits of the arms as they were.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

CAMERAS = ("B", "R", "Z")

STEP = 0.8
"""Distance of neighbouring pixels in Angstrom, the same in all arms (DESI data model)."""

TOLERANCE = 1e-4
"""Wavelengths closer than this (Angstrom) are the same pixel."""

_FLOAT32_MAX = float(np.finfo(np.float32).max)


class Spectra(NamedTuple):
    """Spectra on one grid.

    Attributes
    ----------
    wavelength
        Pixel centres in Angstrom, vacuum, float64, shape (npix,).
    flux
        1e-17 erg/(s cm2 Angstrom), float32, shape (ntarget, npix).
    ivar
        Inverse variance of flux, float32, shape (ntarget, npix).
    mask
        SPECMASK bits, 0 is good, int32, shape (ntarget, npix).
    mask_arms
        Bits of the arms before any were cleared, int32, shape (ntarget, npix); None where they
        are not wanted, or the arms are separate, so that none are.
    lsf
        Sigma of the line spread function in Angstrom, float32, shape (ntarget, npix), NaN where it
        is not known; None where it is not wanted.
    resolution
        Diagonals of the band matrix, one after another, float32, shape (ntarget, ndiagonal * npix);
        None where they are not wanted, or the arms are joined.
    """

    wavelength: npt.NDArray[np.float64]
    flux: npt.NDArray[np.float32]
    ivar: npt.NDArray[np.float32]
    mask: npt.NDArray[np.int32]
    mask_arms: npt.NDArray[np.int32] | None = None
    lsf: npt.NDArray[np.float32] | None = None
    resolution: npt.NDArray[np.float32] | None = None


class Grid(NamedTuple):
    """How the pixels of the arms lie on the joined grid.

    Attributes
    ----------
    wavelength
        float64, shape (npix,), strictly increasing.
    starts
        For each arm the grid index of its first pixel.
    shared
        Grid indices of the pixels that more than one arm covers, int64.
    """

    wavelength: npt.NDArray[np.float64]
    starts: tuple[int, ...]
    shared: npt.NDArray[np.int64]


def join_grids(wavelengths: Sequence[npt.NDArray[np.float64]]) -> Grid:
    """Join the wavelength grids of the arms.

    Parameters
    ----------
    wavelengths
        Pixel centres of each arm in Angstrom, blue to red, float64.

    Returns
    -------
    Grid

    Raises
    ------
    ValueError
        Where an arm is not increasing, or the arms do not share a grid where they overlap.
    """
    joined = np.zeros(0)
    for camera, wave in zip(CAMERAS, wavelengths, strict=True):
        if not len(wave) or not np.all(np.diff(wave) > TOLERANCE):
            raise ValueError(f"the wavelengths of arm {camera} do not increase strictly")
        beyond = wave > joined[-1] + TOLERANCE if len(joined) else np.ones(len(wave), bool)
        joined = np.concatenate([joined, wave[beyond]])
    starts = []
    covered = np.zeros(len(joined), np.int64)
    for camera, wave in zip(CAMERAS, wavelengths, strict=True):
        start = int(np.argmin(np.abs(joined - wave[0])))
        there = joined[start : start + len(wave)]
        if len(there) != len(wave) or np.any(np.abs(there - wave) > TOLERANCE):
            raise ValueError(f"the wavelengths of arm {camera} are not on the grid of the others")
        covered[start : start + len(wave)] += 1
        starts.append(start)
    return Grid(joined, tuple(starts), np.flatnonzero(covered > 1))


def cut_range(wavelength: npt.NDArray[np.float64], limits: Sequence[float]) -> tuple[int, int]:
    """Return first and stop index of the pixels whose centres lie within both limits.

    A centre on a limit is within it, to `TOLERANCE`.

    Raises
    ------
    ValueError
        Where no pixel lies within.
    """
    first = int(np.searchsorted(wavelength, limits[0] - TOLERANCE))
    stop = int(np.searchsorted(wavelength, limits[1] + TOLERANCE, side="right"))
    if first >= stop:
        raise ValueError(
            f"spectra.wavelength_range {list(limits)} holds no pixel; the spectra reach from "
            f"{wavelength[0]:.1f} to {wavelength[-1]:.1f} Angstrom"
        )
    return first, stop


def drop_masked(ivar: npt.NDArray[np.float32], mask: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    """Return ivar with 0 where any mask bit is set (`masked_pixels: no_weight`)."""
    return np.where(mask == 0, ivar, np.float32(0))


def combine(
    grid: Grid,
    flux: Sequence[npt.NDArray[np.float32]],
    ivar: Sequence[npt.NDArray[np.float32]],
    mask: Sequence[npt.NDArray[np.integer[Any]]],
) -> Spectra:
    """Combine the arms of several targets at once.

    Parameters
    ----------
    grid
        From `join_grids`.
    flux, ivar, mask
        For each arm, blue to red, an array of shape (ntarget, npix of the arm): float32,
        float32, and integers of 32 bits.

    Returns
    -------
    Spectra
        Weighted means are made in float64 and rounded to float32 once.
    """
    shape = (len(flux[0]), len(grid.wavelength))
    all_flux, all_ivar = np.empty(shape, np.float32), np.empty(shape, np.float32)
    all_mask = np.empty(shape, np.int32)
    weighted = np.zeros((shape[0], len(grid.shared)))
    weight = np.zeros_like(weighted)
    bits = np.zeros(weighted.shape, np.int32)
    for start, f, iv, m in zip(grid.starts, flux, ivar, mask, strict=True):
        here = slice(start, start + f.shape[1])
        all_flux[:, here], all_ivar[:, here], all_mask[:, here] = f, iv, m
        inside = (grid.shared >= here.start) & (grid.shared < here.stop)
        if not inside.any():
            continue
        # the shared pixels of an arm are two runs, at its ends
        pixels = grid.shared[inside] - start
        w = iv[:, pixels].astype(np.float64)
        # without weight there is no flux, even where it is no number
        weighted[:, inside] += w * np.where(w > 0, f[:, pixels], 0)
        weight[:, inside] += w
        bits[:, inside] |= m[:, pixels].astype(np.int32)
    all_flux[:, grid.shared] = weighted / np.where(weight > 0, weight, 1)
    all_ivar[:, grid.shared] = np.minimum(weight, _FLOAT32_MAX)
    all_mask[:, grid.shared] = bits
    cleared = np.where(all_ivar > 0, np.int32(0), all_mask)
    return Spectra(grid.wavelength, all_flux, all_ivar, cleared, all_mask)
