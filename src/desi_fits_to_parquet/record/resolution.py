"""The resolution: the band matrix of each arm, and the width of the line spread function.

RESOLUTION of an arm holds, of each target, the diagonals of a matrix A: a model sampled at the
pixels' centres, times A, is what the spectrograph would have seen of it (Bolton & Schlegel 2010,
PASP 122, 248). Element [k, j] of the image is A[j - (half - k), j], `half` the number of diagonals
above the main one: the DIA format of scipy.sparse, as `desispec.resolution.Resolution` reads it.

Row i of A is the line spread function of pixel i. Its width is that of the Gaussian through its
peak, the elements of the pixel itself and of its two neighbours,

    sigma[i] = 0.8 Angstrom / sqrt(ln(A[i, i]**2 / (A[i, i-1] A[i, i+1]))),

which is exact for a Gaussian sampled at the pixels, wherever its centre is, and does not depend on
how A is normed. The pixel's own width is in it: a Gaussian integrated over pixels gives
sqrt(sigma**2 + 0.8**2 / 12), to 0.5 % for DESI's widths. The second moment of a row is no better
measure: the wings of DESI's matrices change sign. At the ends of an arm, where a neighbour is
missing, the other one stands for it.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from desi_fits_to_parquet.record.arms import STEP, Grid

Array32 = npt.NDArray[np.float32]


def line_widths(resolution: Array32) -> Array32:
    """Return the width of the line spread function of each pixel of an arm.

    Parameters
    ----------
    resolution
        RESOLUTION of some targets, shape (ntarget, ndiagonal, npix), ndiagonal odd, at least 3.

    Returns
    -------
    ndarray
        Sigma in Angstrom, float32, shape (ntarget, npix); NaN where the matrix has no peak: without
        data it is 0.
    """
    half = resolution.shape[1] // 2
    peak = resolution[:, half].astype(np.float64)
    right, left = np.empty_like(peak), np.empty_like(peak)
    right[:, :-1] = resolution[:, half - 1, 1:]
    left[:, 1:] = resolution[:, half + 1, :-1]
    right[:, -1], left[:, 0] = left[:, -1], right[:, 0]
    with np.errstate(all="ignore"):
        curvature = np.log(peak / left) + np.log(peak / right)
        usable = (left > 0) & (right > 0) & (curvature > 0) & np.isfinite(curvature)
        return np.where(usable, STEP / np.sqrt(curvature), np.nan).astype(np.float32)


def combine_widths(grid: Grid, widths: Sequence[Array32], ivar: Sequence[Array32]) -> Array32:
    """Combine the widths of the arms on the joined grid.

    Where arms overlap the spectrum is their mean weighted by ivar; so is the line spread function,
    and its variance the mean of theirs. Without any weight it is their plain mean.

    Parameters
    ----------
    grid
        From `arms.join_grids`.
    widths, ivar
        For each arm, blue to red, shape (ntarget, npix of the arm).

    Returns
    -------
    ndarray
        float32, shape (ntarget, npix); NaN where no arm knows.
    """
    joined = np.full((len(widths[0]), len(grid.wavelength)), np.nan, np.float32)
    shape = (len(joined), len(grid.shared))
    variance, weight, plain, known = (np.zeros(shape) for _ in range(4))
    for start, width, weights in zip(grid.starts, widths, ivar, strict=True):
        here = slice(start, start + width.shape[1])
        joined[:, here] = width
        inside = (grid.shared >= here.start) & (grid.shared < here.stop)
        own = width[:, grid.shared[inside] - start].astype(np.float64) ** 2
        there = np.isfinite(own)
        own = np.where(there, own, 0)
        w = np.where(there, weights[:, grid.shared[inside] - start], 0).astype(np.float64)
        variance[:, inside] += w * own
        weight[:, inside] += w
        plain[:, inside] += own
        known[:, inside] += there
    with np.errstate(invalid="ignore"):
        mean = np.where(weight > 0, variance / np.where(weight > 0, weight, 1), plain / known)
        joined[:, grid.shared] = np.sqrt(mean)
    return joined
