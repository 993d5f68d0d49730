"""Spectra on another wavelength grid, and many made into one."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]


def bin_edges(centres: Array) -> Array:
    """Return the edges of pixels from their centres: halfway between them, shape (npix + 1,)."""
    halfway = (centres[1:] + centres[:-1]) / 2
    first, last = 2 * centres[0] - halfway[0], 2 * centres[-1] - halfway[-1]
    return np.concatenate([[first], halfway, [last]])


def rest_grid(wavelength: Array, z: Array) -> Array:
    """Return a grid for the rest frame of spectra: all that any of them covers.

    Parameters
    ----------
    wavelength
        Observed pixel centres in Angstrom, shape (npix,).
    z
        Redshifts, shape (n,).

    Returns
    -------
    numpy.ndarray
        Centres in Angstrom at multiples of a step, which is that of the observed pixels at the
        median redshift.
    """
    step = float(np.median(np.diff(wavelength)) / (1 + np.median(z)))
    first = np.ceil(wavelength[0] / (1 + z.max()) / step)
    last = np.floor(wavelength[-1] / (1 + z.min()) / step)
    return np.asarray(step * np.arange(first, last + 1))


def to_rest_frame(
    wavelength: Array, flux: Array, ivar: Array, z: Array, grid: Array
) -> tuple[Array, Array]:
    """Shift spectra to the rest frame and put them on one grid.

    A flux density there is per Angstrom of the rest frame, 1 + z times the observed one, so that
    the flux of a line stays what it is. A pixel of the grid has the mean of the observed pixels
    that reach into it, weighted by ivar and by how far they do, and the sum of their ivar, each
    as far as it does: no weight is lost or counted twice. Neighbours that share an observed pixel
    are correlated.

    Parameters
    ----------
    wavelength
        Observed pixel centres in Angstrom, shape (npix,).
    flux, ivar
        Flux density and its inverse variance, shape (n, npix); ivar 0 is a pixel without weight.
    z
        Redshifts, shape (n,).
    grid
        Centres of the new pixels in Angstrom, shape (nnew,), rising.

    Returns
    -------
    flux, ivar : numpy.ndarray
        float32, shape (n, nnew). Where less than half of a pixel lies on pixels with weight, both
        are 0.
    """
    edges, new_edges = bin_edges(wavelength), bin_edges(grid)
    width = np.diff(new_edges)
    new_flux = np.zeros((len(flux), len(grid)), np.float32)
    new_ivar = np.zeros_like(new_flux)
    for i, redshift in enumerate(z):
        own = edges / (1 + redshift)
        weight = ivar[i].astype(np.float64)
        weighted = weight * np.where(weight > 0, flux[i], 0)
        covered = np.diff(own) * (weight > 0)
        sums = [
            np.diff(np.interp(new_edges, own, np.concatenate([[0.0], np.cumsum(values)])))
            for values in (weight, weighted, covered)
        ]
        good = sums[2] >= 0.5 * width
        mean = np.divide(sums[1], sums[0], out=np.zeros(len(grid)), where=good)
        new_flux[i] = mean * (1 + redshift)
        new_ivar[i] = np.where(good, sums[0], 0) / (1 + redshift) ** 2
    return new_flux, new_ivar


def normalise(
    wavelength: Array, flux: Array, ivar: Array, window: Sequence[float]
) -> tuple[Array, Array]:
    """Divide spectra by their mean flux within a window of wavelengths (Angstrom).

    Those without a good pixel in it, or whose mean there is not above 0, lose all weight.
    """
    inside = (wavelength >= window[0]) & (wavelength <= window[1])
    weight = (ivar[:, inside] > 0).astype(np.float64)
    total = np.where(weight > 0, flux[:, inside], 0).sum(axis=1, dtype=np.float64)
    count = weight.sum(axis=1)
    level = np.divide(total, count, out=np.zeros(len(flux)), where=count > 0)[:, None]
    usable = level > 0
    scale = np.where(usable, level, 1)
    return flux / scale, np.where(usable, ivar * scale**2, 0)


def interpolate(wavelength: Array, lsf: Array, z: Array, grid: Array) -> npt.NDArray[np.float32]:
    """Give widths in Angstrom in the rest frame at other wavelengths, NaN beyond the observed.

    Parameters
    ----------
    wavelength
        Observed pixel centres in Angstrom, shape (npix,).
    lsf
        Observed widths in Angstrom, shape (n, npix).
    z
        Redshifts, shape (n,).
    grid
        Wavelengths in the rest frame in Angstrom, shape (nnew,).
    """
    return np.array(
        [
            np.interp(grid, wavelength / (1 + redshift), row, np.nan, np.nan) / (1 + redshift)
            for row, redshift in zip(lsf, z, strict=True)
        ],
        np.float32,
    ).reshape(len(lsf), len(grid))


def median(flux: Array, ivar: Array) -> tuple[Array, Array]:
    """Return the median over spectra of each pixel, and its inverse variance.

    The variance is that of the median of independent Gaussian values, n pi / 2 / (sum 1/sigma)^2:
    of the noise alone, not of how the objects differ. Source: the variance of a sample's median,
    1 / (4 n f^2), with the mean density f of the values at their centre.

    Parameters
    ----------
    flux, ivar
        Shape (n, npix); pixels with ivar 0 do not count.

    Returns
    -------
    flux, ivar : numpy.ndarray
        Shape (npix,); both 0 where no spectrum counts.
    """
    good = ivar > 0
    count = good.sum(axis=0)
    middle = np.zeros(flux.shape[1])
    there = count > 0
    middle[there] = np.nanmedian(np.where(good, flux, np.nan)[:, there], axis=0)
    inverse_sigmas = np.sqrt(np.where(good, ivar, 0), dtype=np.float64).sum(axis=0)
    return middle, 2 / np.pi * inverse_sigmas**2 / np.maximum(count, 1)
