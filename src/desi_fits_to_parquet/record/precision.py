"""Rounding spectra within a stated bound, so that what is left compresses well.

Both results stay plain float32. Rounding is to nearest, halves to even: no bias. The power-of-two
steps make the dropped bits zero, which BYTE_STREAM_SPLIT and zstd then store for nothing.

Numbers (`bound` below repeats them as code):

- flux: a multiple of `step`, the largest power of two below `tolerance` times the pixel's
  sigma = 1/sqrt(ivar); the error is at most step/2, that is tolerance/2 sigma (sigma/16 by
  default), and the variance added is step**2/12;
- ivar: rounded to `bits` significant bits; the relative error is at most 2**-bits (0.4 % for 8).

- lsf: rounded to `lsf_bits` significant bits, as ivar;
- the diagonals of a band matrix: multiples of `MATRIX_STEP`, off by at most half of it. Their peak
  is 0.4 to 0.5.

Pixels with ivar 0 have no sigma: their flux is left alone.
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from desi_fits_to_parquet.settings import PrecisionSettings

_MANTISSA_BITS = 23

_SMALLEST_NORMAL = np.float32(2.0**-126)

_FLOAT32_MAX_BITS = np.uint32(0x7F7FFFFF)

# `tolerance * sigma` is made in float32 with a few roundings; this keeps what comes out of them
# from lying above the exact value, where the next power of two begins.
_BELOW = np.float32(1 - 2.0**-20)


MATRIX_STEP = 2.0**-12
"""Step of the diagonals of a band matrix."""


class Bound(NamedTuple):
    """The largest errors that a configured precision allows.

    `flux_sigma` in units of a pixel's sigma (of the FITS), `ivar_relative` and `lsf_relative` as a
    fraction of ivar and lsf, `matrix` as it is.
    """

    flux_sigma: float
    ivar_relative: float
    lsf_relative: float
    matrix: float


def bound(precision: PrecisionSettings) -> Bound:
    """Return the largest errors that the setting `precision` allows: zeros for `lossless`."""
    if precision["mode"] == "lossless":
        return Bound(0.0, 0.0, 0.0, 0.0)
    ivar, lsf = (
        0.0 if bits > _MANTISSA_BITS else 2.0**-bits
        for bits in (precision["ivar_bits"], precision["lsf_bits"])
    )
    return Bound(precision["flux_tolerance"] / 2, ivar, lsf, MATRIX_STEP / 2)


def round_flux(
    flux: npt.NDArray[np.float32], ivar: npt.NDArray[np.float32], tolerance: float
) -> npt.NDArray[np.float32]:
    """Round flux to multiples of a power of two no larger than `tolerance` sigma.

    Parameters
    ----------
    flux
        float32, any shape.
    ivar
        Inverse variance before it is rounded, float32 of the same shape, not negative.
    tolerance
        Largest step in units of sigma.

    Returns
    -------
    ndarray
        float32 of the same shape. Where ivar is 0 or flux is finer than float32 can round, the
        values are those that came in.
    """
    with np.errstate(divide="ignore", over="ignore", invalid="ignore", under="ignore"):
        step = np.sqrt(ivar)
        np.divide(np.float32(tolerance) * _BELOW, step, out=step)
        bits = step.view(np.uint32)
        bits &= np.uint32(0x7F800000)  # drops the mantissa: the power of two below
        # adding 1.5 * 2**23 steps leaves no room for fractions of a step: the sum is rounded
        shift = step * np.float32(1.5 * 2**_MANTISSA_BITS)
        rounded = flux + shift
        rounded -= shift
        # where flux has 2**22 steps the trick fails; from 2**24 on there is nothing to round
        large = np.abs(flux) >= shift * np.float32(1 / 3)
        large |= ivar == 0
    if large.any():
        rounded[large] = _round_large(flux[large], step[large])
    return rounded


def _round_large(
    flux: npt.NDArray[np.float32], step: npt.NDArray[np.float32]
) -> npt.NDArray[np.float32]:
    """Round the few pixels that need more care, in float64; an infinite step rounds nothing."""
    usable = np.isfinite(step)
    wide = np.where(usable, step, np.float32(1)).astype(np.float64)
    rounded = (np.rint(flux / wide) * wide).astype(np.float32)
    return np.where(usable, rounded, flux)


def round_ivar(ivar: npt.NDArray[np.float32], bits: int) -> npt.NDArray[np.float32]:
    """Round inverse variances to so many significant bits.

    Parameters
    ----------
    ivar
        float32, any shape, not negative.
    bits
        Significant bits to keep, 2 to 24.

    Returns
    -------
    ndarray
        float32 of the same shape. Subnormal values (below 2**-126) stay as they are, since they
        could become 0; values that would round to infinity become the largest that has `bits`.
    """
    drop = _MANTISSA_BITS + 1 - bits
    if drop <= 0:
        return ivar.copy()
    pattern = np.ascontiguousarray(ivar).view(np.uint32)
    keep = np.uint32(0xFFFFFFFF << drop & 0xFFFFFFFF)
    half = np.uint32((1 << (drop - 1)) - 1)
    rounded = pattern >> np.uint32(drop)
    rounded &= np.uint32(1)
    rounded += half
    rounded += pattern
    rounded &= keep
    np.minimum(rounded, _FLOAT32_MAX_BITS & keep, out=rounded)
    result = rounded.view(np.float32)
    subnormal = ivar < _SMALLEST_NORMAL
    subnormal &= ivar > 0
    if subnormal.any():
        result[subnormal] = ivar[subnormal]
    return result


def round_lsf(lsf: npt.NDArray[np.float32], bits: int) -> npt.NDArray[np.float32]:
    """Round widths to so many significant bits as `round_ivar` does; NaN stays."""
    known = np.isfinite(lsf)
    return np.where(known, round_ivar(np.where(known, lsf, np.float32(1)), bits), lsf)


def round_matrix(matrix: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Round elements of a band matrix to multiples of `MATRIX_STEP`.

    Those that float32 does not know that well, and what is no number, stay as they are.
    """
    small = np.abs(matrix) < 2.0**23 * MATRIX_STEP
    scaled = np.where(small, matrix, np.float32(0)) * np.float32(1 / MATRIX_STEP)
    return np.where(small, np.rint(scaled) * np.float32(MATRIX_STEP), matrix)
